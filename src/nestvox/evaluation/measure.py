"""One row of error rates a dimension and condition, from labels, scores and the speakers of both sides.

Every road of `evaluate` ends here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from nestvox.corpora.trials import Trials
from nestvox.errors import TrialsError
from nestvox.evaluation.calibration import CalibrationCurve, calibration_curve
from nestvox.evaluation.further import further_figures, reachable_fars
from nestvox.evaluation.intervals import PERCENTILE, has_studentised, in_words, with_interval
from nestvox.evaluation.results import ALL, DetCurve, ErrorRates, Evaluation, NotComputable, ScoredTrial, ScoreHistogram
from nestvox.evaluation.settings import Settings
from nestvox.evaluation.zoo import SpeakerRow, ZooTest, speaker_rows, zoo_tests
from nestvox.metrics import BootstrapIntervals, ErrorCurve, eer, eer_rocch, error_curve, min_dcf, speaker_bootstrap
from nestvox.metrics.bootstrap import studentised_intervals
from nestvox.metrics.det_band import det_band
from nestvox.metrics.estimate import Estimate, TrialSet
from nestvox.metrics.influence import Clusters
from nestvox.progress import Progress, silent
from nestvox.scoring.conditions import Sides, condition_masks
from nestvox.scoring.speakers import TrialSpeakers

_DET_POINTS = 161
_BINS = 60
_WORST = 10

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Origin:
    """What is known about the scores.

    Attributes:
        model: name of the model.
        fingerprint: of the model.
        labels: of every row.
        notes: what a reader has to know.
        n_ignored_scores: that no trial names.
        llr: the scores are log likelihood ratios in nats.
        path_of: audio file of a name of the trials, None where it is not known.
    """

    model: str | None
    fingerprint: str | None
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    n_ignored_scores: int = 0
    llr: bool = False
    path_of: Callable[[str], str | None] = lambda _: None


def measure(
    trials: Trials,
    targets: NDArray[np.bool_],
    scores: Mapping[int, Scores] | Mapping[int | None, Scores],
    *,
    speakers: TrialSpeakers,
    sides: Mapping[str, Sides],
    origin: Origin,
    settings: Settings,
    progress: Progress = silent,
) -> Evaluation:
    """Measure every dimension under every condition.

    Args:
        trials: N of them, checked by `refusals.check_trials`.
        targets: (N,) their labels.
        scores: dimension to (N,) finite scores, dimensions ascending.
        speakers: clusters of both sides.
        sides: column name to the values of both sides, for the conditions.
        origin: what every result has to say about the scores.
        settings: how to measure.
        progress: told the rows measured.

    Raises:
        TrialsError: the whole list has one class or one speaker only.
    """
    settings.detailed(scores)  # before anything is measured
    labels = tuple(sorted(set(origin.labels)))
    masks = {ALL: np.ones(len(targets), dtype=np.bool_), **condition_masks(sides, len(targets))}
    hashes = {
        name: trials.sha256 if name == ALL else Trials(frame=trials.frame.filter(mask), source=trials.source).sha256
        for name, mask in masks.items()
    }
    found = _Found()
    for n_dim, (dim, values) in enumerate(scores.items()):
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
                found.rates.append(ErrorRates(**row, fingerprint=origin.fingerprint))
                if name == ALL:
                    _look_closer(found, dim, part.curve, part.clusters, of, settings, llr=origin.llr)
            progress(n_dim * len(masks) + n_mask + 1, len(scores) * len(masks))
    by_dim: dict[int | None, Scores] = dict(scores.items())
    detail_dim = settings.detailed(by_dim)
    detail = by_dim[detail_dim]
    zoo: tuple[ZooTest, ...] = ()
    of_speakers: tuple[SpeakerRow, ...] = ()
    if speakers.known:
        named_sides = (speakers.enrol, speakers.test, speakers.names)
        recordings = trials.pairs.keyed.enrol, trials.pairs.keyed.test
        zoo = zoo_tests(detail, targets, *named_sides, recordings)
        threshold = next(row.eer_threshold for row in found.rates if row.condition == ALL and row.dim == detail_dim)
        of_speakers = speaker_rows(detail, targets, *named_sides, threshold, zoo)
    notes = origin.notes if speakers.known else (*origin.notes, f"Intervals are {speakers.warning}.")
    notes += _warnings(found.rates)
    return Evaluation(
        results=tuple(found.rates),
        not_computable=tuple(found.refused),
        det=tuple(found.det),
        further=tuple(found.further),
        histograms=tuple(found.histograms),
        highest_nontargets=_worst(trials, -detail, ~targets, origin.path_of, -1),
        lowest_targets=_worst(trials, detail, targets, origin.path_of, 1),
        calibration=tuple(found.calibration),
        speakers=of_speakers,
        zoo=zoo,
        detail_dim=detail_dim,
        trials_source=trials.source,
        trials_sha256=hashes[ALL],
        model=origin.model,
        fingerprint=origin.fingerprint,
        labels=labels,
        notes=notes,
        n_ignored_scores=origin.n_ignored_scores,
        confidence=settings.confidence,
        n_bootstrap=settings.n_bootstrap,
        seed=settings.seed,
        interval=settings.interval,
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
    equal, cost = eer(curve), min_dcf(curve, *settings.point)
    student = studentised_intervals(curve, clusters, settings.point, settings.confidence)
    errors = {"eer": (equal.rate, student.eer_error), "min_dcf": (cost.value, student.min_dcf_error)}
    spread = None
    if settings.interval == PERCENTILE or not all(has_studentised(*pair) for pair in errors.values()):
        spread = _replicates(curve, clusters, settings)
    of_eer, of_cost = (
        with_interval(
            title,
            dim,
            *errors[name],
            wanted=settings.interval,
            studentised=getattr(student, name),
            percentile=None if spread is None else getattr(spread, name),
            trials=trials,
        )
        for name, title in (("eer", "EER"), ("min_dcf", f"minDCF({settings.p_target:g})"))
    )
    return {
        "eer": of_eer,
        "eer_rocch": eer_rocch(curve),
        "eer_threshold": equal.threshold,
        "min_dcf": of_cost,
        "min_dcf_threshold": cost.threshold,
        "p_target": settings.p_target,
        "c_miss": settings.c_miss,
        "c_fa": settings.c_fa,
        "interval": in_words(
            of_eer.interval,
            of_cost.interval,
            spread,
            speakers,
            n_clusters=clusters.size,
            confidence=settings.confidence,
            wanted=settings.interval,
            seed=settings.seed,
        ),
    }


def _replicates(
    curve: ErrorCurve, clusters: Clusters, settings: Settings, p_fa: Sequence[float] = ()
) -> BootstrapIntervals:
    return speaker_bootstrap(
        *curve.trials,
        clusters.enrol,
        clusters.test,
        p_target=settings.p_target,
        c_miss=settings.c_miss,
        c_fa=settings.c_fa,
        p_fa=p_fa,
        n_replicates=settings.n_bootstrap,
        seed=settings.seed,
        confidence=settings.confidence,
    )


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
        spread = _replicates(curve, clusters, settings, at)
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
