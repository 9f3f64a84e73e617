"""What a ladder of probes found: rungs, and what they say about the encoder in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nestvox.evaluation.results import DetCurve, interval_in_words, percent
from nestvox.metrics.estimate import Estimate

STRAIGHTFORWARD, VIABLE, DEDICATED, AGNOSTIC = 0.15, 0.20, 0.30, 0.45
"""Bounds of the EER: below the first an adapter is straightforward, below the second viable; above the third a
dedicated speaker encoder is needed; from the fourth on the frames do not know the speaker."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One step of a ladder, measured.

    Attributes:
        source: whose frames, e.g. ``lyra``, or a control.
        layer: of it; several are joined by ``+``.
        rung: name of the step.
        dim: prefix length of the vectors that were compared; None: scores that are no cosine.
        eer: equal error rate on the trials.
        min_dcf: normalised minimum detection cost there.
        p_target: prior of that cost.
        score_low: lowest score.
        score_high: highest.
        mean_target: mean score of the target trials.
        mean_nontarget: of the others.
        choice_eer: of all pairs of the speakers that choices were made on; None: nothing was chosen.
        accuracy: share of what it was fitted on that a classifier named rightly; None: there is none.
        parameters: that were fitted to speakers, the classifier not counted.
        fit_speakers: that it was fitted on.
        fit_utterances: likewise.
        fit_s: wall-clock seconds of fitting.
        how: what was chosen, in words.
        det: miss rates by false-alarm rates.
    """

    source: str
    layer: str
    rung: str
    dim: int | None
    eer: Estimate
    min_dcf: Estimate
    p_target: float
    score_low: float
    score_high: float
    mean_target: float
    mean_nontarget: float
    choice_eer: float | None
    accuracy: float | None
    parameters: int
    fit_speakers: int
    fit_utterances: int
    fit_s: float
    how: str
    det: DetCurve

    @property
    def leaky(self) -> bool:
        """Whether it was fitted on speakers of the trials."""
        return "leaky" in self.eer.trials.labels

    @property
    def title(self) -> str:
        """Rung and what has to be said with it."""
        return f"{self.rung} [leaky]" if self.leaky else self.rung

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the gap of the mean scores and the positive trials stand among them."""
        return {
            **asdict(self),
            "leaky": self.leaky,
            "gap": self.mean_target - self.mean_nontarget,
            "positive_pairs": self.eer.trials.n_target,
        }


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Everything that a probe found.

    Attributes:
        source: the encoder that was probed.
        fingerprint: of it.
        rungs: in the order in which they were measured, controls among them.
        trials_source: the list.
        trials_sha256: of it.
        fit_on: the speakers that everything was fitted on, in words.
        chosen_on: those that choices were made on.
        resampling: how audio came to the encoder's rate.
        seed: of all that was drawn.
        epochs: that every network had.
        notes: what a reader has to know.
    """

    source: str
    fingerprint: str
    rungs: tuple[Rung, ...]
    trials_source: str
    trials_sha256: str
    fit_on: str
    chosen_on: str
    resampling: str
    seed: int
    epochs: int
    notes: tuple[str, ...]

    @property
    def best(self) -> Rung:
        """The honest rung of the encoder itself that is best on the speakers of choice."""
        honest = [rung for rung in self.rungs if rung.source == self.source and not rung.leaky]
        return min(honest, key=lambda rung: 1.0 if rung.choice_eer is None else rung.choice_eer)

    @property
    def verdict(self) -> str:
        """What the best rung says, and what the same rung of the controls makes of that."""
        best = self.best
        rate = f"{percent(best.eer.value)} % {_interval(best.eer)}"
        words = [
            f"{self.source}: the rung that is best on the speakers of choice, {best.rung} on {best.layer}, has an EER "
            f"of {rate}: {outcome(best.eer)}."
        ]
        for other in self.rungs:
            if other.source != self.source and (other.rung, other.dim) == (best.rung, best.dim) and not other.leaky:
                apart = 100 * (other.eer.value - best.eer.value)
                words.append(
                    f"The same on {other.source} ({other.layer}): {percent(other.eer.value)} % {_interval(other.eer)}, "
                    f"{abs(apart):.2f} points {'worse' if apart > 0 else 'better'}."
                )
        return " ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-serialisable."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "rungs"}
        return {**own, "verdict": self.verdict, "rungs": [rung.to_dict() for rung in self.rungs]}


def outcome(eer: Estimate) -> str:
    """What an EER means for whoever wants speakers from these frames."""
    rate = eer.value
    if rate < STRAIGHTFORWARD:
        return "an adapter on these frames is straightforward (below 15 %)"
    if rate < VIABLE:
        return "an adapter on these frames is viable (below 20 %)"
    if rate <= DEDICATED:
        return "undecided (between 20 and 30 %): neither clearly enough nor clearly too little for an adapter"
    if rate < AGNOSTIC:
        return "a dedicated speaker encoder is needed (above 30 %)"
    return "these frames hardly know the speaker (about 50 %)"


def _interval(eer: Estimate) -> str:
    low, high = eer.ends
    return interval_in_words(100 * low, 100 * high, 2)
