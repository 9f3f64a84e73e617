"""What a corpus should hold by its publisher's count, against what lies on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from nestvox.corpora.prepare.folder import Prepared


@dataclass(frozen=True)
class Published:
    """Numbers of one part of a corpus, as its publisher states them."""

    n_speakers: int
    n_utterances: int


@dataclass(frozen=True)
class Coverage:
    """One part of a corpus, e.g. ``dev``: what was found, and what is published; None where nobody says."""

    part: str
    n_speakers: int
    n_utterances: int
    published: Published | None

    @property
    def complete(self) -> bool:
        """Whether exactly the published numbers were found; true where there are none."""
        return self.published in (None, Published(self.n_speakers, self.n_utterances))

    def sentence(self) -> str:
        """One line for people, with what is missing or too many."""
        found = f"{self.part}: {self.n_speakers:,} speakers, {self.n_utterances:,} utterances"
        if self.published is None:
            return f"{found}; no published count"
        if self.complete:
            return f"{found}: complete"
        published = f"published are {self.published.n_speakers:,} and {self.published.n_utterances:,}"
        differences = [
            f"{abs(difference):,} {what} {'missing' if difference > 0 else 'too many'}"
            for difference, what in (
                (self.published.n_speakers - self.n_speakers, "speakers"),
                (self.published.n_utterances - self.n_utterances, "utterances"),
            )
            if difference
        ]
        return f"{found}; {published}: {', '.join(differences)}"


def coverage(frame: pl.DataFrame, published: Mapping[str, Published], parts: Sequence[str]) -> tuple[Coverage, ...]:
    """Count speakers and utterances of these parts by the column `split`, even where nothing was found."""
    counted = frame.group_by("split").agg(pl.col("speaker").n_unique(), pl.len().alias("n"))
    counts = {split: (speakers, utterances) for split, speakers, utterances in counted.iter_rows()}
    return tuple(Coverage(part, *counts.get(part, (0, 0)), published.get(part)) for part in parts)


@dataclass(frozen=True)
class CorpusPrepared(Prepared):
    """A table of a known corpus, what was left out, and how much of the corpus is there."""

    coverage: tuple[Coverage, ...] = ()
    notes: tuple[str, ...] = ()  # plain sentences on what is missing or odd

    @property
    def complete(self) -> bool:
        """Whether every part holds what was published."""
        return all(part.complete for part in self.coverage)
