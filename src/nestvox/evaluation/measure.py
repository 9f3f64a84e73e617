"""Error rates of a system on a list of trials: one row a dimension and condition, and what is shown beside them.

Every road is `scoring.pipeline.score_trials`, then `measure`; `evaluate` is both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from nestvox.corpora.trials import Trials, as_trials
from nestvox.corpora.utterances import UtteranceTable, as_table
from nestvox.errors import NestvoxError, TrialsError
from nestvox.evaluation.calibration import CalibrationCurve, calibration_curve
from nestvox.evaluation.estimates import (
    PERCENTILE,
    USUAL,
    Settings,
    further_figures,
    headline_figures,
    in_words,
    reachable_fars,
    replicates,
)
from nestvox.evaluation.llr_fit import llr_costs
from nestvox.evaluation.results import ALL, DetCurve, ErrorRates, Evaluation, NotComputable, ScoredTrial, ScoreHistogram
from nestvox.evaluation.set_threshold import ThresholdUse, use_thresholds
from nestvox.evaluation.zoo import SpeakerRow, ZooTest, speaker_rows, zoo_tests
from nestvox.metrics import ErrorCurve, eer, eer_rocch, error_curve, min_dcf
from nestvox.metrics.distributions import ndtr, ndtri
from nestvox.metrics.estimate import Estimate, TrialSet
from nestvox.metrics.influence import Clusters, det_band
from nestvox.progress import Progress, no_bars, silent
from nestvox.scoring.conditions import condition_masks
from nestvox.scoring.pipeline import Given, ScoredTrials, score_trials
from nestvox.scoring.refusals import check_trials
from nestvox.scoring.sources import Load, known
from nestvox.scoring.speakers import TrialSpeakers

_DET_POINTS = 161
_BINS = 60
_WORST = 10

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]


def evaluate(
    system: Any,
    trials: Trials | str | Path,
    *,
    table: UtteranceTable | str | Path | None = None,
    dims: Sequence[int] | None = None,
    labels: Sequence[str] = (),
    skip_missing: bool = False,
    llr: bool = False,
    settings: Settings = USUAL,
    scores_out: str | Path | None = None,
    load: Load | None = None,
    **given: Unpack[Given],
) -> Evaluation:
    """Error rates of a system on trials, at every dimension and under every condition, with intervals over speakers.

    The score of embeddings at d is the cosine of the first d dimensions, renormalised; of a store of the tap
    ``embedding`` this is plain truncation, the baseline of a nested model. On trials that a model's head was chosen or
    its thresholds were set on, every number carries the label ``selected``.

    Args:
        system: a score file, a store or a model, as a path or a catalogue name or opened; scores, as a frame or (N,)
            numbers in the order of the trials, higher meaning "more likely the same speaker"; or a `System`, see
            `scoring.sources`.
        trials: labelled, of both classes, none twice; a list or its path.
        table: utterances that the trials name, with speakers, columns for conditions, and the audio for a model;
            without it, speakers come from the store.
        dims: prefix lengths of embeddings; None: those of the store or model.
        labels: what every number has to carry beside its own.
        skip_missing: leave out trials whose utterances are not there, and say so, instead of refusing.
        llr: the scores are log likelihood ratios in nats, so that their calibration can be judged.
        settings: operating point, replicates and kind of the intervals.
        scores_out: .csv, .parquet or .txt file to write the scores of the largest dimension to.
        load: makes a model of a path or a name; None: `nestvox.load`.
        **given: speakers, conditions, steps, allow_overlap, bars: see `scoring.pipeline.score_trials`.

    Raises:
        NestvoxError: as `scoring.sources.known`, `scoring.pipeline.score_trials` and `measure`.
    """
    if scores_out is not None and Path(scores_out).suffix not in {".csv", ".parquet", ".txt"}:
        raise NestvoxError(f"--scores-out must end in .csv, .parquet or .txt, got {scores_out}")
    listed = as_trials(trials)
    utterances = as_table(table)
    check_trials(listed)
    bars = given.get("bars", no_bars)
    source = known(
        system, listed, table=utterances, dims=dims, labels=labels, skip_missing=skip_missing, bars=bars, load=load
    )
    settings.detailed(source.dims or [None])
    scored = score_trials(source, table=utterances, **given)
    with bars("measuring", "rows") as progress:
        found = measure(scored, llr=llr, settings=settings, progress=progress)
    if scores_out is not None:
        scored.write(scores_out)
    return found


def measure(
    scored: ScoredTrials, *, llr: bool = False, settings: Settings = USUAL, progress: Progress = silent
) -> Evaluation:
    """Measure scored trials at every dimension and under every condition.

    Where they were calibrated, the costs before and after stand in the result; where there are thresholds, what they
    do here.

    `llr`: the scores are log likelihood ratios in nats, also where the system calls them given, so that their
    calibration can be judged.

    Raises:
        TrialsError: no threshold is for any of the dimensions, or the list has one speaker only.
        ModelError: thresholds on another kind of score.
    """
    system, trials, targets, speakers = scored.system, scored.trials, scored.targets, scored.speakers
    detail_dim = settings.detailed(system.scores)  # before anything is measured
    uses = _uses(scored, settings)
    labels = tuple(sorted({*system.labels, *scored.labels}))
    masks = {ALL: np.ones(len(targets), dtype=np.bool_), **condition_masks(scored.sides, len(targets))}
    hashes = {
        name: trials.sha256 if name == ALL else Trials(frame=trials.frame.filter(mask), source=trials.source).sha256
        for name, mask in masks.items()
    }
    found = _Found()
    for n_dim, (dim, values) in enumerate(system.scores.items()):
        for n_mask, (name, mask) in enumerate(masks.items()):
            part = _part(values, targets, mask, speakers)
            of = TrialSet(
                trials_sha256=hashes[name],
                n_target=int(targets[mask].sum()),
                n_nontarget=int((~targets[mask]).sum()),
                n_clusters=part.n_clusters,
                labels=labels,
            )
            row: dict[str, Any] = {"dim": dim, "condition": name, **of.trials_to_dict()}
            if part.curve is None or part.clusters is None:
                if name == ALL:
                    raise TrialsError(part.reason, source=trials.source)
                found.refused.append(NotComputable(**row, reason=part.reason))
            else:
                row |= _rates(dim, part.curve, part.clusters, of, speakers, settings)
                found.rates.append(ErrorRates(**row, fingerprint=system.fingerprint))
                if name == ALL:
                    judged = llr or system.space.kind == "llr"
                    _look_closer(found, dim, part.curve, part.clusters, of, settings, llr=judged)
            progress(n_dim * len(masks) + n_mask + 1, len(system.scores) * len(masks))
    detail = system.scores[detail_dim]
    zoo: tuple[ZooTest, ...] = ()
    of_speakers: tuple[SpeakerRow, ...] = ()
    if speakers.known:
        named_sides = (speakers.enrol, speakers.test, speakers.names)
        recordings = trials.pairs.keyed.enrol, trials.pairs.keyed.test
        zoo = zoo_tests(detail, targets, *named_sides, recordings)
        threshold = next(row.eer_threshold for row in found.rates if row.condition == ALL and row.dim == detail_dim)
        of_speakers = speaker_rows(detail, targets, *named_sides, threshold, zoo)
    changed = (f"The scores are the {system.space}.",) if system is not scored.raw else ()
    doubt = () if speakers.known else (f"Intervals are {speakers.warning}.",)
    calibration = scored.steps.calibration
    before = {dim: scored.normalised.scores[dim] for dim in system.scores}
    return Evaluation(
        results=tuple(found.rates),
        not_computable=tuple(found.refused),
        det=tuple(found.det),
        further=tuple(found.further),
        histograms=tuple(found.histograms),
        highest_nontargets=_worst(trials, -detail, ~targets, scored.path_of, -1),
        lowest_targets=_worst(trials, detail, targets, scored.path_of, 1),
        calibration=tuple(found.calibration),
        speakers=of_speakers,
        zoo=zoo,
        detail_dim=detail_dim,
        trials_source=trials.source,
        trials_sha256=hashes[ALL],
        model=system.model,
        fingerprint=system.fingerprint,
        labels=labels,
        notes=(*changed, *scored.notes, *system.notes, *doubt, *_warnings(found.rates)),
        n_ignored_scores=system.n_ignored_scores,
        confidence=settings.confidence,
        n_bootstrap=settings.n_bootstrap,
        seed=settings.seed,
        interval=settings.interval,
        score=str(system.space),
        calibrated_by=None if calibration is None else calibration.key,
        llr_cost_before=() if calibration is None else llr_costs(before, targets, *settings.point),
        llr_cost_after=() if calibration is None else llr_costs(system.scores, targets, *settings.point),
        thresholds=uses,
    )


def _uses(scored: ScoredTrials, settings: Settings) -> tuple[ThresholdUse, ...]:
    system, stored = scored.system, scored.steps.thresholds
    if not stored:
        return ()
    return use_thresholds(
        [threshold for threshold in stored if threshold.space == system.space] or stored,
        system,
        scored.trials,
        scored.speakers,
        table=scored.table,
        allow_overlap=scored.allow_overlap,
        n_bootstrap=settings.n_bootstrap,
        seed=settings.seed,
        confidence=settings.confidence,
    )


def _warnings(rates: Sequence[ErrorRates]) -> tuple[str, ...]:
    """What a reader could mistake figures for."""
    found = []
    if any(row.eer.ends[0] >= row.eer.ends[1] and row.eer.value > 0 for row in rates):
        found.append("Where it says [none] an interval cannot be had: no draw of these speakers changes the figure.")
    if perfect := [min(row.n_target, row.n_nontarget) for row in rates if row.eer.value == 0]:
        fewest = min(perfect)
        found.append(
            "Where no error occurred an interval cannot be had: resampling cannot say how rare errors are. Even of "
            f"independent trials {fewest} of a class without an error only say that the rate is below "
            f"{100 * min(1.0, 3 / fewest):.3g} %."
        )
    if chance := [row for row in rates if row.condition == ALL and row.eer.value >= 0.5]:
        dims = ", ".join(str(row.dim) for row in chance if row.dim is not None)
        found.append(
            f"An EER of {100 * chance[-1].eer.value:.1f} %{f' (dimensions {dims})' if dims else ''} is no better than "
            "chance: are the scores distances, of which the lower is more alike, or the labels exchanged?"
        )
    return tuple(found)


@dataclass
class _Found:
    """Results as they come."""

    rates: list[ErrorRates] = field(default_factory=list)
    refused: list[NotComputable] = field(default_factory=list)
    det: list[DetCurve] = field(default_factory=list)
    further: list[Estimate] = field(default_factory=list)
    histograms: list[ScoreHistogram] = field(default_factory=list)
    calibration: list[CalibrationCurve] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    """Some of the trials, sorted once for every figure of them, or the reason why there are none."""

    n_clusters: int
    curve: ErrorCurve | None = None
    clusters: Clusters | None = None
    reason: str = ""


def _part(values: Scores, targets: Mask, mask: Mask, speakers: TrialSpeakers) -> _Part:
    scores, labels = (values, targets) if mask.all() else (values[mask], targets[mask])
    enrol, test, n_clusters = speakers.restricted(mask)
    unit = "speakers" if speakers.known else "utterances"
    reason = (
        ("no target trials" if not labels.any() else "")
        or ("no non-target trials" if labels.all() else "")
        or (f"fewer than two {unit}" if n_clusters < 2 else "")
    )
    if reason:
        return _Part(n_clusters, reason=reason)
    return _Part(n_clusters, error_curve(scores, labels), Clusters(enrol, test))


def _rates(
    dim: int | None,
    curve: ErrorCurve,
    clusters: Clusters,
    trials: TrialSet,
    speakers: TrialSpeakers,
    settings: Settings,
) -> dict[str, Any]:
    """The figures of a row."""
    of_eer, of_cost, spread = headline_figures(dim, curve, clusters, trials, settings)
    return {
        "eer": of_eer,
        "eer_rocch": eer_rocch(curve),
        "eer_threshold": eer(curve).threshold,
        "min_dcf": of_cost,
        "min_dcf_threshold": min_dcf(curve, *settings.point).threshold,
        "p_target": settings.p_target,
        "c_miss": settings.c_miss,
        "c_fa": settings.c_fa,
        "interval": in_words((of_eer, of_cost), spread, speakers, settings),
    }


def _look_closer(
    found: _Found,
    dim: int | None,
    curve: ErrorCurve,
    clusters: Clusters,
    trials: TrialSet,
    settings: Settings,
    *,
    llr: bool,
) -> None:
    """Add what is shown of a dimension over all trials."""
    n_nontarget = int(curve.n_nontarget)
    at = [*_probit_grid(n_nontarget).tolist(), *reachable_fars(n_nontarget)]
    if settings.interval == PERCENTILE:
        spread = replicates(curve, clusters, settings, at)
        band = curve.p_miss_at(at), spread.p_miss_low, spread.p_miss_high
    else:
        band = det_band(curve, clusters, at, settings.confidence)
    columns = np.stack([at, *band])
    found.det.append(DetCurve(dim, *(tuple(part) for part in columns[:, :_DET_POINTS].tolist())))
    misses = columns[:, _DET_POINTS:].T.tolist()
    found.further += further_figures(dim, curve, clusters, trials, settings, misses, llr=llr)
    found.histograms.append(_histogram(dim, curve))
    found.calibration.append(calibration_curve(dim, curve, settings.point, llr=llr))


def _probit_grid(n_nontarget: int) -> Scores:
    """False-alarm rates evenly spaced on the probit axis, from what so many trials can resolve to nearly all."""
    lowest = max(1e-4, min(0.5 / n_nontarget, 0.05))
    return np.asarray(ndtr(np.linspace(ndtri(lowest), ndtri(0.95), _DET_POINTS)))


def _histogram(dim: int | None, curve: ErrorCurve) -> ScoreHistogram:
    sides = curve.target.values, curve.nontarget.values
    low, high = min(float(side[0]) for side in sides), max(float(side[-1]) for side in sides)
    edges = np.linspace(low, high, _BINS + 1) if high > low else np.linspace(low - 0.5, low + 0.5, _BINS + 1)
    edges = np.unique(edges)  # scores that differ in their last digits only leave room for fewer bins
    counts = [np.diff(np.searchsorted(side, [*edges[:-1], np.inf])) for side in sides]
    return ScoreHistogram(dim, tuple(map(float, edges)), *(tuple(map(int, part)) for part in counts))


def _worst(
    trials: Trials, values: Scores, mask: Mask, path_of: Callable[[str], str | None], sign: int
) -> tuple[ScoredTrial, ...]:
    """The trials of a class with the lowest values; `sign` times a value is the score."""
    rows = np.flatnonzero(mask)
    if len(rows) > _WORST:  # only those that can be among them are put in order
        rows = rows[values[rows] <= np.partition(values[rows], _WORST - 1)[_WORST - 1]]
    order = rows[np.argsort(values[rows], kind="stable")[:_WORST]]
    found = [(trials.frame.row(int(i), named=True), sign * float(values[i])) for i in order]
    return tuple(
        ScoredTrial(**row, score=score, enrol_path=path_of(row["enrol"]), test_path=path_of(row["test"]))
        for row, score in found
    )
