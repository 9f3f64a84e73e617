"""Plain words for a difference between two systems: what can be said, and what cannot."""

from __future__ import annotations

import math

from nestvox.metrics.compare import PairedFigure, pairs_needed


def difference_in_words(
    name_a: str,
    name_b: str,
    figure: PairedFigure,
    *,
    n_trials: int,
    n_clusters: int,
    percent: bool = True,
    unit: str = "speakers",
    p_value: float | None = None,
    confidence: float = 0.95,
    level: float = 0.05,
) -> str:
    """Say which system is worse and by how much, or how many trials it would take to say.

    Args:
        name_a: first system.
        name_b: second system, the subject of the sentence.
        figure: their difference.
        n_trials: trials it was measured on.
        n_clusters: speakers in them.
        percent: a rate, said in per cent points; else the bare number (a cost).
        unit: what the clusters are.
        p_value: to decide by, e.g. corrected for several comparisons; None: that of the figure.
        confidence: of the interval.
        level: p values above it are "cannot tell them apart".
    """
    p = figure.p_value if p_value is None else p_value
    scale, digits, points = (100, 1, " points") if percent else (1, 4, "")
    if percent and abs(100 * figure.difference) < 0.1:
        digits = 2
    interval = f"{100 * confidence:g} % interval"
    if p <= level:
        sign = 1 if figure.difference >= 0 else -1
        low, high = sorted((sign * figure.low, sign * figure.high))
        return (
            f"{name_b} is {'worse' if sign > 0 else 'better'} than {name_a} by "
            f"{scale * abs(figure.difference):.{digits}f}{points} "
            f"({interval} {scale * low:.{digits}f} to {scale * high:.{digits}f}), {p_in_words(p)}"
        )
    needed = pairs_needed(figure, n_trials, confidence=confidence)
    found = (
        f"these {n_trials:,} pairs of {n_clusters:,} {unit} cannot tell {name_a} and {name_b} apart "
        f"(difference {scale * figure.difference:+.{digits}f}{points}, {interval} {scale * figure.low:.{digits}f} to "
        f"{scale * figure.high:.{digits}f}, {p_in_words(p)})"
    )
    if math.isinf(needed):
        return found
    if needed <= n_trials:  # the rounds of the permutation hold fewer trials, so its p value is the more careful one
        return f"{found}; the difference is at the edge of what they can show"
    return (
        f"{found}; about {count_in_words(needed)} pairs of {count_in_words(n_clusters * needed / n_trials)} {unit} "
        "would, if it is what it seems"
    )


def count_in_words(number: float) -> str:
    """A number of things to two digits, rounded up, e.g. ``13,000``: more digits would promise more than is known."""
    if not math.isfinite(number):
        return "endlessly many"
    whole = math.ceil(number)
    step = 10 ** max(0, len(str(whole)) - 2)
    return f"{math.ceil(whole / step) * step:,}"


def p_in_words(p: float) -> str:
    """A p value as it is usually written."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
