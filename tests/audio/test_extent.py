"""All that a file holds is read, or named: streams behind streams, counts that are too small, and what is no sound."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from nestvox.audio import probe, read
from nestvox.audio.errors import UnreadableAudioError
from nestvox.audio.opening import truncation
from nestvox.corpora import UtteranceTable
from nestvox.corpora.check import check_corpus

RATE = 16_000
JUNK = np.random.default_rng(5).bytes(3_000)
ID3V1 = b"TAG" + b"x" * 125
ID3V2 = b"ID3\x04\x00\x00\x00\x00\x02\x2c" + bytes(range(1, 251)) + bytes(50)
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 132, 1, 0xA0000000) + bytes(8) + b"y" * 100
APE += b"APETAGEX" + struct.pack("<IIII", 2000, 132, 1, 0x80000000) + bytes(8)
LYRICS = b"LYRICSBEGIN" + b"la " * 20 + b"000060LYRICS200"


def tone(n: int, seed: int) -> np.ndarray:
    """16-bit numbers that no other seed gives."""
    noise = np.random.default_rng(seed).standard_normal(n)
    return np.round(8000 * np.sin(np.arange(n) * 0.03 * (1 + seed)) + 300 * noise).astype(np.int16)


A, B = tone(12_000, 0), tone(9_000, 1)
A_BYTES, B_BYTES = A.astype("<i2").tobytes(), B.astype("<i2").tobytes()
A_HIGH = A.astype(">i2").tobytes()


def encoded(samples: np.ndarray, container: str, subtype: str, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def decoded(content: bytes) -> np.ndarray:
    """What libsndfile makes of one plain stream, without nestvox."""
    return soundfile.read(io.BytesIO(content), dtype="float32")[0]


def wav(data: bytes, claimed: int | None = None, *, behind: bytes = b"", tag: int = 1, bits: int = 16) -> bytes:
    described = struct.pack("<HHIIHH", tag, 1, RATE, RATE * 2, max(1, bits // 8), bits)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + described + b"data"
    chunks += struct.pack("<I", len(data) if claimed is None else claimed) + data + behind
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def aiff(data: bytes, *, frames: int | None = None, length: int | None = None) -> bytes:
    common = struct.pack(">hIhhQ", 1, len(data) // 2 if frames is None else frames, 16, 16383 + 13, RATE << 50)
    body = b"AIFFCOMM" + struct.pack(">I", 18) + common
    body += b"SSND" + struct.pack(">III", len(data) + 8 if length is None else length, 0, 0) + data
    return b"FORM" + struct.pack(">I", len(body)) + body


def au(data: bytes, length: int | None = None) -> bytes:
    return b".snd" + struct.pack(">IIIII", 24, len(data) if length is None else length, 3, RATE, 1) + data


def caf(data: bytes, length: int | None = None) -> bytes:
    described = struct.pack(">d4sIIIII", RATE, b"lpcm", 2, 2, 1, 1, 16)
    content = struct.pack(">q", len(data) + 4 if length is None else length) + bytes(4) + data
    return b"caff\0\1\0\0desc" + struct.pack(">q", 32) + described + b"data" + content


def w64(data: bytes, length: int | None = None) -> bytes:
    tail = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    content = b"fmt " + tail + struct.pack("<QHHIIHH", 40, 1, 1, RATE, 2 * RATE, 2, 16)
    content += b"data" + tail + struct.pack("<Q", 24 + (len(data) if length is None else length)) + data
    head = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
    return head + struct.pack("<Q", 40 + len(content)) + b"wave" + tail + content


def rf64(data: bytes, length: int) -> bytes:
    chunks = b"ds64" + struct.pack("<IQQQI", 28, 0, length, 0, 0)
    chunks += b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16) + b"data" + b"\xff" * 4 + data
    return b"RF64" + b"\xff" * 4 + b"WAVE" + chunks


def sphere(data: bytes, count: int | None = None, extra: str = "") -> bytes:
    fields = f"sample_count -i {len(data) // 2 if count is None else count}\nchannel_count -i 1\nsample_n_bytes -i 2\n"
    fields += f"sample_rate -i {RATE}\nsample_byte_format -s2 01\n{extra}"
    return f"NIST_1A\n   1024\n{fields}end_head\n".encode().ljust(1024) + data


def flac_claiming(content: bytes, total: int) -> bytes:
    """The same frames behind another count in STREAMINFO (36 bits, the last ones of bytes 18 to 25)."""
    fields = int.from_bytes(content[18:26], "big") >> 36 << 36
    return content[:18] + (fields | total).to_bytes(8, "big") + content[26:]


KINDS = [
    ("OGG", "OPUS"), ("OGG", "VORBIS"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("WAV", "PCM_16"),
    ("WAV", "IMA_ADPCM"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"),
    ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("NIST", "PCM_16"),
]  # fmt: skip


@pytest.fixture(scope="module")
def streams() -> dict[tuple[str, str], tuple[bytes, np.ndarray, bytes, np.ndarray]]:
    """Two recordings of each kind, and the samples of each by itself."""
    made = {}
    for kind in KINDS:
        one, two = encoded(A, *kind), encoded(B, *kind)
        made[kind] = (one, decoded(one), two, decoded(two))
    return made


def gives(path: Path, content: bytes, expected: np.ndarray) -> None:
    """Read a file whole and in part, and count it."""
    path.write_bytes(content)
    samples, rate = read(path, sample_rate=None)
    assert rate == RATE
    assert len(samples) == len(expected)
    np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-6)
    start = len(expected) - 3_000
    part, _ = read(path, sample_rate=None, start_s=start / RATE, duration_s=1_000 / RATE)
    np.testing.assert_allclose(part, expected[start : start + 1_000], rtol=0, atol=0.02)
    assert probe(path).duration_s == len(expected) / RATE


def refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    for call in (read, probe):
        with pytest.raises(UnreadableAudioError, match=message) as caught:
            call(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_streams_one_behind_the_other_are_all_read(tmp_path: Path, streams: Any, kind: tuple[str, str]) -> None:
    one, first, two, second = streams[kind]
    both = np.concatenate([first, second])
    gives(tmp_path / "a", one + two, both)
    gives(tmp_path / "b", one + ID3V1 + ID3V2 + two + bytes(700), both)
    gives(tmp_path / "c", one + two + one, np.concatenate([both, first]))
    # Of another format, too.
    gives(tmp_path / "d", one + wav(B_BYTES), np.concatenate([first, B / 2**15]))
    assert truncation(tmp_path / "d") is None


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_what_is_no_sound_does_no_harm(tmp_path: Path, streams: Any, kind: tuple[str, str]) -> None:
    one, first, _, _ = streams[kind]
    for name, content in {
        "id3v1": one + ID3V1,
        "ape": one + APE + ID3V1,
        "lyrics": one + LYRICS + ID3V1,
        "zeros": one + bytes(5_000),
        "id3v2": ID3V2 + ID3V2 + one,
    }.items():
        gives(tmp_path / name, content, first)
        assert truncation(tmp_path / name) is None


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_what_nothing_explains_is_named(tmp_path: Path, streams: Any, kind: tuple[str, str]) -> None:
    one, _, two, _ = streams[kind]
    message = r"3,00[01] bytes stand behind the end of the sound at byte [\d,]+ and are neither sound"
    refused(tmp_path / "a", one + JUNK, message)
    refused(tmp_path / "b", one + two + JUNK, message)
    report = check_corpus([table(tmp_path / "a")])
    assert [(found.kind, found.severity) for found in report.findings if found.severity == "error"] == [
        ("unusable-audio", "error")
    ]


def table(path: Path) -> UtteranceTable:
    import polars as pl

    return UtteranceTable(pl.DataFrame({"utt_id": ["u"], "path": [path.name], "speaker": ["s"]}), "made", path.parent)


@pytest.mark.parametrize("kind", [("OGG", "OPUS"), ("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("MP3", "MPEG_LAYER_III")])
def test_streams_that_differ_are_named(tmp_path: Path, streams: Any, kind: tuple[str, str]) -> None:
    one = streams[kind][0]
    stereo = encoded(np.stack([B, B], axis=1), *kind)
    refused(
        tmp_path / "a", one + stereo, "stream 2 of 2 in the file has 16000 Hz and 2 channels, the first 16000 Hz and 1"
    )
    refused(tmp_path / "b", one + encoded(B, *kind, rate=8_000), "has 8000 Hz and 1 channel, the first 16000 Hz")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (wav(A_BYTES, 0xFFFF_FFFF), A),
        (wav(A_BYTES, 0x7FFF_F024), A),
        (wav(A_BYTES, 0), A),
        (wav(A_BYTES, 0xFFFF_FFFF) + wav(B_BYTES, 0xFFFF_FFFF), np.concatenate([A, B])),
        (wav(A_BYTES, 0) + wav(B_BYTES, 0), np.concatenate([A, B])),
        (wav(A_BYTES, behind=chunk(b"LIST", b"INFOx") + chunk(b"id3 ", ID3V2)), A),
        (wav(A_BYTES, behind=chunk(b"LIST", b"INFO" * 9)[:-7]), A),
        (wav(A_BYTES, behind=chunk(b"data", B_BYTES)), np.concatenate([A, B])),
        (wav(A_BYTES, behind=chunk(b"LIST", b"INFO") + chunk(b"data", B_BYTES)), np.concatenate([A, B])),
        (wav(A_BYTES[:-1], behind=chunk(b"LIST", b"INFO" + b"z" * 30)), A[:-1]),
        (wav(encoded(A, "FLAC", "PCM_16"), tag=0xF1AC), A),
        (rf64(A_BYTES, len(A_BYTES)), A),
        (rf64(A_BYTES, 0), A),
        (aiff(A_HIGH, frames=100), A),
        (aiff(A_HIGH, frames=0, length=0), A),
        (au(A_HIGH, 0xFFFF_FFFF), A),
        (au(A_HIGH, 0), A),
        (au(A_HIGH, 0xFFFF_FFFF) + au(B.astype(">i2").tobytes(), 0xFFFF_FFFF), np.concatenate([A, B])),
        (caf(A_BYTES, -1), A),
        (flac_claiming(encoded(A, "FLAC", "PCM_16"), 0), A),
        (flac_claiming(encoded(A, "FLAC", "PCM_16"), 100), A),
        (flac_claiming(encoded(A, "FLAC", "PCM_16"), 4_096), A),
    ],
)
def test_counts_that_are_too_small_or_open(tmp_path: Path, content: bytes, expected: np.ndarray) -> None:
    gives(tmp_path / "a", content, expected / 2**15)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (wav(A_BYTES, 10_000), "14,000 bytes stand behind the end of the sound at byte 10,044"),
        (wav(A_BYTES, len(A_BYTES) - 2), "2 bytes stand behind"),
        (aiff(A_HIGH, length=1_008), "23,000 bytes stand behind"),
        (au(A_HIGH, 1_000), "23,000 bytes stand behind"),
        (caf(A_BYTES, 1_004), "23,000 bytes stand behind"),
        (w64(A_BYTES, 1_000), "23,000 bytes stand behind"),
        (rf64(A_BYTES, 1_000), "23,000 bytes stand behind"),
        (sphere(A_BYTES, 500), "23,000 bytes stand behind"),
        (sphere(A_BYTES, extra="sample_coding -s26 pcm,embedded-shorten-v2.00\n"), "convert it with sph2pipe"),
        (wav(wav(A_BYTES)), "in place of samples a whole WAV stream begins at byte 44"),
        (wav(encoded(A, "OGG", "OPUS")), "in place of samples a whole OGG stream begins"),
        (wav(encoded(A, "MP3", "MPEG_LAYER_III")), "in place of samples frames of MPEG audio or ADTS stand"),
        (wav(bytes(40) + b"\x72\xf8\x1f\x4e" + JUNK), r"compressed sound \(IEC 61937 or DTS\) begins"),
        (wav(b"\xfe\x7f\x01\x80" + JUNK), r"compressed sound \(IEC 61937 or DTS\) begins"),
        (au(wav(A_BYTES)), "in place of samples a whole WAV stream begins"),
        (caf(encoded(A, "FLAC", "PCM_16")), "in place of samples a whole FLAC stream begins"),
        (encoded(A, "FLAC", "PCM_16") + encoded(B, "FLAC", "PCM_16")[86:], "begins at sample 0 where sample 12,000"),
    ],
)
def test_counts_that_contradict_the_file_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    refused(tmp_path / "a", content, message)


def transport_stream(samples: np.ndarray) -> bytes:
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples / 2**15).astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        packets = [*stream.encode(frame), *stream.encode(None)]
        for packet in packets:
            container.mux(packet)
    return buffer.getvalue()


def free_bit_rate(content: bytes) -> bytes:
    """MPEG audio of one bit rate, whose frames do not say which."""
    data = bytearray(content)
    at, size = 0, 144  # 32 kbit/s at 16 kHz
    while at + 4 <= len(data) and data[at] == 0xFF:
        data[at + 2] &= 0x0D  # no padding either
        at += size
    return bytes(data)


@pytest.mark.parametrize("ending", ["raw", "vox", "gsm", "wav", "mp3", "snd", "al", ""])
@pytest.mark.parametrize("content", [A_BYTES, JUNK, b"#!AMR\n" + JUNK, b"plain text\n" * 300], ids=len)
def test_the_ending_of_a_name_makes_no_format(tmp_path: Path, content: bytes, ending: str) -> None:
    refused(tmp_path / f"a.{ending}", content, "cannot be opened as audio: Format not recognised")


def test_what_libsndfile_guesses_is_not_believed(tmp_path: Path) -> None:
    content = transport_stream(np.tile(A, 4))
    for ending in ("ts", "mp3", "aac"):
        refused(tmp_path / f"a.{ending}", content, "cannot be opened as audio|libsndfile takes it for MP3")


def test_mpeg_audio_behind_something_else_is_counted(tmp_path: Path, streams: Any) -> None:
    one, first, two, second = streams["MP3", "MPEG_LAYER_III"]
    gives(tmp_path / "a", b"Icy-name: a station\r\n" * 40 + one, first)
    gives(tmp_path / "b", JUNK + one + two, np.concatenate([first, second]))
    refused(tmp_path / "c", JUNK + one + JUNK, "3,000 bytes stand behind the end")


def test_adpcm_whose_length_was_never_written(tmp_path: Path, streams: Any) -> None:
    one, first, _, _ = streams["WAV", "IMA_ADPCM"]
    place = one.index(b"data") + 4
    gives(tmp_path / "a", one[:place] + bytes(4) + one[place + 4 :], first)
    refused(tmp_path / "b", one[:place] + struct.pack("<I", 1_024) + one[place + 4 :], "stand behind the end")


def test_mp3_in_a_wav(tmp_path: Path, streams: Any) -> None:
    one, first, two, second = streams["MP3", "MPEG_LAYER_III"]
    (tmp_path / "a.wav").write_bytes(wav(one, tag=0x55, bits=0))
    np.testing.assert_allclose(read(tmp_path / "a.wav")[0], first, atol=1e-6)
    (tmp_path / "b.wav").write_bytes(wav(one + two, tag=0x55, bits=0))
    np.testing.assert_allclose(read(tmp_path / "b.wav")[0], np.concatenate([first, second]), atol=1e-6)


def test_a_wav_of_more_than_four_gib(tmp_path: Path) -> None:
    """Its size is stated modulo 2^32, as by programs that know no RF64; most of the file is a hole."""
    n_bytes = (1 << 32) + 93_044
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        file.write(wav(A_BYTES, n_bytes % (1 << 32)))
        file.seek(44 + n_bytes - len(B_BYTES))
        file.write(B_BYTES)
    assert probe(path).duration_s == n_bytes / 2 / RATE
    last, _ = read(path, sample_rate=None, start_s=(n_bytes / 2 - len(B)) / RATE)
    np.testing.assert_array_equal(last, B / 2**15)
    assert truncation(path) is None


def pages(content: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(content):
        end = at + 27 + content[at + 26] + sum(content[at + 27 : at + 27 + content[at + 26]])
        found.append(content[at:end])
        at = end
    return found


def checked(page: bytes) -> bytes:
    """Give a page the checksum of RFC 3533, bit by bit."""
    page = page[:22] + bytes(4) + page[26:]
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1 ^ (0x04C11DB7 if register >> 31 else 0)) & 0xFFFF_FFFF
    return page[:22] + struct.pack("<I", register) + page[26:]


def page(serial: int, number: int, flags: int, body: bytes) -> bytes:
    head = b"OggS\0" + bytes([flags]) + struct.pack("<qIII", 0, serial, number, 0) + bytes([1, len(body)])
    return checked(head + body)


def test_ogg_with_streams_at_once(tmp_path: Path, streams: Any) -> None:
    one, first, _, _ = streams["OGG", "OPUS"]
    _, _, two, second = streams["OGG", "VORBIS"]
    opus, vorbis = pages(one), pages(two)
    skeleton = [page(7, 0, 2, b"fishead\0" + bytes(56)), page(7, 1, 4, b"")]
    theora = [page(9, 0, 2, b"\x80theora" + bytes(40)), page(9, 1, 0, b"x" * 200), page(9, 2, 4, b"y" * 99)]
    gives(tmp_path / "a", b"".join([skeleton[0], opus[0], skeleton[1], *opus[1:]]), first)
    gives(tmp_path / "b", b"".join([opus[0], skeleton[0], opus[1], skeleton[1], *opus[2:]]), first)
    gives(tmp_path / "c", b"".join([theora[0], vorbis[0], theora[1], *vorbis[1:-1], theora[2], vorbis[-1]]), second)
    refused(
        tmp_path / "d",
        b"".join([opus[0], vorbis[0], *opus[1:], *vorbis[1:]]),
        r"2 streams of sound at once \(Opus and Vor",
    )
    refused(tmp_path / "e", one + b"".join(vorbis[2:]), "pages of 1 streams that never begin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: [*parts[:4], *parts[5:]], "1 of its pages are damaged or missing"),
        (lambda parts: [*parts[:4], parts[4][:300] + b"zz" + parts[4][302:], *parts[5:]], "1 of its pages are damaged"),
        (
            lambda parts: [*parts[:-1], checked(parts[-1][:6] + struct.pack("<q", 20_000) + parts[-1][14:])],
            "ends at sample 20,000, one before it at sample",
        ),
    ],
    ids=["missing", "damaged", "an end before the end"],
)
def test_ogg_whose_pages_contradict_each_other(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], message: str
) -> None:
    parts = pages(encoded(tone(100_000, 3), "OGG", "OPUS"))
    assert len(parts) > 6
    refused(tmp_path / "a", b"".join(change(parts)), message)


def test_opus_that_cuts_off_its_last_page(tmp_path: Path) -> None:
    """As an encoder may to the sample, but not by most of a page."""
    samples = tone(40_000, 3)
    for n in (40_000, 39_000, 38_123, 3_500, 17_001):
        gives(tmp_path / "a", encoded(samples[:n], "OGG", "OPUS"), decoded(encoded(samples[:n], "OGG", "OPUS")))
    parts = pages(encoded(samples, "OGG", "OPUS"))
    (place,) = struct.unpack("<q", parts[-2][6:14])
    last = checked(parts[-1][:6] + struct.pack("<q", place + 1) + parts[-1][14:])
    refused(tmp_path / "b", b"".join([*parts[:-1], last]), r"its last page holds [\d.]+ s of sound and states an end")


def test_alac_whose_table_counts_too_little(tmp_path: Path, streams: Any) -> None:
    one, first, _, _ = streams["CAF", "ALAC_16"]
    gives(tmp_path / "a", one, first)
    place = one.index(b"pakt") + 12 + 8  # behind head and number of packets: of samples
    assert struct.unpack(">q", one[place : place + 8]) == (len(A),)
    changed = one[:place] + struct.pack(">q", 5_000) + one[place + 8 :]
    refused(tmp_path / "b", changed, "its table counts 3 packets of")


def test_flac_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a"
    gives(path, flac_claiming(encoded(A, "FLAC", "PCM_16"), 1_000_000), A / 2**15)
    assert truncation(path) == "12,000 of 1,000,000 samples are there"


def test_mp3_with_something_between_its_frames(tmp_path: Path, streams: Any) -> None:
    one, _, two, _ = streams["MP3", "MPEG_LAYER_III"]
    for between in (JUNK, ID3V2, APE, bytes(700), LYRICS + ID3V1):
        (tmp_path / "a.mp3").write_bytes(one + between + two)
        assert len(read(tmp_path / "a.mp3")[0]) == len(A) + len(B)
    refused(tmp_path / "b.mp3", one + JUNK * 10 + two, "neither sound that its header tells of")


def test_what_was_seen_of_a_file_is_not_kept_when_it_changes(tmp_path: Path, streams: Any) -> None:
    one, first, two, second = streams["OGG", "OPUS"]
    gives(tmp_path / "a", one, first)
    gives(tmp_path / "a", one + two, np.concatenate([first, second]))
    gives(tmp_path / "a", two, second)
