"""Every table of every command is whole at 80 columns and at 120, and nothing is written past the one console."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.table import Table

import nestvox.cli
from nestvox.cli.main import main
from nestvox.metrics import Estimate, TrialSet

CLI = Path(nestvox.cli.__file__).parent
PAST = {"print", "Console", "Table", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"}
SPEAKERS = [f"speaker-{number}" for number in range(12)]
LONG = "a-system-with-a-name-that-is-longer-than-the-eighty-columns-of-a-terminal-that-nobody-widened[v2]"


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_written_past_the_console(path: Path) -> None:
    """`print`, `typer.echo` and consoles of rich would interpret markup, obey escapes, or cut cells."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    found = {ast.unparse(call.func) for call in calls} & PAST
    assert path.stem in ("console", "main") or not found, "write with nestvox.cli.console"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trials of twelve speakers, scores of two systems, vectors, and a table with faults."""
    folder = tmp_path_factory.mktemp("tables")
    names = [f"{speaker}-{number}" for speaker in SPEAKERS for number in range(3)]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    same = np.array([a[:-2] == b[:-2] for a, b in pairs])
    rows = [f"{int(target)} {a} {b}" for (a, b), target in zip(pairs, same, strict=True)]
    (folder / f"{LONG}.txt").write_text("\n".join(rows) + "\n")
    rng = np.random.default_rng(3)
    for name, distance in ((LONG, 1.2), ("b", 2.0)):
        scores = rng.normal(size=len(pairs)) + distance * same
        lines = [f"{a},{b},{score}" for (a, b), score in zip(pairs, scores, strict=True)]
        (folder / f"{name}.csv").write_text("enrol,test,score\n" + "\n".join(lines) + "\n")
    table = [f"{name}\t{name}.wav\t{name[:-2]}" for name in names]
    (folder / "t.tsv").write_text("utt_id\tpath\tspeaker\n" + "\n".join(table) + "\n")
    np.save(folder / "vectors.npy", rng.normal(size=(len(names), 16)).astype(np.float32))
    (folder / "labels.txt").write_text("\n".join(name[:-2] for name in names) + "\n")
    return folder


CALLS = {
    "compare": ["compare", f"{LONG}.csv", "b.csv", "--trials", f"{LONG}.txt", "--table", "t.tsv"],
    "evaluate": ["evaluate", "--scores", f"{LONG}.csv", "--trials", f"{LONG}.txt", "--table", "t.tsv"],
    "calibrate": ["calibrate", "--scores", f"{LONG}.csv", "--trials", f"{LONG}.txt", "--table", "t.tsv"],
    "threshold": ["threshold", "--scores", f"{LONG}.csv", "--trials", f"{LONG}.txt", "--table", "t.tsv", "--eer"],
    "rotate": ["rotate", "vectors.npy", "--labels", "labels.txt", "--out", "r.safetensors"],
    "data check": ["data", "check", "t.tsv", "--no-audio"],
    "data describe": ["data", "describe", f"{LONG}.txt"],
    "models": ["models"],
    "models list": ["models", "list"],
    "models show": ["models", "show", "ge2e"],
}


def test_where_no_speaker_changes_a_figure_no_interval_is_told(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    from types import SimpleNamespace

    from nestvox.cli import plan, threshold, train
    from nestvox.report import run_page

    monkeypatch.setattr(run_page, "write_run_page", lambda folder: folder)
    of = TrialSet(trials_sha256="ab" * 32, n_target=1, n_nontarget=1)
    none = Estimate(name="EER", dim=16, value=0.0, low=0.0, high=0.0, trials=of)
    rate = SimpleNamespace(dim=16, truncated=None, start=0.1, best=none)
    trials = SimpleNamespace(n_target=1, n_nontarget=1, source="t", sha256="ab" * 32)
    found = {"rates": [rate], "labels": (), "kept": "", "trials": trials}
    train._show(SimpleNamespace(**found, folder=Path(), model=SimpleNamespace(name="m")))
    row = SimpleNamespace(length="3 s", n_clips=1, n_speakers=2, eer=none, change=None, reason="")
    row.n_target, row.n_nontarget, row.against = 1, 1, ""
    plan._print(SimpleNamespace(dim=16, labels=(), rows=[row], advice=(), interval="", notes=()))
    printed = capsys.readouterr().out
    assert printed.count("0.00 [none]") == 2
    assert "[0.00" not in printed
    assert threshold._percent(none) == "0.00 [none]"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", CALLS)
def test_no_cell_is_cut(
    name: str, width: int, material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(material)
    monkeypatch.setenv("COLUMNS", str(width))
    numbers: list[str] = []
    texts: list[str] = []
    add_row = Table.add_row

    def recorded(table: Table, *cells: Any, **more: Any) -> None:
        for column, cell in zip(table.columns, cells, strict=False):
            (numbers if column.no_wrap else texts).append(str(cell))
        add_row(table, *cells, **more)

    monkeypatch.setattr(Table, "add_row", recorded)
    arguments = [*CALLS[name]]
    if name in ("calibrate", "threshold"):
        arguments += ["--out", f"kept-{name}-{width}.json"]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code in (0, 1)
    printed = capsys.readouterr().out
    assert "…" not in printed
    lost = [cell for cell in numbers if cell not in printed]
    assert not lost, "numbers are never broken"
    # A text may go on in the next line of its column, and nothing of it is left out.
    for cell in texts:
        left = "".join(cell.split())
        for line in printed.splitlines():
            joined = "".join(line.split())
            if left and (piece := longest_beginning(left, joined)):
                left = left[piece:]
        assert not left, f"of {cell!r} {left!r} is not there"


def longest_beginning(text: str, line: str) -> int:
    """How many characters of the beginning of `text` stand in `line`."""
    return max((size for size in range(1, len(text) + 1) if text[:size] in line), default=0)
