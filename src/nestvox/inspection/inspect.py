"""Everything about one model on one page: its size, its vectors, its time, and whether it keeps its promises.

Notation: N clips, D embedding size.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nestvox.encoders.registry import is_file_encoder
from nestvox.inspection.checks import (
    Check,
    check_batches,
    check_calibration,
    check_codecs,
    check_errors,
    check_repeats,
    check_saved,
    check_thresholds,
    check_vectors,
    finite,
)
from nestvox.inspection.sample_clips import Clip, noise
from nestvox.progress import Progress, silent
from nestvox.threads import one_thread

if TYPE_CHECKING:
    from nestvox.model.speaker_model import SpeakerModel

_CPU_LIMIT = 1e-4  # of unit-length components in float32, where another batch changes the order of sums
_OTHER_LIMIT = 1e-2  # on a GPU, or in fewer digits


@dataclass(frozen=True)
class PartSize:
    """How large one part of a model is.

    Attributes:
        part: ``encoder`` or ``head``.
        kind: of the part, e.g. ``redimnet`` or ``rotation``.
        parameters: numbers that are learnt.
        values: all that are saved: parameters, running statistics, tables.
        bytes: of these as they are saved.
    """

    part: str
    kind: str
    parameters: int
    values: int
    bytes: int


@dataclass(frozen=True)
class DimensionRow:
    """The prefix of one dimension over the clips.

    Attributes:
        dim: its length.
        shape: of the matrix of all clips.
        norm_mean: of prefixes before they are normalised.
        norm_sd: of the same, over clips; 0 for a single clip.
        energy_share: squared norm of the prefix over that of the whole, mean over clips.
    """

    dim: int
    shape: tuple[int, int]
    norm_mean: float | None
    norm_sd: float | None
    energy_share: float | None


@dataclass(frozen=True)
class ClipNorms:
    """The norms of one clip's prefixes before they are normalised.

    Attributes:
        clip: its name.
        duration_s: of what was embedded.
        norms: by dimension; None where the embedding is not finite.
    """

    clip: str
    duration_s: float
    norms: dict[int, float | None]


@dataclass(frozen=True)
class Similarities:
    """The cosines of all clips with each other at one dimension.

    Attributes:
        dim: prefix length.
        cosines: N rows of N numbers, in the order of the clips; None where one has no direction.
    """

    dim: int
    cosines: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class MemoryUse:
    """What the model and the inspection took.

    Attributes:
        weights_bytes: of parameters and buffers as they run.
        peak_process_bytes: most that this process has held, Python and torch included; None where the system does not
            say.
        peak_gpu_bytes: most that was allocated on the GPU; None on a CPU.
    """

    weights_bytes: int
    peak_process_bytes: int | None
    peak_gpu_bytes: int | None


@dataclass(frozen=True)
class LatencyRow:
    """How long one clip alone takes from samples to embedding.

    Attributes:
        clip_s: its length in seconds.
        runs: timed calls, after one that is not.
        median_ms: of these calls.
        real_time_factor: seconds of computing per second of audio.
    """

    clip_s: float
    runs: int
    median_ms: float
    real_time_factor: float


@dataclass(frozen=True)
class Inspection:
    """What was found about one model.

    Attributes:
        model: its name.
        fingerprint: 16 hex digits; empty where it could not be loaded.
        machine: on what it ran, in words.
        clips: what it was tried on.
        labels: ``synthetic`` where that was generated.
        parts: sizes of encoder and head.
        files: of the folder, name to bytes; none for a model that is not a folder.
        dims: a row a dimension.
        clip_norms: a row a clip.
        similarities: a matrix a dimension.
        memory: what it took; None where the model could not be loaded.
        latency: a row a clip length.
        checks: in the order in which they were made.
        warnings: what is wrong with the recordings that it was tried on.
    """

    model: str
    fingerprint: str = ""
    machine: str = ""
    clips: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    parts: tuple[PartSize, ...] = ()
    files: dict[str, int] = field(default_factory=dict)
    dims: tuple[DimensionRow, ...] = ()
    clip_norms: tuple[ClipNorms, ...] = ()
    similarities: tuple[Similarities, ...] = ()
    memory: MemoryUse | None = None
    latency: tuple[LatencyRow, ...] = ()
    checks: tuple[Check, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.outcome != "fail" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the verdict."""
        return {"passed": self.passed, **asdict(self)}


@one_thread()
def inspect_model(
    model: SpeakerModel,
    clips: Sequence[Clip],
    *,
    folder: Path | None = None,
    lengths_s: Sequence[float] = (1.0, 3.0, 10.0),
    runs: int = 5,
    require_thresholds: bool = False,
    progress: Progress = silent,
) -> Inspection:
    """Measure a model and check what it promises.

    Args:
        model: loaded.
        clips: N recordings, or generated ones; at least one.
        folder: that it was loaded from, where it was one.
        lengths_s: clip lengths whose latency is measured; those that are too short for the encoder are left out.
        runs: timed calls of each.
        require_thresholds: a dimension without a threshold fails.
        progress: told the steps done.
    """
    exact = _device(model) == "cpu" and model.precision == "float32"  # equal calls agree to the bit
    limit = _CPU_LIMIT if exact else _OTHER_LIMIT  # of rounding
    lengths = [length for length in lengths_s if length >= model.min_duration_s]
    steps = 6 + len(lengths)
    progress(0, steps)
    checks: list[Check] = []
    full: NDArray[Any] | None = None
    try:
        full = np.stack([np.asarray(model.forward([clip.samples], sample_rate=model.sample_rate))[0] for clip in clips])
    except Exception as error:  # noqa: BLE001  whatever a broken network raises is a finding
        checks.append(Check("runs", "fail", f"{type(error).__name__}: {error}"))
    progress(1, steps)
    latency = []
    if full is not None:
        found: list[Callable[[], list[Check]]] = [
            lambda: check_vectors(model, clips, full),
            lambda: check_batches(model, clips, limit),
            lambda: check_repeats(model, clips, exact=exact, limit=limit),
            lambda: check_errors(model),
            lambda: check_codecs(model, clips),
        ]
        for done, check in enumerate(found, start=2):
            checks += check()
            progress(done, steps)
        for done, length in enumerate(lengths, start=7):
            try:
                latency.append(_latency(model, length, runs))
            except Exception as error:  # noqa: BLE001  as above
                checks.append(Check("latency", "fail", f"a clip of {length:g} s: {type(error).__name__}: {error}"))
            progress(done, steps)
    checks += check_saved(model, folder)
    checks += check_thresholds(model, required=require_thresholds)
    checks += check_calibration(model)
    return Inspection(
        model=model.name,
        fingerprint=model.fingerprint,
        machine=machine_of(model),
        clips=tuple(clip.name for clip in clips),
        labels=("synthetic",) if any(clip.synthetic for clip in clips) else (),
        warnings=tuple(f"{clip.name}: {warning}" for clip in clips for warning in clip.warnings),
        parts=part_sizes(model),
        files=files_of(folder),
        dims=() if full is None else _dimension_rows(full, model.dims),
        clip_norms=() if full is None else _clip_norms(full, clips, model),
        similarities=() if full is None else tuple(Similarities(dim, _cosines(full[:, :dim])) for dim in model.dims),
        memory=_memory(model),
        latency=tuple(latency),
        checks=tuple(checks),
    )


def unloadable(folder: Path, error: Exception) -> Inspection:
    """The inspection of a model folder that is damaged: it fails, and says why."""
    return Inspection(str(folder), files=files_of(folder), checks=(Check("loads", "fail", str(error)),))


def machine_of(model: SpeakerModel) -> str:
    """Device, threads, backend and precision, in words."""
    torch = sys.modules.get("torch")
    device = _device(model)
    threads = torch.get_num_threads() if torch is not None and device == "cpu" else 0
    counted = f", {threads} thread{'s' if threads > 1 else ''}" if threads else ""
    return f"{device}{counted}, backend {model.backend}, precision {model.precision}"


def _device(model: SpeakerModel) -> str:
    tensors = _tensors(model)
    return str(tensors[0].device) if tensors else "cpu"


def _tensors(model: SpeakerModel) -> tuple[Any, ...]:
    """Torch's, each once; of an encoder that is a file there are none."""
    encoder = model.encoder
    found = () if is_file_encoder(encoder) else (*encoder.parameters(), *encoder.buffers())
    return tuple({id(tensor): tensor for tensor in found}.values())


def part_sizes(model: SpeakerModel) -> tuple[PartSize, ...]:
    """How large encoder and head are."""
    encoder, state = model.encoder, model.encoder.state_dict().values()
    if is_file_encoder(encoder):
        numbers = size = encoder.size_bytes
    else:
        numbers = sum(value.numel() for value in state)
        # Saved as float32, in whatever precision they run.
        size = sum(value.numel() * (4 if value.is_floating_point() else value.element_size()) for value in state)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    parts = [PartSize("encoder", encoder.architecture, parameters, numbers, size)]
    if model.head is not None:
        tensors = model.head.tensors().values()
        values = sum(tensor.size for tensor in tensors)
        # Cutting alone is kept as a matrix that nobody fitted.
        learnt = 0 if model.head.config().get("method") == "truncation" else values
        parts.append(PartSize("head", model.head.kind, learnt, values, sum(tensor.nbytes for tensor in tensors)))
    return tuple(parts)


def files_of(folder: Path | None) -> dict[str, int]:
    """The files of a folder and their bytes."""
    if folder is None:
        return {}
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def _dimension_rows(full: NDArray[Any], dims: Sequence[int]) -> tuple[DimensionRow, ...]:
    energy = np.cumsum(np.asarray(full, np.float64) ** 2, axis=1)  # (N, D)
    rows = []
    for dim in dims:
        norms = np.sqrt(energy[:, dim - 1])
        whole = energy[:, -1]
        if not np.isfinite(norms).all() or not (np.isfinite(whole) & (whole > 0)).all():
            rows.append(DimensionRow(dim, (len(full), dim), None, None, None))
            continue
        spread = float(norms.std(ddof=1)) if len(norms) > 1 else 0.0
        share = float((energy[:, dim - 1] / whole).mean())
        rows.append(DimensionRow(dim, (len(full), dim), float(norms.mean()), spread, share))
    return tuple(rows)


def _clip_norms(full: NDArray[Any], clips: Sequence[Clip], model: SpeakerModel) -> tuple[ClipNorms, ...]:
    norms = np.sqrt(np.cumsum(np.asarray(full, np.float64) ** 2, axis=1))  # (N, D)
    return tuple(
        ClipNorms(
            clip.name, len(clip.samples) / model.sample_rate, {dim: finite(float(row[dim - 1])) for dim in model.dims}
        )
        for clip, row in zip(clips, norms, strict=True)
    )


def _cosines(vectors: NDArray[Any]) -> tuple[tuple[float | None, ...], ...]:
    unit = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(unit, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        cosines = np.clip((unit / norms) @ (unit / norms).T, -1.0, 1.0)
    return tuple(tuple(finite(float(cosine)) for cosine in row) for row in cosines)


def _memory(model: SpeakerModel) -> MemoryUse:
    held = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(model))
    if is_file_encoder(model.encoder):
        held = model.encoder.size_bytes
    if model.head is not None:
        held += sum(array.nbytes for array in model.head.tensors().values())
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and _device(model).startswith("cuda")
    return MemoryUse(held, _peak_bytes(), int(torch.cuda.max_memory_allocated()) if on_gpu and torch else None)


def _peak_bytes() -> int | None:
    try:
        import resource  # noqa: PLC0415  not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


def _latency(model: SpeakerModel, clip_s: float, runs: int) -> LatencyRow:
    waveforms = noise(clip_s, model.sample_rate)
    model.forward(waveforms, sample_rate=model.sample_rate)
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        model.forward(waveforms, sample_rate=model.sample_rate)
        taken.append(time.perf_counter() - began)
    median_s = statistics.median(taken)
    return LatencyRow(clip_s, runs, 1000 * median_s, median_s / clip_s)
