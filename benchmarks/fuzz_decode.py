"""Damage files of every format that nestvox reads, and see what becomes of them.

    python benchmarks/fuzz_decode.py --files 1000
    python benchmarks/fuzz_decode.py --files 200 --format flac --keep bad

Every damaged file, or a member of a damaged archive, goes through `probe`, a read of the whole at 16 kHz and a read of
a part at its own rate, in another process, because a decoder that crashes takes its process with it. It must give audio
(float32, finite, of a length that its bytes can hold) or an `AudioError` that names the file, within --limit-s seconds
and --memory-mib MiB. The files are a function of --seed: the same run finds the same. Exit code 1: a file did something
else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _child_process import answers_to_parent, memory_mib
from _damaged_files import FORMATS, N_ORIGINALS, SECONDS, damage, has_av, original, path_of

MEMORY_LIMIT = 4 << 30  # bytes of addresses for the process that decodes: what asks for more gets a MemoryError
BAD = ("crash", "hang", "exception", "not finite", "implausible", "memory")
LONGEST = 16  # times the original's number of samples: the narrowest coding against the widest, with room


@dataclass
class Result:
    """What became of the damaged files of one format.

    Attributes:
        format: e.g. ``wav pcm16``.
        files: how many there were.
        outcomes: how many gave ``audio``, each class of error, and each of `BAD`.
        peak_mib: largest growth of the process over one file.
        slowest_s: longest time of one file.
        bad: number of the file and what it did, for every bad one.
    """

    format: str
    files: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    peak_mib: float = 0.0
    slowest_s: float = 0.0
    bad: list[str] = field(default_factory=list)


def main() -> int:
    options = _options()
    if options.worker:
        _decode_what_is_named(options.pretend)
        return 0
    chosen = options.format or list(FORMATS)
    if unknown := sorted(set(chosen) - set(FORMATS)):
        print(f"no format {unknown[0]!r}; there are {', '.join(FORMATS)}", file=sys.stderr)
        return 2
    results = []
    with tempfile.TemporaryDirectory(prefix="nestvox-fuzz-") as folder:
        print(_row("format", "files", "audio", "errors", "bad", "peak MiB", "slowest s", "errors by class"))
        worker = Worker(Path(folder), options.pretend)
        for name in chosen:
            result = _try_format(name, worker, Path(folder), options)
            if result is None:
                print(f"{name:26} left out: needs the extra [av]")
                continue
            results.append(result)
            print(_summary(result), flush=True)
        worker.close()
    total = sum(result.files for result in results)
    bad = [line for result in results for line in result.bad]
    print(f"{total:,} damaged files, {len(bad)} of them bad")
    for line in bad[:20]:
        print(line)
    if options.json is not None:
        content = {"seed": options.seed, "av": has_av(), "formats": [vars(result) for result in results]}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return 1 if bad else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100, help="damaged files of each format")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", action="append", help="only this one; repeatable")
    parser.add_argument("--limit-s", type=float, default=10.0, help="for one file")
    parser.add_argument("--memory-mib", type=float, default=256.0, help="that one file may take")
    parser.add_argument("--keep", type=Path, help="folder for the files that did something bad")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--pretend", help=argparse.SUPPRESS)
    return parser.parse_args()


def _row(*cells: object) -> str:
    widths = (-26, 6, 6, 7, 5, 9, 10, -1)
    return " ".join(f"{cell!s:{'<' if w < 0 else '>'}{abs(w)}}" for cell, w in zip(cells, widths, strict=True))


def _summary(result: Result) -> str:
    audio, bad = result.outcomes["audio"], sum(result.outcomes[name] for name in BAD)
    errors = {name: count for name, count in result.outcomes.most_common() if name not in {*BAD, "audio"}}
    classes = ", ".join(f"{name.removesuffix('Error').removesuffix('Audio')} {count}" for name, count in errors.items())
    cells = (result.files, audio, sum(errors.values()), bad, f"{result.peak_mib:.0f}", f"{result.slowest_s:.2f}")
    return _row(result.format, *cells, classes)


def _try_format(name: str, worker: Worker, folder: Path, options: argparse.Namespace) -> Result | None:
    originals = []
    for number in range(N_ORIGINALS):
        content = original(name, number, folder)
        if content is None:
            return None
        originals.append(content)
    result = Result(name)
    for number in range(options.files):
        content = damage(originals[number % N_ORIGINALS], random.Random(f"{options.seed}/{name}/{number}"))
        path = folder / f"damaged-{number}.{FORMATS[name]}"  # of its own: where members stand is kept by name and time
        path.write_bytes(content)
        reply = worker.ask(path_of(name, path), options.limit_s)
        path.unlink()
        outcome = str(reply["outcome"])
        if outcome not in BAD and reply["grown_mib"] > options.memory_mib:
            outcome, reply["detail"] = "memory", f"{reply['grown_mib']:.0f} MiB"
        result.files += 1
        result.outcomes[outcome] += 1
        result.peak_mib = max(result.peak_mib, float(reply["grown_mib"]))
        result.slowest_s = max(result.slowest_s, float(reply["seconds"]))
        if outcome in BAD:
            result.bad.append(f"{name}, file {number}: {outcome}: {reply['detail']}")
            if options.keep is not None:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{name} {number}.{FORMATS[name]}".replace(" ", "-")).write_bytes(content)
    return result


class Worker:
    """A process that decodes: one line with a path goes in, one line of JSON comes out. A lost one is replaced."""

    def __init__(self, folder: Path, pretend: str | None) -> None:
        self.command = [sys.executable, __file__, "--worker", *(["--pretend", pretend] if pretend else [])]
        self.errors = (folder / "stderr").open("w+b")
        self.process = self._start()

    def ask(self, path: Path, limit_s: float) -> dict[str, Any]:
        """Have a file decoded."""
        began = time.monotonic()
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n".encode())
        line = self._line(limit_s)
        seconds = time.monotonic() - began
        if line:
            return {**json.loads(line), "seconds": seconds}
        if line is None:
            self.process.kill()
            reply = {"outcome": "hang", "detail": f"more than {limit_s:g} s"}
        else:
            reply = {"outcome": "crash", "detail": f"exit status {self.process.wait()}: {self._said()}"}
        self._end()
        self.process = self._start()
        return {**reply, "seconds": seconds, "grown_mib": 0.0}

    def close(self) -> None:
        """End the process."""
        self._end()
        self.errors.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self.errors.truncate(0)
        process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0
        )
        self.process = process
        assert self._line(600.0) == b"ready\n", self._said()
        return process

    def _end(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.wait()

    def _line(self, limit_s: float) -> bytes | None:
        """A line of the process; empty when it has ended, None when there is none in time."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], limit_s)
        return self.process.stdout.readline() if ready else None

    def _said(self) -> str:
        self.errors.seek(0)
        return self.errors.read()[-300:].decode(errors="replace").strip()


def _decode_what_is_named(pretend: str | None) -> None:
    import numpy as np

    import nestvox.audio.read  # noqa: F401  # before anything is measured

    warnings.simplefilter("error")
    answers = answers_to_parent()
    longest = LONGEST * 2 * 48_000 * SECONDS
    answers.write("ready\n")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hoard = []
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        if pretend == "crash":
            os.abort()
        if pretend == "hang":
            time.sleep(3600)
        before = memory_mib(reset=True)
        if pretend == "memory":
            hoard = [np.ones(50_000_000)]
        outcome, detail = _outcome(path, pretend, longest)
        del hoard[:]
        grown = memory_mib(reset=False) - before
        answers.write(json.dumps({"outcome": outcome, "detail": detail, "grown_mib": grown}) + "\n")


def _outcome(path: Path, pretend: str | None, longest: float) -> tuple[str, str]:
    """What reading the whole file gives; or, where `probe` or a part do something bad, that."""
    import numpy as np

    from nestvox.audio.read import probe, read

    def whole() -> tuple[str, str]:
        if pretend == "exception":
            raise KeyError("pretended")
        if pretend == "not finite":
            return _judge(np.full(9, np.nan, np.float32), 16_000, 16_000, longest)
        samples, rate = read(path)
        return _judge(samples, rate, 16_000, longest)

    def part() -> tuple[str, str]:
        samples, rate = read(path, sample_rate=None, start_s=0.25, duration_s=0.5)
        return _judge(samples, rate, rate, 0.5 * rate + 1)

    def header() -> tuple[str, str]:
        info = probe(path)
        plausible = info.channels > 0 and info.sample_rate > 0 and 0 < info.duration_s < longest
        return ("audio", "") if plausible else ("implausible", str(info))

    found = [_safely(step, path) for step in (whole, part, header)]
    return next((outcome for outcome in found if outcome[0] in BAD), found[0])


def _judge(samples: Any, rate: int, expected_rate: int, longest: float) -> tuple[str, str]:
    import numpy as np

    if samples.dtype != np.float32 or samples.ndim != 1 or not len(samples) or rate != expected_rate:
        return "implausible", f"{samples.dtype} {samples.shape} at {rate} Hz"
    if not np.isfinite(samples).all():
        return "not finite", f"{np.count_nonzero(~np.isfinite(samples))} samples"
    if len(samples) > longest:
        return "implausible", f"{len(samples)} samples"
    return "audio", ""


def _safely(step: Callable[[], tuple[str, str]], path: Path) -> tuple[str, str]:
    """Result of a step; else the class of a typed error that names the file, or what is bad about another one."""
    from nestvox.errors import AudioError

    try:
        return step()
    except MemoryError:
        return "memory", "more than the limit of addresses"
    except BaseException as error:  # noqa: BLE001  # whatever escapes from decoding is what is looked for
        if isinstance(error, AudioError) and str(path) in str(error):
            return type(error).__name__, ""
        return "exception", f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
