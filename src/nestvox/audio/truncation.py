"""Files that end before their own header says: half a download, a full disk, a recorder that was switched off.

Decoders read such a file up to its end and say nothing, because what is there is sound. Nearly every container says
somewhere how much there should be; this is held against the file (`extent`), without decoding it. What stands behind
the end that a header states is read, or refused, by `read`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

from nestvox.audio.archives import member_of, read_bytes
from nestvox.audio.errors import UnreadableAudioError
from nestvox.audio.opening import spans_of
from nestvox.gate import open_regular


def truncation(path: str | Path) -> str | None:
    """Say what a file lacks at its end.

    wav (RIFF, RIFX, RF64), w64, aiff, au, caf, sph, flac, mp3, ogg, mp4 and m4a, mka and webm. Where a header leaves
    the length open (as of what was written into a pipe) nothing is said, nor of adts, which has no header: one that was
    cut gives an error when it is read.

    Args:
        path: an audio file, or ``archive.tar::member``.

    Returns:
        For people, e.g. ``42,652 of 64,000 bytes of samples are there``; None: nothing is known to be missing.

    Raises:
        UnreadableAudioError: the file cannot be opened.
    """
    path = Path(path)
    try:
        if member_of(path) is not None:
            return _missing(io.BytesIO(read_bytes(path)), None)
        with open_regular(path, lambda problem, _: UnreadableAudioError(path, problem), missing="no such file") as file:
            return _missing(file, str(path))
    except OSError as error:
        raise UnreadableAudioError(path, error.strerror or str(error)) from error


def _missing(file: BinaryIO, name: str | None) -> str | None:
    return next((span.lack for span in spans_of(file, name) if span.lack), None)
