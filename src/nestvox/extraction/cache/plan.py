"""What a feature cache is for: everything that decides what stands in its rows, under one key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nestvox.differences import differences, differences_in_words
from nestvox.errors import FingerprintError, StoreError
from nestvox.extraction.store.metadata import StoreMetadata

_MOST_VARIANTS = 1_000  # of an utterance: a slip of the pen would fill every disk


@dataclass(frozen=True)
class CachePlan:
    """The settings that a feature cache was made with; two caches with one key have the same rows for a table.

    Attributes:
        fingerprint: of the encoder (`SpeakerModel.encoder_fingerprint`), whatever head the model had.
        front_end: the encoder's configuration: sample rate, bands, hop...
        variants: rows of each utterance; variant 0 is the recording as it is, whole.
        crop_s: longest stretch of the other variants, in seconds, at a random place; None: whole.
        augmentation: settings of the other variants (`Augmentation.config`), with what identifies its banks.
        seed: of places and augmentation.
        max_duration_s: longer utterances went through the network in pieces, whose vectors were averaged.
        dtype: of the stored numbers.
        table_sha256: of the rows of the table; empty: not known yet.
    """

    fingerprint: str
    front_end: Mapping[str, Any] = field(default_factory=dict)
    variants: int = 4
    crop_s: float | None = None
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    max_duration_s: float = 300.0
    dtype: str = "float16"
    table_sha256: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.variants <= _MOST_VARIANTS:
            raise StoreError(f"a feature cache has 1 to {_MOST_VARIANTS:,} variants, got {self.variants:,}")
        if self.crop_s is not None and not self.crop_s > 0:
            raise StoreError(f"crop_s must be a number of seconds above 0, got {self.crop_s}")
        if self.seed < 0:
            raise StoreError(f"seed must be 0 or more, got {self.seed}")

    @property
    def key(self) -> str:
        """16 hex digits over all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return the part that `StoreMetadata.plan` keeps; the others are fields of its own."""
        there = ("front_end", "crop_s", "augmentation", "seed", "max_duration_s")
        # Through JSON, in which tuples are lists: what was written compares equal to what is read back.
        whole = json.loads(json.dumps(asdict(self)))
        return {name: whole[name] for name in there}


def plan_in(where: str, metadata: StoreMetadata) -> CachePlan:
    """Return the plan that a cache was made with.

    Args:
        where: the folder, for messages.
        metadata: what the store there says of itself.

    Raises:
        StoreError: the store is no feature cache.
    """
    if metadata.tap != "pooled" or "embedding" not in metadata.columns:
        raise StoreError(
            f"{where} is a store of the tap {metadata.tap} and no feature cache: make one with `nestvox cache`"
        )
    try:
        return CachePlan(
            fingerprint=metadata.fingerprint,
            variants=metadata.variants,
            dtype=metadata.dtype,
            table_sha256=metadata.table_sha256,
            **metadata.plan,
        )
    except TypeError as error:
        raise StoreError(f"{where}: a feature cache of another nestvox ({error}): make it anew") from error


def refuse_difference(where: str, there: CachePlan, expected: CachePlan | Mapping[str, Any]) -> None:
    """Refuse a cache whose settings are not those expected, and name every one that differs.

    Args:
        where: the cache, for messages.
        there: its plan.
        expected: a whole plan, or some of its fields by name. A whole plan without a table accepts any table.

    Raises:
        FingerprintError: the encoder is another.
        StoreError: anything else differs, or a name is no field of the plan.
    """
    known = [item.name for item in fields(CachePlan)]
    if isinstance(expected, CachePlan):
        wanted = {name: value for name, value in asdict(expected).items() if (name, value) != ("table_sha256", "")}
    else:
        wanted = dict(expected)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise StoreError(f"a feature cache has no setting {unknown[0]!r}; it has {', '.join(known)}")
    there_now = asdict(there)
    different = differences({name: there_now[name] for name in known if name in wanted}, wanted)
    if not different:
        return
    shown = differences_in_words(different, now="expected")
    problem = f"{where} was made with other settings ({shown}): make another cache, or expect what this one is"
    raise (FingerprintError if different[0][0] == "fingerprint" else StoreError)(problem)
