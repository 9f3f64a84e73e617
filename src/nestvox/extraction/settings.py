"""How a table goes through a network: what embedding and caching are told, passed whole from the call to the shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from nestvox.errors import StoreError

if TYPE_CHECKING:
    from nestvox.extraction.shard_job import EmbeddingModel

PACE = ("batch_size", "streams", "threads", "workers")
"""Settings that decide how fast a run goes, and vectors by rounding only."""


@dataclass(frozen=True)
class EmbeddingSettings:
    """What is asked of a run, and, once the pace is tried out, what decides with model and table every number.

    Attributes:
        batch_size: most utterances in one forward pass; None, as with the next three: what an earlier run of the same
            store decided, else a trial on the first utterances.
        streams: forward passes side by side.
        threads: of each on a CPU; 0: torch's own number, or the model is none of torch's.
        workers: decoding threads.
        shard_rows: utterances of a file; None: by the size of the table.
        dtype: ``float32`` or ``float16``; None: the first for a store, the second for a feature cache.
        max_duration_s: longer utterances go through in equal pieces of at most this, whose vectors are averaged.
        skip_bad: record audio that cannot be used, with the reason, instead of stopping at the first.
    """

    batch_size: int | None = None
    streams: int | None = None
    threads: int | None = None
    workers: int | None = None
    shard_rows: int | None = None
    dtype: str | None = None
    max_duration_s: float = 300.0
    skip_bad: bool = False

    def check(self, model: EmbeddingModel) -> None:
        """Refuse pieces that could come out shorter than a model takes.

        Raises:
            StoreError: less than twice the model's shortest clip.
        """
        if self.max_duration_s < 2 * model.min_duration_s or self.max_duration_s <= 0:
            raise StoreError(
                f"max_duration_s must be at least twice the {model.min_duration_s} s that {model.name} needs, "
                f"got {self.max_duration_s}"
            )

    def resumed(self, recorded: Mapping[str, Any]) -> Self:
        """Return the same where what is not asked for is as an earlier run of the same store had it.

        Raises:
            StoreError: a number below 1.
        """
        for name, value in self.pace.items():
            if value is not None and value < 1:
                raise StoreError(f"{name} must be at least 1, got {value}")
        return replace(
            self,
            batch_size=self.batch_size or recorded.get("batch_size"),
            streams=self.streams or recorded.get("streams") or (1 if self.threads else None),
            threads=self.threads or recorded.get("threads", 1 if self.streams else None),
            workers=self.workers or recorded.get("workers"),
        )

    @property
    def pace(self) -> dict[str, int | None]:
        """Batch size, streams, threads and workers by name."""
        return {name: getattr(self, name) for name in PACE}

    @property
    def settled(self) -> bool:
        """Whether nothing is left to try out."""
        return None not in self.pace.values()
