"""Samples that do not fill their bytes, by hand in every container that can hold them; against the numbers put in."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from nestvox.audio import probe, read
from nestvox.audio.errors import UnreadableAudioError

RATE = 16_000
NOISE = np.random.default_rng(0).standard_normal(4_000)
VALUES = np.round(3e6 * np.sin(np.arange(4_000) * 0.05) + 1e4 * NOISE).astype(np.int64)  # of 24 bits
SUBTYPE_PCM = bytes.fromhex("0100000000001000800000aa00389b71")
SUBTYPE_AMBISONIC = bytes.fromhex("010000002107d3118644c8c1ca000000")


def packed(values: np.ndarray, width: int, order: str = "little", *, signed: bool = True) -> bytes:
    return b"".join(int(value).to_bytes(width, order, signed=signed) for value in values)  # type: ignore[arg-type]


def fmt(tag: int, bits: int, block: int, channels: int = 1, extra: bytes = b"") -> bytes:
    return struct.pack("<HHIIHH", tag, channels, RATE, RATE * block, block, bits) + extra


def extensible(valid: int, subtype: bytes = SUBTYPE_PCM) -> bytes:
    return struct.pack("<HHI", 22, valid, 4) + subtype


def wav(described: bytes, data: bytes) -> bytes:
    chunks = b"WAVEfmt " + struct.pack("<I", len(described)) + described + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def rf64(described: bytes, data: bytes) -> bytes:
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 0, len(data), 0, 0)
    chunks = sizes + b"fmt " + struct.pack("<I", len(described)) + described + b"data" + b"\xff" * 4 + data
    return b"RF64" + b"\xff" * 4 + b"WAVE" + chunks


def w64(described: bytes, data: bytes) -> bytes:
    tail = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    described += bytes(-len(described) % 8)
    content = b"fmt " + tail + struct.pack("<Q", 24 + len(described)) + described
    content += b"data" + tail + struct.pack("<Q", 24 + len(data)) + data
    head = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
    return head + struct.pack("<Q", 40 + len(content)) + b"wave" + tail + content


def caf(bits: int, packet: int, data: bytes, *, big: bool = False, channels: int = 1) -> bytes:
    described = struct.pack(">d4sIIIII", RATE, b"lpcm", 0 if big else 2, packet, 1, channels, bits)
    return (
        b"caff\0\1\0\0desc"
        + struct.pack(">q", 32)
        + described
        + b"data"
        + struct.pack(">q", len(data) + 4)
        + bytes(4)
        + data
    )


def aiff(bits: int, data: bytes) -> bytes:
    frames = len(data) // -(-bits // 8)
    common = struct.pack(">hIhhQ", 1, frames, bits, 16383 + 13, RATE << 50)
    body = b"AIFFCOMM" + struct.pack(">I", 18) + common + b"SSND" + struct.pack(">III", len(data) + 8, 0, 0) + data
    return b"FORM" + struct.pack(">I", len(body)) + body


def sphere(width: int, bits: int, order: str, data: bytes) -> bytes:
    fields = (
        f"sample_count -i {len(data) // width}\nchannel_count -i 1\nsample_n_bytes -i {width}\nsample_rate -i {RATE}\n"
        f"sample_byte_format -s{len(order)} {order}\nsample_sig_bits -i {bits}\n"
    )
    return f"NIST_1A\n   1024\n{fields}end_head\n".encode().ljust(1024) + data


FULL = (VALUES << 8) + 77
LOW, HIGH = packed(VALUES, 4), packed(VALUES << 8, 4)
CLEARED = packed(VALUES & 0xFF_FFFF, 4)  # without the sign in the byte that is not used
V12, V20 = VALUES >> 12, VALUES >> 4
STEREO = packed(np.stack([VALUES, VALUES], axis=1).ravel(), 4)

CASES = {
    # name: file, expected samples of how many bits
    "wav 24 in 4, low, as arecord writes": (wav(fmt(1, 24, 4), LOW), VALUES, 24),
    "wav 24 in 4, low, sign cleared": (wav(fmt(1, 24, 4), CLEARED), VALUES, 24),
    "wav 24 in 4, high": (wav(fmt(1, 24, 4), HIGH), VALUES, 24),
    "wav 24 in 4, stereo": (wav(fmt(1, 24, 8, 2), STEREO), VALUES, 24),
    "wav 12 in 2, low": (wav(fmt(1, 12, 2), packed(V12, 2)), V12, 12),
    "wav 12 in 2, high": (wav(fmt(1, 12, 2), packed(V12 << 4, 2)), V12, 12),
    "wav 20 in 3, low": (wav(fmt(1, 20, 3), packed(V20, 3)), V20, 20),
    "wav 20 in 3, high": (wav(fmt(1, 20, 3), packed(V20 << 4, 3)), V20, 20),
    "wav 20 in 4, low": (wav(fmt(1, 20, 4), packed(V20, 4)), V20, 20),
    "wav 16 in 4, low": (wav(fmt(1, 16, 4), packed(VALUES >> 8, 4)), VALUES >> 8, 16),
    "extensible 24 of 32, high": (wav(fmt(0xFFFE, 32, 4, 1, extensible(24)), HIGH), VALUES, 24),
    "extensible 24 of 32, low": (wav(fmt(0xFFFE, 32, 4, 1, extensible(24)), LOW), VALUES, 24),
    "extensible 24 in 4, low": (wav(fmt(0xFFFE, 24, 4, 1, extensible(24)), LOW), VALUES, 24),
    "ambisonic 24 of 32, low": (wav(fmt(0xFFFE, 32, 4, 1, extensible(24, SUBTYPE_AMBISONIC)), LOW), VALUES, 24),
    "ambisonic 24 in 4, low": (wav(fmt(0xFFFE, 24, 4, 1, extensible(24, SUBTYPE_AMBISONIC)), LOW), VALUES, 24),
    "ambisonic 24 in 4, high": (wav(fmt(0xFFFE, 24, 4, 1, extensible(24, SUBTYPE_AMBISONIC)), HIGH), VALUES, 24),
    "extensible 20 of 24, high": (wav(fmt(0xFFFE, 24, 3, 1, extensible(20)), packed(V20 << 4, 3)), V20, 20),
    "wav 20 in 3, all 24 used": (wav(fmt(1, 20, 3), packed(VALUES, 3)), VALUES, 24),
    "extensible 24 of 32, all 32 used": (wav(fmt(0xFFFE, 32, 4, 1, extensible(24)), packed(FULL, 4)), FULL, 32),
    "rf64 24 in 4, low": (rf64(fmt(1, 24, 4), LOW), VALUES, 24),
    "w64 24 in 4, low": (w64(fmt(1, 24, 4), LOW), VALUES, 24),
    "w64 24 in 3": (w64(fmt(1, 24, 3), packed(VALUES, 3)), VALUES, 24),
    "caf 24 in 4, low": (caf(24, 4, LOW), VALUES, 24),
    "caf 24 in 4, high": (caf(24, 4, HIGH), VALUES, 24),
    "caf 24 in 4, low, highest byte first": (caf(24, 4, packed(VALUES, 4, "big"), big=True), VALUES, 24),
    "caf 20 in 3, high": (caf(20, 3, packed(V20 << 4, 3)), V20, 20),
    "caf stereo": (caf(24, 8, STEREO, channels=2), VALUES, 24),
    "aiff 12 in 2, high": (aiff(12, packed(V12 << 4, 2, "big")), V12, 12),
    "aiff 12 in 2, low": (aiff(12, packed(V12, 2, "big")), V12, 12),
    "aiff 20 in 3, low": (aiff(20, packed(V20, 3, "big")), V20, 20),
    "sphere 12 in 2, low": (sphere(2, 12, "01", packed(V12, 2)), V12, 12),
    "sphere 16, highest byte first": (sphere(2, 16, "10", packed(VALUES >> 8, 2, "big")), VALUES >> 8, 16),
    "sphere 24 in 3": (sphere(3, 24, "012", packed(VALUES, 3)), VALUES, 24),
    "sphere 24 in 3, highest byte first": (sphere(3, 24, "210", packed(VALUES, 3, "big")), VALUES, 24),
    "sphere 24 in 4, low": (sphere(4, 24, "0123", LOW), VALUES, 24),
}


@pytest.mark.parametrize("case", CASES)
def test_every_layout_gives_the_numbers_back(tmp_path: Path, case: str) -> None:
    content, values, bits = CASES[case]
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    samples, rate = read(path, sample_rate=None)
    assert rate == RATE
    np.testing.assert_allclose(samples, values / 2 ** (bits - 1), rtol=0, atol=2**-24)
    part, _ = read(path, sample_rate=None, start_s=0.1, duration_s=0.05)
    np.testing.assert_array_equal(part, samples[1600:2400])
    info = probe(path)
    assert info.duration_s == len(values) / RATE
    named = next(name for mark, name in MARKS.items() if content.startswith(mark))
    assert info.format == ("WAVEX" if content[20:22] == b"\xfe\xff" else named)


MARKS = {b"RIFF": "WAV", b"RF64": "RF64", b"riff": "W64", b"caff": "CAF", b"FORM": "AIFF", b"NIST": "NIST"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # As Cool Edit writes floats: of the range of 24 bits, and described as integers.
        (wav(fmt(1, 24, 4), VALUES.astype("<f4").tobytes()), r"24 bits in 4 bytes \(blocks of 4 bytes, 1 channels\)"),
        (wav(fmt(1, 16, 5, 2), bytes(range(250)) * 20), "its blocks have 5 bytes, which 2 channels cannot share"),
        (wav(fmt(1, 16, 3), packed(VALUES, 3)), "16 bits in 3 bytes"),
        (wav(fmt(3, 32, 8), bytes(range(250)) * 32), "float samples of 32 bits in 8 bytes"),
        (wav(fmt(1, 24, 2), bytes(range(250)) * 32), "24 bits in 2 bytes"),
        (w64(fmt(1, 16, 5, 2), bytes(range(250)) * 20), "its blocks have 5 bytes, which 2 channels cannot share"),
        (caf(16, 5, bytes(range(250)) * 20, channels=2), "its blocks have 5 bytes, which 2 channels cannot share"),
        (caf(16, 3, packed(VALUES, 3)), "16 bits in 3 bytes"),
        (sphere(2, 16, "11", bytes(range(250)) * 20), "gives the bytes of 2-byte samples the order '11'"),
        (sphere(4, 24, "01", LOW), "gives the bytes of 4-byte samples the order '01'"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_numbers(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(UnreadableAudioError, match=message):
        read(path)
    with pytest.raises(UnreadableAudioError, match=message):
        probe(path)
