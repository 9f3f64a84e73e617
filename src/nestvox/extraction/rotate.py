"""Rotate vectors that somebody already has: fit, measure, apply, in bounded memory.

Whoever holds millions of voiceprints keeps every full-dimension score and gets short prefixes worth having; or, where
scores may change, subtracts the mean as well.

With labels the speakers are divided three ways by a hash of their names: most are fitted on, some choose (weight of the
discriminant order, stopping step, method), and the rest only report. Without labels the order is PCA's, fitted on all
rows; the table then shows how well a prefix keeps the full-dimension scores, which needs no labels either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.corpora.overlap import speaker_key
from nestvox.errors import ModelError, StoreError
from nestvox.extraction.formats.interchange import VectorWriter, iter_vectors, vector_shape
from nestvox.extraction.store.metadata import is_store
from nestvox.extraction.store.store import EmbeddingStore, StoreWriter, VectorBatch, writing
from nestvox.heads.choose import Method, choose_rotation, fit_rotation
from nestvox.heads.contract import FloatArray, truncate
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.refine import Refinement
from nestvox.heads.rotation import Centre, Rotation, Scatter, centred, truncation
from nestvox.progress import Progress, silent

_BATCH_ROWS = 16_384
_SAMPLE_ROWS = 2_000  # rows whose pairs measure how well prefixes keep the scores
_FEWEST_PER_SPEAKER = 5  # where there are more speakers than room, fewer speakers are taken rather than fewer rows
_LEAST_SPEAKERS = 10
_KALDI = (".ark", ".scp")

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """A share of the speakers, and how many of its rows are kept in memory."""

    share: float
    rows: int
    per_speaker: int


_PARTS = {"fit": _Part(0.7, 200_000, 200), "choose": _Part(0.15, 2_000, 20), "report": _Part(0.15, 3_000, 20)}


@dataclass(frozen=True)
class PrefixQuality:
    """One prefix length, before and after.

    Attributes:
        dim: prefix length.
        kept_before: correlation of the prefix's cosines with the full-dimension ones, over pairs of sampled rows.
        kept_after: the same after the rotation.
        eer_before: equal error rate on the reporting speakers, a fraction; None without labels.
        eer_after: the same after the rotation.
        eer_centred: of the vectors as they are less the mean of those that were fitted on: what a rotation with a mean
            has to beat.
    """

    dim: int
    kept_before: float
    kept_after: float
    eer_before: float | None
    eer_after: float | None
    eer_centred: float | None = None


@dataclass(frozen=True)
class RotationReport:
    """What was fitted, on what, and what it is worth.

    Attributes:
        rotation: the head.
        rows: rows of the source.
        full_difference: largest change of a full-dimension cosine over pairs of sampled rows, as written.
        prefixes: one entry per prefix length.
        speakers: speakers and rows of each part: ``fit``, ``choose``, ``report``; empty without labels.
        chosen: criterion (mean EER of the short prefixes on the choosing speakers) of each method.
        training_speakers: keys (`corpora.overlap.speaker_key`) of the speakers of ``fit`` and ``choose``.
    """

    rotation: Rotation
    rows: int
    full_difference: float
    prefixes: tuple[PrefixQuality, ...]
    speakers: Mapping[str, Mapping[str, int]]
    chosen: Mapping[str, float]
    training_speakers: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on where the rotation does not help, and on what the speakers are too few for."""
        size, found = self.rotation.input_dim, []
        short = [prefix for prefix in self.prefixes if prefix.dim < size]
        measured = [(p.dim, p.eer_before, p.eer_after) for p in short]
        worse = [
            dim for dim, before, after in measured if before is not None and after is not None and after >= before > 0
        ]
        less = [prefix.dim for prefix in short if prefix.kept_after <= prefix.kept_before]
        for dims, what in (
            (worse, "a lower error rate"),
            ([] if self.speakers else less, "scores closer to the full ones"),
        ):
            if not dims:
                continue
            at = "any prefix" if len(dims) == len(short) else f"{', '.join(map(str, dims))} dimensions"
            found.append(f"the rotation does not help at {at}: plain truncation gives {what}, or the same")
        n_speakers = self.rotation.details.get("n_speakers")
        if n_speakers is not None and n_speakers - 1 < size:
            found.append(
                f"{n_speakers} speakers with two vectors judge {n_speakers - 1} of {size} directions at most; what is "
                "left follows by variance"
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the matrix and the keys of the speakers, as plain values."""
        return {
            "rows": self.rows,
            **self.rotation.config(),
            "full_dimension_largest_cosine_change": self.full_difference,
            "prefixes": [asdict(prefix) for prefix in self.prefixes],
            "notes": list(self.notes),
            "speakers": {part: dict(counts) for part, counts in self.speakers.items()},
            "criterion": dict(self.chosen),
        }


def rotate_vectors(
    embeddings: str | Path,
    *,
    labels: pl.Series | None = None,
    method: Method = "auto",
    dims: Sequence[int] | None = None,
    centre: Centre = "none",
    seed: int = 0,
    progress: Progress = silent,
    choosing: Progress = silent,
) -> RotationReport:
    """Fit a rotation on the vectors of a file or store, and measure it.

    Args:
        embeddings: npy, npz, Parquet, kaldi ark/scp, or a store.
        labels: the speaker of each row in order, null where unknown; None: no labels at all, which means PCA.
        method: the richest method to try, see `heads.choose`.
        dims: prefix lengths.
        centre: ``none`` keeps every full-dimension score; ``all`` subtracts the mean; ``auto`` as is best on the
            choosing speakers.
        seed: of the division of speakers and of all sampling.
        progress: rows read of all.
        choosing: after that, candidates measured of all; never without labels.

    Raises:
        StoreError: they cannot be read.
        ModelError: labels that do not fit, or too few speakers.
    """
    known, size = vector_shape(embeddings)
    truncation(size, dims)  # dims that do not fit are refused before ten million rows are read
    total = known if known is not None or labels is None else len(labels)
    batches = _counted(embeddings, total, progress)
    sample = _Sample(size, seed)
    if labels is None:
        if method in ("discriminant", "refined"):
            raise ModelError(f"method {method!r} needs labels: a speaker for every row")
        if centre == "auto":
            raise ModelError("centre 'auto' needs labels, by which it is chosen; without them say 'all' or 'none'")
        scatter = Scatter(size)
        for batch in batches:
            scatter.add(batch.vectors)
            sample.add(batch.vectors)
        rotation = fit_rotation("pca", scatter, dims)
        return _report(centred(rotation, scatter.mean(), 0 if centre == "all" else size), sample)
    if total != len(labels):
        raise ModelError(f"{len(labels)} labels for the {total} rows of {embeddings}")
    division = _divide(labels, seed)
    speakers = {part: labels.gather(rows).to_list() for part, rows in division.items()}
    taken = _take(batches, division, size, sample)
    if sample.seen != len(labels):
        raise ModelError(f"{len(labels)} labels for the {sample.seen} rows of {embeddings}")
    candidates = choose_rotation(
        taken["fit"],
        speakers["fit"],
        LabelledPairs.all_of(taken["choose"], speakers["choose"]),
        dims=dims,
        method=method,
        refinement=Refinement(seed=seed),
        centre=centre,
        progress=choosing,
    )
    scatter = Scatter(size)
    scatter.add(taken["fit"])
    pairs = LabelledPairs.all_of(taken["report"], speakers["report"])
    report = _report(candidates["best"].rotation, sample, pairs, scatter.mean())
    return replace(
        report,
        speakers={part: {"speakers": len(set(names)), "rows": len(names)} for part, names in speakers.items()},
        chosen={name: candidate.criterion for name, candidate in candidates.items() if name != "best"},
        training_speakers=tuple(sorted({speaker_key(s) for s in (*speakers["fit"], *speakers["choose"])})),
    )


def apply_rotation(
    rotation: Rotation,
    source: str | Path,
    out: str | Path,
    *,
    training_speakers: Sequence[str] = (),
    progress: Progress = silent,
) -> int:
    """Write the rotated rows of `source` to `out` in bounded memory, and return their number.

    The suffix of `out` names the format; a store becomes a store where there is none. The new store's fingerprint is
    that of the old one and the rotation together, so that rotated and unrotated vectors never meet in a score.

    Args:
        rotation: made for the vectors.
        source: as `rotate_vectors` takes it.
        out: another path than `source`.
        training_speakers: speaker keys that a new store remembers, so that it is not evaluated on them.
        progress: rows written of all.

    Raises:
        StoreError: the source cannot be read, or `out` not written, or it would replace the source.
        ModelError: vectors of another size than the rotation's.
    """
    written_too = {Path(out), *(Path(out).with_suffix(s) for s in (".ark", ".scp") if Path(out).suffix in _KALDI)}
    if Path(source).resolve() in {path.resolve() for path in written_too}:
        raise StoreError(f"{out}: the rotated vectors cannot replace those that they are made from; give another name")
    known, size = vector_shape(source)
    if size != rotation.input_dim:
        raise ModelError(f"{source} has vectors of {size} numbers, the rotation is made for {rotation.input_dim}")
    batches = _counted(source, known, progress)
    if is_store(source) and not Path(out).suffix:
        store = EmbeddingStore(source)
        digest = hashlib.sha256(
            store.metadata.fingerprint.encode() + b"".join(array.tobytes() for array in rotation.tensors().values())
        ).hexdigest()[:16]
        rotated = rotate_store(
            rotation, store, out, fingerprint=digest, training_speakers=training_speakers, progress=progress
        )
        return len(rotated)
    written = 0
    with VectorWriter(out, dim=rotation.input_dim) as writer:
        for batch in batches:
            writer.write(VectorBatch(batch.ids, np.asarray(rotation.transform(batch.vectors), np.float32)))
            written += len(batch.vectors)
    return written


def _counted(source: str | Path, total: int | None, progress: Progress) -> Iterator[VectorBatch]:
    done = 0
    for batch in iter_vectors(source, _BATCH_ROWS):
        yield batch
        done += len(batch.vectors)
        progress(done, total)


class _Sample:
    """A uniform sample of the rows of a stream of unknown length: those with the smallest random keys."""

    def __init__(self, size: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._keys = np.zeros(0)
        self._rows = np.zeros((0, size), np.float32)
        self.seen = 0

    def add(self, vectors: FloatArray) -> None:
        self.seen += len(vectors)
        keys = np.concatenate([self._keys, self._random.random(len(vectors))])
        kept = np.sort(np.argsort(keys, kind="stable")[:_SAMPLE_ROWS])
        old = kept[kept < len(self._keys)]
        new = kept[kept >= len(self._keys)] - len(self._keys)
        self._rows = np.vstack([self._rows[old], vectors[new]])
        self._keys = keys[kept]

    def rows(self) -> FloatArray:
        """The sampled (n, D) rows."""
        return self._rows


def _divide(labels: pl.Series, seed: int) -> dict[str, Rows]:
    """Rows of each part, ascending; speakers never cross parts, whatever the order of the rows."""
    frame = labels.rename("speaker").to_frame().with_row_index("row").drop_nulls()
    counts = frame.group_by("speaker").len("n")
    size = dict(counts.filter(pl.col("n") >= 2).iter_rows())
    if len(size) < _LEAST_SPEAKERS:
        raise ModelError(
            f"{len(size)} speakers have two vectors or more; fitting, choosing and reporting on different speakers "
            f"needs {_LEAST_SPEAKERS} at least. Without labels the rotation is PCA's"
        )
    ordered = sorted(size, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    random = np.random.default_rng(seed)
    parts: dict[str, Rows] = {}
    taken = 0
    for name, part in reversed(_PARTS.items()):  # pairs of two speakers need two of them: fitting has what is left
        there = ordered[taken:] if name == "fit" else ordered[taken:][: max(2, round(part.share * len(ordered)))]
        taken += len(there)
        most = min(part.per_speaker, max(_FEWEST_PER_SPEAKER, part.rows // len(there)))
        room = np.cumsum([min(most, size[speaker]) for speaker in there]) <= part.rows
        kept = pl.Series("speaker", [speaker for speaker, fits in zip(there, room, strict=True) if fits], pl.String)
        # The join is inner: rows of all other speakers are gone before anything is shuffled.
        rows = frame.join(kept.to_frame(), on="speaker", maintain_order="left")
        rows = rows[random.permutation(len(rows))].filter(pl.int_range(pl.len()).over("speaker") < most)
        parts[name] = np.sort(rows["row"].to_numpy().astype(np.int64))
    # Speakers with one row help the gradient steps, and can be in no target pair.
    single = frame.join(counts.filter(pl.col("n") == 1), on="speaker", maintain_order="left")["row"].to_numpy()
    room_left = max(0, _PARTS["fit"].rows - len(parts["fit"]))
    single = random.permutation(single)[:room_left].astype(np.int64)
    parts["fit"] = np.sort(np.concatenate([parts["fit"], single]))
    return {name: parts[name] for name in _PARTS}


def _take(
    batches: Iterator[VectorBatch], division: Mapping[str, Rows], size: int, sample: _Sample
) -> dict[str, FloatArray]:
    taken = {part: np.zeros((len(rows), size), np.float32) for part, rows in division.items()}
    start = 0
    for batch in batches:
        stop = start + len(batch.vectors)
        for part, rows in division.items():
            first, last = np.searchsorted(rows, [start, stop])
            taken[part][first:last] = batch.vectors[rows[first:last] - start]
        sample.add(batch.vectors)
        start = stop
    return dict(taken)


def _report(
    rotation: Rotation, sample: _Sample, pairs: LabelledPairs | None = None, mean: FloatArray | None = None
) -> RotationReport:
    """Measure it on a sample, and on labelled pairs beside the plain prefixes, with and without the mean."""
    before, after = sample.rows(), rotation.transform(sample.rows())
    upper = np.triu_indices(len(before), k=1)

    def cosines(vectors: FloatArray, dim: int | None) -> NDArray[np.float64]:
        unit = truncate(vectors.astype(np.float64), dim)
        return np.asarray((unit @ unit.T)[upper])

    full = cosines(before, None)
    eers: dict[str, dict[int, float]] = {}
    if pairs is not None and mean is not None:
        plain = truncation(rotation.input_dim, rotation.dims)
        heads = {"before": plain, "after": rotation, "centred": centred(plain, mean)}
        eers = {name: pairs.eers(head) for name, head in heads.items()}
    prefixes = tuple(
        PrefixQuality(
            dim,
            _correlation(cosines(before, dim), full),
            _correlation(cosines(after, dim), full),
            *(eers[name][dim] if eers else None for name in ("before", "after", "centred")),
        )
        for dim in rotation.dims
    )
    difference = float(np.abs(cosines(after, None) - full).max(initial=0.0))
    return RotationReport(rotation, sample.seen, difference, prefixes, {}, {})


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 1.0


def rotate_store(
    rotation: Rotation,
    store: EmbeddingStore,
    out: str | Path,
    *,
    fingerprint: str,
    model: str | None = None,
    training_speakers: Sequence[str] = (),
    progress: Progress = silent,
) -> EmbeddingStore:
    """Write the rotated rows of a store as another store, names, speakers and skipped utterances included.

    It is written in float32 whatever the old one is, since rounding to half precision would change the scores.

    Args:
        rotation: made for the store's vectors.
        store: of the tap ``embedding`` or ``nested``.
        out: folder; a begun one is resumed.
        fingerprint: of the model that encoder and rotation make together.
        model: its name; None: the old one.
        training_speakers: further speaker keys that the rotation was fitted or chosen on.
        progress: rows written of all.

    Raises:
        StoreError: the store is not complete or of another tap, or `out` is the store itself.
    """
    out = Path(out)
    old = store.metadata
    if out.resolve() == store.path.resolve():
        raise StoreError(f"{out}: the rotated store cannot replace the one that it is made from; give another name")
    if old.tap not in ("embedding", "nested"):
        raise StoreError(f"{store.path} holds the tap {old.tap}; a rotation is made for embeddings")
    if not old.complete:
        raise StoreError(f"{store.path} is not complete; finish the run that makes it first")
    metadata = replace(
        old,
        fingerprint=fingerprint,
        model=model or old.model,
        tap="nested",
        dims=rotation.dims,
        dtype="float32",
        training_speakers=tuple(sorted({*old.training_speakers, *training_speakers})),
        plan={**old.plan, "rotated_from": old.fingerprint},
        run={},
    )
    with writing(out):
        writer = StoreWriter(out, metadata)
        for shard in writer.pending:
            rows = store.read_shard(shard)
            vectors = np.asarray(rows.vectors)
            writer.write_shard(shard, replace(rows, vectors=rotation.transform(vectors)))
            progress(writer.done_rows, old.planned_rows)
        return writer.finish()
