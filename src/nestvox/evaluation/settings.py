"""The settings that every measurement and comparison shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nestvox.errors import NestvoxError
from nestvox.evaluation.intervals import STUDENTISED, check_interval
from nestvox.metrics.bootstrap import check_replicates, seeded
from nestvox.metrics.dcf import check_operating_point


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure; checked when it is made, so that nothing is embedded or scored for settings that cannot be.

    Attributes:
        p_target: prior of a target trial in the detection cost.
        c_miss: cost of rejecting a target.
        c_fa: cost of accepting a non-target.
        n_bootstrap: replicates of the bootstrap, clustered by speaker on both sides.
        seed: of the replicates, 0 or more.
        confidence: of the intervals.
        interval: ``studentised``, or ``percentile`` of the replicates; differences of systems are always shown with
            the second. Replicates are drawn where it is asked for, or where the first cannot be had.
        detail_dim: prefix length whose speakers and worst trials are analysed; None: the largest.

    Raises:
        NestvoxError: an impossible operating point, interval or seed, or too few replicates for the confidence.
    """

    p_target: float = 0.05
    c_miss: float = 1.0
    c_fa: float = 1.0
    n_bootstrap: int = 1000
    seed: int = 0
    confidence: float = 0.95
    interval: str = STUDENTISED
    detail_dim: int | None = None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        check_replicates(self.n_bootstrap, self.confidence)
        seeded(self.seed)
        check_operating_point(*self.point)

    def detailed(self, dims: Iterable[int | None]) -> int | None:
        """The one of these dimensions that is looked at in detail.

        Raises:
            NestvoxError: what was asked for is not among them.
        """
        there = list(dims)
        if self.detail_dim is None:
            return there[-1]
        if self.detail_dim not in there:
            shown = ", ".join("scores without a dimension" if dim is None else str(dim) for dim in there)
            raise NestvoxError(f"speakers and worst trials at {self.detail_dim} dimensions: measured are {shown}")
        return self.detail_dim

    @property
    def point(self) -> tuple[float, float, float]:
        """Prior and both costs."""
        return self.p_target, self.c_miss, self.c_fa


USUAL = Settings()
"""What is measured with where nothing else is said."""
