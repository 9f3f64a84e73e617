"""Which streams of sound a file holds, from its first byte to its last.

`survey` is what `read` and `nestvox data check` believe in place of headers: whatever the file holds is in one of its
spans, is a tag or zeros, or is named as what cannot be explained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import BinaryIO

from nestvox.audio.aiff import aiff_span, caf_span
from nestvox.audio.au import au_span, sphere_span
from nestvox.audio.boxes import adts_span, matroska_span, mp4_span
from nestvox.audio.containers import container_of
from nestvox.audio.flac import flac_span
from nestvox.audio.mp3 import LONGEST_FREE_START, mpeg_run
from nestvox.audio.ogg import ogg_span
from nestvox.audio.pieces import bytes_at
from nestvox.audio.spans import MARK_BYTES, Span, behind, frames_begin, mark_of, unexplained
from nestvox.audio.tags import after_id3
from nestvox.audio.wav import wav_span, wave64_span

_BY_FORMAT = {
    "WAV": wav_span,
    "W64": wave64_span,
    "AIFF": aiff_span,
    "CAF": caf_span,
    "AU": au_span,
    "NIST": sphere_span,
    "OGG": ogg_span,
    "FLAC": flac_span,
    "MP4": mp4_span,
    "MATROSKA": matroska_span,
    "ADTS": adts_span,
}
_MOST_STREAMS = 10_000
_FEW_BYTES = 1024  # of players' own, behind MPEG audio: less than two frames
_MOST_MPEG_BYTES = 4 << 30  # held in memory whole


def survey(file: BinaryIO) -> tuple[Span, ...]:
    """Find every stream of a file in order.

    The last one carries a refusal where something stands behind it that nothing explains. What does not begin as any
    format does is one span without a format, for a decoder to name.
    """
    size = file.seek(0, 2)
    at = after_id3(file, 0)
    spans: list[Span] = []
    while at < size:
        span = _span_at(file, at, size, begun=bool(spans))
        if len(spans) >= _MOST_STREAMS:
            spans[-1] = _refused(spans[-1], f"more than {_MOST_STREAMS:,} streams of sound in one file")
            break
        spans.append(span)
        if span.stop <= at or span.stop >= size:
            break
        further = behind(file, span.stop, size)
        if further is None:
            spans[-1] = _refused(span, unexplained(span.stop, size))
            break
        at = further
    return tuple(spans)


def _refused(span: Span, refusal: str) -> Span:
    return span if span.refusal else replace(span, refusal=refusal)


def _span_at(file: BinaryIO, at: int, size: int, *, begun: bool) -> Span:
    head = bytes_at(file, at, MARK_BYTES)
    format_name = mark_of(head) or container_of(head)
    if format_name is not None:
        return _BY_FORMAT[format_name](file, at, size)
    if begun or head[:1] == b"\xff" or at or _frames_within(file, size):
        return _mpeg_span(file, at, size)
    return Span("", at, size)


def _frames_within(file: BinaryIO, size: int) -> bool:
    """Whether frames stand in a row a little behind the beginning, as where a broadcast was tuned in."""
    head = bytes_at(file, 0, LONGEST_FREE_START)
    places = (place for place, byte in enumerate(head) if byte == 0xFF)
    return any(frames_begin(file, place, size) for place in places)


def _mpeg_span(file: BinaryIO, at: int, size: int) -> Span:
    if size - at > _MOST_MPEG_BYTES:
        return Span("MP3", at, size, refusal=f"MPEG audio of {size - at:,} bytes; cut it into files of less than 4 GiB")
    run = mpeg_run(bytes_at(file, at, size - at))
    if run is None:
        return Span("", at, size)
    lack = "it ends in the middle of a frame" if run.cut else None
    if run.claimed is not None and run.claimed > run.frames:
        lack = f"{run.frames:,} of {run.claimed:,} frames are there"
    stop = at + run.stop
    if size - stop < max(_FEW_BYTES, run.last_bytes) and behind(file, stop, size) is None:
        stop = size
    return Span("MP3", at, stop, lack)
