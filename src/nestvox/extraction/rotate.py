"""Rotate vectors that somebody already has: fit, measure, apply, in bounded memory.

Whoever holds millions of voiceprints keeps every full-dimension score and gains every prefix.

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

from nestvox.errors import ModelError, StoreError, TableError
from nestvox.extraction.interchange import VectorWriter, iter_vectors, vector_shape
from nestvox.extraction.store import (
    EmbeddingStore,
    ShardRows,
    StoreWriter,
    VectorBatch,
    default_shard_rows,
    is_store,
)
from nestvox.heads.choose import Method, choose_rotation
from nestvox.heads.contract import FloatArray, truncate
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.refine import Refinement
from nestvox.heads.rotation import Rotation, Scatter, pca, truncation
from nestvox.progress import Progress, silent

__all__ = ["PrefixQuality", "RotationReport", "apply_rotation", "read_labels", "rotate_store", "rotate_vectors"]

_BATCH_ROWS = 65_536
_SAMPLE_ROWS = 2_000  # rows whose pairs measure how well prefixes keep the scores
_MOST_PER_SPEAKER = 20
_PARTS = {"fit": (0.7, 200_000), "choose": (0.15, 3_000), "report": (0.15, 3_000)}  # share of speakers, most rows
_TABLES = (".tsv", ".csv", ".parquet")

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class PrefixQuality:
    """One prefix length, before and after.

    Attributes:
        dim: prefix length.
        kept_before: correlation of the prefix's cosines with the full-dimension ones, over pairs of sampled rows.
        kept_after: the same after the rotation.
        eer_before: equal error rate on the reporting speakers, a fraction; None without labels.
        eer_after: the same after the rotation.
    """

    dim: int
    kept_before: float
    kept_after: float
    eer_before: float | None
    eer_after: float | None


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
    """

    rotation: Rotation
    rows: int
    full_difference: float
    prefixes: tuple[PrefixQuality, ...]
    speakers: Mapping[str, Mapping[str, int]]
    chosen: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Everything but the matrix, as plain values."""
        return {
            "rows": self.rows,
            **self.rotation.config(),
            "full_dimension_largest_cosine_change": self.full_difference,
            "prefixes": [asdict(prefix) for prefix in self.prefixes],
            "speakers": {part: dict(counts) for part, counts in self.speakers.items()},
            "criterion": dict(self.chosen),
        }


def rotate_vectors(
    source: str | Path,
    *,
    labels: pl.Series | None = None,
    method: Method = "auto",
    dims: Sequence[int] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> RotationReport:
    """Fit a rotation on the vectors of a file or store, and measure it.

    Args:
        source: npy, npz, Parquet, kaldi ark/scp, or a store.
        labels: the speaker of each row in order, null where unknown; None: no labels at all, which means PCA.
        method: the richest method to try, see `heads.choose`.
        dims: prefix lengths.
        seed: of the division of speakers and of all sampling.
        progress: rows read of all.

    Raises:
        StoreError: the source cannot be read.
        ModelError: labels that do not fit, or too few speakers.
    """
    known, size = vector_shape(source)
    total = known if known is not None or labels is None else len(labels)
    batches = _counted(source, total, progress)
    sample = _Sample(size, seed)
    if labels is None:
        if method in ("discriminant", "refined"):
            raise ModelError(f"method {method!r} needs labels: a speaker for every row")
        scatter = Scatter(size)
        for batch in batches:
            scatter.add(batch.vectors)
            sample.add(batch.vectors)
        rotation = pca(scatter, dims)
        return _report(rotation, sample, None, {}, {})
    if total != len(labels):
        raise ModelError(f"{len(labels)} labels for the {total} rows of {source}")
    division = _divide(labels, seed)
    speakers = {part: labels.gather(rows).to_list() for part, rows in division.items()}
    taken = _take(batches, division, size, sample)
    if sample.seen != len(labels):
        raise ModelError(f"{len(labels)} labels for the {sample.seen} rows of {source}")
    candidates = choose_rotation(
        taken["fit"],
        speakers["fit"],
        LabelledPairs.all_of(taken["choose"], speakers["choose"]),
        dims=dims,
        method=method,
        refinement=Refinement(seed=seed),
    )
    return _report(
        candidates["best"].rotation,
        sample,
        LabelledPairs.all_of(taken["report"], speakers["report"]),
        {part: {"speakers": len(set(names)), "rows": len(names)} for part, names in speakers.items()},
        {name: candidate.criterion for name, candidate in candidates.items() if name != "best"},
    )


def apply_rotation(rotation: Rotation, source: str | Path, out: str | Path, *, progress: Progress = silent) -> int:
    """Write the rotated rows of `source` to `out` in bounded memory, and return their number.

    The suffix of `out` names the format; a store becomes a store where there is none. The new store's fingerprint is
    that of the old one and the rotation together, so that rotated and unrotated vectors never meet in a score.

    Raises:
        StoreError: the source cannot be read, or `out` not written.
        ModelError: vectors of another size than the rotation's.
    """
    known, _ = vector_shape(source)
    batches = _counted(source, known, progress)
    if is_store(source) and not Path(out).suffix:
        store = EmbeddingStore(source)
        digest = hashlib.sha256(store.metadata.fingerprint.encode() + rotation.matrix.tobytes()).hexdigest()[:16]
        return len(rotate_store(rotation, store, out, fingerprint=digest, progress=progress))
    written = 0
    with VectorWriter(out, dim=rotation.input_dim) as writer:
        for batch in batches:
            writer.write(VectorBatch(batch.ids, np.asarray(rotation.transform(batch.vectors), np.float32)))
            written += len(batch.vectors)
    return written


def read_labels(path: str | Path, source: str | Path) -> pl.Series:
    """Read the speaker of each row of `source`.

    Args:
        path: a table with the columns ``utt_id`` and ``speaker`` (TSV, CSV or Parquet; an utterance table is one), in
            any order and with more rows than needed; or a text file with one speaker a line, in the order of the rows.
        source: the vectors; a table needs names in it.

    Returns:
        Strings, null for rows that the table does not name (they are left out of the fit) and for empty lines.

    Raises:
        TableError: columns are missing, the source has no names, or no name is in the table.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError("no such file", source=path)
    if path.suffix.lower() not in _TABLES:
        lines = path.read_text(encoding="utf-8").splitlines()
        return pl.Series("speaker", [line.strip() or None for line in lines], pl.String)
    if path.suffix.lower() == ".parquet":
        frame = pl.read_parquet(path)
    else:
        frame = pl.read_csv(path, separator="\t" if path.suffix.lower() == ".tsv" else ",", infer_schema=False)
    missing = [column for column in ("utt_id", "speaker") if column not in frame.columns]
    if missing:
        raise TableError(f"no column {' and '.join(missing)}; labels are utt_id and speaker", source=path, line=1)
    names: list[str] = []
    for batch in iter_vectors(source, _BATCH_ROWS):
        if batch.ids is None:
            raise TableError(
                f"{source} has no names for its rows; give one speaker a line in a .txt file, in the order of the rows",
                source=path,
            )
        names.extend(batch.ids)
    wanted = frame.select(pl.col("utt_id", "speaker").cast(pl.String)).unique("utt_id", keep="first")
    joined = pl.DataFrame({"utt_id": names}, {"utt_id": pl.String}).join(
        wanted, on="utt_id", how="left", maintain_order="left"
    )
    if joined["speaker"].is_null().all():
        raise TableError(f"no utt_id of the table names a row of {source}", source=path)
    return joined["speaker"]


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
    frame = (
        pl.DataFrame({"speaker": labels})
        .with_row_index("row")
        .drop_nulls()
        .sample(fraction=1.0, shuffle=True, seed=seed)
        .with_columns(rank=pl.int_range(pl.len()).over("speaker"), n=pl.len().over("speaker"))
        .filter(pl.col("rank") < _MOST_PER_SPEAKER)
    )
    names = frame.filter(pl.col("n") >= 2)["speaker"].unique().to_list()
    if len(names) < 10:
        raise ModelError(
            f"{len(names)} speakers have two vectors or more; fitting, choosing and reporting on different speakers "
            "needs ten at least. Without labels the rotation is PCA's"
        )
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    parts: dict[str, Rows] = {}
    start = 0.0
    for part, (share, most) in _PARTS.items():
        chosen = ordered[round(start * len(ordered)) : round((start + share) * len(ordered))]
        start += share
        inside = pl.col("speaker").is_in(chosen)
        if part == "fit":
            inside |= pl.col("n") == 1  # they help the gradient steps, and can be in no target pair
        rows = frame.filter(inside).head(most)["row"].to_numpy().astype(np.int64)
        parts[part] = np.sort(rows)
    return parts


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
    rotation: Rotation,
    sample: _Sample,
    pairs: LabelledPairs | None,
    speakers: Mapping[str, Mapping[str, int]],
    criterion: Mapping[str, float],
) -> RotationReport:
    before, after = sample.rows(), rotation.transform(sample.rows())
    upper = np.triu_indices(len(before), k=1)

    def cosines(vectors: FloatArray, dim: int | None) -> NDArray[np.float64]:
        unit = truncate(vectors, dim).astype(np.float64)
        return np.asarray((unit @ unit.T)[upper])

    full = cosines(before, None)
    plain = truncation(rotation.input_dim, rotation.dims)
    prefixes = tuple(
        PrefixQuality(
            dim,
            _correlation(cosines(before, dim), full),
            _correlation(cosines(after, dim), full),
            None if pairs is None else pairs.eer(plain, dim),
            None if pairs is None else pairs.eer(rotation, dim),
        )
        for dim in rotation.dims
    )
    difference = float(np.abs(cosines(after, None) - full).max(initial=0.0))
    return RotationReport(rotation, sample.seen, difference, prefixes, speakers, criterion)


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
    """Write the rotated rows of a store as another store, names and speakers included.

    Args:
        rotation: made for the store's vectors.
        store: of the tap ``embedding`` or ``nested``.
        out: folder; a begun one is resumed.
        fingerprint: of the model that encoder and rotation make together.
        model: its name; None: the old one.
        training_speakers: further speaker keys that the rotation was fitted or chosen on.
        progress: rows written of all.

    Raises:
        StoreError: another tap, or `out` is the store itself.
    """
    out = Path(out)
    old = store.metadata
    if out.resolve() == store.path.resolve():
        raise StoreError(f"{out}: the rotated store cannot replace the one that it is made from; give another name")
    if old.tap not in ("embedding", "nested"):
        raise StoreError(f"{store.path} holds the tap {old.tap}; a rotation is made for embeddings")
    metadata = replace(
        old,
        fingerprint=fingerprint,
        model=model or old.model,
        tap="nested",
        dims=rotation.dims,
        planned_rows=len(store),
        shard_rows=default_shard_rows(len(store)),
        training_speakers=tuple(sorted({*old.training_speakers, *training_speakers})),
        plan={"rotated_from": old.fingerprint},
        run={},
    )
    writer = StoreWriter(out, metadata)
    names, paths, speakers = store.utt_ids, store.paths, store.speakers
    for shard in writer.pending:
        rows = metadata.planned(shard)
        part = slice(rows.start, rows.stop)
        vectors = rotation.transform(store.take(np.arange(rows.start, rows.stop)))
        writer.write_shard(shard, ShardRows(names[part], vectors, paths[part], speakers[part]))
        progress(rows.stop, len(store))
    return writer.finish()
