r"""Speakers to train on, to choose with and to report on: whole speakers, seeded, the same on every machine.

Speakers are ordered by the SHA-256 of ``f"{seed}\nsplit\n{name}"``, so that
neither the order of a table nor a version of a library changes who goes where.
"""

from __future__ import annotations

import hashlib

import polars as pl

from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import TableError

_LEAST = 2  # speakers of a part that trials are drawn from: one alone meets nobody


def split_by_speaker(table: UtteranceTable, *, dev: float = 0.2, test: float = 0.2, seed: int = 0) -> UtteranceTable:
    """Give every speaker to one of ``train``, ``dev`` and ``test``.

    Only speakers with two recordings or more can be target and are drawn for dev and test; the shares are of these.
    Who has a single one is trained on.

    Args:
        table: without a column `split`, or with an empty one.
        dev: share of speakers for dev; 0: none.
        test: share for test; 0: none.
        seed: any whole number.

    Returns:
        The table with the column `split`.

    Raises:
        TableError: the table is split already, shares that are none, or too few speakers with two recordings.
    """
    frame = table.frame
    if "split" in frame.columns and frame["split"].null_count() < len(frame):
        raise TableError("has a column split already; drop it to split anew", source=table.source)
    if not (0 <= dev < 1 and 0 <= test < 1 and 0 < dev + test < 1):
        raise TableError(
            f"shares of dev and test are above 0 and together below 1, got {dev:g} and {test:g}", source=table.source
        )
    recordings = [column for column in ("path", "recording") if column in frame.columns]
    counts = frame.group_by("speaker").agg(pl.col(recordings).n_unique())
    several = counts.filter(pl.min_horizontal(recordings) >= 2)["speaker"].to_list()
    parts = {"test": test, "dev": dev}
    sizes = {part: max(_LEAST, round(share * len(several))) if share else 0 for part, share in parts.items()}
    if sum(sizes.values()) + _LEAST > len(several):
        needed = sum(_LEAST for share in parts.values() if share) + _LEAST
        raise TableError(
            f"{len(several)} speakers have two recordings or more; {max(needed, sum(sizes.values()) + _LEAST)} are "
            "needed, at least two of them in each part",
            source=table.source,
        )
    order = sorted(several, key=lambda name: hashlib.sha256(f"{seed}\nsplit\n{name}".encode()).digest())
    part_of: dict[str, str] = {}
    for part, size in sizes.items():
        part_of |= dict.fromkeys(order[len(part_of) : len(part_of) + size], part)
    split = [part_of.get(name, "train") for name in frame["speaker"]]
    return UtteranceTable(frame.with_columns(pl.Series("split", split, pl.String)), table.source, table.root)
