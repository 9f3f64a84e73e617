"""Files of a folder change together, wherever the process is killed, and no change of another is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nestvox.atomic import names_in
from nestvox.atomic_folder import changing, read_together, settled

FILES = ("a.json", "b.bin", "c.md")


def replace(folder: Path, content: str) -> None:
    with changing(folder) as fresh:
        for name in FILES:
            (fresh / name).write_text(content)


def contents(folder: Path) -> set[str]:
    return {settled(folder, name).read_text() for name in FILES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    replace(made, "old")
    (made / "notes.txt").write_text("of a user")
    return made


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_call_leaves_the_old_or_the_new(folder: Path) -> None:
    """The process is ended before its first, second, third ... change of the file system."""
    outcomes = []
    calls = ("mkdir", "rename", "replace", "rmdir", "unlink", "open", "fsync", "chmod")
    for moment in range(200):
        child = os.fork()
        if child == 0:
            left = [moment]

            def counted(real: object, left: list[int] = left) -> object:
                def call(*arguments: object, **named: object) -> object:
                    left[0] -= 1
                    if left[0] < 0:
                        os._exit(9)
                    return real(*arguments, **named)  # type: ignore[operator]

                return call

            for name in calls:
                setattr(os, name, counted(getattr(os, name)))
            try:
                replace(folder, "new")
            finally:
                os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        seen = contents(folder)
        assert seen in ({"old"}, {"new"}), f"a kill before call {moment} left {seen}"
        outcomes.append(seen.pop())
        assert read_together(folder, lambda: contents(folder)) == {outcomes[-1]}
        replace(folder, "old")
        assert contents(folder) == {"old"}
        assert sorted(names_in(folder)) == sorted([*FILES, "notes.txt"])
        if not killed:
            break
    assert not killed
    assert len(outcomes) > 8
    assert {"old", "new"} == set(outcomes)
    assert outcomes == sorted(outcomes, reverse=True), "first the old, and from one call on the new"


def test_an_exception_changes_nothing(folder: Path) -> None:
    def fail() -> None:
        with changing(folder) as fresh:
            (fresh / "a.json").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert contents(folder) == {"old"}
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "notes.txt"])


def test_who_reads_sees_one_state(folder: Path) -> None:
    done = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not done.is_set():
            found = read_together(folder, lambda: contents(folder))
            assert len(found) == 1
            seen.update(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(20):
        replace(folder, f"state {number}")
    done.set()
    for reader in readers:
        reader.join()
    assert seen


def test_changes_of_several_processes_are_all_kept(tmp_path: Path) -> None:
    code = """
import sys
from nestvox.atomic_folder import changing, settled
for number in range(5):
    with changing(sys.argv[1]) as fresh:
        there = settled(sys.argv[1], "list.txt")
        before = there.read_text() if there.is_file() else ""
        (fresh / "list.txt").write_text(f"{before}{sys.argv[2]}{number}\\n")
"""
    every = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "f", name]) for name in "abc"]
    assert [process.wait(60) for process in every] == [0, 0, 0]
    expected = sorted(f"{name}{number}" for name in "abc" for number in range(5))
    assert sorted((tmp_path / "f" / "list.txt").read_text().split()) == expected


def test_links_and_rights_stay(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.bin"
    elsewhere.write_text("old")
    (folder / "b.bin").unlink()
    (folder / "b.bin").symlink_to(elsewhere)
    (folder / "a.json").chmod(0o600)
    replace(folder, "new")
    assert (folder / "b.bin").is_symlink()
    assert elsewhere.read_text() == "new"
    assert (folder / "a.json").stat().st_mode & 0o777 == 0o600
