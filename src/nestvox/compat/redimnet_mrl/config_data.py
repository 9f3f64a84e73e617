"""The data of a configuration of redimnet-mrl: its folders of speakers become tables, its pairs a trial list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from nestvox.atomic import write_text
from nestvox.compat.made_from import RECIPE_FILE, made_before, note_made_from
from nestvox.compat.redimnet_mrl.config import SEED, Migration
from nestvox.corpora.generate import generate_trials
from nestvox.corpora.overlap import shared_speakers
from nestvox.corpora.prepare.folder import prepare_folder, told
from nestvox.corpora.trials import write_trials
from nestvox.corpora.utterances import UtteranceTable, write_utterances
from nestvox.errors import RecipeError, TrialsError
from nestvox.progress import Progress, silent

_TRAIN_TABLE, _DEV_TABLE, _DEV_TRIALS = "train.tsv", "dev.tsv", "dev_trials.txt"


def recipe_of(plan: Migration, folder: Path) -> dict[str, Any]:
    """Return the whole recipe, whose tables and trials `prepare_data` puts into `folder`."""
    data = {
        **plan.recipe.get("data", {}),
        "table": [str(folder / _TRAIN_TABLE)],
        "dev_table": [str(folder / _DEV_TABLE)],
        "dev_trials": str(folder / _DEV_TRIALS),
        "test": {},
    }
    return {**plan.recipe, "data": data}


def prepare_data(
    plan: Migration,
    out: Path,
    *,
    workers: int = 4,
    tell: Callable[[str], None] = lambda _: None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make tables and development pairs of the folders, and return the whole recipe, which is written down too.

    Args:
        plan: from `migrate`.
        out: folder for ``train.tsv``, ``dev.tsv``, ``dev_trials.txt`` and ``recipe.yaml``, which comes last.
        workers: threads that open files.
        tell: told how many files are left out, and why.
        progress: files opened.

    Returns:
        Content of a recipe; see `recipe_of`.

    Raises:
        RecipeError: training, development and test share speakers (those that are shared are named), or the
            development folder has fewer pairs than are asked for.
        TableError: a folder without audio.
    """
    tables = {}
    for name, folder in (("train", plan.train_folder), ("dev", plan.dev_folder)):
        prepared = prepare_folder(folder, corpus=name, workers=workers, progress=progress)
        table, unread = prepared.table, prepared.skipped
        frame = table.frame.filter(pl.col("duration_s") >= plan.min_duration_s)
        if unread:
            tell(f"{folder}: {told(unread)}")
        if n_short := len(table) - len(frame):
            tell(f"{folder}: {n_short} files are shorter than data.min_duration = {plan.min_duration_s:g} s")
        absolute = pl.Series("path", [str((table.root / path).absolute()) for path in frame["path"]])
        tables[name] = UtteranceTable(
            frame=frame.with_columns(absolute, pl.lit(name).alias("split")), source=str(folder), root=out
        )
    speakers = {name: set(table.frame["speaker"]) for name, table in tables.items()}
    for folder in plan.test_folders:
        speakers[str(folder)] = (
            {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else set()
        )
    names = list(speakers)
    for number, first in enumerate(names[:2]):
        for second in names[number + 1 :]:
            if shared := shared_speakers(speakers[first], speakers[second]):
                raise RecipeError(
                    f"{len(shared)} speakers of {second} stand in {first} too ({', '.join(shared[:5])}, ...): error "
                    "rates there would be flattered; VoxCeleb1 dev has 1,211 speakers, the 40 test speakers are apart"
                )
    half = plan.n_pairs // 2
    try:
        trials = generate_trials(tables["dev"], n_target=half, n_nontarget=plan.n_pairs - half, seed=SEED)
    except TrialsError as error:
        raise RecipeError(f"{error}; set evaluation.num_val_pairs_per_dataset, now {plan.n_pairs}") from error
    out.mkdir(parents=True, exist_ok=True)
    note_made_from(out, _made_from(plan))
    write_utterances(tables["train"], out / _TRAIN_TABLE)
    write_utterances(tables["dev"], out / _DEV_TABLE)
    write_trials(trials, out / _DEV_TRIALS)
    recipe = recipe_of(plan, out)
    write_text(out / RECIPE_FILE, f"# From a configuration of redimnet-mrl.\n{yaml.safe_dump(recipe, sort_keys=False)}")
    return recipe


def data_there(plan: Migration, made: Path) -> bool:
    """Whether a run has its tables already.

    Args:
        plan: from `migrate`.
        made: folder that `prepare_data` wrote.

    Raises:
        RecipeError: they were made of other folders or by other numbers, which are named, or the note of what they
            were made from is damaged.
    """
    return made_before(made, _made_from(plan))


def _made_from(plan: Migration) -> dict[str, Any]:
    return {
        "data.train_dataset": str(plan.train_folder.absolute()),
        "data.val_dataset": str(plan.dev_folder.absolute()),
        "evaluation.test_datasets": sorted(str(folder.absolute()) for folder in plan.test_folders),
        "evaluation.num_val_pairs_per_dataset": plan.n_pairs,
        "data.min_duration": plan.min_duration_s,
    }
