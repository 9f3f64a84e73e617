"""Which interval stands beside a figure, and the exact statement of what it is made of.

Two kinds, both over speakers. ``studentised`` (the usual one): the standard error of the figure from the influences of
all pairs of trials that share a speaker, Student's t, logit scale; nothing is drawn. ``percentile``: the middle of the
replicates of the bootstrap. See `metrics.influence` and `metrics.bootstrap`; the guide to comparison shows how often
each holds the truth.
"""

from __future__ import annotations

import math

from nestvox.errors import NestvoxError
from nestvox.metrics.bootstrap import BootstrapIntervals, Interval
from nestvox.metrics.estimate import Estimate, TrialSet
from nestvox.scoring.speakers import TrialSpeakers

STUDENTISED = "studentised"
PERCENTILE = "percentile"
INTERVALS = (STUDENTISED, PERCENTILE)


def check_interval(interval: str) -> None:
    """Refuse a kind of interval that does not exist.

    Raises:
        NestvoxError: with those that do.
    """
    if interval not in INTERVALS:
        raise NestvoxError(f"interval must be one of {', '.join(INTERVALS)}; got {interval!r}")


def with_interval(
    name: str,
    dim: int | None,
    value: float,
    error: float,
    *,
    wanted: str,
    studentised: Interval,
    percentile: Interval | None,
    trials: TrialSet,
) -> Estimate:
    """A figure with the interval that was asked for, or the percentile one where a studentised one does not exist.

    It does not exist for a figure of exactly 0 or 1, which has no logit, and where the standard error is 0 or not a
    number: then the speakers say nothing of how the figure would vary.

    Args:
        name: of the figure.
        dim: prefix length.
        value: rate or normalised cost.
        error: its standard error.
        wanted: one of `INTERVALS`.
        studentised: the one kind.
        percentile: the other; None where `has_studentised` holds and nothing was resampled.
        trials: that it was measured on.
    """
    taken = percentile is None or (wanted == STUDENTISED and has_studentised(value, error))
    low, high = studentised if taken or percentile is None else percentile
    kind = STUDENTISED if taken else PERCENTILE
    return Estimate(name=name, dim=dim, value=value, low=low, high=high, interval=kind, error=error, trials=trials)


def has_studentised(figure: float, error: float) -> bool:
    """Whether a rate or normalised cost with this standard error has a studentised interval."""
    return 0 < figure < 1 and math.isfinite(error) and error > 0


def in_words(
    eer_method: str,
    cost_method: str,
    spread: BootstrapIntervals | None,
    speakers: TrialSpeakers,
    *,
    n_clusters: int,
    confidence: float,
    wanted: str,
    seed: int,
) -> str:
    """One sentence for both figures: confidence, what was resampled and how often, or that nothing was.

    Args:
        eer_method: of the equal error rate's interval.
        cost_method: of the minimum cost's.
        spread: the replicates; None where nothing was resampled.
        speakers: where the clusters come from.
        n_clusters: how many there are.
        confidence: of the intervals.
        wanted: what was asked for.
        seed: of the replicates.
    """
    unit = "speakers" if speakers.known else "utterances"
    origin = f"{unit} ({speakers.source})" if speakers.known else unit
    percent = f"{100 * confidence:g} %"
    words = {
        STUDENTISED: (
            f"{percent} studentised interval: standard error over {n_clusters} {origin} from all pairs of "
            f"trials that share one on either side, Student's t with {n_clusters - 1} degrees of freedom on the "
            "logit scale; nothing is resampled"
        ),
    }
    if spread is not None:
        words[PERCENTILE] = (
            f"{percent} percentile interval of {spread.n_replicates} bootstrap replicates (seed {seed}): "
            f"{n_clusters} {origin} drawn with replacement on both sides of a trial"
            + (f", {spread.n_redrawn} draws without one class redrawn" if spread.n_redrawn else "")
        )
    if eer_method == cost_method:
        text = words[eer_method]
        if eer_method != wanted:
            text += "; a figure of 0 or 1, or one that no speaker changes, has no studentised interval"
    else:
        without = "the EER" if eer_method == PERCENTILE else "this minDCF"
        text = f"EER: {words[eer_method]}. minDCF: {words[cost_method]}; {without} has no studentised interval"
    return f"{text}; {speakers.warning}" if speakers.warning else text
