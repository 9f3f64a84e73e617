"""Make the model in the box of a trained one: one ONNX file, its calibration, and the weights for torch beside it.

``make box MODEL=folder`` calls it. Everything that is chosen or fitted here is so on the development trials.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nestvox.atomic_folder import changing
from nestvox.compression.forms import EIGHT_BITS
from nestvox.compression.graph_weights import GraphStorage, store_graph
from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import Trials, as_trials
from nestvox.corpora.utterances import UtteranceTable, as_table
from nestvox.errors import ModelError
from nestvox.evaluation.estimates import USUAL
from nestvox.evaluation.llr_fit import calibrate
from nestvox.evaluation.measure import evaluate
from nestvox.evaluation.results import Evaluation
from nestvox.evaluation.set_threshold import threshold
from nestvox.extraction.embed import embed_table
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.gate import naming, read_json
from nestvox.metrics.thresholds import DecisionRule
from nestvox.model.calibration import ModelCalibration
from nestvox.model.exported import read_exported
from nestvox.model.familiarity import FEWEST_CLEAN, FEWEST_TRAINING, Familiarity, fit_familiarity, measured
from nestvox.model.folder import Card
from nestvox.model.loading import load
from nestvox.model.onnx_export import export_onnx
from nestvox.model.speaker_model import SpeakerModel
from nestvox.schema import validated
from nestvox.scoring.refusals import SELECTED, check_trials
from nestvox.zoo.box import ABOUT_FILE, BOX, GOLDEN_FILE, TORCH_FOLDER, golden_signal

MOST_BYTES = 8_000_000
"""Of the whole folder."""

RULES = (DecisionRule("eer"), DecisionRule("far", rate=0.01), DecisionRule("far", rate=0.001))
DEFAULT_RULE = RULES[1]

_MOST_FAMILIAR = 2000  # clips of training that are measured for what is familiar

_FORMS: tuple[GraphStorage, ...] = ("float32", "float16", "int8")
_MOST_SHIFT: Mapping[GraphStorage, float] = {"int8": 0.002, "float16": 0.0005}
"""Largest rise of an EER, at any dimension, for which a form is taken; the smallest form comes first."""


@dataclass(frozen=True)
class BoxMade:
    """What was made.

    Attributes:
        form: of the graph's weights.
        size_bytes: of the folder.
        eer: of every form, by dimension.
        shift: of every form, the largest difference of a number of a golden embedding of length 1 to the original's.
    """

    form: str
    size_bytes: int
    eer: Mapping[GraphStorage, Mapping[int, float]]
    shift: Mapping[GraphStorage, float]


def make_box(
    model: SpeakerModel,
    out: str | Path,
    *,
    trials: Trials | str | Path,
    table: UtteranceTable | str | Path,
    card: Mapping[str, Any] | None = None,
    better: Mapping[str, Any] | None = None,
    n_bootstrap: int = 1000,
) -> BoxMade:
    """Write the folder that `nestvox.load` takes where no model is named.

    The graph's weights are of eight bits where no dimension's EER rises by more than 0.2 points, else of sixteen where
    none rises by more than 0.05, else as they are. Thresholds are set at the EER and at false-alarm rates of 1 %, which
    decides where nobody asks for another, and 0.1 %; one that the trials are too few to say is left out.

    Args:
        model: loaded, of an architecture that `export_onnx` knows.
        out: folder, of which all files are replaced.
        trials: development trials.
        table: utterances that they name, and where its column ``split`` says ``train``, of training: the recordings
            that `verify` takes for familiar; none where there are too few.
        card: further lines of the card: ``licence``, ``training_data``, ``language``.
        better: by name, what else is measured on the trials: a model or a store; a call without a name is told of it.
        n_bootstrap: replicates of the intervals.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: it has no such form, or the folder has more than 8 MB.
        NestvoxError: as `nestvox.evaluate`, `nestvox threshold` and `nestvox calibrate`.
    """
    listed, utterances = as_trials(trials), as_table(table)
    listed = Trials(listed.frame, Path(listed.source).name)  # where they lie is nobody's business
    assert utterances is not None
    part = _named_in(listed, utterances)
    settings = replace(USUAL, n_bootstrap=n_bootstrap)
    labels = [SELECTED] if listed.sha256 in model.chosen_on else []
    with tempfile.TemporaryDirectory(prefix="nestvox-") as folder:
        place = Path(folder)
        export_onnx(model, place / "whole.onnx")
        content = (place / "whole.onnx").read_bytes()
        forms: dict[GraphStorage, SpeakerModel] = {}
        stores: dict[GraphStorage, EmbeddingStore] = {}
        measured: dict[GraphStorage, Evaluation] = {}
        for form in _FORMS:
            one = read_exported(store_graph(content, form), form)
            assert one is not None
            one.training_speakers = _heard_in_training(model, listed, part)
            forms[form] = one
            stores[form] = embed_table(one, part, place / form)
            measured[form] = evaluate(stores[form], listed, table=part, labels=labels, settings=settings)
        eer = {form: {int(row.dim or 0): row.eer.value for row in found.overall} for form, found in measured.items()}
        chosen = _chosen(eer)
        store = stores[chosen]
        targets = check_trials(listed)
        counts = int(targets.sum()), int((~targets).sum())
        decisions = [
            made
            for rule in RULES
            if not rule.too_few(*counts)
            for made in threshold(
                store, listed, rule, table=part, default=rule is DEFAULT_RULE, n_bootstrap=n_bootstrap
            ).thresholds
        ]
        fitted = calibrate(store, listed, table=part)
        familiar = _familiar(utterances, part, model.sample_rate, listed.source)
        others = {
            name: evaluate(system, listed, table=utterances, settings=settings).headline.eer.value
            for name, system in (better or {}).items()
        }
    boxed = _boxed(model, forms[chosen], measured[chosen], card or {})
    boxed.thresholds, boxed.llr, boxed.familiarity = tuple(decisions), fitted.llr, familiar
    ModelCalibration(boxed.fingerprint, boxed.thresholds, boxed.llr)  # checks that they are of this model
    about = {
        "form": chosen,
        "dev_eer": {str(dim): rate for dim, rate in eer[chosen].items()},
        "forms_eer": {form: {str(dim): rate for dim, rate in rates.items()} for form, rates in eer.items()},
        "better_eer": others,
        "dev_source": Path(listed.source).name,
        "dev_sha256": listed.sha256,
        "made_from": f"{model.name} ({model.fingerprint})",
    }
    size = _write(model, boxed, Path(out), about)
    golden = golden_signal(model.sample_rate)
    exact = model.embed(golden, sample_rate=model.sample_rate)
    shift = {
        form: float(np.abs(one.embed(golden, sample_rate=model.sample_rate) - exact).max())
        for form, one in forms.items()
    }
    return BoxMade(chosen, size, eer, shift)


def _named_in(trials: Trials, table: UtteranceTable) -> UtteranceTable:
    rows = np.unique(np.concatenate([table.resolve(trials.frame[side]) for side in ("enrol", "test")]))
    return UtteranceTable(frame=table.frame[rows], source=table.source, root=table.root)


def _familiar(table: UtteranceTable, part: UtteranceTable, sample_rate: int, source: str) -> Familiarity | None:
    """What recordings the model knows, by those of training in the table; None: it has too few."""
    if "split" not in table.frame.columns or "train" not in table.frame["split"].unique():
        return None
    trained = table.where(split="train")
    taken = np.random.default_rng(0).permutation(len(trained))[:_MOST_FAMILIAR]
    rows = [
        [measured(segment.read(sample_rate=sample_rate).samples, sample_rate) for segment in segments]
        for segments in ([trained.segment(int(row)) for row in taken], part.segments())
    ]
    training, clean = ([row for row in side if row is not None] for side in rows)
    if len(training) < FEWEST_TRAINING or len(clean) < FEWEST_CLEAN:
        return None
    return fit_familiarity(training, clean, source)


def _heard_in_training(model: SpeakerModel, trials: Trials, part: UtteranceTable) -> tuple[str, ...]:
    """Keys of the speakers that it was trained on; a run also lists those of the trials that it was chosen on."""
    if trials.sha256 not in model.chosen_on:
        return model.training_speakers
    tried = {speaker_key(str(name)) for name in part.frame["speaker"].unique()}
    return tuple(key for key in model.training_speakers if key not in tried)


def _chosen(eer: Mapping[GraphStorage, Mapping[int, float]]) -> GraphStorage:
    for form, most in _MOST_SHIFT.items():
        if all(rate - eer["float32"][dim] <= most for dim, rate in eer[form].items()):
            return form
    return "float32"


def _boxed(model: SpeakerModel, made: SpeakerModel, found: Evaluation, card: Mapping[str, Any]) -> SpeakerModel:
    kept = {key: value for key, value in model.card.items() if key != "results"}
    if "head_data" in kept:
        kept["head_data"] = re.sub(r"\S*/", "", kept["head_data"])
    told = {**kept, **card, "base_model": f"{model.name} ({model.fingerprint})", "results": found.card_rows()}
    made.training_speakers = model.training_speakers
    made.name, made.card = BOX, {**told, "chosen_on": sorted({*model.chosen_on, found.trials_sha256})}
    validated(Card, made.card, "the card", naming(ModelError))
    return made


def _write(model: SpeakerModel, boxed: SpeakerModel, out: Path, about: Mapping[str, Any]) -> int:
    """Write the folder, without the weights for torch where there is no room for them; return its bytes."""
    boxed.save(out, network_apart=True)
    with changing(out) as fresh:
        np.save(fresh / GOLDEN_FILE, boxed.embed(golden_signal(boxed.sample_rate), sample_rate=boxed.sample_rate))
        (fresh / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    small = EIGHT_BITS.make(model, ())
    small.card = {**small.card, "licence": boxed.card.get("licence", "unknown")}
    small.card.pop("head_data", None)
    small.name, small.training_speakers = f"{BOX}-torch", model.training_speakers
    small.save(out / TORCH_FOLDER, storage=EIGHT_BITS.storage)
    if _bytes_in(out) > MOST_BYTES:
        shutil.rmtree(out / TORCH_FOLDER)
    size = _bytes_in(out)
    if size > MOST_BYTES:
        raise ModelError(f"{out} has {size:,} bytes, and the box may have {MOST_BYTES:,}")
    return size


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    """``python -m nestvox.compression.box``."""
    parser = argparse.ArgumentParser(description="Make the model in the box of a trained one.")
    parser.add_argument("model", help="model folder")
    parser.add_argument("--trials", required=True, help="development trials")
    parser.add_argument("--table", required=True, help="utterance table that they name")
    parser.add_argument("--out", required=True, help="folder of the box")
    parser.add_argument("--card", help="JSON file: licence, training_data, language")
    parser.add_argument("--better", action="append", default=[], help="NAME, or NAME=STORE, to be measured beside it")
    given = parser.parse_args()
    card = read_json(given.card, naming(ModelError)) if given.card else {}
    better = {name: path or name for name, _, path in (word.partition("=") for word in given.better)}
    made = make_box(
        load(given.model, backend="eager"),
        given.out,
        trials=given.trials,
        table=given.table,
        card=card,
        better={name: Path(path) if path != name else name for name, path in better.items()},
    )
    for form, rates in made.eer.items():
        figures = ", ".join(f"{dim}: {rate:.2%}" for dim, rate in rates.items())
        print(f"{form:8} EER {figures}; golden embedding off by {made.shift[form]:.1e}")  # noqa: T201
    print(f"taken: {made.form}, {made.size_bytes:,} bytes in {given.out}")  # noqa: T201


if __name__ == "__main__":
    main()
