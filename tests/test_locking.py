"""One writer at a time: others wait or are refused, and nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nestvox.errors import NestvoxError
from nestvox.locking import held, locked

HOLD = """
import sys, time
from nestvox.locking import locked
with locked(sys.argv[1]):
    print(1, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["folder", "numbers.json"])
def test_another_process_is_refused_and_a_dead_one_keeps_nobody_out(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with subprocess.Popen([sys.executable, "-c", HOLD, target], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(NestvoxError, match="another process"), locked(target, wait_s=0):
            pass
        other.kill()
    with locked(target, wait_s=5):
        pass
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_who_waits_comes_next_and_no_change_is_lost(tmp_path: Path) -> None:
    counter = tmp_path / "count.txt"
    counter.write_text("0")

    def add() -> None:
        for _ in range(5):
            with locked(counter):
                before = int(counter.read_text())
                time.sleep(0.001)
                counter.write_text(str(before + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "20"
    assert [path.name for path in tmp_path.iterdir()] == ["count.txt"]


def test_a_folder_is_held_by_one_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    code = f"from nestvox.locking import held\nwith held({str(folder)!r}):\n    print('held', flush=True)\n    input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(NestvoxError, match="is being written by another process"), held(folder):
            pass
        other.kill()
    with held(folder), pytest.raises(NestvoxError, match="another process"), held(folder):
        pass
    assert list(folder.iterdir()) == []
