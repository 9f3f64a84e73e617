"""Audio files that are written whole or not at all, and told from those that are not whole.

libsndfile writes FLAC and Ogg by callbacks whose failure its encoders do not always report: on a full disk a short
file comes out and no error. So audio is encoded in memory, and what is written are bytes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from nestvox.atomic import write_bytes
from nestvox.audio.opening import truncation
from nestvox.audio.read import read
from nestvox.errors import AudioError


def write_audio(
    path: str | Path, samples: NDArray[np.floating[Any]], sample_rate: int, *, subtype: str = "PCM_16"
) -> None:
    """Write (T,) or (T, C) samples as wav or flac, by the suffix; what lies beyond full scale, 1.0, is clipped.

    The folder is made; `subtype` is libsndfile's name of the coding.

    Raises:
        AudioError: it cannot be encoded or written (the disk is full, the folder is not to be written to); there is no
            new file, and a file that was there before is as it was.
    """
    path = Path(path)
    encoded = io.BytesIO()
    try:
        soundfile.write(
            encoded, np.clip(samples, -1, 1), sample_rate, subtype=subtype, format=path.suffix.removeprefix(".").upper()
        )
        encoded.seek(0)
        there = soundfile.info(encoded).frames
    except (soundfile.SoundFileError, ValueError, TypeError, RuntimeError) as error:
        raise AudioError(path, f"cannot be encoded: {error}") from error
    if there != len(samples):
        raise AudioError(path, f"cannot be encoded: {there:,} of {len(samples):,} samples came out")
    try:
        write_bytes(path, encoded.getvalue())
    except OSError as error:
        raise AudioError(
            path, f"cannot be written: {error.strerror or error}; make room and run the same command again"
        ) from error


def whole_length(path: str | Path) -> int | None:
    """Count the samples per channel of a file by decoding it; None where it is not there, broken or cut off."""
    path = Path(path)
    if not path.is_file():
        return None
    try:
        samples, _ = read(path, sample_rate=None, allow_silent=True)
        return None if truncation(path) else len(samples)
    except AudioError:
        return None
