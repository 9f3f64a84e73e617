"""Spoil files of every format that nestvox reads besides audio, and see what becomes of them.

    python benchmarks/fuzz_formats.py --files 20000
    python benchmarks/fuzz_formats.py --files 500 --formats store.json npz --keep bad

A spoilt file is read in another process, as a library or a command would read it. It must be read, or refused with a
`NestvoxError` that names the file or its folder, within --limit-s seconds, and without more memory than three times
what the whole file takes and --memory-mib MiB. The files are a function of --seed: the same run finds the same. Exit
code 1: a file did something else.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import _fuzzed_models
import _fuzzed_tables
from _child_process import answers_to_parent, memory_mib
from _fuzzed_tables import Format

FORMATS = {found.name: found for found in (*_fuzzed_tables.FORMATS, *_fuzzed_models.FORMATS)}
ADDRESSES = 24 << 30  # bytes of addresses for the process that reads: what asks for more gets a MemoryError
BAD = ("traceback", "unnamed", "hang", "crash", "memory")
_MOST_LOST = 10  # processes after which a format is given up


@dataclass
class Result:
    """What became of the spoilt files of one format.

    Attributes:
        format: its name.
        outcomes: how many were ``read``, ``refused``, and each of `BAD`.
        clean_mib: growth of the process over the whole file.
        peak_mib: largest growth over a spoilt one.
        slowest_s: longest time of one file.
        bad: number of the file and what it did.
    """

    format: str
    outcomes: Counter[str] = field(default_factory=Counter)
    clean_mib: float = 0.0
    peak_mib: float = 0.0
    slowest_s: float = 0.0
    bad: list[str] = field(default_factory=list)


def main() -> int:
    options = _options()
    if options.worker:
        _work(options)
        return 0
    chosen = options.formats or [name for name, found in FORMATS.items() if not (options.without_torch and found.torch)]
    if unknown := sorted(set(chosen) - set(FORMATS)):
        print(f"no format {unknown[0]!r}; there are {', '.join(FORMATS)}", file=sys.stderr)
        return 2
    absent = [name for name in chosen if FORMATS[name].needs and importlib.util.find_spec(FORMATS[name].needs) is None]
    for name in absent:
        print(f"{name}: left out, needs {FORMATS[name].needs}")
    chosen = [name for name in chosen if name not in absent]
    each = -(-options.files // len(chosen))
    print(_row("format", "files", "read", "refused", *BAD, "clean MiB", "peak MiB", "slowest s"))
    results = []
    began = time.monotonic()
    reader = Reader(options)
    for name in chosen:
        results.append(reader.try_format(FORMATS[name], each))
        print(_summary(results[-1]), flush=True)
    reader.close()
    bad = [line for result in results for line in result.bad]
    total = sum(result.outcomes.total() for result in results)
    print(f"{total:,} spoilt files in {time.monotonic() - began:.0f} s, {len(bad)} of them bad")
    for line in bad[: options.shown]:
        print(line)
    if options.json is not None:
        content = {"seed": options.seed, "formats": [vars(result) for result in results]}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 1 if bad else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000, help="spoilt files in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--formats", nargs="+", help="only these")
    parser.add_argument("--without-torch", action="store_true", help="only formats that are read without torch")
    parser.add_argument("--limit-s", type=float, default=10.0, help="for one file")
    parser.add_argument("--memory-mib", type=float, default=96.0, help="beyond three times what the whole file takes")
    parser.add_argument("--keep", type=Path, help="folder for the files that did something bad")
    parser.add_argument("--shown", type=int, default=40, help="bad files that are listed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--pretend", help=argparse.SUPPRESS)
    return parser.parse_args()


def _row(*cells: object) -> str:
    widths = (-20, 6, 6, 7, 9, 7, 5, 5, 6, 9, 8, 9)
    return " ".join(f"{cell!s:{'<' if w < 0 else '>'}{abs(w)}}" for cell, w in zip(cells, widths, strict=True))


def _summary(result: Result) -> str:
    counts = [result.outcomes[name] for name in ("read", "refused", *BAD)]
    sizes = f"{result.clean_mib:.0f}", f"{result.peak_mib:.0f}", f"{result.slowest_s:.2f}"
    return _row(result.format, result.outcomes.total(), *counts, *sizes)


class Reader:
    """A process that spoils and reads: a line with a job goes in, a line of JSON for each file comes out."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process

    def try_format(self, found: Format, files: int) -> Result:
        """Have files of one format read; a process that is lost costs the file that it was at."""
        result = Result(found.name)
        number = lost = 0
        while number < files and lost < _MOST_LOST:
            done, ended = self._job(found, number, files - number, result)
            number += done
            if ended is not None:
                self.close()
                result.outcomes[ended[0]] += 1
                result.bad.append(f"{found.name}, file {number}: {ended[0]}: {ended[1]}")
                number, lost = number + 1, lost + 1
        return result

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.kill()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()
        self.process = None

    def _job(self, found: Format, first: int, count: int, result: Result) -> tuple[int, tuple[str, str] | None]:
        """How many files were told about, and how the process was lost, if it was."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([found.name, first, count]).encode() + b"\n")
        done, limit_s = 0, 300.0  # making the whole file takes what importing takes
        while done < count:
            ready, _, _ = select.select([process.stdout], [], [], limit_s)
            if not ready:
                return done, ("hang", f"more than {limit_s:g} s")
            line = process.stdout.readline()
            if not line:
                return done, ("crash", f"exit status {process.wait()}: {self._said()}")
            told = json.loads(line)
            if "clean_mib" in told:
                result.clean_mib = max(result.clean_mib, told["clean_mib"])
                limit_s = self.options.limit_s
                continue
            result.outcomes[told["outcome"]] += 1
            result.peak_mib = max(result.peak_mib, told["grown_mib"])
            result.slowest_s = max(result.slowest_s, told["seconds"])
            if told["outcome"] in BAD:
                result.bad.append(f"{found.name}, file {first + done}: {told['outcome']}: {told['detail']}")
            done += 1
        return done, None

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            options = self.options
            command = [sys.executable, __file__, "--worker", "--seed", str(options.seed)]
            command += ["--memory-mib", str(options.memory_mib)]
            command += ["--pretend", options.pretend] if options.pretend else []
            command += ["--keep", str(options.keep)] if options.keep else []
            self.errors.seek(0)
            self.errors.truncate()
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0
            )
        return self.process

    def _said(self) -> str:
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 2000))
        return " ".join(self.errors.read().decode(errors="replace").split())[-600:]


def _work(options: argparse.Namespace) -> None:
    """Do jobs: spoil and read files of a format, and print a line about each."""
    answers = answers_to_parent()
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    os.environ["OMP_NUM_THREADS"] = "1"
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        name, first, count = json.loads(line)
        with tempfile.TemporaryDirectory(prefix="nestvox-fuzz-") as top:
            _try_files(FORMATS[name], Path(top), range(first, first + count), options, answers)


def _try_files(found: Format, top: Path, numbers: range, options: argparse.Namespace, answers: IO[str]) -> None:
    from nestvox.errors import NestvoxError

    folder = top / "files"
    folder.mkdir()
    target = folder / found.file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.make(folder)
        whole = target.read_bytes()
        kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for _ in range(3):  # the first time, modules are imported
            before = memory_mib(reset=True)
            with contextlib.suppress(*((NestvoxError,) if found.refused else ())):
                found.read(folder)
            clean = memory_mib(reset=False) - before
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    answers.write(json.dumps({"clean_mib": clean}) + "\n")
    for number in numbers:
        for path, content in kept.items():
            path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spoilt = found.mutate(whole, random.Random(f"{options.seed}/{found.name}/{number}"))
        target.write_bytes(spoilt)
        told = _read(found, folder, 3 * clean + options.memory_mib, options.pretend)
        if told["outcome"] in BAD and options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{found.name.replace(' ', '-')}-{number}-{target.name}").write_bytes(spoilt)
        answers.write(json.dumps(told) + "\n")


def _read(found: Format, folder: Path, most_mib: float, pretend: str | None) -> dict[str, Any]:
    before, began = memory_mib(reset=True), time.monotonic()
    outcome, detail = _outcome(found, folder, pretend)
    seconds, grown = time.monotonic() - began, memory_mib(reset=False) - before
    if outcome not in BAD and grown > most_mib:
        outcome, detail = "memory", f"{grown:.0f} MiB"
    return {"outcome": outcome, "detail": detail, "grown_mib": grown, "seconds": seconds}


def _outcome(found: Format, folder: Path, pretend: str | None) -> tuple[str, str]:
    from nestvox.errors import NestvoxError

    try:
        _pretended(pretend)
        found.read(folder)
    except NestvoxError as error:
        text = str(error)
        named = str(folder) in text or Path(found.file).name in text
        return ("refused", "") if named else ("unnamed", f"{type(error).__name__}: {text[:200]!r}")
    except MemoryError:
        return "memory", "more than the limit of addresses"
    except BaseException as error:  # noqa: BLE001  # whatever escapes from reading is what is looked for
        where = [frame for frame in traceback.extract_tb(error.__traceback__) if "nestvox" in frame.filename]
        place = f"{Path(where[-1].filename).name}:{where[-1].lineno}" if where else ""
        return "traceback", f"{type(error).__name__} at {place}: {str(error)[:160]!r}"
    return "read", ""


def _pretended(pretend: str | None) -> None:
    if pretend == "crash":
        os.abort()
    if pretend == "hang":
        time.sleep(3600)
    if pretend == "traceback":
        raise KeyError("pretended")
    if pretend == "memory":
        bytearray(b"x") * (512 << 20)


if __name__ == "__main__":
    sys.exit(main())
