"""A command in the system around it: signals, limits, and streams that are closed, full, narrow or ASCII."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nestvox.cli.main import main
from nestvox.cli.process import limit_words

CALL = "from nestvox.cli.main import main; main()"
# Two speakers with two utterances each; the audio is never opened.
TABLE = "utt_id\tpath\tspeaker\n" + "".join(f"{s}{n}\t{s}{n}.wav\t{s}\n" for s in "ab" for n in (1, 2))
# `data trials` stops in the middle of writing its list.
SLOW = """
import time
import nestvox.corpora.trials as module
from nestvox.atomic import atomic_path
from nestvox.cli.main import main
def write_trials(trials, path, fmt):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        print("writing", flush=True)
        {work}
module.write_trials = write_trials
main()
"""
DRAW = ["data", "trials", "t.tsv", "--targets", "1", "--nontargets", "1", "--out", "list.txt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.tsv").write_text(TABLE)
    return tmp_path


def run(folder: Path, *arguments: str, code: str = CALL, **more: Any) -> subprocess.CompletedProcess[bytes]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, check=False, timeout=100, **streams)


def start(folder: Path, work: str, **more: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SLOW.format(work=work), *DRAW]
    started = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    assert started.stdout is not None
    assert started.stdout.readline() == b"writing\n"
    return started


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_it_with_one_line_and_nothing_half_written(folder: Path, name: str) -> None:
    number = getattr(signal, name)
    # Under nohup, or in the background of a shell, one of them is ignored; and what comes just before a sleep waits for
    # its end.
    fresh = {"preexec_fn": lambda: signal.signal(number, signal.SIG_DFL)}
    with start(folder, "for _ in range(600): time.sleep(0.1)", **fresh) as started:
        started.send_signal(number)
        _, error = started.communicate(timeout=60)
    assert started.returncode == 128 + number
    assert error == f"stopped by {name}\n".encode()
    assert [path.name for path in folder.iterdir()] == ["t.tsv"]


def test_what_a_kill_leaves_goes_with_the_next_run(folder: Path) -> None:
    with start(folder, "time.sleep(60)") as started:
        started.kill()
    assert len(list(folder.iterdir())) == 2
    assert run(folder, *DRAW).returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == ["list.txt", "t.tsv"]


def test_an_interrupt_while_it_starts_is_one_line(folder: Path) -> None:
    code = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "nestvox.cli.embed":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from nestvox.cli.main import main
main(["embed", "--help"])
"""
    ended = run(folder, code=code)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"stopped by SIGINT\n")


def test_before_the_command_understands_signals_it_ends_in_silence(folder: Path) -> None:
    code = "import os, sys, signal; sys.argv[0] = '/nestvox'\nimport nestvox.cli; os.kill(os.getpid(), signal.SIGINT)"
    ended = run(folder, code=code)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


def test_what_is_ignored_stays_ignored(folder: Path) -> None:
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with start(folder, "time.sleep(1)", **ignoring) as started:
        started.send_signal(signal.SIGHUP)
        started.communicate(timeout=60)
    assert started.returncode == 0
    assert (folder / "list.txt").read_text() == "half"


def test_the_limit_of_processor_time_is_told(folder: Path) -> None:
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_CPU, (3, 3))}
    with start(folder, "while True: pass", **limited) as started:
        _, error = started.communicate(timeout=100)
    assert started.returncode == 2
    assert error.startswith(b"error: the limit of processor time was reached")
    assert [path.name for path in folder.iterdir()] == ["t.tsv"]


def test_too_little_memory_is_told(folder: Path) -> None:
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))}
    ended = run(folder, *DRAW, **limited)
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"error: not enough memory (300 MiB of address space, at least 512 are needed)")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("can't start new thread"), True),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), True),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), True),
        (RuntimeError("shapes do not fit"), False),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT)), False),
    ],
)
def test_limits_of_the_machine_have_words(error: Exception, told: bool) -> None:
    assert (limit_words(error) is not None) is told


def test_a_reader_that_goes_away_changes_no_verdict(folder: Path) -> None:
    for name in ("x.wav", "y.wav"):
        (folder / name).touch()
    rows = "utt_id\tpath\tspeaker\tgender\na1\tx.wav\ta\tf\na2\ty.wav\ta\tf\n"
    for verdict, table in ((0, rows), (1, rows.replace("y.wav", "missing.wav"))):
        (folder / "c.tsv").write_text(table)
        reading, writing = os.pipe()
        os.close(reading)
        ended = run(folder, "data", "check", "c.tsv", "--no-audio", stdout=writing)
        os.close(writing)
        assert (ended.returncode, ended.stderr) == (verdict, b"")


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_closed_streams_change_nothing(folder: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    ended = run(folder, *DRAW, "--json", "out.json", preexec_fn=close)
    assert ended.returncode == 0
    assert (folder / "list.txt").read_text().count("\n") == 2
    assert (folder / "out.json").read_text().startswith("{")
    assert ended.stderr == b""


def test_a_full_disk_behind_standard_output_is_an_error(folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = run(folder, "models", "list", stdout=full)
    assert ended.returncode == 2
    assert ended.stderr == b"error: standard output: No space left on device\n"


def test_names_become_escapes_where_the_terminal_lacks_them(folder: Path) -> None:
    name = os.fsdecode("Zoë ".encode() + b"\xff.tsv")
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        ended = run(folder, "data", "check", name, env={**os.environ, **environment})
        assert ended.returncode == 2
        assert b"Traceback" not in ended.stderr
        assert ended.stderr.decode("ascii").endswith("\\xff.tsv: no such file\n")


def test_a_fault_of_ours_is_no_verdict(folder: Path) -> None:
    ended = run(folder, *DRAW, code=SLOW.format(work="1 / 0"))
    assert ended.returncode == 70
    assert b"ZeroDivisionError" in ended.stderr
    assert b"this is a fault of nestvox" in ended.stderr


def test_a_user_without_a_folder_is_told(folder: Path) -> None:
    ended = run(folder, "models", "path", "ge2e", env={**os.environ, "NESTVOX_CACHE": "~nosuchuser/cache"})
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"error: NESTVOX_CACHE ~nosuchuser/cache: no such user")


def test_help_shows_what_stands_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "prepare", "--help"])
    assert "needs the extra [av]." in " ".join(capsys.readouterr().out.replace("│", " ").split())
