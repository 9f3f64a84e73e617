"""The data of a configuration of voxceleb_trainer: its lists become tables and trials, its teacher a model folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from nestvox.atomic import write_text
from nestvox.compat.made_from import RECIPE_FILE, made_before, note_made_from
from nestvox.compat.voxceleb_trainer.config import Migration
from nestvox.corpora.overlap import shared_speakers
from nestvox.corpora.prepare.folder import Skipped, durations, told
from nestvox.corpora.trials import Trials, read_trials, write_trials
from nestvox.corpora.utterances import UtteranceTable, write_utterances
from nestvox.errors import AudioError, RecipeError, TableError, first_of
from nestvox.gate import naming, read_text
from nestvox.names import split_lines
from nestvox.progress import Progress, silent

_TRAIN_TABLE, _DEV_TABLE, _DEV_TRIALS, _TEACHER = "train.tsv", "dev.tsv", "dev_trials.txt", "teacher"
_MOST_LIST_BYTES = 1 << 30


def recipe_of(plan: Migration, folder: Path) -> dict[str, Any]:
    """Return the whole recipe, whose tables, trials and teacher `prepare_data` puts into `folder`."""
    data = {
        **plan.recipe.get("data", {}),
        "table": [str(folder / _TRAIN_TABLE)],
        "dev_table": [str(folder / _DEV_TABLE)],
        "dev_trials": str(folder / _DEV_TRIALS),
        "test": {},
    }
    teacher = {} if plan.teacher is None else {"teacher": str(folder / _TEACHER)}
    return {**plan.recipe, **teacher, "data": data}


def prepare_data(
    plan: Migration,
    out: Path,
    *,
    workers: int = 4,
    tell: Callable[[str], None] = lambda _: None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make tables, trials and the teacher's folder, and return the whole recipe, which is written down too.

    Args:
        plan: from `config.migrate`.
        out: folder for ``train.tsv``, ``dev.tsv``, ``dev_trials.txt``, ``teacher`` and ``recipe.yaml``, which is last.
        workers: threads that open files.
        tell: told what is left out, and why.
        progress: files opened.

    Returns:
        Content of a recipe; see `recipe_of`.

    Raises:
        RecipeError: a malformed list, more speakers than nClasses, or speakers in both lists, which are named.
        TableError: none of the files of a list can be read, or one of test_list.
        WeightsError: the teacher's checkpoint is of another network.
    """
    trials = read_trials(plan.test_list)
    if plan.max_pairs:
        trials = Trials(trials.frame.head(plan.max_pairs), f"{plan.test_list} (first {plan.max_pairs:,})")
    if trials.n_unknown:
        raise RecipeError(
            f"{plan.test_list}: {trials.n_unknown:,} lines have no label; voxceleb_trainer draws one for them by chance"
        )
    speakers = _speakers(trials)
    heard = list(speakers)
    rows = _training_rows(plan.train_list)
    train = _table(plan.train_path, rows, plan.train_list, "train", workers, tell, progress)
    dev_rows = [(speaker, name) for name, speaker in speakers.items()]
    dev = _table(plan.test_path, dev_rows, plan.test_list, "dev", workers, tell, progress)
    if len(dev) < len(heard):
        missing = sorted(set(heard) - set(dev.frame["utt_id"]))
        raise TableError(
            f"{len(missing):,} files of its trials cannot be read: {first_of(missing)}", source=plan.test_list
        )
    n_speakers = train.frame["speaker"].n_unique()
    if plan.n_speakers is not None and n_speakers > plan.n_speakers:
        raise RecipeError(f"{plan.train_list}: {n_speakers:,} speakers, and nClasses = {plan.n_speakers:,}")
    if shared := shared_speakers(set(train.frame["speaker"]), set(dev.frame["speaker"])):
        raise RecipeError(
            f"{len(shared)} speakers of {plan.test_list} stand in {plan.train_list} too ({first_of(sorted(shared))}): "
            "error rates there would be flattered"
        )
    out.mkdir(parents=True, exist_ok=True)
    if plan.teacher is not None:
        from nestvox.compat.voxceleb_trainer.checkpoints import import_checkpoint  # noqa: PLC0415  imports torch

        model, transfer = import_checkpoint(plan.teacher)
        tell(f"teacher: {transfer}")
        model.save(out / _TEACHER)
    note_made_from(out, _made_from(plan))
    write_utterances(train, out / _TRAIN_TABLE)
    write_utterances(dev, out / _DEV_TABLE)
    write_trials(trials, out / _DEV_TRIALS, "voxceleb")
    recipe = recipe_of(plan, out)
    text = yaml.safe_dump(recipe, sort_keys=False)
    write_text(out / RECIPE_FILE, f"# From a configuration of voxceleb_trainer.\n{text}")
    return recipe


def data_there(plan: Migration, made: Path) -> bool:
    """Whether a run has its tables already.

    Raises:
        RecipeError: they were made of other lists, which are named, or the note of it is damaged.
    """
    return made_before(made, _made_from(plan))


def _made_from(plan: Migration) -> Mapping[str, Any]:
    paths = ("train_list", "train_path", "test_list", "test_path")
    return {
        **{key: str(getattr(plan, key).absolute()) for key in paths},
        "max_test_pairs": plan.max_pairs,
        "teacher_checkpoint": None if plan.teacher is None else str(plan.teacher.absolute()),
    }


def _training_rows(path: Path) -> list[tuple[str, str]]:
    """Speaker and file of each line."""
    rows = []
    text = read_text(path, naming(RecipeError), most_bytes=_MOST_LIST_BYTES)
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 2:
            raise RecipeError(f"{path}, line {number}: expected a speaker and a file, found {len(fields)} fields")
        rows.append((fields[0], fields[1]))
    if not rows:
        raise RecipeError(f"{path}: the list is empty")
    return rows


def _speakers(trials: Trials) -> dict[str, str]:
    """The speaker of every file of a list: that folder of its name by which the labels are right."""
    names = pl.concat([trials.frame["enrol"], trials.frame["test"]]).unique(maintain_order=True).to_list()
    folders = {name: name.split("/")[:-1] for name in names}
    for level in range(min(map(len, folders.values()))):
        speakers = {name: parts[level] for name, parts in folders.items()}
        if all((speakers[a] == speakers[b]) == same for a, b, same in trials.frame.iter_rows()):
            return speakers
    raise RecipeError(
        f"{trials.source}: no folder in the names of its files is the speaker by its labels, as id10001 is in "
        "id10001/video/00001.wav; write a recipe with a table of these files as data.dev_table"
    )


def _table(
    folder: Path,
    rows: Sequence[tuple[str, str]],
    source: Path,
    split: str,
    workers: int,
    tell: Callable[[str], None],
    progress: Progress,
) -> UtteranceTable:
    """The readable files of a list, named as in it."""
    files = [(folder / name).absolute() for _, name in rows]
    found = durations(files, workers=workers, progress=progress)
    usable = [number for number, length in enumerate(found) if isinstance(length, float)]
    skipped = [
        Skipped(rows[number][1], length.problem)
        for number, length in enumerate(found)
        if isinstance(length, AudioError)
    ]
    if not usable:
        raise TableError(
            f"none of {len(rows):,} files can be read; {skipped[0].path}: {skipped[0].reason}", source=source
        )
    if skipped:
        tell(f"{source}: {told(skipped)}")
    frame = pl.DataFrame(
        {
            "utt_id": [rows[number][1] for number in usable],
            "path": [str(files[number]) for number in usable],
            "speaker": [rows[number][0] for number in usable],
            "duration_s": [found[number] for number in usable],
            "split": split,
        }
    )
    return UtteranceTable(frame, str(source), folder)
