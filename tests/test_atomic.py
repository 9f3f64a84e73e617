"""Files appear whole or not at all, also when the writer fails or is killed."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nestvox.atomic import atomic_path, write_bytes, write_text


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
