"""A search for students: what is over a limit is never trained, a stopped search goes on, and the best is the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

pytest.importorskip("optuna", reason="the extra [search] is not installed")

from typer.testing import CliRunner

from nestvox.ablation import search_students, searching
from nestvox.cli.app import app
from nestvox.corpora.utterances import UtteranceTable, write_utterances
from nestvox.errors import RecipeError, TrainingError
from nestvox.model.loading import load
from nestvox.model.speaker_model import SpeakerModel
from nestvox.testing import make_noises
from nestvox.training.run_log import EpochReport, Watch

LIMIT = 60_000


@pytest.fixture(scope="module")
def recipe(encoder: SpeakerModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers with three noises each, four of them to train on, and a teacher."""
    folder = tmp_path_factory.mktemp("search")
    table = make_noises(folder, [0.6] * 18, [f"s{number // 3}" for number in range(18)])
    split = ["train" if number < 12 else "dev" for number in range(18)]
    frame = table.frame.with_columns(pl.Series("split", split))
    write_utterances(UtteranceTable(frame, "table", folder), folder / "table.tsv")
    dev = [
        (name, speaker)
        for name, speaker, part in zip(frame["utt_id"], frame["speaker"], split, strict=True)
        if part == "dev"
    ]
    pairs = [f"{int(x == y)} {a} {b}" for k, (a, x) in enumerate(dev) for b, y in dev[k + 1 :]]
    (folder / "dev.txt").write_text("\n".join(pairs) + "\n")
    SpeakerModel(encoder.encoder, name="teacher").save(folder / "teacher")
    content = {
        "kind": "distil",
        "model": {"architecture": "mixer", "embedding_dim": 24},
        "teacher": "teacher",
        "data": {"table": "table.tsv", "dev_trials": "dev.txt", "test": {}, "crop_s": 0.5, "variants": 1},
        "head": {"dims": [8, 24]},
        "objective": {"alpha": 1},
        "training": {"epochs": 1, "batch_size": 6},
        "run": {"device": "cpu"},
    }
    (folder / "short.yaml").write_text(yaml.safe_dump(content))
    return folder / "short.yaml"


class Killed(BaseException):
    """Like the signal, it passes every handler of errors."""


class Told(Watch):
    """Counts runs, and ends one of them in its first epoch."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.runs, self.stop_at = 0, stop_at

    def warn(self, text: str) -> None:
        """So few clips teach little, which is said."""

    def epoch(self, report: EpochReport) -> None:
        if report.epoch == 0:
            self.runs += 1
            if self.runs == self.stop_at:
                raise Killed


@pytest.fixture(autouse=True)
def time_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that depends on the size alone: what a busy machine measures is no matter of these tests."""

    def measured(models: dict[str, SpeakerModel]) -> dict[str, float]:
        return {name: sum(p.numel() for p in one.encoder.parameters()) / 10_000 for name, one in models.items()}

    monkeypatch.setattr(searching, "cpu_times", measured)


def search(recipe: Path, out: Path, **changes: Any) -> searching.StudentSearch:
    return search_students(
        recipe, out, **{"n_students": 2, "max_parameters": LIMIT, "max_ms": 5.0, "watch": Told(), **changes}
    )


def test_what_is_over_a_limit_is_never_trained_and_a_stopped_search_goes_on(recipe: Path, tmp_path: Path) -> None:
    whole = search(recipe, tmp_path / "whole")
    assert len(whole.trained) == 2
    assert whole.trained[0].eer_mean == min(one.eer_mean for one in whole.trained if one.eer_mean is not None)
    outcomes = {one.outcome for one in whole.drawn}
    assert (
        {"trained", "too many parameters"} <= outcomes <= {"trained", "too many parameters", "too slow", "no network"}
    )
    for one in whole.drawn:
        place = tmp_path / "whole" / "trials" / f"{one.number:04}"
        assert place.is_dir() == (one.outcome == "trained") == bool(one.rates)
        assert (one.cpu_ms is None) == (one.outcome in ("too many parameters", "no network"))
        if one.parameters:
            assert (one.parameters > LIMIT) == (one.outcome == "too many parameters")
        if one.cpu_ms is not None:
            assert (one.cpu_ms > 5.0) == (one.outcome == "too slow")
    best = whole.trained[0]
    student = load(tmp_path / "whole" / "trials" / f"{best.number:04}" / "model", device="cpu")
    assert {name: student.encoder.config()[name] for name in searching.SPACE} == {
        n: best.model[n] for n in searching.SPACE
    }
    assert best.parameters == sum(p.numel() for p in student.encoder.parameters())
    kept = json.loads((tmp_path / "whole" / "trials" / f"{best.number:04}" / "result.json").read_text())["development"]
    assert [rate["eer"] for rate in best.rates] == [pytest.approx(rate["best"]) for rate in kept["eer"]]
    assert (whole.trials["n_target"], whole.trials["n_nontarget"]) == (6, 9)
    written = json.loads((tmp_path / "whole" / "search.json").read_text())
    assert (written["best"], written["trials"]["sha256"]) == (best.number, whole.trials["sha256"])
    # Killed in the second run, it goes on there, and ends as if nothing had happened; the first is not trained again.
    with pytest.raises(Killed):
        search(recipe, tmp_path / "killed", watch=Told(stop_at=2))
    again = Told()
    assert search(recipe, tmp_path / "killed", watch=again) == whole
    assert again.runs == 1
    with pytest.raises(TrainingError, match="another recipe, limit or seed"):
        search(recipe, tmp_path / "killed", max_ms=4.0)
    arguments = ["search-students", recipe, "--out", tmp_path / "whole", "--students", 2, "--max-parameters", LIMIT]
    done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "240"})
    assert done.exit_code == 0, done.output
    assert f"{len(whole.drawn)} sizes: " in done.output


def test_what_cannot_be_searched_is_refused(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "_MOST_DRAWS", 5)
    with pytest.raises(RecipeError, match="of kind distil with a model and a teacher"):
        search(recipe, tmp_path / "a", set_=["objective={alpha: 0, terms: {}}", "teacher=null"])
    with pytest.raises(TrainingError, match="0 of 5 drawn sizes are within 10 parameters and 5 ms"):
        search(recipe, tmp_path / "b", max_parameters=10, n_students=1)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").touch()
    with pytest.raises(TrainingError, match="is not empty and holds no search"):
        search(recipe, tmp_path / "c")
