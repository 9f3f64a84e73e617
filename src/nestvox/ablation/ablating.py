"""`ablate`: run a study, one folder a run, and write what came of it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nestvox.ablation.costs import COSTS, cpu_times
from nestvox.ablation.outcome import Ablation, ArmAbout, Measured, measure_arms
from nestvox.ablation.page import ablation_figures, write_ablation
from nestvox.ablation.runs import (
    FinishedRun,
    finished_run,
    recipe_of,
    refuse_same_series,
    reported,
    share_features,
    train_run,
)
from nestvox.ablation.study import Plan, load_study
from nestvox.atomic import names_in, write_text
from nestvox.corpora.trials import as_trials
from nestvox.corpora.utterances import read_utterances
from nestvox.errors import NestvoxError, TrainingError
from nestvox.evaluation.estimates import USUAL, Settings
from nestvox.gate import naming, read_json, read_text
from nestvox.locking import held
from nestvox.model.loading import load
from nestvox.progress import Bars, no_bars
from nestvox.schema import StrictModel, Word, validated
from nestvox.scoring.refusals import check_trials, refuse_shared_trials
from nestvox.scoring.system import System
from nestvox.training.run_log import Watch, duration_in_words
from nestvox.training.train import MODEL_FOLDER, refuse_what_is_not_here

_error = naming(TrainingError)

STUDY_FILE = "study.yaml"
RESULT_FILE = "study.json"
PAGE_FILE = "study.html"

_RUNS = "runs"
_TIMES_FILE = "times.json"
_FIGURES = "figures"
_FEATURES = "features"


class _Times(StrictModel):
    """Processor times by shape, milliseconds."""

    cpu_ms: dict[Word, Annotated[float, Field(ge=0)]]


def ablate(
    study: str | Path | Mapping[str, Any],
    out: str | Path,
    *,
    set_: Sequence[str] = (),
    settings: Settings = USUAL,
    n_permutations: int = 2000,
    bars: Bars = no_bars,
    announce: Callable[[str], None] | None = None,
    watch: Watch | None = None,
) -> Ablation:
    """Train every arm of a study with every seed, and hold each against the base.

    The folder gets ``study.yaml``, a folder ``runs/ARM/seed-N`` a run, and at the end ``study.json``, the page
    ``study.html`` and its figures. The same call goes on where an earlier one was stopped: what is finished is not run
    again, and what was begun ends with the weights that it would have had.

    Args:
        study: a YAML file, or what it holds; see `load_study`.
        out: folder of the study.
        set_: ``key=value`` each, of the study or of its base recipe.
        settings: operating point, replicates, seed of these, confidence.
        n_permutations: rounds of the permutation by speaker.
        bars: opens a display for each phase.
        announce: told which run it is of how many, and before anything is downloaded.
        watch: told of every epoch, and of data that are left out; None: the latter are Python's warnings.

    Raises:
        RecipeError: the study is no study; see `load_study`.
        TrainingError: the folder holds another study, a run fails, or two runs have one series of losses and rates.
        NestvoxError: another process runs the study.
    """
    plan, folder = load_study(study, set_), Path(out)
    refuse_what_is_not_here(plan.arms[0].recipe)
    if n_permutations < 1:
        raise NestvoxError(f"a p value takes one permutation or more, got {n_permutations}")
    report = _report_of(plan)
    with held(folder):
        _open_folder(folder, plan)
        runs = _run_all(plan, folder, bars, announce or (lambda _: None), watch)
        costs = _costs(plan, runs, folder, bars)
        found = _outcome(plan, runs, costs, report, settings=settings, n_permutations=n_permutations, bars=bars)
        write_text(folder / RESULT_FILE, json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n")
        for drawing in ablation_figures(found).values():
            drawing.write(folder / _FIGURES, "svg")
        write_ablation(found, folder / PAGE_FILE)
    return found


def _report_of(plan: Plan) -> tuple[Any, Any] | None:
    """Trials and table that the study is reported on, refused before hours of training."""
    if plan.study.report is None:
        return None
    trials, table = as_trials(plan.study.report.trials), read_utterances(plan.study.report.table)
    check_trials(trials)
    for side in ("enrol", "test"):
        table.resolve(trials.frame[side])
    if (dev := plan.arms[0].recipe.data.dev_trials) is not None:
        refuse_shared_trials(as_trials(dev), trials)
    return trials, table


def _open_folder(folder: Path, plan: Plan) -> None:
    """Write the study into its folder, or see that it holds a study of this name."""
    there = folder / STUDY_FILE
    if names_in(folder) and not there.is_file():
        raise TrainingError(f"{folder} is not empty and holds no study; give a new folder")
    if there.is_file():
        name = f"name: {plan.study.name}"
        if name not in read_text(there, naming(TrainingError)).splitlines()[:2]:
            raise TrainingError(f"{folder} holds another study; give another --out")
    write_text(there, plan.to_yaml())


def _run_all(
    plan: Plan, folder: Path, bars: Bars, announce: Callable[[str], None], watch: Watch | None
) -> list[FinishedRun]:
    """Every run, those that are finished only read; what is refused of any folder is before anything is trained."""
    places = [
        (arm, seed, recipe_of(arm, seed, plan.study.name), folder / _RUNS / arm.name / f"seed-{seed}")
        for arm, seed in plan.runs
    ]
    runs = [finished_run(arm, seed, recipe, place) for arm, seed, recipe, place in places]
    done: list[FinishedRun] = []
    for run in filter(None, runs):
        refuse_same_series(run, done)
        done.append(run)
    took = [run.seconds for run in done]
    for number, (arm, seed, recipe, place) in enumerate(places, start=1):
        if runs[number - 1] is not None:
            continue
        waiting = sum(run is None for run in runs[number - 1 :])
        left = f", about {duration_in_words(statistics.fmean(took) * waiting)} left" if took else ""
        announce(f"run {number} of {len(places)}: {arm.name}, seed {seed}{left}")
        began = time.monotonic()
        share_features(recipe, place, folder / _FEATURES)
        train_run(recipe, place, bars=bars, announce=announce, watch=watch)
        took.append(time.monotonic() - began)
        found = finished_run(arm, seed, recipe, place)
        assert found is not None
        refuse_same_series(found, done)
        runs[number - 1] = found
        done.append(found)
    return [run for run in runs if run is not None]


def _costs(plan: Plan, runs: Sequence[FinishedRun], folder: Path, bars: Bars) -> dict[str, dict[str, float | None]]:
    """Costs of every arm by name; what is of one shape has one time, and all shapes are timed together, once."""
    of_arm = {run.arm: run.costs for run in reversed(runs)}
    shapes = {run.costs.shape: run for run in reversed(runs)}
    path = folder / _TIMES_FILE
    times = validated(_Times, read_json(path, _error), str(path), _error).cpu_ms if path.is_file() else {}
    if times.keys() != shapes.keys():
        with bars("timing", "models") as progress:
            models = {}
            for number, (shape, run) in enumerate(shapes.items()):
                models[shape] = load(run.folder / MODEL_FOLDER, device="cpu")
                progress(number, len(shapes))
            times = cpu_times(models)
        write_text(path, json.dumps({"cpu_ms": times}, indent=1) + "\n")
    found = {}
    for arm in plan.arms:
        known = {**asdict(of_arm[arm.name]), "cpu_ms": times[of_arm[arm.name].shape]}
        # Thresholds are written with more or fewer digits: of one shape the size is that of the first.
        known["size_bytes"] = shapes[of_arm[arm.name].shape].costs.size_bytes
        found[arm.name] = {name: known[name] or None for name in COSTS}
    return found


def _outcome(
    plan: Plan,
    runs: Sequence[FinishedRun],
    costs: Mapping[str, Mapping[str, float | None]],
    report: tuple[Any, Any] | None,
    *,
    settings: Settings,
    n_permutations: int,
    bars: Bars,
) -> Ablation:
    by_arm = {arm.name: [run for run in runs if run.arm == arm.name] for arm in plan.arms}
    asked: dict[str, Any] = {"settings": settings, "n_permutations": n_permutations, "bars": bars}

    def measured(trials: Any, scored: Callable[[FinishedRun], System]) -> Measured:
        systems = {arm: [scored(run) for run in found] for arm, found in by_arm.items()}
        return measure_arms(trials, systems, plan.study.seeds, costs, **asked)

    _refuse_other_trials(runs)
    dev = measured(runs[0].trials, lambda run: run.system)
    test = None if report is None else measured(report[0], lambda run: reported(run, *report, bars=bars))
    about = tuple(
        ArmAbout(
            arm.name,
            arm.factor,
            dict(arm.changes),
            costs[arm.name],
            statistics.fmean(run.seconds for run in by_arm[arm.name]),
            tuple(run.best_epoch for run in by_arm[arm.name]),
        )
        for arm in plan.arms
    )
    return Ablation(
        name=plan.study.name,
        hash=plan.hash,
        arms=about,
        seeds=plan.study.seeds,
        dev=dev,
        report=test,
        machine="one thread of this machine's CPU",
        confidence=settings.confidence,
        notes=_notes(plan, by_arm, test),
    )


def _refuse_other_trials(runs: Sequence[FinishedRun]) -> None:
    for run in runs:
        if run.trials.sha256 != runs[0].trials.sha256:
            raise TrainingError(
                f"{run.name} was measured on other development trials than {runs[0].name}: rates on different trials "
                "cannot stand side by side; every arm needs the same data.dev_trials"
            )


def _notes(plan: Plan, by_arm: Mapping[str, Sequence[FinishedRun]], report: Measured | None) -> tuple[str, ...]:
    notes = ["Every run chose its weights on the development trials, so that its rates on them are too good."]
    if report is None:
        notes.append("The study names no trials of its own to be reported on (report).")
    if len(plan.study.seeds) < 3:
        notes.append(f"Seeds: {len(plan.study.seeds)}. What another would bring is hardly known; take 3 or more.")
    never = [arm for arm, found in by_arm.items() if all(run.best_epoch == 0 and run.epochs for run in found)]
    if never:
        notes.append(
            f"No epoch beat the starting point in any run of {', '.join(never)}: what is compared is the start."
        )
    return tuple(notes)
