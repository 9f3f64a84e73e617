"""A ladder of probes: what frozen frames know about the speaker, step by step, on speakers that nothing was fitted on.

Every number takes the one road: vectors to cosines, `scoring.pipeline.score_trials`, `evaluation.measure`. A step that
is done is kept in a file of its own, so that a run that was stopped goes on behind it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nestvox.atomic import write_text
from nestvox.corpora.overlap import refuse_overlap, speaker_key
from nestvox.corpora.trials import Trials, as_trials
from nestvox.corpora.utterances import UtteranceTable, as_table, table_sha256
from nestvox.errors import ModelError, NestvoxError, StoreError, TableError
from nestvox.evaluation.measure import measure
from nestvox.extraction.embed import embed_table
from nestvox.gate import naming, read_json
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.threshold import COSINE, ScoreSpace
from nestvox.probing.latents import LayerFrames, cache_layers, rates_of
from nestvox.probing.learning import Budget
from nestvox.probing.linear import Vectors
from nestvox.probing.outcome import Ladder, Rung
from nestvox.probing.rungs import (
    POOLED,
    RUNGS,
    TRAINED,
    WEIGHTED,
    Made,
    Parts,
    leaky_rungs,
    pooled_rungs,
    trained_rung,
)
from nestvox.progress import Bars, no_bars
from nestvox.schema import validated_dataclass
from nestvox.scoring.pipeline import score_trials
from nestvox.scoring.refusals import check_trials
from nestvox.scoring.sources import known
from nestvox.scoring.system import System, prefix_cosines

_HELD_OUT = 10  # one speaker of so many, where no split is for choices
_HASHED = 8


@dataclass(frozen=True, kw_only=True)
class Probing:
    """What a ladder has and is to do.

    Attributes:
        layers: that the steps without a network take; None: all that the encoder hands out.
        adapt: that networks are trained on; None: the one whose LDA is best on the speakers of choice.
        rungs: names of steps, of `rungs.RUNGS`; None: all, and ``distilled`` where there is a teacher.
        leaky: also fit the linear probe on the utterances of the trials, labelled ``leaky``.
        fit_split: value of the column `split` of the speakers to fit on.
        choice_split: of those to choose on; None: ``dev`` where there is one, else a tenth of those to fit on.
        budget: of every network.

    Raises:
        NestvoxError: an unknown step.
    """

    layers: Sequence[str] | None = None
    adapt: Sequence[str] | None = None
    rungs: Sequence[str] | None = None
    leaky: bool = False
    fit_split: str = "train"
    choice_split: str | None = None
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        if strange := [name for name in self.rungs or () if name not in RUNGS]:
            raise NestvoxError(f"there is no rung {strange[0]!r}; there is {', '.join(RUNGS)}")


def probe(
    model: SpeakerModel,
    table: UtteranceTable | str | Path,
    trials: Trials | str | Path,
    out: str | Path,
    *,
    probing: Probing | None = None,
    controls: Sequence[SpeakerModel] = (),
    teacher: SpeakerModel | None = None,
    bars: Bars = no_bars,
) -> Ladder:
    """Measure what the frames of an encoder know about the speaker, step by step, and the same of its controls.

    Args:
        model: the encoder; it stays frozen, and a head takes no part.
        table: utterances with speakers and a column `split`, among them those that the trials name.
        trials: labelled; their speakers may not be among those that are fitted or chosen on.
        out: folder of what is kept: frames under ``layers``, embeddings of the teacher, and steps under ``rungs``.
        probing: which layers and steps, and on whom they are fitted.
        controls: other encoders that go through the same steps at the same cost.
        teacher: model whose embeddings the step ``distilled`` learns; it is measured too.
        bars: shows what takes long.

    Raises:
        OverlapError: speakers of the trials among those to fit or to choose on.
        NestvoxError: a table without such splits, a layer that the encoder has not, and whatever caching, scoring and
            measuring raise.
    """
    probing = probing or Probing()
    listed, whole = as_trials(trials), as_table(table)
    assert whole is not None
    check_trials(listed)
    part, parts = _parted(whole, listed, probing)
    refuse_overlap(
        {speaker_key(name) for name in (*parts.of(parts.fit), *parts.of(parts.choice))},
        set(parts.of(parts.trials)),
        use="are among those to fit or to choose on",
        advice="a probe that knew them would measure nothing; leave them out of one side",
    )
    if "distilled" in (probing.rungs or ()) and teacher is None:
        raise NestvoxError("the rung distilled needs a teacher")
    if strange := set(probing.adapt or ()) - set(probing.layers or rates_of(model.encoder)):
        raise ModelError(f"networks are to be trained on {min(strange)}, which is not among the layers of {model.name}")
    bench = _Bench(part, parts, listed, probing, Path(out), bars)
    found: list[Rung] = []
    taught = None
    if teacher is not None:
        taught = bench.taught(teacher)
        found += bench.measured(teacher.name, "embedding", Made("as it is", taught[parts.trials]), fitted=False)
    for one in (model, *controls):
        found += bench.climb(one, taught)
    fit, choice = (f"{len(set(parts.of(rows)))} speakers, {len(rows)} utterances" for rows in (parts.fit, parts.choice))
    return Ladder(
        source=model.name,
        fingerprint=model.fingerprint,
        rungs=tuple(found),
        trials_source=listed.source,
        trials_sha256=listed.sha256,
        fit_on=fit,
        chosen_on=choice,
        resampling=f"soxr HQ to {model.sample_rate} Hz, where a file has another rate",
        seed=probing.budget.seed,
        epochs=probing.budget.epochs,
        notes=tuple(sorted(bench.notes)),
    )


def _parted(table: UtteranceTable, trials: Trials, probing: Probing) -> tuple[UtteranceTable, Parts]:
    """The rows that are needed, and which serve for what."""
    frame = table.frame
    if "split" not in frame.columns or frame["speaker"].null_count():
        raise TableError("a probe needs the columns speaker and split", source=table.source)
    splits = frame["split"].fill_null("")
    named = np.zeros(len(frame), np.bool_)
    for side in ("enrol", "test"):
        named[table.resolve(trials.frame[side])] = True
    fit = (splits == probing.fit_split).to_numpy() & ~named
    split = probing.choice_split or ("dev" if (splits == "dev").any() and probing.fit_split != "dev" else None)
    if split is not None:
        choice = (splits == split).to_numpy() & ~named & ~fit
    else:
        drawn = {name for name in set(frame["speaker"].filter(pl.Series(fit))) if _drawn(name, probing.budget.seed)}
        choice = fit & frame["speaker"].is_in(list(drawn)).to_numpy()
        fit &= ~choice
    for what, rows, value in (("fit", fit, probing.fit_split), ("choose", choice, split or probing.fit_split)):
        if len(set(frame["speaker"].filter(pl.Series(rows)))) < 2:
            raise TableError(f"split {value!r} has no two speakers to {what} on", source=table.source)
    kept = np.flatnonzero(fit | choice | named)
    part = UtteranceTable(frame=frame[kept], source=table.source, root=table.root)
    of_fit, of_choice, of_trials = (np.flatnonzero(mask[kept]).astype(np.int64) for mask in (fit, choice, named))
    return part, Parts(of_fit, of_choice, of_trials, part.frame["speaker"].to_list())


def _drawn(name: str, seed: int) -> bool:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:_HASHED]) % _HELD_OUT == 0


class _Bench:
    """What all steps share: the utterances, the trials, and the files of what is done."""

    def __init__(
        self, table: UtteranceTable, parts: Parts, trials: Trials, probing: Probing, out: Path, bars: Bars
    ) -> None:
        self.table, self.parts, self.trials, self.probing, self.out, self.bars = (
            table,
            parts,
            trials,
            probing,
            out,
            bars,
        )
        self.notes: set[str] = set()
        position = np.full(len(table), -1)
        position[parts.trials] = np.arange(len(parts.trials))
        self.enrol, self.test = (position[table.resolve(trials.frame[side])] for side in ("enrol", "test"))
        (out / "rungs").mkdir(parents=True, exist_ok=True)

    def taught(self, teacher: SpeakerModel) -> Vectors:
        """Embeddings (N, E) of all utterances."""
        place = self.out / "teacher" / f"{teacher.fingerprint}-{table_sha256(self.table.frame)[:12]}"
        place.parent.mkdir(exist_ok=True)
        with self.bars(f"embedding with {teacher.name}", "utterances") as progress:
            store = embed_table(teacher, self.table, place, progress=progress)
        return store.vectors().astype(np.float64)

    def climb(self, model: SpeakerModel, taught: Vectors | None) -> list[Rung]:
        """All steps of one encoder."""
        probing, name = self.probing, model.name
        layers = cache_layers(model, self.table, self.out / "layers", probing.layers, bars=self.bars)
        wanted = probing.rungs or [rung for rung in RUNGS if rung != "distilled" or taught is not None]
        found: list[Rung] = []

        def kept(layer: str, rung: str, make: Callable[[], Iterable[Made]], *, leaky: bool = False) -> None:
            key = self._key(model, layer, rung, taught=rung == "distilled", leaky=leaky)
            found.extend(self._kept(key, lambda: self._all(name, layer, make(), leaky=leaky)))

        seed, parts = probing.budget.seed, self.parts
        statistic = [rung for rung in POOLED if rung in wanted]
        for layer in layers.values():
            if statistic:
                kept(layer.name, "+".join(statistic), partial(pooled_rungs, layer, parts, statistic, seed))
            if probing.leaky:
                kept(layer.name, "linear", partial(leaky_rungs, layer, parts, seed), leaky=True)
        if WEIGHTED in wanted:
            for group in _alike(layers):
                joined = "+".join(layer.name for layer in group)
                kept(joined, WEIGHTED, partial(self._trained, name, WEIGHTED, group, None))
        for layer in self._adapted(layers, found):
            for rung in (rung for rung in TRAINED if rung in wanted):
                target = taught if rung == "distilled" else None
                kept(layer.name, rung, partial(self._trained, name, rung, [layer], target))
        return found

    def _adapted(self, layers: Mapping[str, LayerFrames], found: Sequence[Rung]) -> list[LayerFrames]:
        """The layers that networks are trained on."""
        if named := [layers[name] for name in self.probing.adapt or () if name in layers]:
            return named  # a control has layers of its own
        told = [rung for rung in found if rung.choice_eer is not None and not rung.leaky and rung.layer in layers]
        judged = [rung for rung in told if rung.rung == "lda"] or told
        best = min(judged, key=lambda rung: rung.choice_eer or 0.0).layer if judged else next(iter(layers))
        return [layers[best]]

    def _trained(self, source: str, rung: str, layers: Sequence[LayerFrames], taught: Vectors | None) -> list[Made]:
        with self.bars(f"{rung} on {source}, {'+'.join(layer.name for layer in layers)}", "epochs") as progress:
            return [trained_rung(rung, layers, self.parts, self.probing.budget, teacher=taught, progress=progress)]

    def _all(self, source: str, layer: str, steps: Iterable[Made], *, leaky: bool) -> list[Rung]:
        return [rung for made in steps for rung in self.measured(source, layer, made, leaky=leaky)]

    def measured(self, source: str, layer: str, made: Made, *, leaky: bool = False, fitted: bool = True) -> list[Rung]:
        """Score and measure what a step made, at each of its prefix lengths."""
        parts = self.parts
        on = np.array([], np.int64) if not fitted else parts.trials if leaky else parts.fit
        seen = set(parts.of(on)) | (set(parts.of(parts.choice)) if fitted else set())
        scores: Mapping[int | None, Vectors]
        if made.scores is not None:
            scores, space = {None: made.scores[self.enrol, self.test]}, ScoreSpace("given")
        else:
            assert made.vectors is not None
            dims = made.dims or (made.vectors.shape[1],)
            scores, space = dict(prefix_cosines(made.vectors, self.enrol, self.test, dims).items()), COSINE
        system = System(
            f"{source} {layer} {made.rung}",
            scores,
            self.trials.sha256,
            source,
            labels=self.table.labels,
            training_speakers=tuple(sorted(speaker_key(name) for name in seen)),
            space=space,
        )
        scored = score_trials(known(system, self.trials), table=self.table, allow_overlap=leaky)
        evaluation = measure(scored)
        self.notes.update(scored.notes)
        targets = scored.targets
        rungs = []
        for row, det in zip(evaluation.results, evaluation.det, strict=True):
            values = scores[row.dim]
            rate = made.choice_eer.get(row.dim if made.dims else None)
            rungs.append(
                Rung(
                    source=source,
                    layer=layer,
                    rung=made.rung,
                    dim=row.dim,
                    eer=row.eer,
                    min_dcf=row.min_dcf,
                    p_target=row.p_target,
                    score_low=float(values.min()),
                    score_high=float(values.max()),
                    mean_target=float(values[targets].mean()),
                    mean_nontarget=float(values[~targets].mean()),
                    choice_eer=rate,
                    accuracy=made.accuracy,
                    parameters=int(made.parameters),
                    fit_speakers=len(set(parts.of(on))),
                    fit_utterances=len(on),
                    fit_s=round(made.fit_s, 3),
                    how=made.how,
                    det=det,
                )
            )
        return rungs

    def _key(self, model: SpeakerModel, layer: str, rung: str, *, taught: bool, leaky: bool) -> str:
        of = {
            "model": model.fingerprint,
            "name": model.name,
            "layer": layer,
            "rung": rung,
            "leaky": leaky,
            "budget": asdict(self.probing.budget),
            "trials": self.trials.sha256,
            "table": table_sha256(self.table.frame),
            "parts": [hashlib.sha256(rows.tobytes()).hexdigest() for rows in (self.parts.fit, self.parts.choice)],
            "teacher": sorted(place.name for place in (self.out / "teacher").glob("*")) if taught else [],
        }
        return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]

    def _kept(self, key: str, make: Callable[[], list[Rung]]) -> list[Rung]:
        """What a file holds, or what is made now and then kept there."""
        path = self.out / "rungs" / f"{key}.json"
        if path.is_file():
            content = read_json(path, naming(StoreError))
            rows = content if isinstance(content, list) else [content]
            return [validated_dataclass(Rung, row, str(path), naming(StoreError)) for row in rows]
        made = make()
        write_text(path, json.dumps([asdict(rung) for rung in made]) + "\n")
        return made


def _alike(layers: Mapping[str, LayerFrames]) -> list[list[LayerFrames]]:
    """Groups of two layers or more with one frame rate and one size."""
    groups: dict[Any, list[LayerFrames]] = {}
    for layer in layers.values():
        groups.setdefault((layer.frame_rate_hz, layer.channels), []).append(layer)
    return [group for group in groups.values() if len(group) > 1]
