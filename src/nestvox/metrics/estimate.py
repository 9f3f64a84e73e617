"""A number that was measured on trials: never without its interval, the trials it is of, and what has to be said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrialSet:
    """The trials that a number was measured on.

    Attributes:
        trials_sha256: of the canonical form of exactly these trials.
        n_target: target trials.
        n_nontarget: non-target trials.
        n_clusters: speakers (or what else the interval is over) in these trials; 0: not counted.
        labels: what has to be said with the number wherever it appears, e.g. ``synthetic``, ``leaky``.
    """

    trials_sha256: str
    n_target: int
    n_nontarget: int
    n_clusters: int = 0
    labels: tuple[str, ...] = ()

    def trials_to_dict(self) -> dict[str, Any]:
        """Plain values of the trials alone."""
        return {name: getattr(self, name) for name in TrialSet.__dataclass_fields__}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, one a column; of an Estimate ``eer``: ``eer``, ``eer_low``, ``eer_high``, ..."""
        found: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, Estimate):
                parts = {f"{name}_{part}": getattr(value, part) for part in ("low", "high", "interval", "error")}
                found |= {name: value.value, **parts}
            else:
                found[name] = value
        return found


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured number with its worth.

    Attributes:
        name: ``EER``, ``minDCF(0.05)``, ``AUC``, ``FRR at FAR 1 %``...
        dim: prefix length that it was measured at; None: scores of a file.
        value: a fraction, a normalised cost, or bits (Cllr).
        low: lower end of its interval over speakers; None where there is none: no speaker changes the number, or it is
            a rate of 0 or 1.
        high: upper end.
        interval: its kind, ``studentised`` or ``percentile``; empty where there is none.
        error: standard error over samples of speakers, where it is known.
        trials: that it was measured on.
    """

    name: str
    dim: int | None
    value: float
    low: float | None = None
    high: float | None = None
    interval: str = ""
    error: float | None = None
    trials: TrialSet

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the interval; twice the number where there is none."""
        return (self.value, self.value) if self.low is None or self.high is None else (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, those of the trials among them."""
        own = {name: getattr(self, name) for name in Estimate.__dataclass_fields__ if name != "trials"}
        return {**own, **self.trials.trials_to_dict()}
