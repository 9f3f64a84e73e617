"""The entry of the `nestvox` command, and the one place where an error becomes a line and an exit code.

What takes time to import is imported inside `main`, where an interrupt is already understood.
"""

from __future__ import annotations

import gc
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from nestvox.cli.process import EXIT_ERROR, EXIT_FAULT, flush_streams, limit_words, open_streams, stopped_by, stopping


def __getattr__(name: str) -> Any:
    if name == "app":
        from nestvox.cli.app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exits 0 (done), 1 (a check says no), 2 (the input or the call is wrong), 3 (no verdict), 70 (a fault of nestvox,
    which must not look like an answer), or with 128 and the number of the signal that ended it.
    """
    open_streams()
    code: int | str | None = 0
    try:
        with stopping():
            code = _run(arguments)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    number = stopped_by()
    if number is not None:
        code = _tell_signal(number)
    failed = flush_streams()
    if failed is not None:
        code = EXIT_ERROR
        _complain(f"standard output: {failed.strerror or failed}")
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int | str | None:
    try:
        gc.disable()  # what is imported stays; `app` switches it on before a command runs
        from nestvox.cli.app import parser

        parser()(args=None if arguments is None else list(arguments))
    except SystemExit as end:
        return end.code
    except Exception as error:  # noqa: BLE001  the last place
        if stopped_by() is not None:  # whatever the interrupt was made into on its way
            return EXIT_ERROR
        words = _words(error)
        if words is None:
            traceback.print_exc()
            _complain("this is a fault of nestvox, not of the call: please report it with the lines above")
            return EXIT_FAULT
        _complain(words)
        return EXIT_ERROR
    finally:
        gc.enable()
    return 0


def _words(error: Exception) -> str | None:
    """What a person is told; None: a fault of ours, whose traceback is wanted."""
    from nestvox.errors import NestvoxError

    if isinstance(error, NestvoxError):
        return str(error)
    if (words := limit_words(error)) is not None:
        return words
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    return None


def _complain(text: str) -> None:
    from nestvox.cli.console import complain

    complain(text)


def _tell_signal(number: int) -> int:
    name = signal.Signals(number).name
    if name == "SIGXCPU":
        _complain("the limit of processor time was reached (ulimit -t, or the scheduler's): raise it, or resume later")
        return EXIT_ERROR
    print(f"stopped by {name}", file=sys.stderr)
    return 128 + number
