"""Members that are no plain files: sparse, links, names and sizes in headers of their own; against what was put in."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nestvox.audio import read
from nestvox.audio.archives import members_in, read_bytes
from nestvox.audio.errors import UnreadableAudioError

SAMPLES = np.round(8000 * np.sin(np.arange(40_000) * 0.05)).astype("<i2")
HOLE = slice(5_000, 30_000)


def wav() -> bytes:
    """A recording with a long silence: what a file system, and tar after it, keeps as a hole."""
    samples = SAMPLES.copy()
    samples[HOLE] = 0
    data = samples.tobytes()
    chunks = (
        b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16) + b"data" + struct.pack("<I", len(data))
    )
    return b"RIFF" + struct.pack("<I", len(chunks) + len(data)) + chunks + data


def sparse_file(path: Path) -> Path:
    content = wav()
    with path.open("wb") as file:
        file.write(content[:12_288])
        file.seek(57_344)
        file.write(content[57_344:])
    assert path.read_bytes() == content
    return path


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command here")
@pytest.mark.parametrize(
    "options", [("gnu", ""), ("pax", "0.0"), ("pax", "0.1"), ("pax", "1.0")], ids=["gnu", "0.0", "0.1", "1.0"]
)
def test_sparse_members_read_as_the_file(tmp_path: Path, options: tuple[str, str]) -> None:
    kind, version = options
    sparse_file(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(wav()[:20_044])
    made = tmp_path / f"{kind}.tar"
    command = ["tar", "--sparse", f"--format={kind}", "-cf", str(made), "-C", str(tmp_path), "a.wav", "b.wav"]
    subprocess.run([*command[:2], *([f"--sparse-version={version}"] if version else []), *command[2:]], check=True)
    if made.stat().st_size > 70_000:
        pytest.skip("this file system keeps no holes")
    members = list(members_in(made))
    assert [member.name for member in members] == ["a.wav", "b.wav"]
    for path in (members[0].path, f"{made}::a.wav"):
        assert read_bytes(path) == wav()
        assert np.array_equal(read(path)[0] * 2**15, np.frombuffer(wav()[44:], "<i2"))
    assert read_bytes(members[1].path) == wav()[:20_044]


def gnu_sparse(parts: list[tuple[int, int]], size: int, stored: bytes) -> bytes:
    """A member of the old GNU kind, by hand: up to four parts in the header itself."""
    head = bytearray(512)
    head[0:5] = b"a.wav"
    for place, text in (
        (100, "0000644"),
        (108, "0000000"),
        (116, "0000000"),
        (124, f"{len(stored):011o}"),
        (136, "0" * 11),
    ):
        head[place : place + len(text)] = text.encode()
    head[156:157] = b"S"
    head[257:265] = b"ustar  \0"
    for number, (offset, length) in enumerate(parts):
        head[386 + 24 * number : 386 + 24 * number + 24] = f"{offset:011o}\0{length:011o}\0".encode()
    head[483:495] = f"{size:011o}\0".encode()
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head) + stored + bytes(-len(stored) % 512) + bytes(1024)


def test_sparse_members_by_hand(tmp_path: Path) -> None:
    content = wav()
    parts = [(0, 10_240), (59_904, len(content) - 59_904)]
    stored = b"".join(content[start : start + length] for start, length in parts)
    (tmp_path / "a.tar").write_bytes(gnu_sparse(parts, len(content), stored))
    assert read_bytes(tmp_path / "a.tar::a.wav") == content
    assert read_bytes(tmp_path / "a.tar::0::a.wav") == content


@pytest.mark.parametrize(
    ("parts", "size", "message"),
    [
        ([(0, 512), (1 << 32, 512)], (1 << 32) + 512, "are holes, which the archive does not store; unpack it"),
        ([(0, 512), (1024, 1 << 30)], (1 << 30) + 1024, "truncated"),
    ],
)
def test_sparse_members_that_claim_too_much(
    tmp_path: Path, parts: list[tuple[int, int]], size: int, message: str
) -> None:
    (tmp_path / "a.tar").write_bytes(gnu_sparse(parts, size, bytes(range(256)) * 4))
    for path in ("a.tar::a.wav", "a.tar::0::a.wav"):
        with pytest.raises(UnreadableAudioError, match=message):
            read(tmp_path / path)


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes], **options: object) -> Path:
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def test_links_lead_to_what_they_mean(tmp_path: Path) -> None:
    made = archive(
        tmp_path / "a.tar",
        member("ann/1.wav", wav()),
        member("ben/2.wav", kind=tarfile.LNKTYPE, link="ann/1.wav"),
        member("ben/3.wav", kind=tarfile.SYMTYPE, link="../ann/1.wav"),
        member("4.wav", kind=tarfile.SYMTYPE, link="ben/3.wav"),
        member("ann/1.wav", b"later"),
    )
    # A hard link means what stood before it, a symbolic one what is there in the end: as when it is unpacked.
    assert read_bytes(f"{made}::ben/2.wav") == wav()
    assert read_bytes(f"{made}::ann/1.wav") == b"later"
    assert read_bytes(f"{made}::ben/3.wav") == read_bytes(f"{made}::4.wav") == b"later"
    assert [one.name for one in members_in(made)] == ["ann/1.wav", "ben/2.wav", "ann/1.wav"]
    assert [read_bytes(one.path) for one in members_in(made)] == [wav(), wav(), b"later"]


@pytest.mark.parametrize(
    ("kind", "link", "message"),
    [
        (tarfile.SYMTYPE, "a.wav", "links"),
        (tarfile.SYMTYPE, "/etc/passwd", "no such member as /etc/passwd, to which it is a link"),
        (tarfile.SYMTYPE, "../../etc/passwd", "no such member as ../../etc/passwd"),
        (tarfile.LNKTYPE, "gone.wav", "no such member as gone.wav"),
        (tarfile.LNKTYPE, "a.wav", "no such member"),
        (tarfile.CHRTYPE, "", "no regular file"),
        (tarfile.FIFOTYPE, "", "no regular file"),
        (tarfile.DIRTYPE, "", "no regular file"),
    ],
)
def test_members_without_content(tmp_path: Path, kind: bytes, link: str, message: str) -> None:
    made = archive(tmp_path / "a.tar", member("a.wav", kind=kind, link=link))
    with pytest.raises(UnreadableAudioError, match=message):
        read(f"{made}::a.wav")


def test_names_and_sizes_in_headers_of_their_own(tmp_path: Path) -> None:
    name = "ä" * 150 + ".wav"
    info, content = member(name, wav())
    info.pax_headers = {"comment": "kept by hand"}
    made = archive(tmp_path / "a.tar", (info, content), member("b.wav", wav()), format=tarfile.PAX_FORMAT)
    assert [one.name for one in members_in(made)] == [name, "b.wav"]
    for one in members_in(made):
        assert read_bytes(one.path) == read_bytes(f"{made}::{one.name}") == wav()
    # A size that counts in place of the one in the plain header, which says 0.
    raw = bytearray(made.read_bytes())
    place = raw.rindex(b"b.wav")
    record = b"%d size=%d\n" % (len(b"14 size=%d\n" % len(wav())), len(wav()))
    extended, _ = member("x", record, tarfile.XHDTYPE)
    plain = tarfile.TarInfo("b.wav")
    body = extended.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + plain.tobuf(tarfile.USTAR_FORMAT)
    made.write_bytes(bytes(raw[:place]) + body + bytes(raw[place + 512 :]))
    assert read_bytes(f"{made}::b.wav") == wav()
    assert [read_bytes(one.path) for one in members_in(made)] == [wav(), wav()]


def test_one_name_for_all_members_is_refused(tmp_path: Path) -> None:
    made = archive(
        tmp_path / "a.tar", member("a.wav", wav()), format=tarfile.PAX_FORMAT, pax_headers={"path": "other.wav"}
    )
    with pytest.raises(UnreadableAudioError, match="gives every member that follows one name or size"):
        list(members_in(made))
    # What only comments does no harm: git archive writes such.
    made = archive(
        tmp_path / "b.tar", member("a.wav", wav()), format=tarfile.PAX_FORMAT, pax_headers={"comment": "f00"}
    )
    assert read_bytes(f"{made}::a.wav") == wav()


def test_compressed_archives_say_what_to_do(tmp_path: Path) -> None:
    plain = archive(tmp_path / "plain.tar", member("a.wav", wav())).read_bytes()
    for compress in (gzip.compress, bz2.compress, lzma.compress):
        (tmp_path / "a.tar").write_bytes(compress(plain))
        with pytest.raises(UnreadableAudioError, match=r"compressed \(.*decompress it"):
            read(tmp_path / "a.tar::a.wav")
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(plain))
    with pytest.raises(UnreadableAudioError, match=r"plain \.tar archives only: decompress it"):
        read(tmp_path / "a.tar.gz::a.wav")


def test_an_archive_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    (tmp_path / "b.tar").mkdir()
    (tmp_path / "c.tar").symlink_to("/dev/zero")
    for name in ("a.tar", "b.tar", "c.tar"):
        with pytest.raises(UnreadableAudioError, match="not a regular file"):
            read(tmp_path / f"{name}::a.wav")
        with pytest.raises(UnreadableAudioError, match="not a regular file"):
            list(members_in(tmp_path / name))


def test_archives_one_behind_the_other_are_all_read(tmp_path: Path) -> None:
    """As ``cat a.tar b.tar`` makes them: tar itself stops at the end of the first."""
    files = {name: bytes([number]) * 700 * (number + 1) for number, name in enumerate("abcd")}
    for made, names in (("first.tar", "ab"), ("second.tar", "cd")):
        archive(tmp_path / made, *(member(name, files[name]) for name in names))
    joined = tmp_path / "joined.tar"
    joined.write_bytes((tmp_path / "first.tar").read_bytes() + (tmp_path / "second.tar").read_bytes())
    found = list(members_in(joined))
    assert [one.name for one in found] == list(files)
    for one in found:
        assert read_bytes(one.path) == read_bytes(f"{joined}::{one.name}") == files[one.name]
    (tmp_path / "more.tar").write_bytes((tmp_path / "first.tar").read_bytes() + b"no archive" * 300)
    assert [one.name for one in members_in(tmp_path / "more.tar")] == ["a", "b"]
