"""The small VoxCeleb of the distillation write-up: its speakers, drawn as there, and the pairs that remain of a list.

140 speakers of VoxCeleb2 to train on, 50 of VoxCeleb1 to choose and to report on, both of the dev parts and both by
``random.Random(42).sample`` of the sorted names. Of list E (cleaned) the pairs remain whose two speakers are drawn:
12,094 targets and 465 non-targets, so that one false alarm is 0.215 % and a false-alarm rate hangs on the few speakers
that meet at all. A later list of that project draws as many targets as there are non-targets.

Source: published counts and names of ``dimuthuanuraj/voxceleb_trainer``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from nestvox.atomic_folder import changing
from nestvox.corpora.trials import Trials, write_trials
from nestvox.corpora.utterances import UtteranceTable, write_utterances
from nestvox.errors import TableError, TrialsError, first_of

SEED = 42
_FILES = ("train.tsv", "dev.tsv", "trials.txt", "trials_balanced.txt")
# Their audio lies flat: speaker/file_video.wav, in which a video may have an underscore.
_FLAT = r"^(id\d{5})/(\d{5})_(.+)\.wav$"


@dataclass(frozen=True)
class _Part:
    corpus: str
    n_speakers: int
    drawn_from: int
    n_utterances: int


_TRAIN = _Part("VoxCeleb2", 140, 5_991, 30_179)
_DEV = _Part("VoxCeleb1", 50, 1_211, 6_286)
_N_TARGET, _N_NONTARGET = 12_094, 465


@dataclass(frozen=True)
class MiniVoxCeleb:
    """Tables and lists of the write-up.

    Attributes:
        train: utterances of 140 speakers of VoxCeleb2.
        dev: utterances of 50 speakers of VoxCeleb1.
        trials: pairs of the list whose two speakers are among the 50.
        balanced: its non-targets and as many of its targets.
        notes: counts beside those of the write-up, a sentence each.
    """

    train: UtteranceTable
    dev: UtteranceTable
    trials: Trials
    balanced: Trials
    notes: tuple[str, ...]

    def write(self, folder: str | Path) -> None:
        """Write ``train.tsv``, ``dev.tsv``, ``trials.txt`` and ``trials_balanced.txt``, all or none.

        Raises:
            NestvoxError: the folder cannot be written.
        """
        with changing(folder) as fresh:
            for name, table in zip(_FILES[:2], (self.train, self.dev), strict=True):
                whole = pl.Series("path", [str((table.root / path).absolute()) for path in table.frame["path"]])
                write_utterances(
                    UtteranceTable(table.frame.with_columns(whole), table.source, table.root), fresh / name
                )
            for name, trials in zip(_FILES[2:], (self.trials, self.balanced), strict=True):
                write_trials(trials, fresh / name, "voxceleb")


def prepare_voxceleb_mini(
    voxceleb1: UtteranceTable,
    voxceleb2: UtteranceTable,
    trials: Trials,
    *,
    speaker_list: Sequence[str] | None = None,
) -> MiniVoxCeleb:
    """Draw the speakers and the pairs of the write-up.

    The draw depends on the names that it is drawn from. Of VoxCeleb1 these are the 1,211 of the dev part. Its folder of
    VoxCeleb2 had 5,991 of 5,994 speakers: without the list that was written there, others are drawn here.

    Args:
        voxceleb1: all of it, as `prepare_voxceleb1` makes it.
        voxceleb2: likewise.
        trials: list E, cleaned (``list_test_all2.txt``), with official names or with those of the flat folders.
        speaker_list: the 140 of VoxCeleb2 by name, from ``mini_voxceleb2_speakers.txt``; None: drawn.

    Raises:
        TableError: fewer speakers than are drawn, or `speaker_list` that are not in the table.
        TrialsError: no pair of one kind remains, or utterances of the pairs are not in the table.
    """
    train = _of_speakers(voxceleb2, _TRAIN, speaker_list)
    dev = _of_speakers(voxceleb1, _DEV, None)
    official = trials.frame.with_columns(pl.col("enrol", "test").str.replace(_FLAT, "$1/$3/$2.wav"))
    drawn = dev.frame["speaker"].unique().to_list()
    both = pl.all_horizontal(pl.col(side).str.extract(r"^([^/]+)/").is_in(drawn) for side in ("enrol", "test"))
    pairs = official.filter(both)
    counts = {target: int((pairs["target"] == target).sum()) for target in (True, False)}
    if not all(counts.values()):
        raise TrialsError(
            f"of the drawn speakers it has {counts[True]:,} target and {counts[False]:,} non-target pairs: give list E "
            "of VoxCeleb1, whose pairs are of all speakers (list_test_all2.txt)",
            source=trials.source,
        )
    unknown = pl.concat([pairs["enrol"], pairs["test"]]).unique(maintain_order=True)
    unknown = unknown.filter(~unknown.is_in(dev.frame["utt_id"].implode()))
    if len(unknown):
        raise TrialsError(
            f"{len(unknown):,} utterances are not in {dev.source}: {first_of(unknown.to_list())}", source=trials.source
        )
    # As there: first the targets are drawn, then the non-targets, all of them, and the whole is shuffled.
    rng, n_each = random.Random(SEED), min(counts.values())  # noqa: S311
    rows = {target: (pairs["target"] == target).arg_true().to_list() for target in (True, False)}
    chosen = rng.sample(rows[True], n_each) + rng.sample(rows[False], n_each)
    rng.shuffle(chosen)
    return MiniVoxCeleb(
        train=train,
        dev=dev,
        trials=Trials(pairs, f"{trials.source} (pairs of {_DEV.n_speakers} speakers)"),
        balanced=Trials(pairs[chosen], f"{trials.source} (pairs of {_DEV.n_speakers} speakers, balanced)"),
        notes=(
            _note(_TRAIN, voxceleb2, train),
            _note(_DEV, voxceleb1, dev),
            f"{counts[True]:,} target and {counts[False]:,} non-target pairs, "
            f"there {_N_TARGET:,} and {_N_NONTARGET}; balanced {n_each:,} of each",
        ),
    )


def _eligible(table: UtteranceTable) -> pl.DataFrame:
    frame = table.frame
    return frame if "split" not in frame.columns else frame.filter(pl.col("split").ne_missing("test"))


def _of_speakers(table: UtteranceTable, part: _Part, named: Sequence[str] | None) -> UtteranceTable:
    frame = _eligible(table)
    there = sorted(frame["speaker"].unique())
    if named is None:
        if len(there) < part.n_speakers:
            raise TableError(
                f"{part.n_speakers} speakers of {part.corpus} wanted, and {len(there)} are outside of the test part",
                source=table.source,
            )
        named = random.Random(SEED).sample(there, part.n_speakers)  # noqa: S311
    if missing := sorted(set(named) - set(there)):
        raise TableError(f"{len(missing):,} named speakers are not there: {first_of(missing)}", source=table.source)
    return UtteranceTable(frame.filter(pl.col("speaker").is_in(list(named))), f"{table.source} (mini)", table.root)


def _note(part: _Part, whole: UtteranceTable, chosen: UtteranceTable) -> str:
    n_whole, n_chosen = _eligible(whole)["speaker"].n_unique(), chosen.frame["speaker"].n_unique()
    return (
        f"{part.corpus}: {n_chosen} of {n_whole:,} speakers, {len(chosen):,} utterances; "
        f"there {part.n_speakers} of {part.drawn_from:,}, {part.n_utterances:,}"
    )
