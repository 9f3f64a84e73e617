"""Fitting a calibration on the scores of a system, and what the scores cost before and after.

The cost on the trials that the maps were fitted on is a little too good. Where the speakers are known it is also
measured held out: the speakers are divided into parts, and each trial is scored by a map fitted on the trials that have
no speaker of the part or the two parts that this trial's speakers are in.

Notation: N trials, S speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import Trials, as_trials
from nestvox.corpora.utterances import UtteranceTable, as_table
from nestvox.errors import NestvoxError, ScoresError, TrialsError
from nestvox.metrics import Calibration, act_dcf, cllr, error_curve, fit_calibration, min_cllr, min_dcf
from nestvox.metrics.bootstrap import seeded
from nestvox.metrics.calibration import check_prior
from nestvox.metrics.costs import check_operating_point
from nestvox.metrics.plan import independent_trials
from nestvox.model.calibration import LlrCalibration, quality_columns, quality_names
from nestvox.progress import Bars, Progress, no_bars, silent
from nestvox.scoring.conditions import enrol_clips_of, marks_of
from nestvox.scoring.pipeline import AS_THEY_COME, Steps, score_trials
from nestvox.scoring.quality import check_measures, trial_quality
from nestvox.scoring.refusals import check_trials
from nestvox.scoring.sources import Load, known
from nestvox.scoring.speakers import TrialSpeakers, training_overlap
from nestvox.scoring.system import System

_PARTS = 5
_FEWEST_TRIALS = 10  # of each class, for the one weight of the score
_ROUNDING = 1e-5  # embeddings are float32

Quality = Mapping[int | None, Mapping[str, tuple[ArrayLike, ArrayLike]]]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class LlrCost:
    """What scores cost when they are taken for log likelihood ratios in nats.

    Attributes:
        dim: prefix length; None: scores of a file.
        n_target: target trials.
        n_nontarget: non-target trials.
        cllr: over all operating points, in bits; 1 is what knowing nothing costs.
        min_cllr: of the best non-decreasing map on these trials: what the order of the scores is worth.
        act_dcf: normalised cost of deciding at the Bayes threshold.
        min_dcf: normalised cost at the best threshold on these trials.
    """

    dim: int | None
    n_target: int
    n_nontarget: int
    cllr: float
    min_cllr: float
    act_dcf: float
    min_dcf: float


@dataclass(frozen=True)
class LlrFit:
    """A calibration and what it does to the trials that it was fitted on.

    Attributes:
        llr: to be stored and used on other trials.
        before: cost of the scores as they came, one a dimension.
        after: of their log likelihood ratios, on the trials that the maps were fitted on: too good.
        held_out: of log likelihood ratios by maps that have seen neither speaker of the trial; empty where the speakers
            are not known or too few.
        p_target: of the detection costs.
        c_miss: of the detection costs.
        c_fa: of the detection costs.
        labels: what has to be said with every number.
        notes: what a reader has to know, in sentences.
    """

    llr: LlrCalibration
    before: tuple[LlrCost, ...]
    after: tuple[LlrCost, ...]
    held_out: tuple[LlrCost, ...]
    p_target: float
    c_miss: float
    c_fa: float
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def calibrate(
    system: Any,
    trials: Trials | str | Path,
    *,
    table: UtteranceTable | str | Path | None = None,
    dims: Sequence[int] | None = None,
    quality: Sequence[str] = (),
    prior: float = 0.5,
    ridge: float = 1e-4,
    steps: Steps = AS_THEY_COME,
    p_target: float = 0.05,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    allow_overlap: bool = False,
    load: Load | None = None,
    bars: Bars = no_bars,
) -> LlrFit:
    """Score development trials and fit a map to log likelihood ratios at every dimension.

    Args:
        system: whatever `nestvox.evaluate` takes.
        trials: labelled, of both classes, none twice; a list or its path. Never those that are reported.
        table: utterances that the trials name: speakers, quality measures, and the audio for a model.
        dims: prefix lengths of embeddings; None: those of the store or model.
        quality: measures that enter: ``duration``, ``norm``, ``snr``, or a column of the table.
        prior: of a target trial, around which the maps are to be best.
        ridge: strength of the penalty that keeps the maps finite.
        steps: what is done to the scores first.
        p_target: of the detection costs that are reported, as are `c_miss` and `c_fa`.
        c_miss: cost of rejecting a target.
        c_fa: cost of accepting a non-target.
        allow_overlap: fit on speakers that the model was trained or tuned on, with the label ``leaky``.
        load: makes a model of a path or a name; None: `nestvox.load`.
        bars: shows the phases that take long.

    Raises:
        NestvoxError: as `scoring.sources.known`, `scoring.pipeline.score_trials` and `fit_llr`.
    """
    listed, utterances = as_trials(trials), as_table(table)
    if (clips := enrol_clips_of(listed, utterances)) > 1:
        raise TrialsError(
            f"these trials are of profiles of {clips} recordings; a calibration is of pairs, as `verify` takes them",
            source=listed.source,
        )
    check_fit(check_trials(listed), prior=prior, ridge=ridge, source=listed.source)
    check_operating_point(p_target, c_miss, c_fa)
    check_measures(quality, utterances)
    source = known(system, listed, table=utterances, dims=dims, bars=bars, load=load)
    scored = score_trials(source, table=utterances, steps=steps, allow_overlap=allow_overlap, bars=bars)
    with bars("measuring quality", "files") as progress:
        measured = trial_quality(quality, scored.system, listed, utterances, progress=progress)
    with bars("fitting", "dimensions") as progress:
        return fit_llr(
            scored.system,
            listed,
            scored.speakers,
            measures=quality,
            quality=measured,
            table=utterances,
            prior=prior,
            ridge=ridge,
            p_target=p_target,
            c_miss=c_miss,
            c_fa=c_fa,
            allow_overlap=allow_overlap,
            progress=progress,
        )


def fit_llr(
    system: System,
    trials: Trials,
    speakers: TrialSpeakers,
    *,
    measures: Sequence[str] = (),
    quality: Quality | None = None,
    table: UtteranceTable | None = None,
    prior: float = 0.5,
    ridge: float = 1e-4,
    p_target: float = 0.05,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    allow_overlap: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> LlrFit:
    """Fit an affine map of the scores, and of quality measures, at every dimension.

    `system` holds scores of development trials; the keys of `speakers` are kept, so that nobody is judged on them;
    `quality` holds `measures` on both sides at each dimension (`quality.trial_quality`); `seed` divides the speakers.
    All else as `calibrate` takes it.

    Raises:
        TrialsError: unknown labels, one class only, duplicates, or fewer than ten trials of a class.
        ScoresError: scores that do not vary or have the wrong direction, or measures that do not fit.
        OverlapError: the model was trained on speakers of the trials; they are named.
        NestvoxError: a prior, ridge or operating point out of range.
    """
    targets = check_trials(trials)
    if system.space.kind == "llr":
        raise NestvoxError(f"{system.name} is calibrated already; fit on the scores as they came")
    labels, notes = training_overlap(speakers, system.training_speakers, allow=allow_overlap)
    labels = tuple(sorted({*system.labels, *labels, *marks_of(trials, table)}))
    check_fit(targets, prior=prior, ridge=ridge, source=trials.source)
    independent = _worth(targets, speakers, np.ones(len(targets), dtype=np.bool_))
    of_dim = quality or {}
    fit = partial(fit_calibration, quality_names=quality_names(measures), p_target=prior, ridge=ridge)
    maps, held_out = {}, {}
    for done, (dim, scores) in enumerate(system.scores.items(), start=1):
        columns = _without_rounding(quality_columns(measures, of_dim.get(dim, {})))
        maps[dim] = fit(scores, targets, columns, trials_sha256=trials.sha256, independent=independent)
        apart = _held_out(fit, scores, targets, columns, speakers, seed)
        if apart is not None:
            held_out[dim] = apart
        progress(done, len(system.scores))
    llr = LlrCalibration(
        maps,
        fingerprint=system.fingerprint or "",
        measures=tuple(measures),
        space=system.space,
        trials_sha256=trials.sha256,
        trials_source=trials.source,
        speakers=tuple(sorted({speaker_key(name) for name in speakers.names})),
        labels=labels,
    )
    point = (p_target, c_miss, c_fa)
    notes = (*system.notes, *notes)
    if not speakers.known:
        notes += (
            "The trials do not say who speaks: the calibration cannot refuse to be judged on its own speakers later.",
        )
    elif not held_out:
        notes += ("Too few speakers to hold some out: the cost after calibration is on the trials it was fitted on.",)
    notes += _limits(system.scores, targets, llr)
    after = {dim: llr.llr(dim, scores, of_dim.get(dim, {})) for dim, scores in system.scores.items()}
    return LlrFit(
        llr,
        llr_costs(system.scores, targets, *point),
        llr_costs(after, targets, *point),
        llr_costs(held_out, targets, *point),
        *point,
        labels,
        notes,
    )


def _worth(targets: NDArray[np.bool_], speakers: TrialSpeakers, mask: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Independent trials that those in the mask are worth; None where the speakers are not known or fewer than two."""
    n_speakers = speakers.restricted(mask)[2]
    if not speakers.known or n_speakers < 2:
        return None
    return independent_trials(n_speakers, float(targets[mask].sum()), float((~targets[mask]).sum()))


def _limits(scores: Mapping[int | None, Scores], targets: NDArray[np.bool_], llr: LlrCalibration) -> tuple[str, ...]:
    """Sentences on what these trials are too few to say."""
    first = next(iter(llr.maps.values()))
    low, high = first.bounds
    found = []
    if first.independent_target is not None and first.independent_nontarget is not None:
        found.append(
            f"Ratios stay between {low:.2f} and {high:+.2f} nats: sharing speakers, these trials are worth "
            f"{first.independent_target:.0f} independent target and {first.independent_nontarget:.0f} non-target ones."
        )
    else:
        found.append(f"Ratios stay between {low:.2f} and {high:+.2f} nats, as far as so many trials can support them.")
    apart = [dim for dim, values in scores.items() if values[targets].min() > values[~targets].max()]
    if apart:
        where = "" if None in apart else f" at {', '.join(map(str, apart))} dimensions"
        found.append(
            f"The classes do not overlap{where}: the trials do not say how steep the map is, the ridge does. Only its "
            "order and its bounds mean something: fit on harder trials."
        )
    return tuple(found)


def check_fit(targets: NDArray[np.bool_], *, prior: float, ridge: float, source: str | None = None) -> None:
    """Refuse what no scores could be fitted with.

    Raises:
        TrialsError: fewer than ten trials of a class.
        NestvoxError: a prior or ridge out of range.
    """
    n_target, n_nontarget = int(targets.sum()), int((~targets).sum())
    if min(n_target, n_nontarget) < _FEWEST_TRIALS:
        raise TrialsError(
            f"{n_target} target and {n_nontarget} non-target trials cannot carry a calibration: it takes "
            f"{_FEWEST_TRIALS} of each, and many more for large ratios",
            source=source,
        )
    check_prior(prior, ridge)


def llr_costs(
    scores: Mapping[int | None, Scores],
    targets: NDArray[np.bool_],
    p_target: float = 0.05,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> tuple[LlrCost, ...]:
    """Costs of scores (N,) at each dimension, taken for log likelihood ratios in nats.

    Raises:
        ScoresError, TrialsError, NestvoxError: as `error_curve` and `act_dcf`.
    """
    found = []
    for dim, values in scores.items():
        curve = error_curve(values, targets)
        counts = int(curve.n_target), int(curve.n_nontarget)
        costs = (cost(curve, p_target, c_miss, c_fa).value for cost in (act_dcf, min_dcf))
        found.append(LlrCost(dim, *counts, cllr(curve), min_cllr(curve), *costs))
    return tuple(found)


def _without_rounding(columns: Scores | None) -> Scores | None:
    """Measures that vary by rounding only (norms of unit vectors) set to 0, so that nothing is made of their digits."""
    if columns is None:
        return None
    flat = columns.std(axis=0) <= _ROUNDING * np.maximum(1.0, np.abs(columns.mean(axis=0)))
    return np.where(flat, 0.0, columns)


def _held_out(
    fit: Callable[..., Calibration],
    scores: Scores,
    targets: NDArray[np.bool_],
    columns: Scores | None,
    speakers: TrialSpeakers,
    seed: int,
) -> Scores | None:
    """(N,) log likelihood ratios by maps that know neither speaker of the trial; None where that cannot be done."""
    n_speakers = len(speakers.names)
    if not speakers.known or n_speakers < 2 * _PARTS:
        return None
    part_of = seeded(seed).permutation(n_speakers) % _PARTS
    enrol, test = part_of[speakers.enrol], part_of[speakers.test]
    llr = np.empty(len(scores))
    for one, other in combinations_with_replacement(range(_PARTS), 2):
        inside = (enrol == one) & (test == other) | (enrol == other) & (test == one)
        outside = ~np.isin(enrol, (one, other)) & ~np.isin(test, (one, other))
        if not inside.any():
            continue
        try:
            known_columns = None if columns is None else columns[outside]
            worth = _worth(targets, speakers, outside)
            found = fit(scores[outside], targets[outside], known_columns, independent=worth)
        except (ScoresError, TrialsError):  # the other speakers' trials alone carry no calibration
            return None
        llr[inside] = found(scores[inside], None if columns is None else columns[inside])
    return llr
