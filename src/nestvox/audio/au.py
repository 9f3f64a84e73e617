"""Where the sound of au and NIST SPHERE files is: a header, and samples up to the end."""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from nestvox.audio.chunks import sound_span
from nestvox.audio.pieces import bytes_at
from nestvox.audio.sample_layout import Sound
from nestvox.audio.spans import Span

# Sun's numbers of codings: coding, and bytes a sample.
_AU = {
    1: ("ulaw", 1), 2: ("pcm", 1), 3: ("pcm", 2), 4: ("pcm", 3), 5: ("pcm", 4), 6: ("float", 4), 7: ("float", 8),
    27: ("alaw", 1),
}  # fmt: skip
_HEADER = 24
_SPHERE_BYTES = 4096


def au_span(file: BinaryIO, start: int, size: int) -> Span:
    """Look into a stream with the header of Sun's and NeXT's au."""
    head = bytes_at(file, start, _HEADER)
    if len(head) < _HEADER:
        return Span("AU", start, size)
    sign = ">" if head.startswith(b".snd") else "<"
    offset, length, number, rate, channels = struct.unpack(f"{sign}4xIIIII", head)
    coding, width = _AU.get(number, (None, 0))
    if offset < _HEADER or start + offset > size or not 0 < channels < 1 << 16:
        return Span("AU", start, size)
    sound = Sound(
        "AU",
        start + offset,
        length,
        rate,
        channels,
        width * channels,
        8 * width,
        coding,
        sign == ">",
        wraps=True,
        length_at=start + 8,
        length_layout=f"{sign}I",
        again=head[:8],
    )
    return sound_span(file, start, size, sound)


def sphere_span(file: BinaryIO, start: int, size: int) -> Span:
    """Look into a stream with a header of NIST SPHERE."""
    text = bytes_at(file, start, _SPHERE_BYTES).decode("latin-1")
    text = text.partition("end_head")[0]
    begins = re.match(r"NIST_1A\n\s*(\d{1,9})", text)
    fields = dict(re.findall(r"^(\w+) -(?:i|s\d+) +(\S+)", text, re.MULTILINE))
    try:
        count, channels, width, rate = (
            int(fields[name]) for name in ("sample_count", "channel_count", "sample_n_bytes", "sample_rate")
        )
        bits = int(fields.get("sample_sig_bits", 8 * width))
    except (KeyError, ValueError):
        return Span("NIST", start, size)
    if begins is None or not 0 < channels < 1 << 16 or not 0 < width <= 8 or count < 0:
        return Span("NIST", start, size)
    coding = fields.get("sample_coding", "pcm").lower()
    refusal = None
    if "," in coding or coding not in {"pcm", "ulaw", "mu-law", "alaw"}:
        refusal = f"its samples are coded as {coding!r}; convert it with sph2pipe"
    order = fields.get("sample_byte_format", "01" if width == 2 else "")
    # "01": the lowest byte first, "10": the highest, of however many.
    orders = {"".join(map(str, range(width))): False, "".join(map(str, reversed(range(width)))): True}
    if width > 1 and order not in orders:
        refusal = refusal or f"its header gives the bytes of {width}-byte samples the order {order!r}"
    if refusal is not None:
        return Span("NIST", start, size, refusal=refusal)
    sound = Sound(
        "NIST",
        start + int(begins[1]),
        count * channels * width,
        rate,
        channels,
        width * channels,
        bits if 0 < bits <= 8 * width else 8 * width,
        "ulaw" if coding == "mu-law" else coding,
        orders.get(order, False),
        container_bits=8 * width,
        known=width <= 2,  # of wider ones libsndfile knows some orders only
    )
    return sound_span(file, start, size, sound)
