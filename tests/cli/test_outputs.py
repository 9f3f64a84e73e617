"""No output is an input, another output or a part of a model or store; walked over every command there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvox.cli.app import commands
from nestvox.cli.console import console, say, whole_table
from nestvox.cli.main import main
from nestvox.cli.outputs import (
    FOLDERS_OUT,
    INPUTS,
    OUTPUTS,
    Named,
    check_figure_format,
    check_outputs,
    checked,
    inputs_of,
    outputs_of,
    write_json,
)
from nestvox.errors import MissingExtraError, NestvoxError

COMMANDS = dict(commands())


def annotation(param: Any) -> str:
    return str(param.type_descriptor.annotation)


def takes_path(param: Any) -> bool:
    return "Path" in annotation(param) or param.name in INPUTS


def takes_json(command: Any) -> bool:
    return any(param.name == "json_out" for param in command.params)


PATHS = {name: [param for param in command.params if takes_path(param)] for name, command in COMMANDS.items()}
PAIRS = [
    pytest.param(name, read.name, write.name, id=f"{name} {read.name} {write.name}")
    for name, params in PATHS.items()
    for write in params
    for read in params
    if write.name in OUTPUTS and read.name in INPUTS
]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0), capsys.readouterr().err


def call(command: str, given: dict[str, Path]) -> list[str]:
    """A call of `command` with these paths, and something for everything else that it demands."""
    words, last = command.split(), []
    for param in COMMANDS[command].params:
        typed = max(param.opts, key=len)
        if param.name in given:
            value = str(given[param.name])
        elif param.required:
            value = "another.tsv" if typed.startswith("-") or "Path" in annotation(param) else "any"
        else:
            continue
        if typed.startswith("-"):
            words += [typed, value]
        else:
            last.append(value)
    return [*words, "--", *last]


def test_every_path_of_every_command_is_known_to_be_read_or_written() -> None:
    unknown = {
        f"{command} {param.name}"
        for command, params in PATHS.items()
        for param in params
        if param.name not in INPUTS | OUTPUTS
    }
    assert not unknown, "say in nestvox.cli.outputs whether these are read or written"
    assert not INPUTS & OUTPUTS
    assert {name.rpartition(" ")[2] for name in COMMANDS} >= FOLDERS_OUT


@pytest.mark.parametrize(("command", "read", "write"), PAIRS)
def test_no_output_replaces_an_input(
    command: str, read: str, write: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, link = tmp_path / "given.tsv", tmp_path / "link.tsv"
    given.write_text("what is read")
    link.hardlink_to(given)
    added_to = command in ("calibrate", "threshold") and write == "out" and read in ("model", "calibration")
    code, error = run(capsys, *call(command, {read: given, write: link}))
    assert code == 2
    if not added_to:
        assert "is what" in error or "is a file, where a folder is to be written" in error
        assert error.count("\n") == 1
    assert given.read_text() == "what is read"


@pytest.mark.parametrize(
    ("command", "write"),
    [(name, param.name) for name, params in PATHS.items() for param in params if param.name in OUTPUTS - {"json_out"}],
)
def test_a_dash_is_no_file(
    command: str, write: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, error = run(capsys, *call(command, {write: Path("-")}))
    assert code == 2
    assert " - is no place to write: only --json knows - for standard output" in error or "error: -: tables" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if takes_json(command)])
def test_the_json_of_every_command_goes_to_standard_output(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a command says while it works, tables and lines alike, is not in the way of the program that reads."""

    def work(json_out: Path) -> None:
        say("one line")
        console().print(whole_table("a table"))
        write_json(json_out, {"name": "\u00e9\udc80", "eer": float("nan")})

    monkeypatch.chdir(tmp_path)
    checked(name.rpartition(" ")[2], work, {})(json_out=Path("-"))
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"name": "\u00e9\udc80", "eer": None}
    assert printed.out.isascii()
    assert "one line" in printed.err
    assert "a table" in printed.err
    say("said again")
    assert capsys.readouterr().out == "said again\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--scores", "scores.txt", "--trials", "trials.txt", "--bootstrap", "50"],
        ["data", "describe", "trials.txt"],
        ["plan", "--eer", "0.05", "--difference", "-0.01"],
        ["models", "list"],
        ["models", "show", "ge2e"],
    ],
    ids=" ".join,
)
def test_a_program_reads_it_from_the_pipe(words: list[str], tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    with (tmp_path / "trials.txt").open("w") as trials, (tmp_path / "scores.txt").open("w") as scores:
        for number in range(200):
            pair = f"s{number % 20}/a{number}.wav s{number % 20 + number % 2}/b{number}.wav"
            trials.write(f"{1 - number % 2} {pair}\n")
            scores.write(f"{pair} {draw.normal(1 - number % 2):.4f}\n")
    command = [str(Path(sys.executable).with_name("nestvox")), *words, "--json", "-"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scores.txt", "trials.txt"]
    assert done.stderr


def check(output: Path, *inputs: Path, name: str = "json_out", **more: Any) -> None:
    check_outputs([Named(name, "--json", output, **more)], [Named("table", "TABLE", path) for path in inputs])


def test_every_spelling_of_a_file_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("a.tsv").write_text("")
    Path("link.tsv").symlink_to("a.tsv")
    Path("sub/hard.tsv").hardlink_to("a.tsv")
    Path("folder").symlink_to("sub")
    Path("b.tsv").write_text("")
    for spelling in (
        "a.tsv",
        "./a.tsv",
        "sub/../a.tsv",
        "link.tsv",
        "sub/hard.tsv",
        "folder/hard.tsv",
        tmp_path / "a.tsv",
    ):
        with pytest.raises(NestvoxError, match="is what TABLE reads"):
            check(Path(spelling), Path("b.tsv"), Path("a.tsv"))
    check(Path("c.json"), Path("a.tsv"))
    check(Path("b.tsv"), Path("a.tsv"))


@pytest.mark.parametrize(("one", "two"), [("x.json", "./x.json"), ("x.json", "X.json"), ("é.json", "e\u0301.json")])
def test_two_outputs_are_two_files(tmp_path: Path, one: str, two: str) -> None:
    both = [Named("json_out", "--json", tmp_path / one), Named("report", "--report", tmp_path / two)]
    with pytest.raises(NestvoxError, match="the same place"):
        check_outputs(both, [])
    check_outputs([both[0], Named("report", "--report", tmp_path / "y.html")], [])
    check_outputs([Named("json_out", "--json", Path("/dev/null")), Named("report", "--report", Path("/dev/null"))], [])


def test_models_stores_recordings_and_what_is_read_in_a_folder_are_kept(tmp_path: Path) -> None:
    model, store, kaldi = tmp_path / "model", tmp_path / "store", tmp_path / "kaldi"
    held = {model: ["config.json", "x.safetensors"], store: ["store.json", "shard-000000.arrow"], kaldi: ["wav.scp"]}
    for folder, files in held.items():
        folder.mkdir()
        for file in files:
            (folder / file).touch()
    (tmp_path / "voice.flac").touch()
    for path, words in (
        (model / "config.json", "lies inside the model"),
        (model / "new.json", "lies inside the model"),
        (store / "shard-000000.arrow", "lies inside the store"),
        (tmp_path / "voice.flac", "is a recording"),
        (kaldi / "wav.scp", "would replace a file of the folder that TABLE reads"),
        (model, "is a folder, where a file"),
    ):
        with pytest.raises(NestvoxError, match=words):
            check(path, kaldi)
    check(kaldi / "utterances.tsv", kaldi)
    check(model / "calibration.json", name="out", may_be=frozenset({"model"}))
    with pytest.raises(NestvoxError, match="lies inside --out"):
        check_outputs(
            [Named("out", "--out", tmp_path / "new", folder=True, kept=True), Named("j", "--json", tmp_path / "new/j")],
            [],
        )


@pytest.mark.parametrize("kind", ["model", "store"])
@pytest.mark.parametrize("below", ["", "new", "sub/new", "sub/new.json"])
def test_no_folder_is_made_in_a_model_or_store(tmp_path: Path, kind: str, below: str) -> None:
    kept = tmp_path / kind
    (kept / "sub").mkdir(parents=True)
    for file in ("config.json", "x.safetensors") if kind == "model" else ("store.json", "shard-000000.arrow"):
        (kept / file).touch()
    (tmp_path / "link").symlink_to(kept)
    for command, option in (
        ("evaluate", "figures"),
        ("evaluate", "csv"),
        ("demo", "out"),
        ("train", "out"),
        ("shards", "out"),
        ("augment", "out"),
        ("embed", "out"),
        ("cache", "out"),
        ("rotate", "rotated"),
    ):
        for path in (kept / below, tmp_path / "link" / below):
            outputs = outputs_of(command, {option: path}, {})
            if not below and (command in ("embed", "cache") or option == "rotated"):
                check_outputs(outputs, [])  # it goes on with what is there, if that is its own
                continue
            with pytest.raises(NestvoxError, match=f"(is the|lies inside the) {kind}"):
                check_outputs(outputs, [])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_what_may_not_be_written_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(NestvoxError, match="may not be written"):
        check(tmp_path / "locked" / "deep" / "a.json")


def test_a_file_in_place_of_a_folder_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NestvoxError, match="is no folder"):
        check(tmp_path / "file" / "a.json")
    with pytest.raises(NestvoxError, match="where a folder is to be written"):
        check(tmp_path / "file", folder=True)
    check(tmp_path / "new" / "deep" / "a.json")


def test_what_a_call_reads_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "t.txt"):
        Path(name).touch()
    params = {"systems": ["first=a.csv", "b.csv", "ge2e"], "trials": Path("t.txt"), "json_out": Path("o"), "dims": "16"}
    assert {str(named.path) for named in inputs_of("compare", params, {})} == {"a.csv", "b.csv", "t.txt"}
    assert [str(named.path) for named in outputs_of("compare", params, {})] == ["o"]


def test_a_missing_matplotlib_is_named_before_anything_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    check_figure_format("svg")
    with pytest.raises(MissingExtraError, match=r"PNG needs the extra \[plots\]"):
        check_figure_format("png")
    with pytest.raises(NestvoxError, match="svg or png, got 'pdf'"):
        check_figure_format("pdf")
