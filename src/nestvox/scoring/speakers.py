"""Who speaks on each side of a trial: what the intervals resample and the overlap check asks.

Speakers come from the caller, else from the utterance table or store, else from file names as VoxCeleb writes them,
else every utterance is its own cluster, which is said in the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from nestvox.corpora.name_pairs import number_names
from nestvox.corpora.overlap import refuse_overlap
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import TrialsError
from nestvox.scoring.conditions import recordings_in

if TYPE_CHECKING:
    from nestvox.scoring.system import System

_VOXCELEB = r"(?:^|/)(id\d{5})/"
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class TrialSpeakers:
    """Clusters of both sides of N trials.

    Attributes:
        enrol: (N,) number of the speaker of the first side, 0 to S - 1.
        test: (N,) of the second side.
        names: S names; empty where clusters are not speakers.
        source: where they are from, for the interval's description.
        warning: a sentence if clusters are not speakers, else empty.
    """

    enrol: NDArray[np.int64]
    test: NDArray[np.int64]
    names: tuple[str, ...]
    source: str
    warning: str = ""

    @property
    def known(self) -> bool:
        """Whether clusters are speakers."""
        return not self.warning

    def restricted(self, mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Clusters of the trials in `mask`, renumbered without gaps, and how many there are."""
        sides = [side if mask.all() else side[mask] for side in (self.enrol, self.test)]
        size = 1 + max(int(side.max(initial=-1)) for side in sides)
        used = np.bincount(sides[0], minlength=size) + np.bincount(sides[1], minlength=size) > 0
        number = np.cumsum(used) - 1
        return number[sides[0]], number[sides[1]], int(used.sum())


def given_speakers(trials: Trials, enrol: ArrayLike, test: ArrayLike) -> TrialSpeakers:
    """Speakers that the caller knows: (N,) names or numbers for each side.

    Raises:
        TrialsError: not one per trial, or they contradict the labels.
    """
    sides = [np.asarray(side) for side in (enrol, test)]
    if any(side.shape != (len(trials.frame),) for side in sides):
        raise TrialsError(f"speakers must be {len(trials.frame)} for each side, got {[side.shape for side in sides]}")
    return speakers_of_sides(trials, *([str(name) for name in side] for side in sides), source="given by the caller")


def speakers_of_sides(trials: Trials, enrol: Sequence[str], test: Sequence[str], *, source: str) -> TrialSpeakers:
    """Number the speakers of both sides and hold them against the labels.

    Raises:
        TrialsError: a target trial has two speakers, or a non-target trial one.
    """
    found = TrialSpeakers(*numbered(enrol, test), source)
    wrong = _contradictions(trials, found)
    if len(wrong):
        shown = "; ".join(
            f"{row['enrol']} {row['test']} is labelled {'target' if row['target'] else 'non-target'} "
            f"but {source} gives {found.names[found.enrol[i]]} and {found.names[found.test[i]]}"
            for i, row in ((int(i), trials.frame.row(int(i), named=True)) for i in wrong[:_SHOWN])
        )
        raise TrialsError(
            f"{len(wrong)} of {len(trials.frame)} labels contradict the speakers: {shown}; "
            "correct the list or the table",
            source=trials.source,
        )
    return found


def one_speaker(names: list[str]) -> str:
    """The speaker of a profile.

    Raises:
        TrialsError: its recordings are of several.
    """
    if len(set(names)) > 1:
        raise TrialsError(f"a profile has recordings of one speaker, here are {' and '.join(sorted(set(names)))}")
    return names[0]


def guess_speakers(trials: Trials) -> TrialSpeakers:
    """Speakers from names like ``id10270/x6uYqmx31kE/00001.wav``, else one cluster an utterance with a warning."""
    pairs = trials.pairs
    ids = pairs.names.str.extract(_VOXCELEB)
    if ids.null_count():
        reason = "the trials do not say who speaks"
    else:
        names = ids.unique().sort()
        number = names.search_sorted(ids).to_numpy().astype(np.int64)
        sides = number[pairs.enrol], number[pairs.test]
        found = TrialSpeakers(*sides, tuple(names.to_list()), "VoxCeleb ids in the file names")
        wrong = _contradictions(trials, found)
        if not len(wrong):
            return found
        first = trials.frame.row(int(wrong[0]), named=True)
        reason = (
            f"the names look like VoxCeleb's, but {len(wrong)} labels contradict the ids in them "
            f"(first: {first['enrol']} {first['test']} labelled {'target' if first['target'] else 'non-target'})"
        )
    warning = (
        f"CLUSTERED BY UTTERANCE because {reason}: utterances of one speaker are treated as independent, "
        "so the interval is too narrow; give a table with a speaker column"
    )
    return TrialSpeakers(pairs.keyed.enrol, pairs.keyed.test, (), "utterances", warning)


def trial_speakers(
    trials: Trials,
    systems: Sequence[System],
    *,
    speakers: tuple[ArrayLike, ArrayLike] | None = None,
    table: UtteranceTable | None = None,
) -> TrialSpeakers:
    """Who speaks in the trials: as given, else by the table, else by the stores, else by names like VoxCeleb's.

    Raises:
        TrialsError: not one speaker a side, or they contradict the labels.
        TableError: the table lacks utterances of the trials.
    """
    if speakers is not None:
        return given_speakers(trials, *speakers)
    if table is not None:
        named = recordings_in(table, trials)
        column = named.of_sides(table.frame["speaker"].gather(named.rows).to_list(), one_speaker)
        return speakers_of_sides(trials, *column, source=f"the speaker column of {Path(table.source).name}")
    for system in systems:
        if system.speakers is not None:
            who = "the store's speakers" if len(systems) == 1 else f"the speakers of {system.name}"
            return speakers_of_sides(trials, *system.speakers, source=who)
    return guess_speakers(trials)


def training_overlap(
    speakers: TrialSpeakers, training_speakers: Sequence[str], *, allow: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Refuse training speakers in the trials; labels and sentences for the results.

    `training_speakers` are keys, see `corpora.overlap.speaker_key`; `allow`: go on, with the label ``leaky``.

    Raises:
        OverlapError: speakers stand on both sides; they are named.
    """
    if not training_speakers:
        return (), ()
    if not speakers.known:
        return (), ("Whether the model was trained on these speakers is not checked: they are unknown.",)
    return refuse_overlap(set(training_speakers), speakers.names, allow=allow), ()


def numbered(
    enrol: Sequence[str] | pl.Series, test: Sequence[str] | pl.Series
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Number the names of both sides, (N,) each, from 0 in the order of their sorted keys, which are returned too."""
    found = number_names(*(pl.Series("name", side, dtype=pl.String) for side in (enrol, test))).keyed
    return found.enrol, found.test, tuple(found.names.to_list())


def _contradictions(trials: Trials, speakers: TrialSpeakers) -> NDArray[np.int64]:
    same = speakers.enrol == speakers.test
    return np.flatnonzero(same != trials.frame["target"].to_numpy().astype(np.bool_))
