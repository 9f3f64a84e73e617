"""Files appear whole or not at all, also when the writer fails or is killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nestvox.atomic import atomic_path, names_in, protecting, write_bytes, write_text
from nestvox.errors import NestvoxError


def test_written_whole_with_the_rights_of_any_other_file(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.json"
    write_text(path, "größer\r\n")
    assert path.read_bytes() == "größer\r\n".encode()
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode
    assert names(path.parent) == ["a.json"]
    write_bytes(path, b"again")
    assert path.read_bytes() == b"again"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_what_was_there(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise failure

    with pytest.raises(failure):
        write()
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["a.bin"]


def test_temporary_is_hidden_and_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.npy") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".a-")
        assert temporary.suffix == ".npy"
        assert not (tmp_path / "a.npy").exists()
    assert (tmp_path / "a.npy").exists()


def test_writer_that_removes_the_temporary_fails_loudly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a") as temporary:
        temporary.unlink()
    assert names(tmp_path) == []


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "a", "")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_kill_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    code = (
        "import os, signal, sys\nfrom nestvox.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert child.returncode == -signal.SIGKILL
    assert path.read_text() == "before"


@pytest.mark.parametrize(
    "told",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_a_full_disk_is_one_error_with_the_name_of_the_file(tmp_path: Path, told: Exception) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught, atomic_path(tmp_path / "a"):
        raise told
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "a")
    assert names(tmp_path) == []


def test_a_link_stays_a_link_and_rights_are_kept(tmp_path: Path) -> None:
    target, link, other = tmp_path / "kept" / "a.json", tmp_path / "link.json", tmp_path / "other.json"
    target.parent.mkdir()
    target.write_text("before")
    target.chmod(0o640)
    link.symlink_to(target)
    other.symlink_to(Path("kept") / "new.json")  # where there is nothing yet
    write_text(link, "after")
    write_text(other, "new")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert target.stat().st_mode & 0o777 == 0o640
    assert other.is_symlink()
    assert (tmp_path / "kept" / "new.json").read_text() == "new"
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        write_text(loop, "")


def test_devices_pipes_and_descriptors_are_written_to_and_stay(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_text(pipe, "through")
    reader.join(10)
    assert got == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_text("/dev/null", "nowhere")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    code = (
        "from nestvox.atomic import write_text; print('first');"
        "write_text('/dev/stdout', 'second\\n'); write_text('/dev/fd/1', 'third\\n'); print('last')"
    )
    out = tmp_path / "out.txt"
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert out.read_text() == "first\nsecond\nthird\nlast\n"
    assert names(tmp_path) == ["out.txt", "pipe.json"]


def test_what_is_read_is_not_replaced_by_any_name(tmp_path: Path) -> None:
    read, hard, link = tmp_path / "a.tsv", tmp_path / "hard.tsv", tmp_path / "link.tsv"
    read.write_text("read")
    hard.hardlink_to(read)
    link.symlink_to(read)
    with protecting([read, tmp_path, tmp_path / "missing"]):
        for path in (read, hard, link, tmp_path / "x" / ".." / "a.tsv"):
            with pytest.raises(NestvoxError, match=r"would replace .*a\.tsv"):
                write_text(path, "written")
        write_text(tmp_path / "b.tsv", "another")
    assert read.read_text() == "read"
    write_text(read, "free again")


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_that_is_being_written(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\nfrom nestvox.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n    print(1, flush=True)\n    time.sleep(60)"
    )
    with (
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "dead.bin"], stdout=subprocess.PIPE) as dead,
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "alive.bin"], stdout=subprocess.PIPE) as alive,
    ):
        assert dead.stdout is not None
        assert alive.stdout is not None
        dead.stdout.readline()
        alive.stdout.readline()
        assert len(names(tmp_path)) == 2
        dead.kill()
        dead.wait()
        write_text(tmp_path / "new.txt", "")
        left = names(tmp_path)
        assert len(left) == 2
        assert left[0].startswith(".alive-")
        assert names_in(tmp_path) == ["new.txt"]
        alive.kill()
        alive.wait()
    assert names_in(tmp_path) == ["new.txt"]
    assert names(tmp_path) == ["new.txt"]


def test_names_at_the_limit_of_the_file_system_and_lone_bytes(tmp_path: Path) -> None:
    for name in ("x" * 250 + ".json", "ü" * 125 + ".tsv", os.fsdecode(b"lone\xff.json"), "y." + "z" * 200):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).stat().st_size
    assert json.loads(json.dumps(os.fsdecode(b"\xff"))) == os.fsdecode(b"\xff")
    write_text(tmp_path / "a.json", '"' + os.fsdecode(b"\xff") + '"')
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == os.fsdecode(b"\xff")
