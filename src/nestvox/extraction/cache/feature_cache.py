"""The feature cache: what a frozen encoder makes of several variants of every utterance, so that it runs only once.

It is an embedding store with a row for each variant of each utterance, in table order, variants together. Each row
holds the pooled vector and, from the same forward pass, the encoder's own embedding. Variant 0 is the whole recording
as it is; the others are cropped and augmented, seeded by utterance.

Notation: N utterances, V variants, P pooled size, D embedding size, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.augment import Augmentation, Banks
from nestvox.audio.banks import NoiseBank, RoomBank
from nestvox.corpora.augmented import voices_of
from nestvox.corpora.utterances import table_sha256
from nestvox.errors import StoreError
from nestvox.extraction.cache.job import CacheableModel, CacheJob, Features
from nestvox.extraction.cache.plan import CachePlan, plan_in, refuse_difference
from nestvox.extraction.cache.variants import VariantDecoder, Variants
from nestvox.extraction.pace import try_out
from nestvox.extraction.settings import EmbeddingSettings
from nestvox.extraction.shard_job import Network, sources_of
from nestvox.extraction.store.mapped_rows import MappedRows
from nestvox.extraction.store.metadata import StoreMetadata, default_shard_rows, is_store, read_metadata
from nestvox.extraction.store.store import EmbeddingStore, StoreWriter, writing
from nestvox.progress import Progress, silent
from nestvox.threads import torch_threads

if TYPE_CHECKING:
    from nestvox.corpora.utterances import UtteranceTable

CacheTap = Literal["pooled", "embedding"]

FloatVectors = NDArray[np.float32]
Numbers = NDArray[np.int64]


class FeatureCache:
    """A feature cache opened for reading; nothing is loaded but what is gathered.

    Utterances are numbered 0 to N - 1 in the order of the table (those that failed are not among them); row
    ``utterance * V + variant`` of the store is a variant of one.

    Args:
        path: folder of the cache.

    Attributes:
        path: the folder.
        store: the rows as a store.
        metadata: what the store says of itself.
        plan: the settings that the cache was made with.
        pooled: (N * V, P), memory-mapped.
        embedding: (N * V, D), memory-mapped.

    Raises:
        StoreError: no store, no feature cache, not complete, or a shard that is missing or corrupt.
    """

    def __init__(self, path: str | Path) -> None:
        self.store = EmbeddingStore(path)
        self.path = self.store.path
        self.metadata = self.store.metadata
        self.plan = plan_in(str(self.path), self.metadata)
        self.pooled: MappedRows = self.store.mapped()
        self.embedding: MappedRows = self.store.mapped("embedding")

    def __len__(self) -> int:
        """N, utterances."""
        return len(self.store) // self.n_variants

    def __repr__(self) -> str:
        return (
            f"FeatureCache({str(self.path)!r}, {len(self)} utterances x {self.n_variants} variants, "
            f"pooled {self.pooled_dim}, embedding {self.embedding_dim}, key {self.key})"
        )

    @property
    def key(self) -> str:
        """16 hex digits over the encoder, its front end, table, crop, augmentation and seed."""
        return self.plan.key

    @property
    def n_variants(self) -> int:
        """V, of each utterance."""
        return self.metadata.variants

    @property
    def pooled_dim(self) -> int:
        """P."""
        return self.pooled.shape[1]

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self.embedding.shape[1]

    @property
    def variants(self) -> NDArray[np.int32]:
        """(N * V,) variant of each row."""
        return self.store.variants

    @cached_property
    def utt_ids(self) -> list[str]:
        """N names."""
        return self.store.utt_ids[:: self.n_variants]

    @cached_property
    def speakers(self) -> list[str]:
        """N speakers as the table names them, those of variant 0."""
        return self.row_speakers[:: self.n_variants]

    @cached_property
    def row_speakers(self) -> list[str]:
        """N * V speakers; a variant of another speed is a speaker of its own, with a suffix."""
        return [speaker or "" for speaker in self.store.speakers]

    @cached_property
    def classes(self) -> tuple[list[str], Numbers]:
        """The speakers of all variants, sorted, and the number of each variant's among them.

        Returns:
            C names, and (N, V) int64.
        """
        names, labels = self.store.speaker_codes()
        return names, labels.reshape(len(self), self.n_variants)

    def rows(self, utterances: Sequence[int] | Numbers, variant: int | Numbers = 0) -> Numbers:
        """Row numbers of variants of utterances.

        Args:
            utterances: (B,) numbers from 0 to N - 1.
            variant: one for all, or (B,).

        Returns:
            (B,) row numbers.

        Raises:
            StoreError: a number that the cache does not have.
        """
        chosen, which = np.asarray(utterances, np.int64), np.asarray(variant, np.int64)
        for what, given, count in (("utterances", chosen, len(self)), ("variants", which, self.n_variants)):
            if given.size and (given.min() < 0 or given.max() >= count):
                raise StoreError(f"{self.path} has {what} 0 to {count - 1}, asked for {given.min()} to {given.max()}")
        found: Numbers = chosen * self.n_variants + which
        return found

    def gather(
        self, utterances: Sequence[int] | Numbers, variant: int | Numbers = 0, *, tap: CacheTap = "pooled"
    ) -> FloatVectors:
        """Read variants of utterances from the files.

        Args:
            utterances: (B,) numbers from 0 to N - 1.
            variant: one for all, or (B,).
            tap: ``pooled`` or ``embedding``.

        Returns:
            (B, P) or (B, D) float32.

        Raises:
            StoreError: a number that the cache does not have, or a vector that is not finite, which none was when the
                cache was written.
        """
        vectors = self.pooled if tap == "pooled" else self.embedding
        found = vectors.take(self.rows(utterances, variant))
        # A sum is not finite if any summand is not, and is a tenth of the work of looking at each.
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(found.sum(dtype=np.float64))
        if not whole:
            row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            raise StoreError(
                f"{self.path}: the {tap} vector of {self.utt_ids[int(np.asarray(utterances)[row])]} is not finite; a "
                "file has changed since it was written: delete the cache and make it anew"
            )
        return found

    def verify(self) -> None:
        """Compare the hash of every file with the one taken when the cache was completed.

        Raises:
            StoreError: a file has changed since; it is named.
        """
        self.store.verify()


def open_cache(path: str | Path, expect: CachePlan | Mapping[str, Any] | None = None) -> FeatureCache:
    """Open a feature cache, or refuse it when it is not the one expected.

    Args:
        path: folder of the cache.
        expect: the plan, or some of its fields, e.g. ``{"fingerprint": model.encoder_fingerprint, "seed": 1}``.

    Raises:
        FingerprintError: the cache is of another encoder.
        StoreError: other settings differ (each is named), or the folder is no complete, whole feature cache.
    """
    cache = FeatureCache(path)
    if expect is not None:
        refuse_difference(str(cache.path), cache.plan, expect)
    return cache


def build_cache(
    model: CacheableModel,
    table: UtteranceTable,
    out: str | Path,
    *,
    variants: int = 4,
    augmentation: Augmentation | None = None,
    noise: NoiseBank | None = None,
    rooms: RoomBank | None = None,
    crop_s: float | None = None,
    speed: float = 1.0,
    seed: int = 0,
    settings: EmbeddingSettings | None = None,
    progress: Progress = silent,
) -> FeatureCache:
    """Run the encoder over all variants of all utterances, or go on where an earlier run was stopped.

    A file is decoded once for all its variants. Babble is made of the table's own utterances: give training speakers
    only.

    Args:
        model: a `SpeakerModel`; its head takes no part.
        table: utterances; ids are unique.
        out: folder of the cache.
        variants: rows of each utterance, variant 0 included.
        augmentation: settings of the others; None: `Augmentation.for_banks` with the banks that are given.
        noise: noise and music, at the model's sample rate.
        rooms: impulse responses, likewise.
        crop_s: longest stretch of the others, in seconds, at a random place; None: whole.
        speed: at which variant 0 is heard, pitch and tempo together, which makes another speaker of everybody.
        seed: of places and augmentation.
        settings: as of `run_embedding`; a batch is of rows, and workers decode and augment.
        progress: rows done of all, which are utterances times variants.

    Returns:
        The complete cache.

    Raises:
        AudioError: a file cannot be used, and `settings.skip_bad` is off; or one of the banks cannot.
        AugmentationError: settings that make no sense, or banks without what they ask for.
        FingerprintError: `out` holds vectors of another encoder.
        NestvoxError: another process is writing there.
        StoreError: `out` was begun with other settings (each is named), or cannot be written.
    """
    settings = settings or EmbeddingSettings()
    settings.check(model)
    if crop_s is not None and crop_s < 2 * model.min_duration_s:
        raise StoreError(f"crop_s must be at least twice the {model.min_duration_s} s that {model.name} needs")
    speakers = table.frame["speaker"].to_list()
    sources = sources_of(table)
    banks = Banks(noise, rooms, voices_of(table, sample_rate=model.sample_rate))
    augmentation = Augmentation.for_banks(banks) if augmentation is None else augmentation
    if variants > 1:
        augmentation.check_banks(banks)
        banks.check_rate(model.sample_rate)
    heard = {} if speed == 1 else {"speed": speed}
    features = Features(model)
    plan = CachePlan(
        fingerprint=features.fingerprint,
        front_end=features.config(),
        variants=variants,
        crop_s=crop_s,
        augmentation=heard | ({**augmentation.config(), "banks": banks.config()} if variants > 1 else {}),
        seed=seed if variants > 1 else min(seed, 0),  # nothing is drawn: runs of other seeds share it
        max_duration_s=settings.max_duration_s,
        dtype=settings.dtype or "float16",
        table_sha256=table_sha256(table.frame),
    )
    before = read_metadata(out) if is_store(out) else None
    if before is not None:
        refuse_difference(str(out), plan_in(str(out), before), plan)
        features = Features(model, before.dim, before.columns.get("embedding", 0))
    settings = settings.resumed({} if before is None else before.run)
    varied = Variants(variants, seed, augmentation, banks, crop_s, speed)
    decoder = VariantDecoder(sources, varied, speakers, model, settings)
    _fill(out, table, features, plan, before, decoder, settings, progress)
    return FeatureCache(out)


def _fill(
    out: str | Path,
    table: UtteranceTable,
    features: Features,
    plan: CachePlan,
    before: StoreMetadata | None,
    decoder: VariantDecoder,
    settings: EmbeddingSettings,
    progress: Progress,
) -> None:
    """Write the shards that are not there yet, at a pace that is tried out unless it is settled."""
    with closing(decoder), writing(out):
        if before is None or not settings.settled:
            with torch_threads() as set_threads:
                _, settings = try_out(Network(features, "pooled"), decoder, settings, set_threads, model=features)
        metadata = cache_metadata(
            plan,
            model=features.name,
            utterances=len(table),
            pooled_dim=features.pooled_dim,
            embedding_dim=features.embedding_dim,
            shard_utterances=settings.shard_rows or (before.shard_rows // plan.variants if before else None),
            run={name: value for name, value in settings.pace.items() if value is not None},
            labels=table.labels,
            training_speakers=tuple(features.training_speakers),
        )
        writer = StoreWriter(out, metadata)
        resumed = writer.done_rows
        progress(resumed, metadata.planned_rows)
        job = CacheJob(features, decoder, table.frame, settings)
        for done in job.run({shard: metadata.planned(shard) for shard in writer.pending}, writer.write_shard):
            progress(resumed + done, metadata.planned_rows)
        writer.finish()


def cache_metadata(
    plan: CachePlan,
    *,
    model: str,
    utterances: int,
    pooled_dim: int,
    embedding_dim: int,
    shard_utterances: int | None = None,
    run: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] = (),
    training_speakers: tuple[str, ...] = (),
) -> StoreMetadata:
    """Return what a `StoreWriter` needs to begin, or resume, a feature cache.

    Args:
        plan: the settings.
        model: name of the model, for people.
        utterances: N of the table.
        pooled_dim: P.
        embedding_dim: D.
        shard_utterances: utterances of one file; None: by N, as in every store.
        run: choices that do not change the rows, kept for a resumed run.
        labels: what every number from the cache must carry.
        training_speakers: keys of the speakers that the model was trained on.
    """
    return StoreMetadata(
        fingerprint=plan.fingerprint,
        model=model,
        tap="pooled",
        dims=(),
        dim=pooled_dim,
        dtype=plan.dtype,
        planned_rows=utterances * plan.variants,
        shard_rows=(shard_utterances or default_shard_rows(utterances)) * plan.variants,
        table_sha256=plan.table_sha256,
        plan=plan.to_dict(),
        run=run or {},
        variants=plan.variants,
        columns={"embedding": embedding_dim},
        labels=labels,
        training_speakers=training_speakers,
    )
