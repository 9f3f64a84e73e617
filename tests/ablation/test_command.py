"""`nestvox ablate` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nestvox.cli.main import main


def test_a_study_as_it_is_typed(
    study: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(study()))
    assert code_of(["ablate", str(path), "--set", "seeds=[3]", "--show"]) == 0
    assert "2 arms with 1 seeds each: 2 runs" in capsys.readouterr().out
    call = ["ablate", str(path), "--set", "seeds=[3]", "--out", str(out), "--bootstrap", "100", "--permutations", "50"]
    assert code_of([*call, "--json", str(tmp_path / "found.json")]) == 0
    told = capsys.readouterr()
    assert "run 2 of 2: rate=low, seed 3, about" in told.err
    assert all(words in told.out for words in ("rate=low", "Pareto front by macs at 24 dimensions", "study.html"))
    assert json.loads((tmp_path / "found.json").read_text()) == json.loads((out / "study.json").read_text())


def code_of(call: list[str]) -> object:
    with pytest.raises(SystemExit) as ended:
        main(call)
    return ended.value.code


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["nowhere.yaml", "--out", "o"], "nowhere.yaml"),
        (["tiny.yaml"], "--out is missing"),
        (["tiny.yaml", "--out", "o", "--set", "factor={}"], "factor"),
        (["tiny.yaml", "--out", "o", "--set", "training.epoch=2"], "nearest known one is training.epochs"),
        (["tiny.yaml", "--out", "o", "--permutations", "0"], "one permutation or more"),
    ],
)
def test_wrong_calls_are_one_line(
    study: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    call: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(study()))
    assert code_of(["ablate", *call]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert not Path("o").exists()
