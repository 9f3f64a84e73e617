"""Write a model in smaller forms, load each again, and measure all of them beside the original."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nestvox.atomic_folder import settled
from nestvox.compression.forms import FORMS, LEARNT_AGAIN, Form, Waveform, chosen_forms
from nestvox.compression.rates import Measuring, Rates
from nestvox.compression.table import ORIGINAL, Compression, FormRow, recommended
from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import Trials, as_trials
from nestvox.corpora.utterances import UtteranceTable, as_table
from nestvox.errors import AudioError, ModelError, NestvoxError
from nestvox.evaluation.estimates import USUAL, Settings
from nestvox.inspection.bench import times_by_turns
from nestvox.inspection.inspect import machine_of
from nestvox.model.folder import CONFIG_FILE, WEIGHTS_FILE
from nestvox.progress import Bars, no_bars
from nestvox.scoring.sources import Load

if TYPE_CHECKING:
    from nestvox.model.speaker_model import SpeakerModel
    from nestvox.training.recipe.kinds import Recipe
    from nestvox.training.run_log import Watch

_WHAT = {
    ORIGINAL: "as it was given",
    **{name: form.what for name, form in FORMS.items()},
    **dict(LEARNT_AGAIN.values()),
}
_CLIP_S = 3.0
_CALIBRATED_S = 4.0
_MOST_CALIBRATED = 200


def compress(
    model: SpeakerModel,
    out: str | Path,
    *,
    forms: Sequence[str] | None = None,
    trials: Trials | str | Path | None = None,
    table: UtteranceTable | str | Path | None = None,
    calibrate_on: UtteranceTable | str | Path | None = None,
    teacher: Any = None,
    dims: Sequence[int] | None = None,
    settings: Settings = USUAL,
    n_permutations: int = 2000,
    allow_overlap: bool = False,
    redistil: str | Path | None = None,
    set_: Sequence[str] = (),
    load: Load | None = None,
    bars: Bars = no_bars,
    watch: Watch | None = None,
) -> Compression:
    """Write a model in smaller forms and measure what each is worth: size, time, and on trials its error rates.

    Every form is a model folder within `out`, read back before it is measured. A form is nobody's calibrated model: the
    thresholds of the original are of other scores and stay behind.

    Args:
        model: loaded.
        out: folder; those of the forms within it are replaced.
        forms: names in `compression.FORMS`; None: all that the model has, the others are in the result with the reason.
        trials: labelled; None: no error rates, and no recommendation.
        table: utterances that the trials name.
        calibrate_on: utterances that int8-static takes its ranges from, the first 4 s of up to 200 of them, or of those
            whose split is ``train``; None: those of `table`. Their speakers must not stand in the trials.
        teacher: model, store or its path, whose EER the forms are held against.
        dims: prefix lengths; None: those of the model.
        settings: replicates, confidence and seed of the intervals.
        n_permutations: rounds of the permutation behind a p value.
        allow_overlap: measure in spite of training speakers in the trials, with the label ``leaky``.
        redistil: a recipe of kind distil, by which the forms sparse and pruned learn again from the original, in forms
            of their own: ``sparse-distilled``, whose zeros stay, and ``pruned-distilled``. Its speakers must not stand
            in the trials.
        set_: ``section.key=value`` each, of that recipe.
        load: makes a model of a path or a name; None: `nestvox.load`.
        bars: shows the phases that take long.
        watch: told of every epoch of what learns again; None: of faults alone, as Python's warnings.

    Raises:
        ModelError: a form was asked for by name that this model cannot have.
        MissingExtraError: such a form needs the extra ``onnx``.
        NestvoxError: an unknown form, trials without a table, or as `nestvox.compare`.
    """
    chosen = chosen_forms(forms)
    again = _again(model, chosen, Path(out), redistil, set_)
    listed = None if trials is None else as_trials(trials)
    utterances = as_table(table)
    if (listed is None) != (utterances is None):
        raise NestvoxError("error rates need both --trials and the --table that says where their audio is")
    if teacher is not None and listed is None:
        raise NestvoxError("the gap to a teacher is one of error rates: give --trials and --table")
    given = as_table(calibrate_on)
    source = _training_rows(utterances) if given is None else _training_rows(given) or given
    wanted = any(form.calibrated for form in chosen)
    speakers = _speakers(source) if wanted and source is not None else ()
    measuring = None
    if listed is not None and utterances is not None:
        measuring = Measuring(
            listed, utterances, dims, settings, n_permutations, allow_overlap=allow_overlap, load=load, bars=bars
        )
        measuring.check(model, teacher, speakers)
    recordings = _recordings(model, source) if wanted and source is not None else []
    made, left_out = _made(model, chosen, recordings, speakers, strict=forms is not None)
    written, sizes = _written(model, made, Path(out), bars)
    _learn_again(again, model, written, sizes, Path(out), bars, watch)
    clip_s = max(_CLIP_S, model.min_duration_s)
    times = times_by_turns(written, clip_s)
    rates, labels, notes = Rates() if measuring is None else measuring.rates(written, teacher)
    rows = [
        FormRow(
            name,
            _WHAT[name],
            None if name == ORIGINAL else str(Path(out) / name),
            one.fingerprint,
            *_counts(one),
            *sizes[name],
            sizes[ORIGINAL][0] / sizes[name][0],
            sizes[ORIGINAL][1] / sizes[name][1],
            times[name],
            rates.get(name, ()),
        )
        for name, one in written.items()
    ]
    machine = machine_of(model)
    notes = (*notes, f"Times are of this machine ({machine}); on a phone or in a browser measure them there.")
    return Compression(
        model.name,
        machine,
        clip_s,
        None if measuring is None else measuring.teacher,
        tuple(rows),
        left_out,
        recommended(rows),
        labels,
        notes,
    )


def _again(
    model: SpeakerModel, chosen: Sequence[Form], out: Path, redistil: str | Path | None, overrides: Sequence[str]
) -> dict[str, Recipe]:
    """By form, how it learns again; what cannot be is said before anything is made."""
    if redistil is None:
        if overrides:
            raise NestvoxError("--set is of the recipe that forms learn again by: give --redistil")
        return {}
    from nestvox.compression.learning_again import recipe_of  # noqa: PLC0415  imports torch

    names = [form.name for form in chosen if form.name in LEARNT_AGAIN]
    if not names:
        raise NestvoxError(f"--redistil is of the forms {' and '.join(LEARNT_AGAIN)}: name one of them in --forms")
    return {name: recipe_of(redistil, model, name, out, overrides) for name in names}


def _learn_again(
    recipes: Mapping[str, Recipe],
    model: SpeakerModel,
    written: dict[str, SpeakerModel],
    sizes: dict[str, tuple[int, int]],
    out: Path,
    bars: Bars,
    watch: Watch | None,
) -> None:
    """Let forms that are written learn again, and put each behind what it began with."""
    from nestvox.compression.learning_again import learnt_again  # noqa: PLC0415  imports torch

    for form in [form for form in recipes if form in written]:
        name, _ = LEARNT_AGAIN[form]
        learnt_again(recipes[form], model, form, out, bars, watch).save(out / name)
        written[name], sizes[name] = _read_back(out / name, model), _sizes(out / name)
    order = [ORIGINAL, *(name for form in FORMS for name in (form, *LEARNT_AGAIN.get(form, ())[:1]))]
    for name in [name for name in order if name in written]:
        written[name] = written.pop(name)


def _made(
    model: SpeakerModel,
    forms: Sequence[Form],
    recordings: Sequence[Waveform],
    speakers: Sequence[str],
    *,
    strict: bool,
) -> tuple[list[tuple[Form, SpeakerModel]], dict[str, str]]:
    """The forms that the model has, and why it has no others; of those asked for by name that is an error."""
    made, left_out = [], {}
    for form in forms:
        try:
            if form.calibrated and not recordings:
                raise NestvoxError(
                    f"{form.name} takes its ranges from recordings: give --calibrate-on, or a --table with split train"
                )
            smaller = form.make(model, recordings)
            if form.calibrated:  # whoever evaluates it must not do so on these
                smaller.training_speakers = tuple(dict.fromkeys([*smaller.training_speakers, *speakers]))
            made.append((form, smaller))
        except NestvoxError as error:
            if strict:
                raise
            left_out[form.name] = str(error)
    if not made:
        raise ModelError(f"{model.name} has none of these forms: {'; '.join(left_out.values())}")
    return made, left_out


def _written(
    model: SpeakerModel, made: Sequence[tuple[Form, SpeakerModel]], out: Path, bars: Bars
) -> tuple[dict[str, SpeakerModel], dict[str, tuple[int, int]]]:
    """Write the forms; return what was read back of each, the original first, and the sizes on disk."""
    written = {ORIGINAL: model}
    with tempfile.TemporaryDirectory() as temporary:
        model.save(Path(temporary) / ORIGINAL)
        sizes = {ORIGINAL: _sizes(Path(temporary) / ORIGINAL)}
    with bars("writing", "forms") as progress:
        for number, (form, smaller) in enumerate(made, start=1):
            smaller.save(out / form.name, storage=form.storage)
            written[form.name], sizes[form.name] = _read_back(out / form.name, model), _sizes(out / form.name)
            progress(number, len(made))
    return written, sizes


def _training_rows(table: UtteranceTable | None) -> UtteranceTable | None:
    if table is None or "split" not in table.frame.columns or not (table.frame["split"] == "train").any():
        return None
    return table.where(split="train")


def _chosen_rows(table: UtteranceTable) -> list[int]:
    """Evenly spread, so that many corpora are among them."""
    rows: list[int] = np.unique(np.linspace(0, len(table) - 1, min(len(table), _MOST_CALIBRATED)).astype(int)).tolist()
    return rows


def _speakers(table: UtteranceTable) -> tuple[str, ...]:
    """Keys of the speakers who are calibrated on."""
    names = table.frame["speaker"][_chosen_rows(table)].to_list()
    return tuple(dict.fromkeys(speaker_key(str(name)) for name in names))


def _recordings(model: SpeakerModel, table: UtteranceTable) -> list[Waveform]:
    """The beginnings of recordings, those left out that cannot be used.

    Raises:
        NestvoxError: none of them can.
    """
    most, found, last = round(_CALIBRATED_S * model.sample_rate), [], ""
    for row in _chosen_rows(table):
        try:
            heard = table.segment(row).read(sample_rate=model.sample_rate, min_duration_s=model.min_duration_s)
        except AudioError as error:
            last = str(error)
            continue
        found.append(heard.samples[:most])
    if not found:
        raise NestvoxError(f"no utterance can be calibrated on: {last}")
    return found


def _read_back(folder: Path, original: SpeakerModel) -> SpeakerModel:
    """What stands on the disk, run like the original: it is this that is measured."""
    from nestvox.model.speaker_model import SpeakerModel  # noqa: PLC0415  imports torch

    return replace(SpeakerModel.from_folder(folder), backend=original.backend)


def _sizes(folder: Path) -> tuple[int, int]:
    """Bytes of configuration and weights, as they are and by deflate."""
    contents = [settled(folder, name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)]
    return sum(map(len, contents)), sum(len(zlib.compress(content, 6)) for content in contents)


def _counts(model: SpeakerModel) -> tuple[int | None, int | None]:
    """Parameters of the encoder, and how many are not zero; of a graph neither is known."""
    parameters = list(model.encoder.parameters())
    if not parameters:
        return None, None
    return sum(p.numel() for p in parameters), sum(int(p.count_nonzero()) for p in parameters)
