"""One row of error rates a dimension and condition, from labels, scores and the speakers of both sides.

Every road of `evaluate` ends here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from nestvox.corpora.trials import Trials
from nestvox.errors import TrialsError
from nestvox.evaluation.calibration import calibration_curve
from nestvox.evaluation.further import FurtherFigure, further_figures, reachable_fars
from nestvox.evaluation.intervals import choose_interval, in_words
from nestvox.evaluation.results import ALL, DetCurve, ErrorRates, Evaluation, NotComputable, ScoredTrial, ScoreHistogram
from nestvox.evaluation.settings import Settings
from nestvox.evaluation.zoo import SpeakerRow, ZooTest, speaker_rows, zoo_tests
from nestvox.metrics import eer, eer_rocch, error_curve, min_dcf, speaker_bootstrap
from nestvox.progress import Progress, silent
from nestvox.scoring.conditions import Sides, condition_masks
from nestvox.scoring.speakers import TrialSpeakers, numbered

__all__ = ["Origin", "Scores", "measure"]

_DET_POINTS = 161
_BINS = 60
_WORST = 10

Scores = NDArray[np.float64]


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
    rates: list[ErrorRates] = []
    refused: list[NotComputable] = []
    curves: list[DetCurve] = []
    further: list[FurtherFigure] = []
    for n_dim, (dim, values) in enumerate(scores.items()):
        for n_mask, (name, mask) in enumerate(masks.items()):
            row = _row(values, targets, mask, speakers, settings, with_det=name == ALL)
            counts: dict[str, Any] = {
                "dim": dim,
                "condition": name,
                "n_target": int(targets[mask].sum()),
                "n_nontarget": int((~targets[mask]).sum()),
                "n_clusters": row.n_clusters,
                "trials_sha256": hashes[name],
            }
            if row.reason:
                if name == ALL:
                    raise TrialsError(row.reason, source=trials.source)
                refused.append(NotComputable(**counts, reason=row.reason))
            else:
                rates.append(ErrorRates(**counts, **row.rates, labels=labels, fingerprint=origin.fingerprint))
                if row.det:
                    curves.append(DetCurve(dim, *row.det))
                    sides_of = speakers.restricted(mask)[:2]
                    further += further_figures(dim, values, targets, sides_of, settings, row.misses, llr=origin.llr)
            progress(n_dim * len(masks) + n_mask + 1, len(scores) * len(masks))
    by_dim: dict[int | None, Scores] = dict(scores.items())
    detail_dim = settings.detailed(by_dim)
    detail = by_dim[detail_dim]
    zoo: tuple[ZooTest, ...] = ()
    of_speakers: tuple[SpeakerRow, ...] = ()
    if speakers.known:
        named_sides = (speakers.enrol, speakers.test, speakers.names)
        recordings = numbered(trials.frame["enrol"], trials.frame["test"])[:2]
        zoo = zoo_tests(detail, targets, *named_sides, recordings)
        threshold = next(row.eer_threshold for row in rates if row.condition == ALL and row.dim == detail_dim)
        of_speakers = speaker_rows(detail, targets, *named_sides, threshold, zoo)
    notes = origin.notes if speakers.known else (*origin.notes, f"Intervals are {speakers.warning}.")
    notes += _warnings(rates)
    return Evaluation(
        results=tuple(rates),
        not_computable=tuple(refused),
        det=tuple(curves),
        further=tuple(further),
        histograms=tuple(_histogram(dim, values, targets) for dim, values in scores.items()),
        highest_nontargets=_worst(trials, detail, np.flatnonzero(~targets), origin.path_of, highest=True),
        lowest_targets=_worst(trials, detail, np.flatnonzero(targets), origin.path_of, highest=False),
        calibration=tuple(
            calibration_curve(
                dim,
                values,
                targets,
                llr=origin.llr,
                p_target=settings.p_target,
                c_miss=settings.c_miss,
                c_fa=settings.c_fa,
            )
            for dim, values in scores.items()
        ),
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
    if any(row.eer_low >= row.eer_high and row.eer > 0 for row in rates):
        found.append("Where it says [none] an interval cannot be had: no draw of these speakers changes the figure.")
    if perfect := [min(row.n_target, row.n_nontarget) for row in rates if row.eer == 0]:
        fewest = min(perfect)
        found.append(
            "Where no error occurred an interval cannot be had: resampling cannot say how rare errors are. Even of "
            f"independent trials {fewest} of a class without an error only say that the rate is below "
            f"{100 * min(1.0, 3 / fewest):.3g} %."
        )
    if chance := [row for row in rates if row.condition == ALL and row.eer >= 0.5]:
        dims = ", ".join(str(row.dim) for row in chance if row.dim is not None)
        found.append(
            f"An EER of {100 * chance[-1].eer:.1f} %{f' (dimensions {dims})' if dims else ''} is no better than "
            "chance: are the scores distances, of which the lower is more alike, or the labels exchanged?"
        )
    return tuple(found)


@dataclass(frozen=True)
class _Row:
    """Figures of some trials, or the reason why there are none."""

    n_clusters: int
    reason: str
    rates: dict[str, Any]
    det: tuple[tuple[float, ...], ...]
    misses: tuple[tuple[float, float, float, float], ...]


def _row(
    values: Scores,
    targets: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    speakers: TrialSpeakers,
    settings: Settings,
    *,
    with_det: bool,
) -> _Row:
    scores, labels = values[mask], targets[mask]
    enrol, test, n_clusters = speakers.restricted(mask)
    unit = "speakers" if speakers.known else "utterances"
    reason = (
        ("no target trials" if not labels.any() else "")
        or ("no non-target trials" if labels.all() else "")
        or (f"fewer than two {unit}" if n_clusters < 2 else "")
    )
    if reason:
        return _Row(n_clusters, reason, {}, (), ())
    curve = error_curve(scores, labels)
    grid, fars = np.empty(0), np.empty(0)
    if with_det:
        grid = _probit_grid(int(curve.n_nontarget))
        fars = np.array(reachable_fars(int(curve.n_nontarget)))
    at = np.concatenate([grid, fars])
    spread = speaker_bootstrap(
        scores,
        labels,
        enrol,
        test,
        p_target=settings.p_target,
        c_miss=settings.c_miss,
        c_fa=settings.c_fa,
        p_fa=at,
        n_replicates=settings.n_bootstrap,
        seed=settings.seed,
        confidence=settings.confidence,
    )
    equal, cost = eer(curve), min_dcf(curve, *settings.point)
    of_eer = choose_interval(
        settings.interval,
        figure=equal.rate,
        error=spread.eer_error,
        studentised=spread.eer_studentised,
        percentile=spread.eer,
    )
    of_cost = choose_interval(
        settings.interval,
        figure=cost.value,
        error=spread.min_dcf_error,
        studentised=spread.min_dcf_studentised,
        percentile=spread.min_dcf,
    )
    rates = {
        "eer": equal.rate,
        "eer_low": of_eer.low,
        "eer_high": of_eer.high,
        "eer_interval": of_eer.method,
        "eer_percentile": tuple(spread.eer),
        "eer_studentised": tuple(spread.eer_studentised),
        "eer_error": spread.eer_error,
        "eer_rocch": eer_rocch(curve),
        "eer_threshold": equal.threshold,
        "min_dcf": cost.value,
        "min_dcf_low": of_cost.low,
        "min_dcf_high": of_cost.high,
        "min_dcf_interval": of_cost.method,
        "min_dcf_percentile": tuple(spread.min_dcf),
        "min_dcf_studentised": tuple(spread.min_dcf_studentised),
        "min_dcf_error": spread.min_dcf_error,
        "min_dcf_threshold": cost.threshold,
        "p_target": settings.p_target,
        "c_miss": settings.c_miss,
        "c_fa": settings.c_fa,
        "interval": in_words(
            of_eer.method, of_cost.method, spread, speakers, wanted=settings.interval, seed=settings.seed
        ),
    }
    columns = (
        np.stack([at, curve.p_miss_at(at), spread.p_miss_low, spread.p_miss_high]) if with_det else np.empty((4, 0))
    )
    det, misses = columns[:, : len(grid)], columns[:, len(grid) :]
    return _Row(
        n_clusters,
        "",
        rates,
        tuple(tuple(part.tolist()) for part in det) if with_det else (),
        tuple((far, miss, low, high) for far, miss, low, high in misses.T.tolist()),
    )


def _probit_grid(n_nontarget: int) -> Scores:
    """False-alarm rates evenly spaced on the probit axis, from what so many trials can resolve to nearly all."""
    lowest = max(1e-4, min(0.5 / n_nontarget, 0.05))
    return np.asarray(ndtr(np.linspace(ndtri(lowest), ndtri(0.95), _DET_POINTS)))


def _histogram(dim: int | None, values: Scores, targets: NDArray[np.bool_]) -> ScoreHistogram:
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high, _BINS + 1) if high > low else np.linspace(low - 0.5, low + 0.5, _BINS + 1)
    edges = np.unique(edges)  # scores that differ in their last digits only leave room for fewer bins
    counts = [np.histogram(values[part], bins=edges)[0] for part in (targets, ~targets)]
    return ScoreHistogram(dim, tuple(map(float, edges)), *(tuple(map(int, part)) for part in counts))


def _worst(
    trials: Trials,
    values: Scores,
    rows: NDArray[np.int64],
    path_of: Callable[[str], str | None],
    *,
    highest: bool,
) -> tuple[ScoredTrial, ...]:
    order = rows[np.argsort(-values[rows] if highest else values[rows], kind="stable")[:_WORST]]
    found = [(trials.frame.row(int(i), named=True), float(values[i])) for i in order]
    return tuple(
        ScoredTrial(**row, score=score, enrol_path=path_of(row["enrol"]), test_path=path_of(row["test"]))
        for row, score in found
    )
