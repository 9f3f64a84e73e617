"""What a model costs: extraction once, since no dimension changes it, and scoring, search and storage at every one.

Notation: G gallery rows, D embedding size, d a prefix length.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import NestvoxError
from nestvox.evaluation.search import nearest
from nestvox.inspection.inspect import machine_of
from nestvox.inspection.sample_clips import noise
from nestvox.metrics.bootstrap import seeded
from nestvox.progress import Progress, silent
from nestvox.scoring.system import prefix_cosines
from nestvox.threads import one_thread

if TYPE_CHECKING:
    from nestvox.model.speaker_model import SpeakerModel

SAYING = (
    "The dimension changes storage, scoring and search. It does not change extraction: the network runs whole at any "
    "of them, so a smaller one makes no recording faster; a smaller network does."
)

_LEAST_REPEATS = 3
_TURNS = 15
_SCORED_VECTORS = 10_000
_SCORED_PAIRS = 100_000


@dataclass(frozen=True)
class ExtractionCost:
    """From samples to embeddings, decoding not counted.

    Attributes:
        clip_s: length of each clip.
        batch_size: clips of a call.
        calls: timed ones; their median counts.
        clips_per_s: embedded.
        real_time_factor: seconds of computing per second of audio.
    """

    clip_s: float
    batch_size: int
    calls: int
    clips_per_s: float
    real_time_factor: float


@dataclass(frozen=True)
class CostRow:
    """What one dimension costs.

    Attributes:
        dim: d.
        pairs_per_s: cosines of pairs of stored vectors, as `nestvox evaluate` takes them.
        queries_per_s: exact searches of the whole gallery.
        bytes_float32: of a million voiceprints, vectors alone.
        bytes_float16: the same.
    """

    dim: int
    pairs_per_s: float
    queries_per_s: float
    bytes_float32: int
    bytes_float16: int


@dataclass(frozen=True)
class Bench:
    """Costs of one model on one machine.

    Attributes:
        model: its name.
        fingerprint: 16 hex digits.
        machine: on what the network ran, in words.
        extraction: once for all dimensions.
        dims: a row a dimension.
        gallery: vectors searched.
        queries: of one call.
        top: neighbours of each.
        saying: what the dimension changes and what it does not.
    """

    model: str
    fingerprint: str
    machine: str
    extraction: ExtractionCost
    dims: tuple[CostRow, ...]
    gallery: int
    queries: int
    top: int
    saying: str = SAYING

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@one_thread()
def bench_model(
    model: SpeakerModel,
    *,
    dims: Sequence[int] | None = None,
    gallery: int = 100_000,
    queries: int = 64,
    top: int = 10,
    clip_s: float = 3.0,
    batch_size: int = 8,
    seconds: float = 1.0,
    memory_gb: float = 2.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Bench:
    """Measure extraction, scoring and search, the last two on generated vectors: their values do not change the time.

    Args:
        model: loaded.
        dims: prefix lengths; None: those that the model was made for.
        gallery: G, vectors to be searched.
        queries: searched at once.
        top: neighbours of each.
        clip_s: length of the clips that are embedded.
        batch_size: clips embedded at once.
        seconds: spent on each measurement at least, and at least three repeats.
        memory_gb: 10^9 bytes that the gallery of the largest dimension may take.
        seed: of the generated audio and vectors.
        progress: told the measurements done.

    Raises:
        NestvoxError: numbers that make no sense, clips too short for the encoder, or a gallery that needs more memory.
    """
    ascending = tuple(sorted({model.check_dim(dim) for dim in dims or model.dims}))
    for name, number in {"gallery": gallery, "queries": queries, "top": top, "batch_size": batch_size}.items():
        if number < 1:
            raise NestvoxError(f"{name} must be at least 1, got {number}")
    if not 0 < seconds < float("inf"):
        raise NestvoxError(f"seconds must be above 0, got {seconds}")
    needed = 4 * gallery * ascending[-1]
    if needed > memory_gb * 1e9:
        most = int(memory_gb * 1e9) // (4 * ascending[-1])
        raise NestvoxError(
            f"a gallery of {gallery:,} vectors at {ascending[-1]} dimensions takes {needed / 1e9:.1f} GB, more than "
            f"the {memory_gb:.1f} GB allowed; take at most {most:,} vectors, fewer dimensions, or allow more"
        )
    steps = 1 + 2 * len(ascending)
    progress(0, steps)
    extraction = _extraction(model, clip_s, batch_size, seconds, seed)
    progress(1, steps)
    rows = []
    for number, dim in enumerate(ascending):
        pairs_per_s = _scoring(dim, seconds, seed)
        progress(2 + 2 * number, steps)
        queries_per_s = _search(dim, gallery, queries, top, seconds, seed)
        progress(3 + 2 * number, steps)
        rows.append(CostRow(dim, pairs_per_s, queries_per_s, 4_000_000 * dim, 2_000_000 * dim))
    return Bench(
        model=model.name,
        fingerprint=model.fingerprint,
        machine=machine_of(model),
        extraction=extraction,
        dims=tuple(rows),
        gallery=gallery,
        queries=queries,
        top=min(top, gallery),
    )


@one_thread()
def times_by_turns(
    models: Mapping[str, SpeakerModel], clip_s: float, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Milliseconds of one clip on one thread, from samples to embedding: the median of 15 calls of each model.

    The models take turns, so that whatever else the machine does hits all of them.

    Args:
        models: by name.
        clip_s: length of the clip.
        clock: seconds that are counted; `time.process_time` are those of the processor alone.
    """
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(_TURNS + 1):
        for name, model in models.items():
            clip = noise(clip_s, model.sample_rate, seed=turn)
            began = clock()
            model.forward(clip)
            taken[name].append(1e3 * (clock() - began))
    return {name: statistics.median(times[1:]) for name, times in taken.items()}  # the first builds what runs


def _extraction(model: SpeakerModel, clip_s: float, batch_size: int, seconds: float, seed: int) -> ExtractionCost:
    if clip_s < model.min_duration_s:
        raise NestvoxError(f"clips of {clip_s:g} s are too short: the encoder needs {model.min_duration_s:.3f} s")
    clips = noise(clip_s, model.sample_rate, count=batch_size, seed=seed)
    median_s, calls = _timed(lambda: model.forward(clips), seconds)
    return ExtractionCost(clip_s, batch_size, calls, batch_size / median_s, median_s / (batch_size * clip_s))


def _scoring(dim: int, seconds: float, seed: int) -> float:
    generator = seeded(seed)
    vectors = _unit_rows(generator, _SCORED_VECTORS, dim)
    enrol, test = generator.integers(0, _SCORED_VECTORS, (2, _SCORED_PAIRS))
    median_s, _ = _timed(lambda: prefix_cosines(vectors, enrol, test, [dim]), seconds)
    return _SCORED_PAIRS / median_s


def _search(dim: int, gallery: int, queries: int, top: int, seconds: float, seed: int) -> float:
    generator = seeded(seed)
    rows, asked = (_unit_rows(generator, count, dim) for count in (gallery, queries))
    median_s, _ = _timed(lambda: nearest(asked, rows, top), seconds)
    return queries / median_s


def _unit_rows(generator: np.random.Generator, count: int, dim: int) -> NDArray[np.float32]:
    rows = generator.standard_normal((count, dim), dtype=np.float32)
    rows /= np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]  # in place: the gallery is held once
    return rows


def _timed(call: Callable[[], object], seconds: float) -> tuple[float, int]:
    """Median seconds of a call, after one that is not counted, and how many were."""
    call()
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < _LEAST_REPEATS:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken), len(taken)
