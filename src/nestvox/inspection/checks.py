"""What a model must hold before anybody relies on it: each check says pass, fail, or something worth knowing.

Notation: N clips, S samples, D embedding size.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.channel import through_channel
from nestvox.audio.errors import SilentAudioError
from nestvox.audio.write import write_audio
from nestvox.errors import AudioError, ModelError, NestvoxError, first_of
from nestvox.gate import naming, read_json
from nestvox.inspection.sample_clips import Clip

if TYPE_CHECKING:
    from nestvox.model.speaker_model import SpeakerModel

CODEC_FLOOR = 0.7
"""Lowest cosine between a recording and itself through a codec that passes; lower is another voice to the model."""

_AT_ONCE = 6  # clips of a batch
_ROUNDING = 1e-5  # of float32 norms and prefixes
_SAME = 1e-4  # of a cosine with itself
_CODECS = ("opus", "mp3")

Outcome = Literal["pass", "fail", "note"]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Check:
    """The answer of one check.

    Attributes:
        name: what was looked at.
        outcome: ``pass``, ``fail``, or ``note``: worth knowing, and no reason to reject the model.
        detail: what was found, in words.
        value: what was measured; None: nothing was, or it is not finite.
        limit: that it is held against.
    """

    name: str
    outcome: Outcome
    detail: str
    value: float | None = None
    limit: float | None = None


def _guarded(name: str) -> Callable[[Callable[..., list[Check]]], Callable[..., list[Check]]]:
    """A check that breaks has found something: it fails with what broke, and the others go on."""

    def wrap(function: Callable[..., list[Check]]) -> Callable[..., list[Check]]:
        @functools.wraps(function)
        def guarded(*arguments: Any, **named: Any) -> list[Check]:
            try:
                return function(*arguments, **named)
            except Exception as error:  # noqa: BLE001  whatever a broken network raises is a finding
                return [Check(name, "fail", f"{type(error).__name__}: {error}")]

        return guarded

    return wrap


@_guarded("vectors")
def check_vectors(model: SpeakerModel, clips: Sequence[Clip], full: Floats) -> list[Check]:
    """Finite, of unit length after normalisation, and every prefix the truncation of the whole.

    `full` is (N, D) as `SpeakerModel.forward` gave it for N recordings, each alone.
    """
    wrong = [clip.name for clip, row in zip(clips, full, strict=True) if not np.isfinite(row).all()]
    finite = Check(
        "finite",
        "fail" if wrong else "pass",
        f"NaN or infinity in the embedding of {first_of(wrong, 3)}"
        if wrong
        else f"all numbers of {len(full)} embeddings",
    )
    length = nested = 0.0
    for clip, row in zip(clips, full, strict=True):
        for dim in model.dims:
            given = _prefix(model, clip.samples, dim)
            length = _larger(length, abs(float(np.linalg.norm(given)) - 1))
            nested = _larger(nested, float(np.abs(given - _unit(row[:dim])).max()))
    dims = ", ".join(map(str, model.dims))
    return [
        finite,
        _held("unit length", length, _ROUNDING, f"of normalised prefixes of {dims}: largest deviation from 1"),
        _held("nested", nested, _SAME, f"prefixes of {dims} against the truncated, normalised whole"),
    ]


@_guarded("batch")
def check_batches(model: SpeakerModel, clips: Sequence[Clip], limit: float) -> list[Check]:
    """Whether a clip's vector depends on what else is in the batch, or on how far it was padded.

    Each clip runs alone, among others cut to its length, and padded to twice the longest. The differences are those of
    the components of unit-length prefixes, the largest over clips and dims.

    The first six clips are used; `limit` is the largest difference that is rounding.
    """
    waveforms = [clip.samples for clip in clips[:_AT_ONCE]]
    shortest = min(map(len, waveforms))
    # A clip of one recording alone has its own reverse for company.
    cut = [*(waveform[:shortest] for waveform in waveforms), waveforms[0][:shortest][::-1].copy()]
    together = _forward(model, cut)
    batch = _farthest(together, np.stack([_forward(model, [waveform])[0] for waveform in cut]), model.dims)
    longest = max(waveforms, key=len)
    padded = _forward(model, [*waveforms, np.tile(longest, 2)])[:-1]
    alone = np.stack([_forward(model, [waveform])[0] for waveform in waveforms])
    padding = _farthest(padded, alone, model.dims)
    return [
        _held("batch", batch, limit, f"{len(cut)} clips of equal length, alone and together: largest difference"),
        _held("padding", padding, limit, f"{len(waveforms)} clips, alone and padded: largest difference"),
    ]


@_guarded("deterministic")
def check_repeats(model: SpeakerModel, clips: Sequence[Clip], *, exact: bool, limit: float) -> list[Check]:
    """Whether the same call gives the same vectors, and a clip's cosine with itself is 1.

    `exact`: every bit must agree, as on a CPU; else differences up to `limit` are rounding.
    """
    waveforms = [clip.samples for clip in clips[:_AT_ONCE]]
    first, second = _forward(model, waveforms), _forward(model, waveforms)
    equal = first.tobytes() == second.tobytes()
    difference = _farthest(first, second, model.dims)
    if equal:
        repeated = Check("deterministic", "pass", "the same call twice: equal to the last bit", 0.0, 0.0)
    else:
        bound = 0.0 if exact else limit
        repeated = _held("deterministic", difference, bound, "the same call twice: largest difference")
    score = 1.0
    for waveform in waveforms:
        for dim in model.dims:
            a, b = (_prefix(model, waveform, dim) for _ in range(2))
            score = min(score, float(a @ b)) if np.isfinite(a @ b) else math.nan
    off = Check("itself", "pass" if abs(score - 1) <= _SAME else "fail", f"cosine of a clip with itself: {score:.6f}")
    return [repeated, off]


@_guarded("bad audio")
def check_errors(model: SpeakerModel) -> list[Check]:
    """Whether silence, a clip that is too short and samples that are not finite are refused, and by errors of ours."""
    rate = model.sample_rate
    short = np.full(max(1, model.encoder.min_samples // 2), 0.1, np.float32)
    usable = np.full(model.encoder.min_samples + rate, 0.1, np.float32)
    broken = usable.copy()
    broken[len(broken) // 2] = np.nan
    with tempfile.TemporaryDirectory(prefix="nestvox-") as folder:
        silent_file, short_file = Path(folder) / "silent.wav", Path(folder) / "short.wav"
        write_audio(silent_file, np.zeros(len(usable)), rate)
        write_audio(short_file, short, rate)
        checks = [_refuses(model, "silent file", silent_file, SilentAudioError)]
        if len(short) < model.encoder.min_samples:
            checks.append(_refuses(model, "short file", short_file, AudioError))
            checks.append(_refuses(model, "short array", short, AudioError))
    return [*checks, _refuses(model, "NaN in the audio", broken, AudioError)]


@_guarded("codecs")
def check_codecs(model: SpeakerModel, clips: Sequence[Clip]) -> list[Check]:
    """How close a recording stays to itself through Opus and MP3 at about 16 kbit/s.

    On generated tones the cosine is told but not judged: codecs are made for speech.
    """
    checks = []
    for codec in _CODECS:
        scores = []
        for clip in clips[:_AT_ONCE]:
            try:
                coded = through_channel(clip.samples, codec, model.sample_rate)
            except NestvoxError as error:
                checks.append(Check(codec, "note", f"not tried: {error}"))
                break
            a, b = (_unit(_forward(model, [samples])[0]) for samples in (clip.samples, coded))
            scores.append(float(a @ b))
        else:
            lowest = float(np.min(scores))
            synthetic = any(clip.synthetic for clip in clips)
            outcome: Outcome = "pass" if lowest >= CODEC_FLOOR else "fail"
            detail = f"lowest cosine of {len(scores)} clips with themselves through {codec}: {lowest:.3f}"
            if synthetic and math.isfinite(lowest):
                outcome, detail = "note", f"{detail}; synthetic tones, not judged"
            checks.append(Check(codec, outcome, detail, finite(lowest), CODEC_FLOOR))
    return checks


@_guarded("fingerprint")
def check_saved(model: SpeakerModel, folder: Path | None) -> list[Check]:
    """Whether configuration and weights still give the fingerprint that the folder's config.json names."""
    if folder is None:
        return [Check("fingerprint", "note", f"{model.fingerprint}; not a saved model, so nothing to hold it against")]
    config = read_json(folder / "config.json", naming(ModelError))
    saved = config.get("fingerprint") if isinstance(config, dict) else None
    if saved == model.fingerprint:
        return [Check("fingerprint", "pass", f"{saved}, as in config.json")]
    detail = f"config.json says {saved}, configuration and weights give {model.fingerprint}"
    return [Check("fingerprint", "fail", detail)]


@_guarded("thresholds")
def check_thresholds(model: SpeakerModel, *, required: bool = False) -> list[Check]:
    """Whether every threshold is of this model and can be used, and every dimension has one.

    `required`: a dimension without a threshold fails.
    """
    problems = []
    for threshold in model.thresholds:
        name = f"{threshold.operating_point} at {threshold.dim} dimensions"
        if threshold.fingerprint not in ("", model.fingerprint):
            problems.append(f"{name} is of the model {threshold.fingerprint}")
        if threshold.dim is None or not 1 <= threshold.dim <= model.embedding_dim:
            problems.append(f"{name}: the model has {model.embedding_dim}")
        if not math.isfinite(threshold.value):
            problems.append(f"{name} is {threshold.value}")
        if threshold.space.kind == "llr" and (model.llr is None or threshold.space != model.llr.llr_space):
            problems.append(f"{name} is on log likelihood ratios of a calibration that the model does not hold")
    if problems:
        return [Check("thresholds", "fail", "; ".join(problems))]
    deciding = {threshold.dim for threshold in model.thresholds if not threshold.foreign()}
    without = sorted(set(model.dims) - deciding)
    if without:
        labels = sorted({label for threshold in model.thresholds for label in threshold.foreign()})
        missing = f"none for {', '.join(map(str, without))} dimensions: verify gives a score and no verdict there"
        if labels:
            missing += f" (what was set on {', '.join(labels).upper()} speech decides about no real recording)"
        return [Check("thresholds", "fail" if required else "note", missing)]
    known = sum(threshold.fingerprint == model.fingerprint for threshold in model.thresholds)
    unnamed = "" if known == len(model.thresholds) else f"; {len(model.thresholds) - known} do not name their model"
    detail = f"{len(model.thresholds)}, every dimension has one{unnamed}"
    return [Check("thresholds", "note" if unnamed else "pass", detail)]


@_guarded("calibration")
def check_calibration(model: SpeakerModel) -> list[Check]:
    """Whether there are maps to log likelihood ratios, of this model and for its dimensions."""
    if model.llr is None:
        return [Check("calibration", "note", "none: verify gives a cosine and no log likelihood ratio")]
    if model.llr.fingerprint != model.fingerprint:
        return [Check("calibration", "fail", f"fitted for the model {model.llr.fingerprint or '(unknown)'}")]
    without = sorted(set(model.dims) - set(model.llr.maps))
    if without:
        return [Check("calibration", "note", f"no map for {', '.join(map(str, without))} dimensions")]
    return [Check("calibration", "pass", model.llr.describe())]


def _refuses(model: SpeakerModel, name: str, audio: Path | NDArray[np.float32], kind: type[NestvoxError]) -> Check:
    try:
        model.embed(audio)
    except kind as error:
        return Check(name, "pass", f"refused: {type(error).__name__}")
    except Exception as error:  # noqa: BLE001  an error that is not ours is the finding
        return Check(name, "fail", f"{type(error).__name__} where {kind.__name__} is promised: {error}")
    return Check(name, "fail", "embedded as if nothing were wrong")


def _held(name: str, value: float, limit: float, detail: str) -> Check:
    outcome: Outcome = "pass" if value <= limit else "fail"  # NaN is no pass
    return Check(name, outcome, f"{detail} {value:.1e}", finite(value), limit)


def _prefix(model: SpeakerModel, samples: NDArray[np.float32], dim: int) -> Floats:
    """(dim,) as `embed` gives it; NaN where it refuses what the network gave, which is a finding here."""
    try:
        return np.asarray(model.embed(samples, dim=dim, sample_rate=model.sample_rate), np.float64)
    except ModelError:
        return np.full(dim, np.nan)


def _forward(model: SpeakerModel, waveforms: Sequence[NDArray[np.float32]]) -> Floats:
    return np.asarray(model.forward(waveforms, sample_rate=model.sample_rate))


def _farthest(a: Floats, b: Floats, dims: Sequence[int]) -> float:
    """Largest difference of components between the unit-length prefixes of two (N, D); NaN where one is not finite."""
    return float(
        np.max([np.abs(_unit(x[:dim]) - _unit(y[:dim])).max() for x, y in zip(a, b, strict=True) for dim in dims])
    )


def _unit(vector: Floats) -> NDArray[np.float64]:
    # In float64 and on its own path, so that it can judge what the model's truncation gives.
    wide = vector.astype(np.float64)
    norm = math.sqrt(float(wide @ wide))
    return wide / norm if norm > 0 else np.full(len(wide), math.nan)


def _larger(a: float, b: float) -> float:
    return float(np.max([a, b]))  # NaN stays, which max() would lose


def finite(value: float) -> float | None:
    """The number, or None for strict JSON."""
    return value if math.isfinite(value) else None
