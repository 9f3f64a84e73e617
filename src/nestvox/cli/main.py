"""The `nestvox` command: its groups, and the one place where an error becomes exit code 2."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from typer.main import get_command

from nestvox import __version__
from nestvox.cli import (
    bench,
    cache,
    calibrate,
    compare,
    data,
    demo,
    embed,
    evaluate,
    inspect,
    models,
    plan,
    rotate,
    threshold,
    train,
    verify,
)
from nestvox.errors import NestvoxError

__all__ = ["app", "main"]

app = typer.Typer(
    name="nestvox",
    help="Nested speaker embeddings: embed, rotate, evaluate and verify voices at any dimension.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.command()(embed.embed)
app.command()(cache.cache)
app.command()(embed.export)
app.command()(rotate.rotate)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(inspect.inspect)
app.command()(bench.bench)
app.command()(calibrate.calibrate)
app.command()(threshold.threshold)
app.add_typer(plan.app, name="plan")
app.command()(verify.verify)
app.command()(demo.demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nestvox {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Nested speaker embeddings: embed, rotate, evaluate and verify voices at any dimension."""


@functools.cache  # a tenth of a second for the signatures of all commands, once for any number of calls
def _parser() -> Callable[..., object]:
    return get_command(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits 0 (done), 1 (a check says no) or 2 (the input or the call is wrong)."""
    try:
        _parser()(args=None if arguments is None else list(arguments))
    except NestvoxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader (head, less) has gone: not an error, but Python must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
