"""`nestvox plan` as a user types it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from nestvox.cli.main import main
from nestvox.cli.plan import plan
from nestvox.errors import NestvoxError
from nestvox.metrics import eer, error_curve
from nestvox.metrics.plan import plan_study
from nestvox.testing import make_store

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(plan)


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


GOAL = ["--eer", "0.02", "--difference", "0.005"]


@pytest.fixture
def pilot(tmp_path: Path) -> Path:
    """trials.txt and two score files over thirty speakers, speakers in the names."""
    generator = np.random.default_rng(0)
    voice = generator.normal(size=30)
    trials, scores = [], ([], [])
    for speaker in range(30):
        for take in range(10):
            for other in (speaker, (speaker + take + 1) % 30):
                pair = f"id{10000 + speaker}/a/{take}.wav id{10000 + other}/b/{take}.wav"
                target = speaker == other
                trials.append(f"{int(target)} {pair}\n")
                common = generator.normal() + (voice[speaker] + voice[other]) / 2
                for lines in scores:
                    lines.append(f"{2 * target + common + 0.5 * generator.normal():.6f} {pair}\n")
    (tmp_path / "trials.txt").write_text("".join(trials))
    for name, lines in zip(("one", "two"), scores, strict=True):
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    return tmp_path


def test_it_says_what_is_not_enough_and_what_is():
    few = run(*GOAL, "--speakers", 40)
    assert few.exit_code == 0, few.output
    made = plan_study(0.02, 0.005, 40)
    for text in (
        "EER 2 % against 2.5 %",
        "40 speakers: no number of pairs is enough",
        f"at least {made.least_speakers:,} speakers",
        "usual values",
    ):
        assert text in few.output
    many = run(*GOAL, "--speakers", 2000)
    assert "2,000 speakers: " in many.output
    assert "pairs, half of them targets" in many.output


def test_json_is_the_plan(tmp_path):
    result = run(*GOAL, "--speakers", 40, "--pairs", 500, "--clusters", "0.1,0.01,0.3", "--json", tmp_path / "p.json")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "p.json").read_text())
    assert content["clusters"] == {"target": 0.1, "nontarget": 0.01, "pair": 0.3}
    assert content["pairs"] is None
    assert content["pairs_given"] == 500
    assert content["standard_error"] > 0
    assert "as given" in result.output


def test_a_pilot_replaces_the_assumptions(pilot):
    result = run(
        *("--eer", 0.1, "--difference", 0.02, "--speakers", 100, "--json", pilot / "p.json"),
        *("--pilot-trials", pilot / "trials.txt"),
        *("--pilot-scores", pilot / "one.txt", "--pilot-scores", pilot / "two.txt"),
    )
    assert result.exit_code == 0, result.output
    content = json.loads((pilot / "p.json").read_text())
    assert f"measured on {pilot / 'trials.txt'}" in result.output
    # Four fifths of the variance are common to both systems.
    assert 0.5 < content["correlation"] < 1
    assert content["clusters"]["target"] > 0.05
    rows = [line.split() for line in (pilot / "trials.txt").read_text().splitlines()]
    scores = [float(line.split()[0]) for line in (pilot / "one.txt").read_text().splitlines()]
    assert 0 < eer(error_curve(scores, np.array([row[0] == "1" for row in rows]))).rate < 0.5
    assert not math.isnan(content["standard_error"])
    # Of two systems the correlations are the mean.
    alone = []
    for name in ("one", "two"):
        result = run(
            *("--eer", 0.1, "--difference", 0.02, "--speakers", 100, "--json", pilot / "p.json"),
            *("--pilot-trials", pilot / "trials.txt", "--pilot-scores", pilot / f"{name}.txt"),
        )
        alone.append(json.loads((pilot / "p.json").read_text())["clusters"])
    for key, value in content["clusters"].items():
        assert value == pytest.approx((alone[0][key] + alone[1][key]) / 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*GOAL, "--speakers", 2], "at least 3 speakers"),
        ([*GOAL, "--speakers", 40, "--clusters", "0.1"], "three numbers"),
        ([*GOAL, "--speakers", 40, "--pilot-trials", "t.txt"], "both"),
        (["--eer", 0.6, "--difference", 0.01, "--speakers", 40], "between 0 and 0.5"),
    ],
)
def test_calls_that_mean_nothing(arguments, words):
    result = run(*arguments)
    assert isinstance(result.exception, NestvoxError)
    assert words in str(result.exception)


def test_a_store_is_a_pilot_as_its_scores_are(tmp_path):
    generator = np.random.default_rng(4)
    names = [f"id{10000 + speaker}/v/{take}.wav" for speaker in range(20) for take in range(5)]
    vectors = np.repeat(generator.normal(size=(20, 16)), 5, axis=0) + 1.4 * generator.normal(size=(100, 16))
    vectors = vectors.astype(np.float32)
    make_store(tmp_path / "store", vectors, paths=names, speakers=[name[:7] for name in names], dims=(4, 16))
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    pairs = [(a, b) for a in range(100) for b in range(a + 1, 100)]
    (tmp_path / "t.txt").write_text("".join(f"{int(a // 5 == b // 5)} {names[a]} {names[b]}\n" for a, b in pairs))
    (tmp_path / "s.txt").write_text("".join(f"{unit[a] @ unit[b]:.9f} {names[a]} {names[b]}\n" for a, b in pairs))
    found = {}
    for pilot_scores in ("store", "s.txt"):
        result = run(
            *("--eer", 0.1, "--difference", 0.02, "--speakers", 100, "--pilot-trials", tmp_path / "t.txt"),
            *("--pilot-scores", tmp_path / pilot_scores, "--json", tmp_path / "p.json"),
        )
        assert result.exit_code == 0, result.output
        found[pilot_scores] = json.loads((tmp_path / "p.json").read_text())["clusters"]
    assert found["store"] == pytest.approx(found["s.txt"], abs=1e-6)


def test_a_pilot_without_speakers_is_refused(pilot):
    for name in ("trials", "one"):
        path = pilot / f"{name}.txt"
        path.write_text(path.read_text().replace("id1", "s1").replace("/", "_"))
    result = run(*GOAL, "--speakers", 40, "--pilot-trials", pilot / "trials.txt", "--pilot-scores", pilot / "one.txt")
    assert isinstance(result.exception, NestvoxError)
    assert "--pilot-table" in str(result.exception)


def test_without_speakers_it_says_how_many_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As README shows it: `nestvox plan --eer E --difference D`."""
    call = ["plan", "--eer", "0.1", "--difference", "-0.02", "--json", str(tmp_path / "p.json")]
    with pytest.raises(SystemExit) as stopped:
        main(call)
    assert not stopped.value.code
    text = capsys.readouterr().out
    alone = json.loads((tmp_path / "p.json").read_text())
    with pytest.raises(SystemExit):
        main([*call, "--speakers", "50"])
    capsys.readouterr()
    given = json.loads((tmp_path / "p.json").read_text())
    assert alone["speakers"] == alone["speakers_needed"] == given["speakers_needed"], "it depends on nothing they have"
    assert alone["pairs"] is not None, "with so many speakers some number of pairs is enough"
    assert f"{alone['speakers']:,} speakers" in text
    with pytest.raises(SystemExit) as stopped:
        main(["plan", "--eer", "0.1"])
    assert stopped.value.code == 2
    assert "--difference" in capsys.readouterr().err
