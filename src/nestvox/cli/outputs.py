"""No output is an input: one check of every command, before any work is done.

A command need not call it: `main` leads every command through `checked`. What a new option is (read or written) is
said here, once; a test finds one that is not.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestvox.atomic import protecting, special_file
from nestvox.cli.process import memory_words
from nestvox.errors import NestvoxError

# Options that are written, by the name of their parameter.
OUTPUTS = frozenset(
    {"audio_out", "csv", "figures", "json_out", "onnx", "out", "report", "rotated", "scores_out", "trials_out"}
)
# What `--json` calls standard output.
STDOUT = Path("-")
# Options that are read. Some are names of the catalogue or of recipes where they are no paths.
_READ = """
    a archives b baseline calibrate_on calibration checkpoint cohort data embeddings file files folder front_end
    hypothesis labels manifest model noise on path paths pilot_scores pilot_table pilot_trials recipe recordings
    redistil reference rir root scores select_on speaker_list store study supervisions systems table tables teacher
    thresholds training trials trials_file uem voxceleb1 voxceleb2 weights
"""
INPUTS = frozenset(_READ.split())
# Commands whose --out is a folder.
_MODELS_OUT = frozenset({"import-mrl", "import-onnx", "import-voxceleb-trainer"})
_MADE = (
    "ablate augment cache centre compress demo diarize distil embed probe search-students shards train voxceleb-mini"
)
FOLDERS_OUT = _MODELS_OUT | frozenset(_MADE.split())
# Of these, those whose folder becomes a model or a store, in which nothing else is put.
_KEPT_OUT = _MODELS_OUT | {"cache", "centre", "embed"}
# Read, changed and written back, so that what is there stays; these options may name the same file.
_ADDED_TO = {"calibrate": frozenset({"model"}), "threshold": frozenset({"model", "calibration"})}
# What an option writes, by which its own older output inside a folder that is read is told from what is read there.
_SUFFIXES = {
    "json_out": {".json"},
    "report": {".htm", ".html"},
    "trials_out": {".csv", ".parquet", ".txt"},
    "out": {".csv", ".parquet", ".tsv", ".txt"},
}
_AUDIO = frozenset({".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".sph", ".wav", ".webm"})


@dataclass(frozen=True)
class Named:
    """A path of a call.

    Attributes:
        name: of the parameter, e.g. ``json_out``.
        option: as it is typed, e.g. ``--json``.
        path: what was given.
        folder: it is to be a folder; None: as the command finds it.
        kept: the folder becomes a model or a store.
        may_be: names of the inputs that may be the same file, because what is there is read and kept.
    """

    name: str
    option: str
    path: Path
    folder: bool | None = False
    kept: bool = False
    may_be: frozenset[str] = frozenset()


def check_outputs(outputs: Iterable[Named], inputs: Iterable[Named]) -> None:
    """Refuse a call that would write over what it reads, over what it writes, or into what is not its own.

    Raises:
        NestvoxError: an output is an input or another output (by whatever name, link or hard link), lies inside a model
            or store, is a recording, is a folder in place of a file or the other way round, or cannot be written.
    """
    written = [output for output in outputs if not special_file(output.path)]
    read = list(inputs)
    for output in written:
        for given in read:
            _refuse_input(output, given)
        _check_kind(output)
        _check_rights(output)
    for output, other in itertools.permutations(written, 2):
        if _same(output.path, other.path):
            raise NestvoxError(
                f"{output.option} and {other.option} are the same place {other.path}; give another for one of them"
            )
        if other.folder and other.kept and _inside(output.path, other.path):
            raise NestvoxError(f"{output.option} {output.path} lies inside {other.option}; give a place outside of it")


def _same(a: Path, b: Path) -> bool:
    """Whether two paths are one file, also where there is none yet; names that differ in case only count as one."""
    try:
        return a.samefile(b)
    except OSError:
        if a.exists() or b.exists():
            return False
    return _folded(a) == _folded(b)


def _folded(path: Path) -> str:
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def _refuse_input(output: Named, given: Named) -> None:
    if given.name in output.may_be:
        return
    if _same(output.path, given.path):
        raise NestvoxError(
            f"{output.option} {output.path} is what {given.option} reads; give another place for the output"
        )
    replaces = output.folder is False and output.path.exists() and given.path.is_dir()
    if replaces and _inside(output.path, given.path) and output.path.suffix not in _SUFFIXES.get(output.name, ()):
        raise NestvoxError(
            f"{output.option} {output.path} would replace a file of the folder that {given.option} reads; "
            "give another place for the output"
        )


def _check_kind(output: Named) -> None:
    option, path = output.option, output.path
    if output.folder and path.exists() and not path.is_dir():
        raise NestvoxError(f"{option} {path} is a file, where a folder is to be written; give another place")
    if output.folder is False and path.is_dir():
        raise NestvoxError(f"{option} {path} is a folder, where a file is to be written; give the name of a file")
    if not output.folder and path.suffix.lower() in _AUDIO and path.exists():
        raise NestvoxError(f"{option} {path} is a recording, which would be replaced; give another place")
    target = Path(os.path.realpath(path))
    own = output.kept or output.folder is None  # whether that folder is theirs the command itself sees
    for place in (*((target,) if output.folder and not own else ()), *target.parents):
        kind = _kept_in(place)
        if kind and not (output.may_be and target == place / "calibration.json"):
            lies = "is the" if place == target else "lies inside the"
            raise NestvoxError(f"{option} {path} {lies} {kind} {place}; give a place outside of it")


def _check_rights(output: Named) -> None:
    option, path = output.option, output.path
    target = Path(os.path.realpath(path))
    if target.is_file() and not os.access(target, os.W_OK):
        raise NestvoxError(f"{option} {path} is there and may not be written; change its rights, or give another place")
    there = target if target.is_dir() else next(folder for folder in target.parents if os.path.lexists(folder))
    if not there.is_dir():
        raise NestvoxError(f"{option} {path}: {there} is no folder; give another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise NestvoxError(f"{option} {path}: the folder {there} may not be written; give another place")


def _kept_in(folder: Path) -> str:
    """``model`` or ``store`` where the folder is one, else empty."""
    if (folder / "store.json").is_file() and any(folder.glob("*.arrow")):  # the name alone may be a result's
        return "store"
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return "model"
    return ""


def outputs_of(command: str, params: Mapping[str, Any], options: Mapping[str, str]) -> list[Named]:
    """What a call writes.

    `params` are values by name of the parameter, `options` how each is typed.
    """
    found = []
    for name, path in _paths_in(params, OUTPUTS):
        folder: bool | None = name in ("audio_out", "csv", "figures") or (name == "out" and command in FOLDERS_OUT)
        found.append(
            Named(
                name,
                options.get(name, name),
                path,
                folder=None if name == "rotated" else folder,
                kept=name == "out" and command in _KEPT_OUT,
                may_be=_ADDED_TO.get(command, frozenset()) if name == "out" else frozenset(),
            )
        )
    if command == "fetch" and isinstance(params.get("folder"), Path):
        found.append(Named("folder", options.get("folder", "folder"), params["folder"], folder=True))
    return found


def inputs_of(command: str, params: Mapping[str, Any], options: Mapping[str, str]) -> list[Named]:
    """What a call reads, as far as it names it and it is there; see `outputs_of`."""
    return [
        Named(name, options.get(name, name), path)
        for name, path in _paths_in(params, INPUTS)
        if (command, name) != ("fetch", "folder") and os.path.lexists(path)
    ]


def _paths_in(params: Mapping[str, Any], names: frozenset[str]) -> Iterator[tuple[str, Path]]:
    for name in sorted(names & params.keys()):
        value = params[name]
        for given in value if isinstance(value, list | tuple) else [value]:
            if isinstance(given, Path):
                yield name, given
            elif isinstance(given, str) and given:
                yield name, Path(given)
                if "=" in given:  # NAME=PATH
                    yield name, Path(given.partition("=")[2])


def checked(command: str, callback: Callable[..., Any], options: Mapping[str, str]) -> Callable[..., Any]:
    """Return `callback` with the check before it; as long as it runs, no file that it was given is replaced."""

    @functools.wraps(callback)
    def run(**params: Any) -> Any:
        from nestvox.cli.console import aside

        words = memory_words(torch=bool(params.get("model")) or command in ("demo", "distil", "train"))
        if words is not None:
            raise NestvoxError(words)
        inputs = inputs_of(command, params, options)
        outputs = [output for output in outputs_of(command, params, options) if not _is_stdout(output)]
        check_outputs(outputs, inputs)
        free = {name for output in outputs for name in output.may_be} | (
            {"recipe"} if command in ("distil", "train") else set()
        )
        told = aside() if params.get("json_out") == STDOUT else nullcontext()
        with told, protecting(given.path for given in inputs if given.name not in free):
            return callback(**params)

    return run


def _is_stdout(output: Named) -> bool:
    """Whether it is no file; what is no JSON has no place on standard output."""
    if output.path == STDOUT and output.name != "json_out":
        raise NestvoxError(
            f"{output.option} - is no place to write: only --json knows - for standard output; give a path"
        )
    return output.path == STDOUT


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path | None, content: Any, *, told: bool = True) -> None:
    """Write the results as strict JSON (null for what is no number), where it was asked for; `told`: say where."""
    import json

    from nestvox.atomic import write_text
    from nestvox.cli.console import say, say_json

    if path is None:
        return
    # A pipe may have any encoding: ASCII goes through all of them.
    text = json.dumps(_finite(content), indent=2, ensure_ascii=path == STDOUT, allow_nan=False) + "\n"
    if path == STDOUT:
        say_json(text)
        return
    write_text(path, text)
    if told:
        say(f"JSON: {path}")


def check_figure_format(figure_format: str) -> None:
    """Refuse a format in which no figure can be written, before anything is measured.

    Raises:
        NestvoxError: there is no such format; those that exist are named.
        MissingExtraError: ``png``, and matplotlib is not installed.
    """
    from nestvox.extras import require
    from nestvox.report.drawing import FIGURE_FORMATS

    if figure_format not in FIGURE_FORMATS:
        raise NestvoxError(f"--figure-format must be {' or '.join(FIGURE_FORMATS)}, got {figure_format!r}")
    if figure_format == "png":
        require("matplotlib", extra="plots", purpose="writing figures as PNG")


def write_pages(
    csv: Path | None,
    figures: Path | None,
    figure_format: str,
    report: Path | None,
    *,
    tables: Callable[[], Mapping[str, Any]],
    drawings: Callable[[], Any],
    page: Callable[[Path], None],
) -> None:
    """Write what was asked for of a report: its tables, its figures, the page itself; and say where."""
    from nestvox.cli.console import say
    from nestvox.report.page import write_figures, write_tables

    if csv is not None:
        say(f"CSV: {csv} ({len(write_tables(tables(), csv))} tables)")
    if figures is not None:
        written = write_figures(drawings(), figures, figure_format)
        say(f"Figures: {figures} ({len(written)} {figure_format} files)")
    if report is not None:
        page(report)
        say(f"Report: {report}")
