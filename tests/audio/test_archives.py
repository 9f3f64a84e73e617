"""Members of tar archives: the same audio as the files, and a typed error for every kind of damage."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.audio.archives import ArchiveMember, file_of, member_of, members_in, read_bytes
from nestvox.audio.errors import EmptyAudioError, UnreadableAudioError
from nestvox.audio.read import probe, read
from nestvox.errors import AudioError

SAMPLES = (0.1 * np.random.default_rng(0).standard_normal(24_000)).astype(np.float32)
LONG = "a-folder-with-a-long-name/" * 6 + "take 1.flac"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """wav, flac, ogg and mp3 of the same noise, one behind a name that needs a header of its own, and an empty file."""
    root = tmp_path_factory.mktemp("archive")
    path = root / "some.shards.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("ann/1.wav", LONG, "ben/2.ogg", "ben/3.mp3"):
            buffer = io.BytesIO()
            soundfile.write(buffer, SAMPLES, 16_000, format=name.rpartition(".")[2].upper())
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(buffer.getvalue())
            tar.add(root / name, name)
        tar.addfile(tarfile.TarInfo("empty.wav"))
        tar.addfile(folder := tarfile.TarInfo("folder.wav"))
        folder.type = tarfile.DIRTYPE
    return path


def test_what_a_path_means() -> None:
    assert member_of("a/b.wav") is None
    assert member_of("a/b.tar") is None
    assert member_of("a::b.wav") is None
    assert member_of("x/a.tar::b/c.wav") == ArchiveMember(Path("x/a.tar"), "b/c.wav")
    assert member_of("a.TAR::17::b.wav") == ArchiveMember(Path("a.TAR"), "b.wav", 17)
    assert member_of("a.tar::./b//c.wav") == ArchiveMember(Path("a.tar"), "b/c.wav")
    assert file_of("x/a.tar::1::b.wav") == Path("x/a.tar")
    assert file_of("x/a.wav") == Path("x/a.wav")


@given(
    st.from_regex(r"[a-z][a-z0-9./]{0,20}\.tar", fullmatch=True),
    st.text(st.characters(exclude_characters="\\/.:", exclude_categories=("Cs", "Cc")), min_size=1),
    st.none() | st.integers(0, 1 << 50),
)
def test_a_path_says_what_was_meant(archive: str, name: str, offset: int | None) -> None:
    archive = Path(archive).as_posix()
    if name.isdigit():
        name += "x"
    member = ArchiveMember(Path(archive), name, offset)
    assert member_of(member.path) == member


@pytest.mark.parametrize("name", ["ann/1.wav", LONG, "ben/2.ogg", "ben/3.mp3"])
def test_a_member_is_the_file(archive: Path, name: str) -> None:
    offsets = {member.name: member.offset for member in members_in(archive)}
    for path in (f"{archive}::{name}", f"{archive}::{offsets[name]}::{name}"):
        assert read_bytes(path) == (archive.parent / name).read_bytes()
        for part in ({}, {"start_s": 0.3, "duration_s": 0.5}, {"sample_rate": 8_000}):
            expected, rate = read(archive.parent / name, **part)  # type: ignore[arg-type]
            found, its_rate = read(path, **part)  # type: ignore[arg-type]
            np.testing.assert_array_equal(found, expected)
            assert its_rate == rate
        file, member = probe(archive.parent / name), probe(path)
        assert (member.duration_s, member.format, member.subtype) == (file.duration_s, file.format, file.subtype)
        assert str(member.path) == path


def test_containers_are_read_from_archives_too(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        track = container.add_stream("aac", rate=16_000)
        track.layout = "mono"
        frame = av.AudioFrame.from_ndarray(SAMPLES[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*track.encode(frame), *track.encode(None)])
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.m4a", "a.m4a")
    np.testing.assert_array_equal(read(tmp_path / "a.tar::a.m4a")[0], read(tmp_path / "a.m4a")[0])


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command here")
def test_archives_of_the_tar_command(archive: Path, tmp_path: Path) -> None:
    for kind in ("gnu", "pax", "ustar"):
        names = ["ann/1.wav", "ben/2.ogg", *([LONG] if kind != "ustar" else [])]
        made = tmp_path / f"{kind}.tar"
        subprocess.run(["tar", f"--format={kind}", "-cf", made, "-C", archive.parent, *names], check=True)
        found = list(members_in(made))
        assert [member.name for member in found] == names
        for member in found:
            assert read_bytes(member.path) == (archive.parent / member.name).read_bytes()


def test_an_archive_that_was_made_again_is_searched_again(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for content in (b"one", b"another"):
        path.unlink(missing_ok=True)
        with tarfile.open(path, "w") as tar:
            if content == b"another":
                tar.add(archive.parent / "ann/1.wav", "before.wav")
            info = tarfile.TarInfo("x.wav")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        assert read_bytes(f"{path}::x.wav") == content


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("gone.tar::a.wav", UnreadableAudioError, "no such archive"),
        ("some.shards.tar::ann/2.wav", UnreadableAudioError, "no such member"),
        ("some.shards.tar::512::ann/1.wav", UnreadableAudioError, "no member begins at byte 512"),
        ("some.shards.tar::7::ann/1.wav", UnreadableAudioError, "no member begins at byte 7"),
        ("some.shards.tar::99999999999::ann/1.wav", UnreadableAudioError, "no member begins"),
        ("some.shards.tar::0::ben/2.ogg", UnreadableAudioError, "ann/1.wav stands at byte 0; the archive is damaged"),
        ("some.shards.tar::empty.wav", EmptyAudioError, "0 bytes"),
        ("ann/1.wav/x.tar::a.wav", UnreadableAudioError, "no such archive"),
    ],
)
def test_what_is_not_there_is_named(archive: Path, path: str, error: type[AudioError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read(archive.parent / path)
    assert str(archive.parent / path) in str(caught.value)


def test_a_truncated_archive(archive: Path, tmp_path: Path) -> None:
    members = list(members_in(archive))
    whole = archive.read_bytes()
    place = members[1].offset
    assert place is not None
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: place + 3_000])
    with pytest.raises(UnreadableAudioError, match=r"truncated: \d+ of \d+ bytes are there"):
        read(f"{cut}::{place}::{LONG}")
    with pytest.raises(UnreadableAudioError, match="truncated in the middle") as caught:
        read(f"{cut}::{LONG}")
    assert f"{cut}::{LONG}" in str(caught.value)
    found = []
    with pytest.raises(UnreadableAudioError, match="truncated in the middle"):
        found.extend(members_in(cut))
    for place in ("0::", ""):  # what stands before the damage is there, by its name too
        np.testing.assert_array_equal(read(f"{cut}::{place}ann/1.wav")[0], read(archive.parent / "ann/1.wav")[0])


def test_an_archive_without_an_end_is_noticed(archive: Path, tmp_path: Path) -> None:
    """Cut exactly between two members, where Python's own reader sees nothing wrong."""
    place = list(members_in(archive))[2].offset
    assert place is not None
    cut = tmp_path / "cut.tar"
    cut.write_bytes(archive.read_bytes()[:place])
    with tarfile.open(cut) as tar:
        assert len(tar.getnames()) == 2
    with pytest.raises(UnreadableAudioError, match="damaged"):
        list(members_in(cut))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_gives_audio_or_a_typed_error(
    archive: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    members = list(members_in(archive))
    content = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly in headers, where a byte means something.
        start = data.draw(st.sampled_from([member.offset or 0 for member in members]))
        content[min(len(content) - 1, start + data.draw(st.integers(0, 2_000)))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for member in members:
        for place in ("", f"{member.offset}::"):
            try:
                read(f"{path}::{place}{member.name}")
            except AudioError as error:
                assert f"{path}::{place}{member.name}" in str(error)  # noqa: PT017  either is right


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"this is no tar archive" * 100)
    with pytest.raises(UnreadableAudioError, match="no tar archive"):
        read(tmp_path / "a.tar::a.wav")
    (tmp_path / "b.tar").write_bytes(b"")
    with pytest.raises(UnreadableAudioError, match="no tar archive"):
        read(tmp_path / "b.tar::a.wav")
