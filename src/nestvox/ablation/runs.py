"""One run of a study in its folder: what training left, its scores and costs, and whether it is a run of its own."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from nestvox.ablation.costs import Costs, count_costs
from nestvox.ablation.study import Arm
from nestvox.atomic import names_in, write_text
from nestvox.corpora.delimited import write_frame
from nestvox.corpora.trial_columns import read_headed
from nestvox.corpora.trials import Trials
from nestvox.errors import ScoresError, TrainingError
from nestvox.extraction.embed import embed_table
from nestvox.gate import naming, parse_json, read_json, read_text
from nestvox.inspection.inspect import files_of
from nestvox.model.loading import load
from nestvox.progress import Bars
from nestvox.schema import Count, StrictModel, Word, validated
from nestvox.scoring.sources import known
from nestvox.scoring.system import System
from nestvox.training.recipe.kinds import Recipe
from nestvox.training.recipe.recipe import parse_recipe
from nestvox.training.run_log import METRICS_FILE, Watch
from nestvox.training.train import MODEL_FOLDER, RECIPE_FILE, train

RUN_FILE = "run.json"

_SCORES_FILE = "dev_scores.parquet"
_REPORT = "report"
_CACHE = "cache"
_SIDES = ("enrol_speaker", "test_speaker")
_error = naming(TrainingError)


class _Costs(StrictModel):
    shape: Word
    parameters: Count
    macs: Count
    size_bytes: Count


class _Record(StrictModel):
    recipe: Word
    seconds: Annotated[float, Field(ge=0)]
    best_epoch: Count
    epochs: Count
    kept: Word
    trials_source: Word
    labels: list[Word]
    fingerprint: Word
    costs: _Costs


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """One arm with one seed, trained.

    Attributes:
        arm: its name.
        seed: of all that was drawn.
        folder: of the run.
        seconds: that it took, all calls together where it was stopped: those of the last.
        best_epoch: whose weights are kept; 0: the starting point.
        epochs: that were run.
        kept: which weights these are, and why.
        costs: of the model.
        system: its scores on the development trials.
        trials: of development.
        series: see `series_of`.
    """

    arm: str
    seed: int
    folder: Path
    seconds: float
    best_epoch: int
    epochs: int
    kept: str
    costs: Costs
    system: System
    trials: Trials
    series: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.arm} with seed {self.seed}"


def recipe_of(arm: Arm, seed: int, study: str) -> Recipe:
    """The recipe of an arm with one seed."""
    name = f"run.name={json.dumps(f'{study}-{arm.name}-seed-{seed}')}"
    return parse_recipe(arm.recipe.settings(), arm.name, [f"seed={seed}", name])


def finished_run(arm: Arm, seed: int, recipe: Recipe, folder: Path) -> FinishedRun | None:
    """Read a run that is over; None: it is not, or never began.

    Raises:
        TrainingError: the folder holds a run of another recipe, or is damaged.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    record = validated(_Record, read_json(path, _error), str(path), _error, what="none of a study's run")
    if record.recipe != recipe.hash:
        raise TrainingError(
            f"{folder} holds a finished run of another recipe ({record.recipe}, now {recipe.hash}): {arm.name} was "
            "changed; give another --out, or delete that folder to train it anew"
        )
    system, trials = _read_scores(folder / _SCORES_FILE, record)
    return FinishedRun(
        arm=arm.name,
        seed=seed,
        folder=folder,
        seconds=record.seconds,
        best_epoch=record.best_epoch,
        epochs=record.epochs,
        kept=record.kept,
        costs=Costs(**record.costs.model_dump()),
        system=system,
        trials=trials,
        series=series_of(folder),
    )


def share_features(recipe: Recipe, folder: Path, shared: Path) -> None:
    """Let a run make its features where all runs look that need the same: a teacher is heard once for all arms.

    Args:
        recipe: of the run.
        folder: of the run, which may not be there yet.
        shared: folder of the features of the study.
    """
    if (folder / _CACHE).exists():
        return
    settings = recipe.settings()
    needed = {name: settings.get(name) for name in ("kind", "data", "start", "teacher", "teachers", "seed")}
    needed["random"] = settings.get("teacher_order") == "random"
    key = hashlib.sha256(json.dumps(needed, sort_keys=True).encode()).hexdigest()[:16]
    (shared / key).mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if RECIPE_FILE not in names_in(folder):
        write_text(folder / RECIPE_FILE, recipe.to_yaml())  # with it the folder is a run's, which has not begun
    (folder / _CACHE).unlink(missing_ok=True)  # of a study that was moved
    (folder / _CACHE).symlink_to(os.path.relpath(shared / key, folder), target_is_directory=True)


def train_run(
    recipe: Recipe, folder: Path, *, bars: Bars, announce: Callable[[str], None] | None, watch: Watch | None
) -> None:
    """Train one run, or go on with it; `run.json` is written last, so that a folder with one is finished."""
    began = time.monotonic()
    trained = train(recipe, folder, resume=True, bars=bars, announce=announce, watch=watch)
    if trained is None:
        raise TrainingError("a study is run by one process; torchrun is for `nestvox train`")
    _write_scores(folder / _SCORES_FILE, trained.trials, trained.scores)
    size = sum(files_of(trained.folder / MODEL_FOLDER).values())
    record = {
        "recipe": recipe.hash,
        "seconds": round(time.monotonic() - began, 3),
        "best_epoch": trained.best_epoch,
        "epochs": trained.epochs,
        "kept": trained.kept,
        "trials_source": trained.trials.source,
        "labels": list(trained.scores.labels),
        "fingerprint": trained.model.fingerprint,
        "costs": asdict(count_costs(load(trained.folder / MODEL_FOLDER, device="cpu"), size)),
    }
    write_text(folder / RUN_FILE, json.dumps(record, indent=1) + "\n")


def reported(run: FinishedRun, trials: Trials, table: Any, *, bars: Bars) -> System:
    """Score other trials with the model of a run; its vectors are kept, so that this resumes too."""
    model = load(run.folder / MODEL_FOLDER)
    rows = np.union1d(*(table.resolve(trials.frame[side]) for side in ("enrol", "test")))
    part = type(table)(frame=table.frame[rows], source=table.source, root=table.root)
    with bars(f"embedding with {run.name}", "utterances") as progress:
        store = embed_table(model, part, run.folder / f"{_REPORT}-{trials.sha256[:12]}", progress=progress)
    return known(store, trials, name=run.name).score()


def series_of(folder: Path) -> tuple[tuple[str, float], ...]:
    """Every loss and every error rate that a run logged after its starting point, in order.

    Two different runs cannot have one series; a table that says so shows the log of one run twice.
    """
    path = folder / METRICS_FILE
    found: list[tuple[str, float]] = []
    for number, line in enumerate(read_text(path, _error).splitlines(), 1):
        record: Any = parse_json(line, f"{path} line {number}", _error)
        if not isinstance(record, dict) or not record.get("epoch"):
            continue
        rates: Any = record.get("dev_eer", {})
        values: Mapping[str, Any] = {**record, **(rates if isinstance(rates, dict) else {})}
        known_names = ("loss", "epoch_loss", *(rates if isinstance(rates, dict) else ()))
        found += [(name, float(values[name])) for name in known_names if isinstance(values.get(name), int | float)]
    return tuple(found)


def refuse_same_series(run: FinishedRun, others: list[FinishedRun]) -> None:
    """Refuse a run whose losses and error rates are those of another, to the last digit.

    Raises:
        TrainingError: it names both.
    """
    for other in others:
        if run.series and run.series == other.series:
            raise TrainingError(
                f"{run.name} and {other.name} have the same {len(run.series):,} losses and error rates to the last "
                "digit, which two different runs cannot have: what the arms differ in has no effect, or one log is the "
                f"other's ({run.folder / METRICS_FILE}, {other.folder / METRICS_FILE}); take one of the arms out"
            )


def _write_scores(path: Path, trials: Trials, system: System) -> None:
    assert system.speakers is not None
    columns = [pl.Series(name, list(side)) for name, side in zip(_SIDES, system.speakers, strict=True)]
    scores = [pl.Series(str(dim), values) for dim, values in system.scores.items()]
    write_frame(trials.frame.select("enrol", "test", "target").with_columns(*columns, *scores), path, "parquet")


def _read_scores(path: Path, record: _Record) -> tuple[System, Trials]:
    frame, _ = read_headed(path, ScoresError, parquet=True)
    dims = [name for name in frame.columns if name.isdigit()]
    needed = {"enrol": pl.String, "test": pl.String, "target": pl.Boolean, **dict.fromkeys(_SIDES, pl.String)}
    whole = all(frame.schema.get(name) == kind for name, kind in needed.items())
    if (
        not dims
        or not whole
        or any(frame.schema[dim] != pl.Float64 for dim in dims)
        or frame.null_count().sum_horizontal()[0]
    ):
        raise ScoresError("none of a study's scores; delete the folder to train the run anew", source=path)
    trials = Trials(frame.select("enrol", "test", "target"), record.trials_source)
    scores = {int(dim): frame[dim].to_numpy() for dim in dims}
    if not all(np.isfinite(values).all() for values in scores.values()):
        raise ScoresError("a score is no finite number", source=path)
    return System(
        path.parent.name,
        dict(sorted(scores.items())),
        trials.sha256,
        str(path),
        fingerprint=record.fingerprint,
        labels=tuple(record.labels),
        speakers=(frame[_SIDES[0]].to_list(), frame[_SIDES[1]].to_list()),
    ), trials
