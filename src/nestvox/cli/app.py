"""The `nestvox` command line: its commands and groups, and what stands before each of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import HAS_RICH
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
from nestvox.cli.console import say
from nestvox.cli.outputs import checked

__all__ = ["app", "commands", "parser"]

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
        say(f"nestvox {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Nested speaker embeddings: embed, rotate, evaluate and verify voices at any dimension."""


def commands(group: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command with its full name (``data prepare csv``), in the order of the help."""
    whole: Any = get_command(app) if group is None else group
    for name, command in whole.commands.items():
        if hasattr(command, "commands"):
            if command.params:  # a group that works by itself
                yield f"{prefix}{name}", command
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


@functools.cache  # a tenth of a second for the signatures of all commands, once for any number of calls
def parser() -> Callable[..., object]:
    """Return the parser of the command line; before every command stands the check of its outputs."""
    root = get_command(app)
    for name, command in commands(root):
        options = {param.name: _typed(param) for param in command.params}
        command.callback = checked(name.rpartition(" ")[2], command.callback, options)
        if HAS_RICH:  # typer takes help for markup: [av] would vanish
            command.help = escape(command.help or "")
            for param in command.params:
                param.help = escape(param.help or "")
    return root


def _typed(param: Any) -> str:
    """How a parameter is written in a call: ``--json``, or the name of an argument in capitals."""
    longest: str = max(param.opts, key=len)
    return longest if longest.startswith("-") else (param.metavar or longest).upper()
