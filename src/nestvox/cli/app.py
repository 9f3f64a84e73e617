"""The `nestvox` command line: its commands and groups, and what stands before each of them."""

from __future__ import annotations

import functools
import gc
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

# In the order of the help. The summaries stand here too, so that the list of commands imports none of them; a test
# holds them against the commands.
_SUMMARIES = {
    "embed": "Embed every utterance of a table; every dimension comes out of one forward pass.",
    "cache": (
        "Run an encoder once over several augmented variants of every utterance, and keep what heads are trained on."
    ),
    "export": "Write the vectors of a store to a file that others read, or a model as one ONNX file.",
    "rotate": (
        "Fit an orthogonal matrix: full-dimension scores stay as they are, and a prefix holds what was worth the most."
    ),
    "centre": "Put the mean of a domain's own recordings into a model; labels are not needed, nothing is trained.",
    "train": "Train a nested head, or more, as a recipe says, and keep the best weights by EER on development trials.",
    "distil": "Train a student on what a teacher says: `train` for recipes of kind distil alone.",
    "ablate": "Train every arm of a study with every seed, and say what each changed setting is worth.",
    "search-students": (
        "Search the sizes of a mixer for the student that learns the most within a limit of parameters and of time."
    ),
    "evaluate": "Measure EER and minDCF with intervals, at every dimension and under every condition.",
    "compare": (
        "Say whether one system is better than another on the same trials, or how many trials it would take to say."
    ),
    "probe": "Measure what frozen frames know about the speaker: a ladder of probes, each with its interval.",
    "compress": "Write a model in fewer bits or with fewer weights, and measure what each form is worth.",
    "inspect": "Measure a model's size, vectors and latency, and check it on recordings.",
    "bench": "Measure extraction once, and scoring, search and storage at every dimension.",
    "calibrate": "Fit an affine map to log likelihood ratios in nats at every dimension, and show what it is worth.",
    "threshold": "Set a threshold, say how sure it is, and keep it with the model.",
    "verify": "Score two recordings and compare the score with the model's threshold.",
    "diarize": "Find who speaks when in recordings, and write an RTTM file for each.",
    "diarize-score": "Measure DER with its parts, JER and the number of speakers, with intervals over files.",
    "demo": "Turn a pretrained encoder into a nested one and show what every dimension is worth.",
    "data": "Utterance tables and trial lists: prepare, check, generate, describe.",
    "models": "Pretrained encoders: list, licence, weights.",
    "plan": "How many speakers and pairs a study needs; `plan enrol`: how many enrolment clips are worth having.",
}
_MODULES = {"cache": "embed", "export": "embed", "distil": "train"}  # that they share
_GROUPS = ("data", "models", "plan")


@functools.cache
def _loaded(name: str) -> Any:
    """Import a command or group; before each of its commands stands the check of its outputs."""
    from nestvox.cli.outputs import checked

    attribute = name.replace("-", "_")
    module = importlib.import_module(f"nestvox.cli.{_MODULES.get(name, attribute)}")
    command: Any
    if name in _GROUPS:
        command = get_group(module.app)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command(name)(getattr(module, attribute))
        command = get_command(alone)
    command.name = name
    _plain(command)
    for full_name, one in _within(name, command):
        options = {param.name: _typed(param) for param in one.params}
        one.callback = checked(full_name.rpartition(" ")[2], one.callback, options)
    return command


def _plain(command: Any) -> None:
    """Help as text: it is quick, fits any terminal, and [av] is no markup."""
    command.rich_markup_mode = None
    command.short_help = inspect.cleandoc(command.help or "").partition("\n\n")[0]  # whole, where commands are listed
    for one in getattr(command, "commands", {}).values():
        _plain(one)


class _Commands(TyperGroup):
    """All commands, each imported when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  of the contract
        return list(_SUMMARIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return what the list of commands shows."""
        summary = _SUMMARIES.get(cmd_name)
        return None if summary is None else TyperCommand(cmd_name, short_help=summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is called."""
        gc.enable()
        if args and args[0] in _SUMMARIES:
            return args[0], _loaded(args[0]), args[1:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="nestvox",
    cls=_Commands,
    help="Nested speaker embeddings: embed, rotate, evaluate and verify voices at any dimension.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from nestvox import __version__
        from nestvox.cli.console import say

        say(f"nestvox {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Nested speaker embeddings: embed, rotate, evaluate and verify voices at any dimension."""


def commands() -> Iterator[tuple[str, Any]]:
    """Import every command and yield it with its full name (``data prepare csv``), in the order of the help."""
    for name in _SUMMARIES:
        yield from _within(name, _loaded(name))


def _within(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    if command.params:  # a group that works by itself
        yield name, command
    for inner, one in command.commands.items():
        yield from _within(f"{name} {inner}", one)


@functools.cache
def parser() -> Callable[..., object]:
    """Return the parser of the command line."""
    return get_command(app)


def _typed(param: Any) -> str:
    """How a parameter is written in a call: ``--json``, or the name of an argument in capitals."""
    longest: str = max(param.opts, key=len)
    return longest if longest.startswith("-") else (param.metavar or longest).upper()
