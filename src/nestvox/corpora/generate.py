r"""Trial lists drawn from a table: balanced, seeded, and the same on every machine.

Every random number is taken from SHA-256, so that no version of a library or of a platform changes a list:
``draw(seed, label, i, n)`` is the first 8 bytes, big-endian, of the SHA-256 of ``f"{seed}\n{label}\n{i}"``, modulo n.
A sample without replacement is a Fisher-Yates shuffle that stops early: step i swaps item i with item
``i + draw(seed, label, i, N - i)``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.corpora.trials import Trials, write_trials
from nestvox.corpora.utterances import UtteranceTable, read_utterances, write_utterances
from nestvox.errors import TrialsError
from nestvox.progress import Progress, silent

_UNKNOWN_SEX = ("", "n/a", "na", "none", "o", "other", "u", "unknown")
_REPORT_EVERY = 1000
_TARGETS_EACH, _MOST_TARGETS, _NONTARGETS_A_TARGET = 30, 10_000, 3


@dataclass(frozen=True)
class Preset:
    """Sizes and seed of a list that is drawn often enough to have a name."""

    n_target: int
    n_nontarget: int
    seed: int


PRESETS = {
    "pairs-250-seed42": Preset(n_target=125, n_nontarget=125, seed=42),
    "pairs-250-seed43": Preset(n_target=125, n_nontarget=125, seed=43),
}
"""Named settings of `generate_trials`: 250 pairs a corpus, half of them targets, as redimnet-mrl compares with."""


def usual_counts(table: UtteranceTable) -> tuple[int, int]:
    """Return how many targets and non-targets are drawn where nobody says: enough to measure, and no more.

    At most 30 targets a speaker of this table and 10,000 in all, and three times as many non-targets (false alarms are
    rare, and neighbouring trials of one speaker tell little that is new); never more than there are pairs.

    Raises:
        TrialsError: no pair of one kind.
    """
    speakers = speakers_of(table.frame.sort("utt_id"))
    targets = min(_MOST_TARGETS, sum(min(_TARGETS_EACH, len(speaker.target_pairs())) for speaker in speakers))
    rings = _rings(speakers)
    met: set[tuple[int, int]] = set()
    nontargets = 0
    for position, (ring, _) in enumerate(rings):
        for other in ring:
            pair = (min(position, other), max(position, other))
            if other != position and pair not in met:
                met.add(pair)
                nontargets += len(speakers[position].rows) * len(speakers[other].rows)
        if nontargets >= _NONTARGETS_A_TARGET * targets:
            break
    nontargets = min(nontargets, _NONTARGETS_A_TARGET * targets)
    if not targets or not nontargets:
        kind = "targets: no speaker has two recordings" if not targets else "non-targets: there is one speaker"
        raise TrialsError(f"no pairs for {kind}", source=table.source)
    return targets, nontargets


def generate_trials(
    table: UtteranceTable,
    *,
    n_target: int,
    n_nontarget: int,
    seed: int,
    name_by: Literal["utt_id", "path"] = "utt_id",
    progress: Progress = silent,
) -> Trials:
    """Draw trials from the utterances of a table.

    Rows are sorted by `utt_id` first, so the order of the table does not matter.

    Targets: two utterances of a speaker, never of one recording (a shared `path`, or the same non-empty value in a
    `recording` column), and of two sessions wherever the speaker has such a pair. Speakers take turns, in a drawn
    order, until there are enough; who has no pair left drops out.

    Non-targets: speakers of known sex meet speakers of that sex, the others meet each other; a speaker who is alone
    in such a group meets everybody. In each round every speaker stands once on the enrolment side and meets the
    next speaker but so many of a drawn order, so both sides are balanced; the two utterances are drawn.

    No pair of utterances appears twice, in neither order. The list is sorted by enrol, then test.

    Args:
        table: filter it first (``table.where(split="dev")``) for trials within a split.
        n_target: how many targets, 0 or more.
        n_nontarget: how many non-targets, 0 or more.
        seed: any whole number.
        name_by: the column that names utterances in the trials.
        progress: called with the number of trials drawn.

    Raises:
        TrialsError: the table has fewer distinct pairs than asked for, paths are to be names and are not unique, or
            nothing is asked for.
    """
    if min(n_target, n_nontarget) < 0 or n_target + n_nontarget == 0:
        problem = f"needs a number of trials of 0 or more, and one of them above 0: got {n_target} and {n_nontarget}"
        raise TrialsError(problem, source=table.source)
    frame = table.frame.sort("utt_id")
    if name_by == "path" and frame["path"].is_duplicated().any():
        raise TrialsError("several utterances share a path; name the trials by utt_id", source=table.source)
    speakers = speakers_of(frame)
    names = frame[name_by].to_list()
    rows: list[tuple[str, str, bool]] = []
    for target, pairs in (
        (True, _targets(speakers, n_target, seed, table.source)),
        (False, _nontargets(speakers, n_nontarget, seed, table.source)),
    ):
        for a, b in pairs:
            rows.append((names[a], names[b], target))
            if len(rows) % _REPORT_EVERY == 0:
                progress(len(rows), n_target + n_nontarget)
    trials = pl.DataFrame(
        rows,
        schema={"enrol": pl.String, "test": pl.String, "target": pl.Boolean},
        orient="row",
    )
    return Trials(trials.sort("enrol", "test"), f"generated from {table.source} (seed {seed})")


def written_with_trials(
    table: UtteranceTable, path: Path, *, n_target: int, n_nontarget: int, seed: int
) -> UtteranceTable:
    """Write trials of dev and of test beside a table, and then the table: where it is, everything is."""
    for split in ("dev", "test"):
        trials = generate_trials(table.where(split=split), n_target=n_target, n_nontarget=n_nontarget, seed=seed)
        write_trials(trials, path.with_name(f"trials_{split}.txt"), "voxceleb")
    write_utterances(table, path)
    return read_utterances(path)


@dataclass(frozen=True)
class Speaker:
    """A speaker of a table that is sorted by `utt_id`: rows, and what they share, as numbers."""

    name: str
    sex: str  # empty: unknown
    rows: NDArray[np.int64]
    sessions: NDArray[np.int64]  # -1: unknown
    recordings: NDArray[np.int64]  # -1: unknown
    paths: NDArray[np.int64]

    def target_pairs(self) -> NDArray[np.int64]:
        """(N, 2) rows of the pairs that may be targets, in ascending order."""
        apart = np.triu(self.paths[:, None] != self.paths[None, :], k=1)
        apart &= (self.recordings[:, None] != self.recordings[None, :]) | (self.recordings < 0)[:, None]
        known = self.sessions >= 0
        across = apart & (self.sessions[:, None] != self.sessions[None, :]) & known[:, None] & known[None, :]
        return self.rows[np.argwhere(across if across.any() else apart)]


def speakers_of(frame: pl.DataFrame) -> list[Speaker]:
    """Split the sorted table into speakers, sorted by name."""

    def codes(column: str) -> NDArray[np.int64]:
        if column not in frame.columns:
            return np.full(frame.height, -1)
        return (frame[column].rank("dense").cast(pl.Int64).fill_null(0) - 1).to_numpy()

    sessions, recordings, paths = codes("session"), codes("recording"), codes("path")
    sexes = frame["sex"].fill_null("").to_list() if "sex" in frame.columns else [""] * frame.height
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(frame["speaker"].to_list()):
        rows_of.setdefault(name, []).append(row)
    speakers = []
    for name in sorted(rows_of):
        rows = np.array(rows_of[name], np.int64)
        stated = {sexes[row].strip().casefold() for row in rows_of[name]} - set(_UNKNOWN_SEX)
        # Who is listed under two sexes is not known to be of either.
        initials = {word[0] for word in stated}
        sex = initials.pop() if len(initials) == 1 else ""
        speakers.append(Speaker(name, sex, rows, sessions[rows], recordings[rows], paths[rows]))
    return speakers


class Draw:
    """An early-stopping Fisher-Yates shuffle of range(size): every `next` is one more item of the sample."""

    def __init__(self, seed: int, label: str, size: int) -> None:
        self.size = size
        self.taken = 0
        self._prefix = f"{seed}\n{label}\n"
        self._moved: dict[int, int] = {}

    def next(self) -> int:
        """One more item."""
        step = self.taken
        digest = hashlib.sha256(f"{self._prefix}{step}".encode()).digest()
        other = step + int.from_bytes(digest[:8], "big") % (self.size - step)
        item = self._moved.get(other, other)
        self._moved[other] = self._moved.get(step, step)
        self.taken += 1
        return item

    @property
    def left(self) -> int:
        """Items that are not drawn yet."""
        return self.size - self.taken


def _shuffled(speakers: Sequence[Speaker], seed: int, label: str) -> list[Speaker]:
    draw = Draw(seed, label, len(speakers))
    return [speakers[draw.next()] for _ in speakers]


def _targets(speakers: Sequence[Speaker], wanted: int, seed: int, source: str) -> Iterator[tuple[int, int]]:
    """Yield `wanted` pairs of rows, one of each speaker in turn."""
    queue = []
    for speaker in _shuffled(speakers, seed, "targets") if wanted else []:
        pairs = speaker.target_pairs()
        queue.append((pairs, Draw(seed, f"target\n{speaker.name}", len(pairs))))
    available = sum(draw.left for _, draw in queue)
    if available < wanted:
        raise TrialsError(f"asked for {wanted} targets, the table has {available} pairs for them", source=source)
    found = 0
    while found < wanted:
        for pairs, draw in queue:
            if draw.left and found < wanted:
                first, second = pairs[draw.next()].tolist()
                yield first, second
                found += 1


def _rings(order: Sequence[Speaker]) -> list[tuple[list[int], int]]:
    """For every speaker: the ring of positions of those whom it may meet, itself among them, and its place there."""
    groups: dict[str, list[int]] = {}
    for position, speaker in enumerate(order):
        groups.setdefault(speaker.sex, []).append(position)
    everybody = list(range(len(order)))
    rings = [(everybody, position) for position in everybody]
    for members in groups.values():
        if len(members) > 1:
            for place, position in enumerate(members):
                rings[position] = (members, place)
    return rings


def _nontargets(speakers: Sequence[Speaker], wanted: int, seed: int, source: str) -> Iterator[tuple[int, int]]:
    """Yield `wanted` pairs of rows; in round r (from 0), a speaker meets the one r mod (m - 1) + 1 places on."""
    order = _shuffled(speakers, seed, "nontargets")
    rings = _rings(order)
    longest = max((len(ring) for ring, _ in rings), default=0)
    draws: dict[tuple[int, int], Draw] = {}
    found = turn = last_found = 0
    # When every partner has come round without a new pair, there is none left.
    while found < wanted and turn - last_found < longest:
        for position, (ring, place) in enumerate(rings):
            if len(ring) < 2 or found == wanted:
                continue
            other = ring[(place + turn % (len(ring) - 1) + 1) % len(ring)]
            low, high = sorted((position, other), key=lambda at: order[at].name)
            first, second = order[low], order[high]
            if (low, high) not in draws:
                label = f"nontarget\n{first.name}\n{second.name}"
                draws[low, high] = Draw(seed, label, len(first.rows) * len(second.rows))
            draw = draws[low, high]
            if draw.left:
                a, b = divmod(draw.next(), len(second.rows))
                one, two = int(first.rows[a]), int(second.rows[b])
                yield (one, two) if position == low else (two, one)
                found += 1
                last_found = turn
        turn += 1
    if found < wanted:
        raise TrialsError(f"asked for {wanted} non-targets, the table has {found} pairs for them", source=source)
