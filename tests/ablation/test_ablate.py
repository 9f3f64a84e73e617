"""`ablate`: runs, refusals, kills, and figures that are those of the evaluation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from nestvox.ablation import Ablation, ablate, load_study, runs
from nestvox.corpora.trials import Trials, read_trials, write_trials
from nestvox.corpora.utterances import write_utterances
from nestvox.errors import NestvoxError, RecipeError, TrainingError, TrialsError
from nestvox.evaluation import compare_systems, evaluate
from nestvox.extraction.cache.feature_cache import open_cache
from nestvox.metrics import eer, error_curve, min_dcf
from nestvox.model.loading import load
from nestvox.scoring.system import System
from nestvox.testing import make_noises
from nestvox.training.checkpoint import Checkpoint

Made = Callable[..., dict[str, Any]]


class Killed(BaseException):
    """Like the signal, it passes every handler of errors."""


@pytest.fixture(scope="module")
def finished(study: Made, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Ablation, Path]:
    out = tmp_path_factory.mktemp("study") / "out"
    return ablate(study(), out, **quick), out


def without_times(found: Ablation) -> dict[str, Any]:
    """Costs and seconds differ from call to call, and what is drawn of them."""
    plain = found.to_dict()
    for measured in (plain["dev"], plain["report"]):
        if measured is not None:
            del measured["fronts"], measured["dominated"]
    for arm in plain["arms"]:
        del arm["seconds"], arm["costs"]["cpu_ms"]
    return plain


def scores_of(folder: Path, world: Any) -> dict[int, np.ndarray]:
    """Cosines of a run's own model on the vectors of the development cache, trial by trial."""
    model, cache, trials = load(folder / "model", device="cpu"), open_cache(world.dev_cache), read_trials(world.trials)
    place = {name: row for row, name in enumerate(cache.utt_ids)}
    vectors = model.head.transform(cache.gather(np.arange(len(cache)), tap="pooled")).astype(np.float64)
    found = {}
    for dim in model.dims:
        unit = vectors[:, :dim] / np.linalg.norm(vectors[:, :dim], axis=1, keepdims=True)
        found[dim] = np.array([unit[place[a]] @ unit[place[b]] for a, b, _ in trials.frame.iter_rows()])
    return found


def test_rates_and_differences_are_those_of_the_evaluation(
    finished: tuple[Ablation, Path], world: Any, quick: dict[str, Any]
) -> None:
    found, out = finished
    trials = read_trials(world.trials)
    targets = trials.frame["target"].to_numpy()
    speakers = tuple([name[1:3] for name in trials.frame[side]] for side in ("enrol", "test"))
    for number, seed in enumerate((0, 1)):
        scored = {arm: scores_of(out / "runs" / arm / f"seed-{seed}", world) for arm in ("base", "rate=low")}
        systems = [System(arm, scores, trials.sha256, "by hand") for arm, scores in scored.items()]
        rows = {row.dim_b: row for row in compare_systems(trials, systems, speakers=speakers, **quick).rows}
        for arm, scores in scored.items():
            for dim in (8, 24):
                curve, row = error_curve(scores[dim], targets), found.dev.row(arm, dim)
                assert row.eer[number] == pytest.approx(eer(curve).rate, abs=1e-9)
                assert row.min_dcf[number] == pytest.approx(min_dcf(curve, 0.05).value, abs=1e-9)
                if arm != "base":
                    against = row.against_base[number]
                    assert against is not None
                    assert against.paired is not None
                    assert against.paired.eer == pytest.approx(rows[dim].paired.eer, abs=1e-9)
                    assert (against.p_eer, against.p_min_dcf) == (rows[dim].p_eer, rows[dim].p_min_dcf)
    low = found.dev.row("rate=low", 24)
    assert low.eer_mean == pytest.approx(np.mean(low.eer))
    assert low.eer_sd == pytest.approx(np.std(low.eer, ddof=1))
    assert low.difference is not None
    assert low.difference.value == pytest.approx(low.eer_mean - found.dev.row("base", 24).eer_mean)
    assert low.difference.low < low.difference.value < low.difference.high


def test_what_is_written(finished: tuple[Ablation, Path]) -> None:
    found, out = finished
    assert json.loads((out / "study.json").read_text()) == found.to_dict()
    page = (out / "study.html").read_text()
    assert all(words in page for words in ("rate=low", "training.learning_rate: 0.004", found.dev.trials_sha256[:12]))
    assert page.count("<svg") == 4
    assert {path.name for path in (out / "figures").iterdir()} == {
        f"dev-{cost}.svg" for cost in ("parameters", "macs", "cpu_ms", "size_bytes")
    }
    costs = found.arms[0].costs
    model = load(out / "runs" / "base" / "seed-0" / "model", device="cpu")
    head = model.head.tensors()
    assert costs["parameters"] == sum(p.numel() for p in model.encoder.parameters()) + sum(
        t.size for t in head.values()
    )
    assert found.arms[0].costs == found.arms[1].costs  # of one shape


def test_a_finished_study_is_only_read(
    study: Made, quick: dict[str, Any], finished: tuple[Ablation, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, out = finished
    monkeypatch.setattr(runs, "train", None)
    assert ablate(study(), out, **quick) == found


@pytest.mark.parametrize("where", ["checkpoint", "scores", "record"])
def test_killed_anywhere_it_goes_on(
    study: Made, quick: dict[str, Any], finished: tuple[Ablation, Path], tmp_path: Path, where: str
) -> None:
    """The third of four runs dies before its checkpoint, before its scores or before its record is on the disk."""
    out = shutil.copytree(finished[1], tmp_path / "out")
    for arm in ("base", "rate=low"):
        shutil.rmtree(out / "runs" / arm / "seed-1")
    owner, name = {
        "checkpoint": (Checkpoint, "write"),
        "scores": (runs, "_write_scores"),
        "record": (runs, "write_text"),
    }[where]
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        write = getattr(owner, name)

        def dying(*given: Any) -> None:
            if said:
                raise Killed
            write(*given)

        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            ablate(study(), out, announce=said.append, **quick)
    again: list[str] = []
    found = ablate(study(), out, announce=again.append, **quick)
    assert without_times(found) == without_times(finished[0])
    assert [line.split(",")[0] for line in again] == ["run 3 of 4: base", "run 4 of 4: rate=low"]
    assert "left" in again[0]


def test_an_arm_and_a_seed_can_be_added_or_left_out(
    study: Made, quick: dict[str, Any], finished: tuple[Ablation, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[1], tmp_path / "out")
    said: list[str] = []
    factors = study()["factors"] | {"average": {"on": {"training.ema": 0.5}}}
    found = ablate(study(factors=factors), out, set_=["seeds=[0]"], announce=said.append, **quick)
    assert [line.split(",")[0] for line in said] == ["run 3 of 3: average=on"]
    assert found.dev.row("rate=low", 24).eer == finished[0].dev.row("rate=low", 24).eer[:1]


def test_two_runs_of_one_series_are_refused_by_name(
    study: Made, quick: dict[str, Any], finished: tuple[Ablation, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[1], tmp_path / "out")
    shutil.copy(out / "runs/base/seed-1/metrics.jsonl", out / "runs/rate=low/seed-0/metrics.jsonl")
    (out / "study.json").unlink()
    with pytest.raises(TrainingError, match="base with seed 1 and rate=low with seed 0 have the same"):
        ablate(study(), out, **quick)
    assert not (out / "study.json").exists()


def test_a_setting_without_effect_is_refused_once_two_runs_have_ended(
    study: Made, quick: dict[str, Any], tmp_path: Path
) -> None:
    base = study()["base"]
    base = {**base, "training": {**base["training"], "max_grad_norm": 1e5}}
    idle = study(factors={"idle": {"yes": {"training.max_grad_norm": 1e6}}}, base=base)
    said: list[str] = []
    with pytest.raises(TrainingError, match=r"idle=yes with seed 0 and base with seed 0 have the same .* no effect"):
        ablate(idle, tmp_path / "out", announce=said.append, **quick)
    assert len(said) == 2


def test_a_run_of_another_recipe_and_a_folder_of_others_are_refused(
    study: Made, quick: dict[str, Any], finished: tuple[Ablation, Path], tmp_path: Path
) -> None:
    out = finished[1]
    with pytest.raises(TrainingError, match="finished run of another recipe"):
        ablate(study(), out, set_=["training.epochs=2"], **quick)
    with pytest.raises(TrainingError, match="holds another study"):
        ablate(study(name="other"), out, **quick)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match="holds no study"):
        ablate(study(), tmp_path, **quick)
    two = {"a": {"training.ema": 0.9, "training.learning_rate": 0.1}}
    with pytest.raises(RecipeError, match="changes 2 settings"):
        ablate(study(factors={"x": two}), tmp_path / "new", **quick)
    assert not (tmp_path / "new").exists()


def test_damaged_files_of_a_run_are_named(
    study: Made, quick: dict[str, Any], finished: tuple[Ablation, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[1], tmp_path / "out")
    record = out / "runs/base/seed-0/run.json"
    good = record.read_text()
    record.write_text(good.replace('"seconds": ', '"seconds": -'))
    with pytest.raises(NestvoxError, match=r"run\.json"):
        ablate(study(), out, **quick)
    record.write_text(good)
    (out / "runs/base/seed-0/dev_scores.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(NestvoxError, match=r"dev_scores\.parquet"):
        ablate(study(), out, **quick)


def test_runs_that_need_the_same_features_share_them(study: Made, tmp_path: Path) -> None:
    """The same with another teacher's order than random; not with another seed, or other data."""
    plan = load_study(study(base=study()["base"] | {"loss": {"distill": 1.0}}))
    places = {}
    for arm, seed in plan.runs:
        place = tmp_path / arm.name / str(seed)
        for _ in range(2):  # again, after a kill
            runs.share_features(runs.recipe_of(arm, seed, "s"), place, tmp_path / "features")
        assert {path.name for path in place.iterdir()} == {"recipe.yaml", "cache"}
        places[arm.name, seed] = (place / "cache").resolve()
    assert places["base", 0] == places["rate=low", 0] == places["shuffled-teacher", 0] == places["no-distillation", 0]
    assert len({places["base", 0], places["random-teacher", 0], places["base", 1]}) == 3


def test_a_report_is_what_evaluate_says_of_the_models_on_other_trials(
    study: Made, quick: dict[str, Any], finished: tuple[Ablation, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[1], tmp_path / "out")
    speakers = [f"n{number // 3}" for number in range(18)]
    table = make_noises(tmp_path / "audio", [0.8 + number / 40 for number in range(18)], speakers)
    write_utterances(table, tmp_path / "audio" / "table.tsv")
    pairs = [(a, b) for a in range(18) for b in range(a + 1, 18)]
    frame = {
        "enrol": [f"u{a}" for a, _ in pairs],
        "test": [f"u{b}" for _, b in pairs],
        "target": [speakers[a] == speakers[b] for a, b in pairs],
    }
    write_trials(Trials(pl.DataFrame(frame), "test"), tmp_path / "test.txt", "voxceleb")
    report = {"trials": str(tmp_path / "test.txt"), "table": str(tmp_path / "audio" / "table.tsv")}
    found = ablate(study(report=report), out, **quick)
    assert found.report is not None
    assert found.dev == finished[0].dev
    model = out / "runs" / "rate=low" / "seed-1" / "model"
    alone = evaluate(str(model), report["trials"], table=report["table"])
    for dim in (8, 24):
        row = found.report.row("rate=low", dim)
        assert row.eer[1] == pytest.approx(alone.rates(dim).eer.value, abs=1e-6)
        assert row.min_dcf[1] == pytest.approx(alone.rates(dim).min_dcf.value, abs=1e-6)
    assert (out / "study.html").read_text().count("<svg") == 8
    own = study()["base"]["data"]
    with pytest.raises(TrialsError, match="are the same trials"):
        ablate(study(report={"trials": own["dev_trials"], "table": own["table"]}), out, **quick)
