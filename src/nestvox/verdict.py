"""What a score is compared with, and what comes out: thresholds that know where they were set."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Threshold", "Verification"]


@dataclass(frozen=True)
class Threshold:
    """A decision threshold with everything it belongs to.

    Attributes:
        dim: prefix length whose cosine it splits.
        value: accept where the score is at or above it.
        operating_point: what it was set for, e.g. ``eer`` or ``min_dcf p_target=0.05 c_miss=1 c_fa=1``.
        p_fa: false-alarm rate on the trials it was set on.
        p_miss: miss rate there.
        n_target: target trials.
        n_nontarget: non-target trials.
        trials_sha256: canonical hash of these trials.
        trials_source: their name, for people.
        labels: ``synthetic``, ``leaky``: what every rate above must be shown with.
    """

    dim: int
    value: float
    operating_point: str
    p_fa: float
    p_miss: float
    n_target: int
    n_nontarget: int
    trials_sha256: str
    trials_source: str
    labels: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one sentence that says where the threshold comes from."""
        labels = f", {', '.join(self.labels)}" if self.labels else ""
        return (
            f"set at {self.operating_point} on {self.trials_source} ({self.n_target} target and {self.n_nontarget} "
            f"non-target trials, sha256 {self.trials_sha256[:12]}{labels}): "
            f"{self.p_fa:.2%} false alarms, {self.p_miss:.2%} misses there"
        )


@dataclass(frozen=True)
class Verification:
    """The answer to "is this the same speaker?".

    Attributes:
        score: cosine of the two prefixes, in [-1, 1]; higher means more alike. Not a probability.
        dim: prefix length.
        same: score >= threshold, or None where the model holds no threshold for this dimension.
        threshold: the threshold used, with its origin.
        warnings: what is wrong with either recording (short, silent, clipped).
        model: name of the model.
        fingerprint: of the model.
    """

    score: float
    dim: int
    same: bool | None
    threshold: Threshold | None
    warnings: tuple[str, ...]
    model: str
    fingerprint: str
    score_name: str = "cosine"
    direction: str = "higher is more alike"
