"""What an embedding store says of itself, in `store.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nestvox.errors import StoreError
from nestvox.gate import read_json
from nestvox.schema import Count, Size, Word, validated_dataclass

FORMAT_VERSION = 1
STORE_FILE = "store.json"


@dataclass(frozen=True)
class FailedUtterance:
    """An utterance of the table that has no row, and why."""

    utt_id: str
    path: str | None
    reason: str


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard as `store.json` lists it; `sha256` is of the file."""

    name: Annotated[str, Field(pattern=r"^shard-[0-9]{6,12}\.arrow$")]
    rows: Count
    size_bytes: Count
    sha256: Word


@dataclass(frozen=True)
class StoreMetadata:
    """What a store is for, and what stands in it.

    Attributes:
        fingerprint: of the model that made the vectors; rows of two fingerprints never meet.
        model: its name.
        tap: ``nested``, ``embedding``, ``pooled`` or ``frames``.
        dims: prefix lengths that are embeddings by themselves; empty for taps that are not nested.
        dim: D (C for ``frames``).
        dtype: ``float32`` or ``float16``, on disk; reading gives float32.
        planned_rows: rows of the table, times `variants`.
        shard_rows: planned rows of a shard (the last may have fewer).
        table_sha256: of the rows that were planned (ids, paths, segments).
        plan: other options that decide what a row holds; a resumed run must have the same.
        run: choices that do not (batch size, threads), kept so that a resumed run makes the same batches.
        variants: rows that each utterance of the table has, one after the other; above 1 in a feature cache only.
        columns: further vectors of each row, by name: their size.
        labels: what every number from this store must carry, e.g. ``synthetic``.
        training_speakers: keys of the speakers that the model was trained on.
        failed: utterances that were skipped, with reasons.
        shards: the shards that are there, in order.
        complete: every planned row is a row or listed in `failed`.
    """

    fingerprint: str
    model: str
    tap: str
    dims: tuple[Size, ...]
    dim: Size
    dtype: str
    planned_rows: Count
    shard_rows: Count
    table_sha256: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    variants: int = 1
    columns: Mapping[str, Size] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    training_speakers: tuple[str, ...] = ()
    failed: tuple[FailedUtterance, ...] = ()
    shards: tuple[ShardRecord, ...] = ()
    complete: bool = False
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float16"):
            raise StoreError(f"dtype must be float32 or float16, got {self.dtype!r}")
        if self.dim < 1 or self.shard_rows < 1 or self.planned_rows < 0:
            raise StoreError(
                f"a store needs dim >= 1, shard_rows >= 1 and planned_rows >= 0, got dim={self.dim}, "
                f"shard_rows={self.shard_rows}, planned_rows={self.planned_rows}"
            )
        if any(not 0 < dim <= self.dim for dim in self.dims):
            raise StoreError(f"dims {self.dims} must lie in 1 to {self.dim}")
        if self.variants < 1 or self.shard_rows % self.variants or self.planned_rows % self.variants:
            raise StoreError(
                f"an utterance has all its variants in one shard: shard_rows {self.shard_rows} and planned_rows "
                f"{self.planned_rows} must be multiples of variants, {self.variants}"
            )
        if any(dim < 1 for dim in self.columns.values()):
            raise StoreError(f"further vectors need at least one number each, got {dict(self.columns)}")

    @property
    def rows(self) -> int:
        """Rows that are in the shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def n_shards(self) -> int:
        """Shards that the complete store has."""
        return -(-self.planned_rows // self.shard_rows)

    def planned(self, shard: int) -> range:
        """Planned rows (indices into the table) of one shard."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.planned_rows))


def default_shard_rows(rows: int, tap: str = "nested") -> int:
    """Rows of a shard for a table of `rows`: about 64 shards, so that a kill costs a sixty-fourth of the work.

    It depends on the table alone, never on a measurement: the same table always makes the same files.
    """
    smallest, largest = (16, 128) if tap == "frames" else (64, 8192)
    return max(smallest, min(largest, -(-rows // 64)))


def is_store(path: str | Path) -> bool:
    """Whether `path` is a folder with a `store.json`, complete or not."""
    return (Path(path) / STORE_FILE).is_file()


def read_metadata(path: str | Path) -> StoreMetadata:
    """Read `store.json` of a store folder, complete or not.

    Raises:
        StoreError: no store there, malformed, or written by a newer nestvox.
    """
    file = Path(path) / STORE_FILE
    if not file.exists():
        if Path(path).is_file():
            raise StoreError(f"{path} is a file, not the folder of an embedding store")
        raise StoreError(f"{path} is no embedding store: it has no {STORE_FILE}")
    content = read_json(file, _refusal)
    if not isinstance(content, dict):
        raise _refusal("not a JSON object", str(file))
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{file}: format version {str(version)[:40]!r}, this nestvox reads {FORMAT_VERSION}; "
            "use the nestvox that wrote it, or embed again"
        )
    needed = {"dims", "labels", "training_speakers", "failed", "shards", "complete"}
    if missing := sorted(needed - content.keys()):
        raise _refusal(f"malformed: it lacks {', '.join(missing)}", str(file))
    try:
        return validated_dataclass(StoreMetadata, content, str(file), _refusal)
    except StoreError as error:
        if str(file) in str(error):
            raise
        raise _refusal(f"malformed: {error}", str(file)) from error


def _refusal(problem: str, source: str) -> StoreError:
    return StoreError(f"{source}: {problem}; embed again into a new folder")
