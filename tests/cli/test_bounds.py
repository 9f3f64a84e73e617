"""Absurd numbers are told before anything is taken, and small words are right."""

from __future__ import annotations

import pytest

from nestvox.cli.app import commands
from nestvox.cli.embed import _streams
from nestvox.cli.main import main
from nestvox.cli.options import parse_dims
from nestvox.cli.prepare import skipped_in_words
from nestvox.corpora.prepare.folder import Skipped
from nestvox.errors import NestvoxError
from nestvox.metrics.bootstrap import check_replicates

# A seed is any number; nothing is made of that size.
NUMBERS = [
    (name, param)
    for name, command in commands()
    for param in command.params
    if "int" in str(param.type_descriptor.annotation) and param.name != "seed"
]


@pytest.mark.parametrize(("name", "param"), NUMBERS, ids=lambda value: getattr(value, "name", value))
def test_every_number_has_an_end(name: str, param: object) -> None:
    assert param.type_descriptor.parameter_info.max is not None, f"{name} --{param.name}: how many are absurd?"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "call",
    [
        ["evaluate", "--trials", "t", "--scores", "s", "--bootstrap", "1000000000"],
        ["compare", "a", "b", "--trials", "t", "--permutations", "1000000000"],
        ["cache", "t.tsv", "--out", "c", "--variants", "1000000000"],
        ["embed", "t.tsv", "--out", "s", "--workers", "100000000"],
        ["bench", "ge2e", "--gallery", "1000000000000"],
        ["data", "trials", "t.tsv", "--out", "o", "--targets", "1000000000000000", "--nontargets", "1"],
        ["bench", "ge2e", "--dims", "1000000000000"],
    ],
    ids=lambda call: call[0],
)
def test_absurd_numbers_are_wrong_calls(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(call)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_from_python_too() -> None:
    with pytest.raises(NestvoxError, match="at the most"):
        check_replicates(10**9, 0.95)
    with pytest.raises(NestvoxError, match="at most"):
        parse_dims("16," * 5000 + "16")
    assert parse_dims("16,256,32") == (16, 256, 32)


def test_threads_that_nobody_chose_are_not_counted() -> None:
    assert _streams(1, 0) == "1 stream"
    assert _streams(2, 0) == "2 streams"
    assert _streams(2, 1) == "2 streams of 1 thread"
    assert _streams(1, 4) == "1 stream of 4 threads"


def test_what_is_skipped_for_one_reason_is_one_line() -> None:
    m4a = [Skipped(f"s/{number}.m4a", "needs the extra [av]") for number in range(33)]
    named = [Skipped(f"e/{name}.wav", f"e/{name}.wav: the file is empty") for name in "ab"]
    assert skipped_in_words([Skipped("x.wav", "no such file"), *m4a, *named]) == [
        "skipped 33 files: needs the extra [av]; e.g. s/0.m4a, s/1.m4a, s/2.m4a and 30 more",
        "skipped 2 files: it: the file is empty; e.g. e/a.wav, e/b.wav",
        "skipped x.wav: no such file",
    ]
    many = [Skipped(f"{number}.wav", f"reason {number}") for number in range(9)]
    assert skipped_in_words(many)[-1] == "and for 4 more reasons; --json lists all"
