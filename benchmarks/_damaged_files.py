"""Small audio files of every format that nestvox reads, and ways to damage them; shared by `fuzz_decode` and the tests.

Damage is a function of bytes and a random generator, so that a file that breaks something can be made again from the
seed, the format and its number.
"""

from __future__ import annotations

import importlib.util
import io
import random
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

__all__ = ["FORMATS", "N_ORIGINALS", "damage", "has_av", "original", "path_of"]

N_ORIGINALS = 2  # of each format: mono at 16 kHz, and two channels at 44.1 or 48 kHz
SECONDS = 1.5
_WHOLE, _HALVES = slice(0, 32), (slice(0, 16), slice(16, 32))  # of the samples, in 32nds
_TAR_MAGIC = b"ustar"  # at byte 257 of every header
_MEMBER_AT = 2 * tarfile.BLOCKSIZE  # behind header and content of the first member

# Name: container, coding, file name ending; by libsndfile.
_SNDFILE = {
    "wav pcm8": ("WAV", "PCM_U8", "wav"),
    "wav pcm16": ("WAV", "PCM_16", "wav"),
    "wav pcm24": ("WAV", "PCM_24", "wav"),
    "wav pcm32": ("WAV", "PCM_32", "wav"),
    "wav float": ("WAV", "FLOAT", "wav"),
    "wav double": ("WAV", "DOUBLE", "wav"),
    "wav ulaw": ("WAV", "ULAW", "wav"),
    "wav alaw": ("WAV", "ALAW", "wav"),
    "wav ima adpcm": ("WAV", "IMA_ADPCM", "wav"),
    "wav ms adpcm": ("WAV", "MS_ADPCM", "wav"),
    "wavex pcm24": ("WAVEX", "PCM_24", "wav"),
    "rf64 pcm16": ("RF64", "PCM_16", "wav"),
    "w64 pcm16": ("W64", "PCM_16", "w64"),
    "aiff pcm16": ("AIFF", "PCM_16", "aiff"),
    "aiff float": ("AIFF", "FLOAT", "aiff"),
    "au pcm16": ("AU", "PCM_16", "au"),
    "au ulaw": ("AU", "ULAW", "au"),
    "caf pcm16": ("CAF", "PCM_16", "caf"),
    "caf alac": ("CAF", "ALAC_16", "caf"),
    "sph pcm16": ("NIST", "PCM_16", "sph"),
    "flac": ("FLAC", "PCM_16", "flac"),
    "flac 24 bit": ("FLAC", "PCM_24", "flac"),
    "ogg vorbis": ("OGG", "VORBIS", "ogg"),
    "ogg opus": ("OGG", "OPUS", "opus"),
    "mp3": ("MP3", "MPEG_LAYER_III", "mp3"),
}
# Name: muxer, codec, layout of the samples, file name ending; by FFmpeg's libraries through PyAV.
_AV = {
    "m4a aac": ("ipod", "aac", "fltp", "m4a"),
    "m4a aac, index first": ("ipod", "aac", "fltp", "m4a"),
    "m4a alac": ("ipod", "alac", "s16p", "m4a"),
    "mp4 aac": ("mp4", "aac", "fltp", "mp4"),
    "aac (adts)": ("adts", "aac", "fltp", "aac"),
    "webm opus": ("webm", "libopus", "s16", "webm"),
    "mka pcm24": ("matroska", "pcm_s24le", "s32", "mka"),
    "mkv flac": ("matroska", "flac", "s16", "mkv"),
    "ogg flac": ("ogg", "flac", "s16", "ogg"),
}
# What is put together out of two halves, or wrapped: by what, and the kind that it is made of.
_MADE = {
    "wav pcm16, two in a row": ("chain", "wav pcm16"),
    "flac, two in a row": ("chain", "flac"),
    "ogg opus, chained": ("chain", "ogg opus"),
    "ogg vorbis, chained": ("chain", "ogg vorbis"),
    "mp3, two in a row": ("chain", "mp3"),
    "m4a aac, two in a row": ("chain", "m4a aac"),
    "webm opus, two in a row": ("chain", "webm opus"),
    "aac (adts) behind ID3": ("id3", "aac (adts)"),
    "flac behind ID3": ("id3", "flac"),
    "mp3 in wav": ("wav", "mp3"),
    "wav, 24 bits in 4 bytes": ("low", "wav pcm24"),
    "wav of open length": ("open", "wav pcm16"),
    "ogg opus beside pictures": ("beside", "ogg opus"),
}
# What the member holds, and whether it is found by its place or by its name; as a member of a tar archive.
_TAR = {
    **{
        f"tar: {name}": (name, True)
        for name in ("wav pcm16", "wav ms adpcm", "aiff float", "caf alac", "flac", "ogg vorbis", "ogg opus", "mp3")
    },
    **{f"tar: {name}": (name, True) for name in ("m4a aac", "aac (adts)", "webm opus")},
    "tar, by name: wav pcm16": ("wav pcm16", False),
    "tar, by name: flac": ("flac", False),
    "tar, sparse: wav pcm16": ("wav pcm16", True),
    "tar, linked: wav pcm16": ("wav pcm16", False),
}
FORMATS = {
    **{name: kind[2] for name, kind in _SNDFILE.items()},
    **{name: kind[3] for name, kind in _AV.items()},
    **{name: {**_SNDFILE, **_AV}[kind][-1] for name, (_, kind) in _MADE.items()},
    **dict.fromkeys(_TAR, "tar"),
}
"""Every format by its name, with the ending of its files."""


def has_av() -> bool:
    """Whether the formats that need the extra [av] can be made and read."""
    return importlib.util.find_spec("av") is not None


def original(name: str, number: int, folder: Path, part: slice = _WHOLE) -> bytes | None:
    """Make an undamaged file.

    Args:
        name: one of `FORMATS`.
        number: 0 to `N_ORIGINALS` - 1.
        folder: for a temporary file.
        part: of the samples, counted in 32nds of them.

    Returns:
        Its bytes; None where the extra [av] is needed and not installed.
    """
    if name in _TAR:
        content = original(_TAR[name][0], number, folder)
        return None if content is None else _archive(name, content)
    if name in _MADE:
        way, kind = _MADE[name]
        parts = [original(kind, number, folder, part) for part in (_HALVES if way == "chain" else (_WHOLE,))]
        return None if any(part is None for part in parts) else _put_together(way, b"".join(filter(None, parts)))
    channels = 1 + number
    path = folder / f"original.{FORMATS[name]}"
    if name in _SNDFILE:
        container, coding, _ = _SNDFILE[name]
        rate = 16_000 if channels == 1 else 48_000 if coding == "OPUS" else 44_100
        soundfile.write(path, _samples(rate, channels, part), rate, format=container, subtype=coding)
    elif has_av():
        muxer, codec, layout, _ = _AV[name]
        rate = 48_000 if codec == "libopus" else 16_000 if channels == 1 else 44_100
        samples = _samples(rate, channels, part)
        _encode(path, samples, rate, muxer, codec, layout, index_first=name.endswith("index first"))
    else:
        return None
    content = path.read_bytes()
    path.unlink()
    return _the_same_every_time(content)


def _the_same_every_time(content: bytes) -> bytes:
    """Take out what libsndfile puts in of its own: a random number in Ogg, the time beside the peak of floats."""
    data = bytearray(content)
    if data.startswith(b"OggS"):
        for at in range(len(data)):
            if data.startswith(b"OggS\0", at):
                data[at + 14 : at + 18] = struct.pack("<I", 1)
        _new_checksums(data)
    peak = data.find(b"PEAK", 0, 1024)
    if peak >= 0:
        data[peak + 12 : peak + 16] = bytes(4)
    return bytes(data)


def path_of(name: str, path: Path) -> Path:
    """Return what to read in a file of a format: itself, or the member of an archive."""
    if name not in _TAR:
        return path
    place = f"{_MEMBER_AT}::" if _TAR[name][1] else ""
    return Path(f"{path}::{place}{_member(name)}")


def _member(name: str) -> str:
    # A name of more than 100 characters has headers of its own before the header.
    long = "" if _TAR[name][1] else "a folder with a long name/" * 5
    return f"{long}2.{FORMATS[_TAR[name][0]]}"


def _archive(name: str, content: bytes) -> bytes:
    """Put a file between others, the first of which takes `_MEMBER_AT` bytes."""
    short = _short_wav()
    written = io.BytesIO()
    kind = tarfile.PAX_FORMAT if name == "tar, by name: flac" else tarfile.GNU_FORMAT
    if name.startswith("tar, sparse"):
        return _sparse(_member(name), content, short)
    if name.startswith("tar, linked"):
        return _linked(_member(name), content, short)
    with tarfile.open(fileobj=written, mode="w", format=kind) as archive:
        for member, data in (("1.json", b"{}"), (_member(name), content), ("3.wav", short)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return written.getvalue()


def _linked(name: str, content: bytes, short: bytes) -> bytes:
    """Put the file in under another name, and a link to that."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member, data in (("first.wav", content), (name, b""), ("3.wav", short)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            if not data:
                info.type, info.linkname = tarfile.LNKTYPE, "first.wav"
            archive.addfile(info, io.BytesIO(data))
    return written.getvalue()


def _sparse(name: str, content: bytes, short: bytes) -> bytes:
    """Put the file in as GNU tar does with holes (pax, version 0.1), though it has none: in two parts."""
    half = len(content) // 1024 * 512
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, data in (("1.json", b"{}"), (name, content), ("3.wav", short)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            if member == name:
                info.pax_headers = {
                    "GNU.sparse.size": str(len(content)),
                    "GNU.sparse.numblocks": "2",
                    "GNU.sparse.map": f"0,{half},{half},{len(content) - half}",
                    "GNU.sparse.name": name,
                }
            archive.addfile(info, io.BytesIO(data))
    return written.getvalue()


def _short_wav() -> bytes:
    """A tenth of a second of sound, for the member behind."""
    written = io.BytesIO()
    soundfile.write(written, _samples(16_000, 1)[:1600], 16_000, format="WAV")
    return written.getvalue()


def _put_together(way: str, content: bytes) -> bytes:
    """Wrap a file, or take its head apart."""
    if way == "id3":
        return b"ID3\x04\0\0\0\0\x02\x2c" + bytes(300) + content
    if way == "wav":
        described = struct.pack("<IHHIIHHH", 18, 0x55, 1, 16_000, 4_000, 1, 0, 0)
        chunks = b"WAVEfmt " + described + b"data" + struct.pack("<I", len(content)) + content
        return b"RIFF" + struct.pack("<I", len(chunks)) + chunks
    if way == "beside":
        pages = [(2, 0, b"\x80theora" + bytes(40)), (0, 1, b"x" * 200), (4, 2, b"y" * 100)]
        made = [
            b"OggS\0" + struct.pack("<BqIIIBB", flags, 0, 9, number, 0, 1, len(body)) + body
            for flags, number, body in pages
        ]
        first = content.index(b"OggS", 4)
        data = bytearray(made[0] + content[:first] + made[1] + made[2] + content[first:])
        _new_checksums(data)
        return bytes(data)
    if way not in {"low", "open"}:
        return content
    place = content.index(b"data") + 4
    if way == "open":
        return content[:place] + b"\xff" * 4 + content[place + 4 :]
    samples = np.frombuffer(content[place + 4 :], np.uint8).reshape(-1, 3)
    wide = np.concatenate([samples, np.where(samples[:, 2:] > 127, 255, 0).astype(np.uint8)], axis=1).tobytes()
    channels, rate = struct.unpack("<HI", content[22:28])
    fields = struct.pack("<HHIIHH", 1, channels, rate, 4 * channels * rate, 4 * channels, 24)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + fields + b"data" + struct.pack("<I", len(wide)) + wide
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def _samples(rate: int, channels: int, part: slice = _WHOLE) -> NDArray[np.float32]:
    """A chirp in noise, (T, channels), or a part of it."""
    time = np.arange(round(SECONDS * rate)) / rate
    noise = np.random.default_rng(channels).standard_normal((len(time), channels))
    chirp = np.sin(2 * np.pi * (150 * time + 400 * time**2))
    samples = (0.3 * chirp[:, None] + 0.05 * noise).astype(np.float32)
    return samples[part.start * len(samples) // 32 : part.stop * len(samples) // 32]


def _encode(
    path: Path, samples: NDArray[np.float32], rate: int, muxer: str, codec: str, layout: str, *, index_first: bool
) -> None:
    import av

    named = {1: "mono", 2: "stereo"}[samples.shape[1]]
    options = {"fflags": "+bitexact"}  # no times and no random names: the same bytes every time
    if index_first:
        options["movflags"] = "faststart"
    with av.open(str(path), "w", format=muxer, options=options) as file:
        stream: Any = file.add_stream(codec, rate=rate)
        stream.layout = named
        for start in range(0, len(samples), 1024):
            block: NDArray[Any] = samples[start : start + 1024]
            if layout.startswith("s16"):
                block = (block * 32_767).astype(np.int16)
            elif layout.startswith("s32"):
                block = (block * 2.0**31).clip(-(2.0**31), 2.0**31 - 256).astype(np.int32)
            block = block.T if layout.endswith("p") else block.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format=layout, layout=named)
            frame.sample_rate = rate
            frame.pts = start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def damage(content: bytes, draw: random.Random) -> bytes:
    """Damage a file in one to three ways, each drawn from `WAYS`.

    Pages of Ogg get a new checksum half of the time: otherwise the decoders behind it would never see the damage; so do
    the headers of a tar archive, of which half of the time only the member in the middle is damaged.
    """
    if content[257:262] == _TAR_MAGIC:
        return _damaged_archive(content, draw)
    damaged = bytearray(content)
    _damage_some(damaged, draw)
    if damaged.startswith(b"OggS") and draw.random() < 0.5:
        _new_checksums(damaged)
    return bytes(damaged)


def _damage_some(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if not data:
            break
        draw.choice(WAYS)(data, draw)


def _damaged_archive(content: bytes, draw: random.Random) -> bytes:
    before, member = b"", bytearray(content)
    behind = b""
    if draw.random() < 0.5:
        end = content.rindex(b"3.wav\0", 0, content.rindex(_TAR_MAGIC))
        before, member, behind = content[:_MEMBER_AT], bytearray(content[_MEMBER_AT:end]), content[end:]
    _damage_some(member, draw)
    damaged = bytearray(before + member + behind)
    if draw.random() < 0.5:
        for at in range(0, len(damaged) - tarfile.BLOCKSIZE + 1, tarfile.BLOCKSIZE):
            header = damaged[at : at + tarfile.BLOCKSIZE]
            if header[257:262] == _TAR_MAGIC:
                header[148:156] = b" " * 8  # POSIX: the sum of all bytes, with blanks where it stands
                damaged[at + 148 : at + 156] = f"{sum(header):06o}\0 ".encode()
    return bytes(damaged)


def _place(data: bytearray, draw: random.Random) -> int:
    """Anywhere, but half of the time where headers and indices stand: within 512 bytes of the beginning or the end."""
    kind = draw.randrange(4)
    near = min(len(data), 512)
    if kind == 0:
        return draw.randrange(near)
    if kind == 1:
        return len(data) - 1 - draw.randrange(near)
    return draw.randrange(len(data))


def _truncate(data: bytearray, draw: random.Random) -> None:
    del data[_place(data, draw) :]


def _flip_bits(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 4, 32, 256))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _flip_header_bits(data: bytearray, draw: random.Random) -> None:
    reach = min(len(data), draw.choice((32, 128, 512)))
    for _ in range(draw.choice((1, 2, 8))):
        data[draw.randrange(reach)] ^= 1 << draw.randrange(8)


def _set_field(data: bytearray, draw: random.Random) -> None:
    """Put a number that a length or a count can hardly be where one may stand."""
    width = draw.choice((1, 2, 4, 8))
    highest = 256**width - 1
    value = draw.choice((0, 1, highest, highest >> 1, (highest >> 1) + 1, highest - 7, draw.randrange(highest + 1)))
    at = _place(data, draw)
    at -= at % min(width, 4) if draw.random() < 0.7 else 0
    written = value.to_bytes(width, draw.choice(("little", "big")))
    data[at : at + width] = written[: len(data) - at]


def _cut_out(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    del data[at : at + draw.choice((1, 2, 16, 300, 5000))]


def _repeat(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    piece = data[at : at + draw.choice((1, 2, 16, 300, 5000))]
    data[at:at] = piece * draw.choice((1, 1, 3, 20))


def _overwrite(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    size = min(draw.choice((8, 64, 1000)), len(data) - at)
    data[at : at + size] = draw.choice((bytes(size), b"\xff" * size, draw.randbytes(size)))


def _move(data: bytearray, draw: random.Random) -> None:
    """Copy one place over another: blocks and boxes in each other's place, and nested in each other."""
    source, target = _place(data, draw), _place(data, draw)
    size = min(draw.choice((4, 8, 40, 500)), len(data) - target)
    piece = data[source : source + size]
    data[target : target + len(piece)] = piece


def _append(data: bytearray, draw: random.Random) -> None:
    data += draw.choice((bytes(3000), draw.randbytes(3000), bytes(data), bytes(data[: len(data) // 3])))


WAYS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _truncate,
    _flip_bits,
    _flip_header_bits,
    _set_field,
    _set_field,
    _cut_out,
    _repeat,
    _overwrite,
    _move,
    _append,
)


def _new_checksums(data: bytearray) -> None:
    """Give every Ogg page the checksum of what it holds now (RFC 3533, section 6)."""
    at = data.find(b"OggS")
    while at >= 0 and at + 27 <= len(data):
        lacing = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + data[at + 26] + sum(lacing)
        if end <= len(data):
            data[at + 22 : at + 26] = bytes(4)
            data[at + 22 : at + 26] = struct.pack("<I", _ogg_crc(data[at:end]))
        at = data.find(b"OggS", at + 4)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        register = value << 24
        for _ in range(8):
            register = (register << 1) ^ (0x04C11DB7 if register & 0x80000000 else 0)
        table.append(register & 0xFFFFFFFF)
    return table


_TABLE = _crc_table()


def _ogg_crc(page: bytearray) -> int:
    register = 0
    for byte in page:
        register = (register << 8 & 0xFFFFFFFF) ^ _TABLE[(register >> 24) ^ byte]
    return register
