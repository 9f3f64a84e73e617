"""One pair of recordings: score, log likelihood ratio, and what a stored threshold says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nestvox.audio.given import Audio, heard
from nestvox.audio.snr import estimate_snr_db
from nestvox.errors import FingerprintError, ModelError
from nestvox.heads.contract import cut_in_words, truncate
from nestvox.model.calibration import DURATION, MEASURES, NORM, SNR
from nestvox.model.familiarity import UNFAMILIAR
from nestvox.model.threshold import COSINE, Verification, check_marks, choose_threshold

if TYPE_CHECKING:
    from nestvox.model.speaker_model import SpeakerModel


def verify_pair(
    model: SpeakerModel,
    a: Audio,
    b: Audio,
    *,
    dim: int | None,
    operating_point: str | None,
    domain: str | None,
    sample_rate: float | None,
    marks: Sequence[str],
) -> Verification:
    """Score two recordings and compare the score with a threshold of the model; see `SpeakerModel.verify`."""
    size = model.check_dim(dim)
    check_marks(marks)
    both = [
        heard(item, to_hz=model.sample_rate, sample_rate=sample_rate, min_duration_s=model.min_duration_s)
        for item in (a, b)
    ]
    waveforms = [recording.samples for recording, _ in both]
    conditions = [recording.condition() for recording, _ in both]
    known = model.familiarity
    unlike = [None if known is None else known.doubt(waveform, model.sample_rate) for waveform in waveforms]
    told = tuple(
        f"{label}: {warning}"
        for label, (_, doubts), found, doubt in zip(
            ("first recording", "second recording"), both, conditions, unlike, strict=True
        )
        for warning in (*doubts, *found.warnings(), *filter(None, [doubt]))
    )
    told += tuple(filter(None, [cut_in_words(size, model.dims)]))
    whole = model.embed(waveforms, dim=model.embedding_dim, normalize=False, sample_rate=model.sample_rate)
    vectors = whole[:, :size]
    first, second = truncate(vectors, size).astype(np.float64)
    for label, vector in zip(("first", "second"), (first, second), strict=True):
        if not vector.any():
            raise ModelError(
                f"the network of {model.name} gave nothing but zeros for the {label} recording, which have no direction"
            )
    score = float(np.clip(np.dot(first, second), -1.0, 1.0))
    llr, origin = _llr_of(model, score, size, waveforms, vectors)
    duration_s = min(len(waveform) for waveform in waveforms) / model.sample_rate
    choice = choose_threshold(
        model.thresholds,
        dim=size,
        operating_point=operating_point,
        domain=domain,
        duration_s=duration_s,
        spaces=[COSINE] if llr is None or model.llr is None else [COSINE, model.llr.llr_space],
        marks=marks,
    )
    same, threshold = None, choice.threshold
    if threshold is not None:
        decided = score if threshold.space == COSINE or llr is None else llr
        same = threshold.accepts(decided, fingerprint=model.fingerprint, dim=size, space=threshold.space, marks=marks)
    return Verification(
        score,
        size,
        same,
        threshold,
        told,
        model.name,
        model.fingerprint,
        llr=llr,
        llr_origin=origin,
        duration_s=duration_s,
        reason=choice.reason,
        conditions=tuple(
            (*found.codes(), *([UNFAMILIAR] if doubt else [])) for found, doubt in zip(conditions, unlike, strict=True)
        ),
    )


def _llr_of(
    model: SpeakerModel,
    score: float,
    dim: int,
    waveforms: Sequence[NDArray[np.floating[Any]]],
    vectors: NDArray[np.float32],
) -> tuple[float | None, str]:
    """Log likelihood ratio of one pair and where its map comes from, or why there is none."""
    llr = model.llr
    if llr is None:
        return None, "the model holds no calibration"
    if llr.fingerprint != model.fingerprint:
        raise FingerprintError(
            f"the calibration was fitted for the model {llr.fingerprint or '(unknown)'}, this is "
            f"{model.fingerprint}; "
            "calibrate this model"
        )
    if dim not in llr.maps:
        return None, f"the calibration holds no map for {dim} dimensions"
    columns = [measure for measure in llr.measures if measure not in MEASURES]
    if columns or llr.space != COSINE:
        needed = f"the column {columns[0]} of a table" if columns else "a cohort"
        return None, f"the calibration needs {needed}, which two recordings do not have"
    take: dict[str, Callable[[int], float]] = {
        DURATION: lambda side: len(waveforms[side]) / model.sample_rate,
        NORM: lambda side: float(np.linalg.norm(vectors[side].astype(np.float64))),
        SNR: lambda side: estimate_snr_db(waveforms[side], model.sample_rate),
    }
    quality = {name: ([take[name](0)], [take[name](1)]) for name in llr.measures}
    for name, sides in quality.items():
        if not np.isfinite([*sides[0], *sides[1]]).all():
            return None, f"the calibration needs the measure {name}, which one of the recordings is too short for"
    return float(llr.llr(dim, [score], quality)[0]), llr.describe()
