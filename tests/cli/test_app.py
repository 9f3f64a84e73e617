"""Commands are imported when they are called, and listed without being imported."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from nestvox.cli.app import _SUMMARIES, _loaded
from nestvox.cli.main import main


@pytest.mark.parametrize("name", _SUMMARIES)
def test_the_list_says_what_the_command_says(name: str) -> None:
    said = _loaded(name).help.split("\n\n")[0]
    assert " ".join(said.split()) == _SUMMARIES[name]


def test_every_command_module_is_in_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in _SUMMARIES)


def test_help_imports_no_command_and_no_numerics() -> None:
    code = (
        "import sys; sys.argv = ['nestvox', '--help']\n"
        "from nestvox.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "loaded = {'torch', 'numpy', 'polars', 'pydantic', 'rich', 'nestvox.cli.embed'} & set(sys.modules)\n"
        "print(sorted(loaded), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stderr.strip() == "[]"


def test_help_costs_at_most_fifteen_bare_interpreters() -> None:
    resource = pytest.importorskip("resource")

    def cost_s(*words: str) -> float:
        costs = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(costs)

    ran = "import sys; from nestvox.cli.main import main; sys.argv = ['nestvox', '--help']; main()"
    assert cost_s("-c", ran) <= 15 * cost_s("-c", "pass")


@pytest.mark.parametrize("call", [["data", "--help"], ["data", "prepare", "--help"], ["models", "--help"]])
def test_lists_of_commands_cut_no_sentence(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(call)
    shown = capsys.readouterr().out
    assert "Commands:" in shown
    assert "..." not in shown.partition("Commands:")[2]


def test_brackets_in_help_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "prepare", "voxceleb2", "--help"])
    assert "extra [av]" in capsys.readouterr().out


def test_an_unknown_command_is_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evalute"])
    assert end.value.code == 2
    assert "evalute" in capsys.readouterr().err


def test_help_wraps_where_the_terminal_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    text, _, _ = capsys.readouterr().out.partition("Arguments")
    paragraph = [line.strip() for line in text.split("Exit code 0")[1].splitlines() if line.strip()]
    # A line ends only where the first word of the next has no more place.
    for line, following in itertools.pairwise(paragraph[1:]):
        assert len(line) + 1 + len(following.split()[0]) > 76
