"""Trials of profiles, drawn from a table: everybody is enrolled with so many recordings, and meets all that are left.

What is drawn is drawn as in `corpora.generate`: the same table and seed give the same list on every machine.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.corpora.generate import Draw, Speaker, speakers_of
from nestvox.corpora.profiles import profile_name
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import TrialsError
from nestvox.progress import Progress, silent

_MOST_NONTARGETS = 1_000_000


def generate_profile_trials(
    table: UtteranceTable,
    *,
    profiles: int,
    n_target: int | None = None,
    n_nontarget: int | None = None,
    seed: int = 0,
    name_by: Literal["utt_id", "path"] = "utt_id",
    progress: Progress = silent,
) -> Trials:
    """Draw trials whose first side is a profile of several recordings.

    Every speaker who has so many recordings is enrolled with as many, drawn by session where sessions are known, so
    that whole sessions are left to test with. Targets: a profile and a recording of the same speaker that shares
    neither `path` nor `recording` with the profile, and no session wherever the speaker has others. Non-targets: a
    profile and a recording of somebody else that is in no profile; all of them, whatever the sex, as everybody meets
    everybody in a gallery. Of speakers who have too few recordings for a profile all are tested.

    Args:
        table: filter it first for trials within a split.
        profiles: recordings of each profile, 1 or more.
        n_target: how many targets are drawn; None: all.
        n_nontarget: how many non-targets; None: all, up to a million.
        seed: any whole number.
        name_by: the column that names recordings in the trials.
        progress: called with the number of trials made.

    Raises:
        TrialsError: there are fewer trials than asked for or none of one kind, paths are to be names and are not
            unique, or a name has a bar in it.
    """
    if profiles < 1:
        raise TrialsError(f"a profile has 1 recording or more, got {profiles}", source=table.source)
    frame = table.frame.sort("utt_id")
    if name_by == "path" and frame["path"].is_duplicated().any():
        raise TrialsError("several utterances share a path; name the trials by utt_id", source=table.source)
    names = frame[name_by].to_list()
    targets: list[tuple[int, int]] = []
    tests: list[NDArray[np.int64]] = []
    enrolled: list[str] = []
    owner: list[int] = []
    for number, speaker in enumerate(speakers_of(frame)):
        profile, own, rest = _divided(speaker, profiles, seed)
        tests.append(np.column_stack([rest, np.full(len(rest), number)]))
        if len(profile):
            targets += [(len(enrolled), int(row)) for row in own]
            enrolled.append(profile_name([names[row] for row in profile]))
            owner.append(number)
    row_of, speaker_of = np.concatenate(tests).T if tests else np.empty((2, 0), np.int64)
    n_all = len(enrolled) * len(row_of) - int(np.isin(speaker_of, owner).sum())
    if not targets or not n_all:
        kind = (
            f"targets: no speaker has {profiles + 1} recordings" if not targets else "non-targets: nobody else speaks"
        )
        raise TrialsError(f"no trials for {kind}", source=table.source)
    chosen = _drawn(len(targets), n_target, len(targets), "targets", seed, table.source)
    # All pairs of a profile and a test, in order, without those of one speaker.
    pairs = np.flatnonzero((np.asarray(owner)[:, None] != speaker_of[None, :]).ravel())
    others = pairs[_drawn(n_all, n_nontarget, min(n_all, _MOST_NONTARGETS), "non-targets", seed, table.source)]
    first, second = np.divmod(others, len(row_of))
    progress(len(chosen) + len(others), len(chosen) + len(others))
    kept = [targets[at] for at in chosen]
    trials = pl.DataFrame(
        {
            "enrol": [enrolled[p] for p, _ in kept] + [enrolled[p] for p in first],
            "test": [names[row] for _, row in kept] + [names[row] for row in row_of[second]],
            "target": [True] * len(kept) + [False] * len(others),
        }
    )
    source = f"generated from {table.source} (profiles of {profiles}, seed {seed})"
    return Trials(trials.sort("enrol", "test"), source)


def _divided(speaker: Speaker, size: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the profile (none where there are too few), of its target tests, and of all that is not in it."""
    draw = Draw(seed, f"profile\n{speaker.name}", len(speaker.rows))
    order = np.array([draw.next() for _ in speaker.rows], np.int64)
    # Session by session, so that a profile begins as few of them as it can.
    begun = {session: place for place, session in reversed(list(enumerate(speaker.sessions[order].tolist())))}
    order = order[np.argsort([begun[session] for session in speaker.sessions[order].tolist()], kind="stable")]
    profile, rest = order[:size], order[size:]
    if len(profile) < size:
        return speaker.rows[:0], speaker.rows[:0], np.sort(speaker.rows)
    apart = ~np.isin(speaker.paths[rest], speaker.paths[profile])
    recordings = speaker.recordings[profile]
    apart &= ~np.isin(speaker.recordings[rest], recordings[recordings >= 0])
    own = rest[apart]
    elsewhere = own[~np.isin(speaker.sessions[own], speaker.sessions[profile]) & (speaker.sessions[own] >= 0)]
    own = elsewhere if len(elsewhere) else own
    return speaker.rows[profile], np.sort(speaker.rows[own]), np.sort(speaker.rows[rest])


def _drawn(there: int, asked: int | None, usual: int, kind: str, seed: int, source: str) -> NDArray[np.int64]:
    """Numbers below `there`, ascending: all, or as many as are wanted."""
    wanted = usual if asked is None else asked
    if not 0 <= wanted <= there:
        raise TrialsError(f"asked for {wanted} {kind}, the table has {there}", source=source)
    if wanted == there:
        return np.arange(there)
    draw = Draw(seed, f"profile {kind}", there)
    return np.sort(np.array([draw.next() for _ in range(wanted)], np.int64))
