"""Options are declared once; those of how a model is loaded and run arrive."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from nestvox.cli.app import commands
from nestvox.cli.main import main
from nestvox.errors import ModelError

COMMANDS = dict(commands())
# A recipe says where training runs and what it begins with; to centre a model its network need not run.
RUN_A_MODEL = sorted(
    name
    for name, command in COMMANDS.items()
    if {param.name for param in command.params} & {"model", "systems"} and name != "centre"
)
SHARED = ("device", "backend", "weights", "offline")

# One word for several things, each said by its command.
SEVERAL = {
    "--bootstrap": "diarize-score draws files, everything else speakers",
    "--out": "what is written is the command's own",
    "--channel": "verify takes one for each recording",
    "--eer": "a rate that is expected, or the rule of a threshold",
    "--speakers": "of a corpus, or of a study",
    "--teacher": "compress is held against one, probe learns from one",
    "--trials": "data check takes several lists, data augment rewrites one, compress needs none",
}


def test_who_runs_a_model() -> None:
    expected = ["bench", "cache", "calibrate", "compare", "compress", "demo", "diarize", "embed", "evaluate"]
    assert [*expected, "inspect", "plan enrol", "probe", "threshold", "verify"] == RUN_A_MODEL
    for name in RUN_A_MODEL:
        assert {param.name for param in COMMANDS[name].params} >= set(SHARED), name


def test_every_option_is_declared_once() -> None:
    """The same spelling, help and type on every command that has it; a default may be its own."""
    declared: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for name, command in COMMANDS.items():
        for param in command.params:
            if param.opts[0].startswith("-"):
                kind = str(param.type_descriptor.annotation), str(param.metavar), param.help, *param.opts
                declared.setdefault(max(param.opts, key=len), {}).setdefault(kind, []).append(name)
    twice = {option for option, kinds in declared.items() if len(kinds) > 1}
    assert twice == set(SEVERAL), {option: declared[option] for option in twice ^ set(SEVERAL)}


@pytest.mark.parametrize(
    "call",
    [
        ["bench", "ge2e"],
        ["cache", "t.tsv", "--out", "c", "--model", "ge2e"],
        ["calibrate", "--trials", "t.txt", "--model", "ge2e", "--table", "t.tsv", "--out", "o.json"],
        ["compare", "s.csv", "ge2e", "--trials", "t.txt", "--table", "t.tsv"],
        ["compress", "ge2e", "--out", "o"],
        ["embed", "t.tsv", "--out", "s"],
        ["evaluate", "--trials", "t.txt", "--model", "ge2e", "--table", "t.tsv"],
        ["inspect", "ge2e"],
        ["plan", "enrol", "--table", "t.tsv", "--model", "ge2e"],
        ["probe", "ge2e", "t.tsv", "--trials", "t.txt", "--out", "o"],
        ["threshold", "--trials", "t.txt", "--model", "ge2e", "--table", "t.tsv", "--eer", "--out", "o.json"],
        ["verify", "a.wav", "b.wav"],
        ["demo", "--data", "corpus", "--out", "d"],
    ],
    ids=lambda call: call[0],
)
def test_what_is_typed_arrives(
    call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{speaker}{number}" for speaker in "abcdefghijkl" for number in range(2)]
    splits = {"a": "dev", "b": "dev", "c": "test", "d": "test"}
    rows = [f"{name}\t{name}.wav\t{name[0]}\t4.0\t{splits.get(name[0], 'train')}" for name in names]
    table = "utt_id\tpath\tspeaker\tduration_s\tsplit\n" + "\n".join(rows) + "\n"
    pairs = [(a, b) for a, b in itertools.combinations(names, 2)]
    Path("corpus").mkdir()
    for name, content in {
        "t.tsv": table,
        "t.txt": "".join(f"{int(a[0] == b[0])} {a} {b}\n" for a, b in pairs),
        "s.csv": "enrol,test,score\n" + "".join(f"{a},{b},{number % 7}\n" for number, (a, b) in enumerate(pairs)),
        "w.pt": "",
        "corpus/utterances.tsv": table,
        "corpus/trials_dev.txt": "1 a0 a1\n1 b0 b1\n0 a0 b0\n0 a1 b1\n",
        "corpus/trials_test.txt": "1 c0 c1\n1 d0 d1\n0 c0 d0\n0 c1 d1\n",
    }.items():
        Path(name).write_text(content)
    got: dict[str, Any] = {}

    def load(name: str, **given: Any) -> None:
        got.update(given, name=name)
        raise ModelError("stopped here")

    monkeypatch.setattr("nestvox.model.loading.load", load)
    with pytest.raises(SystemExit) as end:
        main([*call, "--device", "cpu", "--backend", "eager", "--weights", "w.pt", "--offline"])
    assert (end.value.code, capsys.readouterr().err.splitlines()[-1:]) == (2, ["error: stopped here"])
    # The demo turns an encoder, so it asks for the best that is at hand.
    assert got["name"] == {"embed": None, "verify": None, "demo": "campplus"}.get(call[0], "ge2e")
    assert {name: got[name] for name in SHARED} == {
        "device": "cpu",
        "backend": "eager",
        "weights": Path("w.pt"),
        "offline": True,
    }
