"""What a run tells while it goes on: warnings about its data, and a report of every epoch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from nestvox.training.data.sampling import Seen


@dataclass(frozen=True)
class EpochReport:
    """One epoch, over all processes.

    Attributes:
        epoch: how many are done; 0: the starting point was measured.
        epochs: that there will be at the most.
        loss: mean over the samples of the epoch; None: there were none.
        eers: EER on the development trials at each dimension, fractions; empty where this epoch is not validated.
        labels: what the rates must be shown with.
        best_epoch: with the lowest mean EER so far; 0: the starting point.
        seen: how much of the training data was in it; None: of the starting point.
        n_repeated: clips that were shorter than the crop, and were repeated to fill it.
        seconds: that it took, validation included.
        left_s: about how many seconds the others will take; None: there is none to judge by.
    """

    epoch: int
    epochs: int
    loss: float | None = None
    eers: Mapping[int, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    best_epoch: int = 0
    seen: Seen | None = None
    n_repeated: int = 0
    seconds: float = 0.0
    left_s: float | None = None

    @property
    def words(self) -> str:
        """In one line."""
        parts = [f"epoch {self.epoch} of {self.epochs}" if self.epoch else "start"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.eers:
            rates = ", ".join(f"{dim}: {100 * rate:.2f}" for dim, rate in self.eers.items())
            loud = "".join(f" {label.upper()}" for label in self.labels)
            parts.append(
                f"dev EER %{loud} {rates}{' (best so far)' if self.epoch and self.best_epoch == self.epoch else ''}"
            )
        if self.seen is not None:
            parts.append(f"saw {self.seen.words}")
        if self.n_repeated and self.seen is not None:
            parts.append(f"{self.n_repeated:,} of {self.seen.samples:,} clips are shorter than the crop, repeated")
        if self.left_s is not None and self.epoch < self.epochs:
            parts.append(f"{duration_in_words(self.left_s)} left")
        return "; ".join(parts)


class Watch:
    """Told what happens in a run, in the first process only. This one makes warnings Python's, and is silent else."""

    def warn(self, text: str) -> None:
        """Something about the data or the settings that nobody should miss, in one sentence."""
        warnings.warn(text, stacklevel=2)

    def epoch(self, report: EpochReport) -> None:
        """An epoch is over, or the starting point was measured; its line is in the log already."""


def duration_in_words(seconds: float) -> str:
    """A time to wait, as people say it: ``45 s``, ``12 min``, ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
