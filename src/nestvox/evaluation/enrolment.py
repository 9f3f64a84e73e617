"""How many enrolment clips, and of what length, are worth having: measured on the user's own speakers.

Each speaker's clips are divided at random, several times over: one clip is the test, the others are enrolment clips in
random order, of which the first n are averaged (each embedding normalised first, the mean normalised again). The same
division serves every n, so the step from one n to the next is measured on the same trials, on the speakers who have
enough clips for both. Where sessions are known, the test clip is of another session than the enrolment clips if the
speaker has two. Non-target trials hold each average against test clips of other speakers.

Intervals are over speakers: standard errors from the influences of all trials that share a speaker
(`metrics.influence`), Student's t.

Notation: U clips, D vector size, N trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.arrays import as_count, as_names, as_vectors, fit_to_square
from nestvox.errors import NestvoxError, ScoresError, TrialsError
from nestvox.evaluation.estimates import STUDENTISED
from nestvox.evaluation.results import plain_values
from nestvox.metrics import eer, error_curve
from nestvox.metrics.bootstrap import seeded
from nestvox.metrics.estimate import Estimate, TrialSet
from nestvox.metrics.influence import Clusters, eer_influence, logit_interval, student_quantile
from nestvox.metrics.thresholds import wilson_interval
from nestvox.model.threshold import DurationClass
from nestvox.progress import Progress, silent

_FEWEST_SPEAKERS = 5
WHOLE = "whole clips"
CLIPS_WHOLE = "the same clips whole"

Vectors = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class EnrolmentRow(TrialSet):
    """Equal error rate with n enrolment clips of one length; its trials are drawn here and have no hash.

    Attributes:
        length: ``whole clips``, ``3 s`` (the middle of each clip) or ``2 to 4 s`` (whole clips of this duration).
        n_clips: averaged.
        n_speakers: who have that many clips, and one to test.
        eer: equal error rate; None where there is none.
        against: what `change` is measured from, on the same trials; empty in a first row.
        change: in the equal error rate, a fraction; below 0 it is better.
        reason: why there are no rates; empty where there are.
    """

    length: str
    n_clips: int
    n_speakers: int
    eer: Estimate | None = None
    against: str = ""
    change: Estimate | None = None
    reason: str = ""

    @property
    def better(self) -> bool:
        """The change is an improvement, and its interval says so."""
        return self.change is not None and self.change.ends[1] < 0


@dataclass(frozen=True)
class EnrolmentPlan:
    """What the user's own clips say about enrolment.

    Attributes:
        dim: prefix length of the embeddings.
        rows: whole clips first, then each length; numbers of clips ascending.
        advice: plain sentences.
        interval: in words.
        labels: what has to be said with every rate.
        notes: what a reader has to know, in sentences.
        seed: of the divisions.
    """

    dim: int
    rows: tuple[EnrolmentRow, ...]
    advice: tuple[str, ...]
    interval: str
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values; rates are fractions."""
        plain: dict[str, Any] = plain_values({**asdict(self), "rows": [row.to_dict() for row in self.rows]})
        return plain


@dataclass(frozen=True, eq=False)
class _Divisions:
    """M divisions of some speakers' clips, with their trials.

    Attributes:
        speaker: (M,) who is enrolled.
        pools: M enrolment clips in order, each (n_i,).
        division: (N,) of each trial.
        test: (N,) clip.
        test_speaker: (N,).
    """

    speaker: Integers
    pools: tuple[Integers, ...]
    division: Integers
    test: Integers
    test_speaker: Integers


def plan_enrolment(
    vectors: Vectors,
    speakers: Sequence[str],
    *,
    dim: int | None = None,
    counts: Sequence[int] = (1, 2, 3, 5, 10),
    durations_s: NDArray[np.float64] | None = None,
    sessions: Sequence[str | None] | None = None,
    crops: Mapping[float, tuple[Integers, Vectors]] | None = None,
    classes: Sequence[DurationClass] = (),
    n_divisions: int = 10,
    n_impostors: int = 50,
    seed: int = 0,
    confidence: float = 0.95,
    labels: Sequence[str] = (),
    progress: Progress = silent,
) -> EnrolmentPlan:
    """Measure the equal error rate against the number and the length of enrolment clips.

    Args:
        vectors: (U, D) embeddings of the whole clips, need not be normalised.
        speakers: U names.
        dim: prefix length; None: D.
        counts: numbers of enrolment clips, each at least 1.
        durations_s: (U,) seconds; for `classes`.
        sessions: U names, None where unknown.
        crops: seconds to the clips (rows) that are at least so long and the embeddings of their middles.
        classes: durations of enrolment clips to be measured apart, as whole clips.
        n_divisions: how often each speaker's clips are divided.
        n_impostors: test clips of other speakers that each division meets.
        seed: of the divisions.
        confidence: of the intervals.
        labels: what has to be said with every rate.
        progress: told the rows measured.

    Raises:
        NestvoxError: counts or a dimension that are none, or classes without durations.
        ScoresError: a vector that is zero or not finite.
        TrialsError: fewer than five speakers have two clips.
    """
    vectors = as_vectors(vectors, "embeddings", finite=False)
    size = vectors.shape[1] if dim is None else as_count(dim, "dim")
    if not 1 <= size <= vectors.shape[1]:
        raise NestvoxError(f"dim must lie in 1 to {vectors.shape[1]}, got {size}")
    wanted = tuple(sorted({as_count(count, "numbers of enrolment clips") for count in counts}))
    if not wanted:
        raise NestvoxError("numbers of enrolment clips must be 1 or more, got none")
    if classes and durations_s is None:
        raise NestvoxError("durations of enrolment clips need a table that says how long they are")
    unit = _unit(vectors[:, :size])
    called = as_names(speakers, "speakers", length=len(vectors), error=TrialsError)
    names, numbers = np.unique(np.asarray(called, dtype=np.str_), return_inverse=True)
    codes = numbers.astype(np.int64)
    session_codes = _session_codes(sessions, len(codes))
    everything = np.ones(len(codes), dtype=np.bool_)
    draw = {"n_divisions": n_divisions, "n_impostors": n_impostors, "seed": seed}
    base = _divide(codes, everything, session_codes, **draw)
    enough = len(np.unique(base.speaker))
    if enough < _FEWEST_SPEAKERS:
        raise TrialsError(
            f"{enough} of {len(names)} speakers have two clips or more; enrolment can be planned from "
            f"{_FEWEST_SPEAKERS} such speakers on"
        )
    n_rows = len(wanted) * (1 + len(classes)) + len(crops or {})
    rows = _by_count(unit, base, wanted, WHOLE, confidence)
    progress(len(rows), n_rows)
    for seconds, (clips, cropped) in sorted((crops or {}).items()):
        short = _unit(cropped[:, :size])
        rows.append(_cropped(unit, codes, clips, short, session_codes, seconds, draw, confidence))
        progress(len(rows), n_rows)
    for duration_class in classes:
        assert durations_s is not None
        inside = np.array([duration_class.contains(float(value)) for value in durations_s])
        divided = _divide(codes, inside, session_codes, **draw)
        rows += _by_count(unit, divided, wanted, str(duration_class), confidence)
        progress(len(rows), n_rows)
    return EnrolmentPlan(
        size,
        tuple(rows),
        _advice(rows),
        f"{100 * confidence:g} % interval over speakers: standard error from all trials that share a speaker, "
        "Student's t; "
        f"{n_divisions} divisions of each speaker's clips (seed {seed})",
        tuple(sorted(set(labels))),
        _notes(codes, session_codes),
        seed,
    )


def _divide(
    codes: Integers,
    enrollable: NDArray[np.bool_],
    sessions: Integers | None,
    *,
    n_divisions: int,
    n_impostors: int,
    seed: int,
) -> _Divisions:
    """Divide the clips of every speaker, some of which may be enrolled and all of which may be tested."""
    generator = seeded(seed)
    enrolled: list[int] = []
    tests: list[int] = []
    pools: list[Integers] = []
    for speaker in range(int(codes.max()) + 1):
        clips = np.flatnonzero(codes == speaker)
        for _ in range(n_divisions):
            shuffled = generator.permutation(clips)
            test, rest = int(shuffled[0]), shuffled[1:]
            if sessions is not None:
                elsewhere = rest[sessions[rest] != sessions[test]]
                rest = elsewhere if len(elsewhere) else rest
            pool = rest[enrollable[rest]]
            if len(pool):
                enrolled.append(speaker)
                tests.append(test)
                pools.append(pool)
    speaker_of = np.array(enrolled, dtype=np.int64)
    division: list[Integers] = [np.arange(len(pools), dtype=np.int64)]
    test_clips: list[Integers] = [np.array(tests, dtype=np.int64)]
    test_speaker: list[Integers] = [speaker_of]
    for number, speaker in enumerate(enrolled):
        others = np.flatnonzero(codes != speaker)
        chosen = generator.choice(others, min(n_impostors, len(others)), replace=False)
        division.append(np.full(len(chosen), number, dtype=np.int64))
        test_clips.append(chosen)
        test_speaker.append(codes[chosen])
    return _Divisions(
        speaker_of,
        tuple(pools),
        np.concatenate(division),
        np.concatenate(test_clips),
        np.concatenate(test_speaker),
    )


def _by_count(
    unit: NDArray[np.float64], divided: _Divisions, counts: Sequence[int], length: str, confidence: float
) -> list[EnrolmentRow]:
    """One row a number of clips; each step is measured from the number before, on the same trials."""
    rows: list[EnrolmentRow] = []
    pool_sizes = np.array([len(pool) for pool in divided.pools], dtype=np.int64)
    before: int | None = None
    for count in counts:
        kept = (pool_sizes >= count)[divided.division]
        enrolled = [(unit, count)] if before is None else [(unit, count), (unit, before)]
        against = "" if before is None else f"{before} clip{'' if before == 1 else 's'}"
        missing = f"{count + 1} such clips"
        rows.append(_row(length, count, unit, divided, kept, enrolled, against, missing, confidence))
        before = before if rows[-1].reason else count
    return rows


def _cropped(
    unit: NDArray[np.float64],
    codes: Integers,
    clips: Integers,
    cropped: NDArray[np.float64],
    sessions: Integers | None,
    seconds: float,
    draw: Mapping[str, int],
    confidence: float,
) -> EnrolmentRow:
    """One clip cut to a length, against the same clip whole, on the same trials."""
    length = f"{seconds:g} s"
    inside = np.zeros(len(codes), dtype=np.bool_)
    inside[clips] = True
    divided = _divide(codes, inside, sessions, **draw)
    short = unit.copy()
    short[clips] = cropped
    kept = np.ones(len(divided.division), dtype=np.bool_)
    enrolled = [(short, 1), (unit, 1)]
    return _row(length, 1, unit, divided, kept, enrolled, CLIPS_WHOLE, f"clips of {length}", confidence)


def _scores(
    enrolment: NDArray[np.float64],
    unit: NDArray[np.float64],
    divided: _Divisions,
    count: int,
    kept: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Cosine of the mean of the first `count` clips with the test clip, for the trials that are kept."""
    means = np.zeros((len(divided.pools), unit.shape[1]))
    for number, pool in enumerate(divided.pools):
        if len(pool) >= count:
            mean = enrolment[pool[:count]].mean(axis=0)
            means[number] = mean / max(float(np.linalg.norm(mean)), np.finfo(float).tiny)
    return np.asarray(np.einsum("ij,ij->i", means[divided.division[kept]], unit[divided.test[kept]]))


def _row(
    length: str,
    count: int,
    unit: NDArray[np.float64],
    divided: _Divisions,
    kept: NDArray[np.bool_],
    enrolled: Sequence[tuple[NDArray[np.float64], int]],
    against: str,
    missing: str,
    confidence: float,
) -> EnrolmentRow:
    """`enrolled`: clips and how many of them are averaged, and the same of what the change is measured from."""
    enrol, test = divided.speaker[divided.division[kept]], divided.test_speaker[kept]
    targets = enrol == test
    n_speakers = len(np.unique(enrol))
    enough = n_speakers >= _FEWEST_SPEAKERS
    n_target, n_nontarget = (int(targets.sum()), int((~targets).sum())) if enough else (0, 0)
    trials = TrialSet(trials_sha256="", n_target=n_target, n_nontarget=n_nontarget, n_clusters=n_speakers)
    row = EnrolmentRow(**trials.trials_to_dict(), length=length, n_clips=count, n_speakers=n_speakers)
    if not enough:
        return replace(row, reason=f"{n_speakers} speakers have {missing}: it takes {_FEWEST_SPEAKERS}")
    used, both = np.unique(np.concatenate([enrol, test]), return_inverse=True)
    clusters = Clusters(*np.split(both.astype(np.int64), 2))
    curve, *earlier = [error_curve(_scores(clips, unit, divided, number, kept), targets) for clips, number in enrolled]
    rate, influence = eer(curve).rate, eer_influence(curve)
    low, high = logit_interval(rate, clusters.standard_error(influence), n_speakers, confidence)
    if rate == 0:  # no standard error says how rare errors are
        high = wilson_interval(0, n_speakers, confidence).high
    of: dict[str, Any] = {"dim": unit.shape[1], "interval": STUDENTISED, "trials": trials}
    change = None
    for before in earlier:
        value = rate - eer(before).rate
        error = clusters.standard_error(influence - eer_influence(before))
        reach = student_quantile((1 + confidence) / 2, max(1, min(len(used), n_speakers) - 1)) * error
        change = Estimate(name="change of the EER", value=value, low=value - reach, high=value + reach, **of)
    found = Estimate(name="EER", value=rate, low=low, high=high, **of)
    return replace(row, eer=found, against=against, change=change)


def _advice(rows: Sequence[EnrolmentRow]) -> tuple[str, ...]:
    whole = [row for row in rows if row.length == WHOLE]
    measured = [row for row in whole if row.eer is not None]
    said = []
    worth = [row for row in measured if row.better]
    if worth:
        best = worth[-1]
        steps = "; ".join(
            f"{row.n_clips} instead of {row.against}: {_points(row.change)}" for row in measured if row.change
        )
        said.append(
            f"Enrol {best.n_clips} clips a speaker: up to there each step is an improvement that can be told ({steps})."
        )
        if any(row.change is not None and not row.better for row in measured[: measured.index(best)]):
            said[-1] = f"Enrol {best.n_clips} clips a speaker, the last step whose improvement can be told ({steps})."
    elif len(measured) > 1:
        steps = "; ".join(f"{row.n_clips} clips: {_points(row.change)}" for row in measured[1:] if row.change)
        said.append(f"More than {measured[0].n_clips} clip brings nothing that these speakers can tell ({steps}).")
    after = [row for row in measured if worth and row.n_clips > worth[-1].n_clips]
    if after:
        said.append(f"What {after[0].n_clips} clips bring beyond that cannot be told from nothing with these speakers.")
    missing = [row for row in whole if row.reason]
    if missing:
        said.append(f"{missing[0].n_clips} clips and more cannot be said: {missing[0].reason}.")
    single = [row for row in rows if row.n_clips == 1 and row.length != WHOLE and not row.against]
    of_length = [f"{row.length} {_rate(row.eer)}" for row in single if row.eer]
    if len(of_length) > 1:
        said.append(f"One clip by its duration, each over its own speakers: {', '.join(of_length)}.")
    cut = [row for row in rows if row.against == CLIPS_WHOLE]
    harmless = [row for row in cut if row.change and row.change.ends[0] <= 0]
    if cut:
        changes = [(row.length, row.change) for row in cut if row.change]
        said += [f"A clip of {length} instead of the same clip whole: {_points(change)}." for length, change in changes]
        said.append(
            f"From {harmless[0].length} on, cutting the clip costs nothing that can be told: longer clips are not "
            "worth asking for."
            if harmless
            else f"Every length measured costs something: clips longer than {cut[-1].length} are worth having."
        )
    return tuple(said)


def _rate(rate: Estimate) -> str:
    low, high = rate.ends
    return f"{100 * rate.value:.2f} % ({100 * low:.2f} to {100 * high:.2f})"


def _points(change: Estimate) -> str:
    low, high = change.ends
    return f"EER {100 * change.value:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"


def _notes(codes: Integers, sessions: Integers | None) -> tuple[str, ...]:
    if sessions is None:
        return ("Sessions are not known: enrolment and test may be of one recording, which is easier than real use.",)
    pairs = np.unique(np.column_stack([codes, sessions]), axis=0)
    single = int((np.bincount(pairs[:, 0]) == 1).sum())
    if not single:
        return ()
    return (
        f"{single} speakers have one session only: their enrolment and test are of one recording, easier than real "
        "use.",
    )


def _session_codes(sessions: Sequence[str | None] | None, length: int) -> Integers | None:
    if sessions is None:
        return None
    if len(sessions) != length:
        raise NestvoxError(f"{length} clips need {length} sessions, got {len(sessions)}")
    # A clip of an unknown session is a session by itself of which nothing is known: all of them count as one.
    named = np.array(["" if session is None else str(session).strip() for session in sessions], dtype=np.str_)
    if not (named != "").any():  # a column that is there and empty says nothing
        return None
    return np.unique(named, return_inverse=True)[1].astype(np.int64)


def _unit(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    values = fit_to_square(vectors.astype(np.float64))
    lengths = np.linalg.norm(values, axis=1)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        raise ScoresError(
            f"{len(wrong)} embeddings are zero or not finite and have no direction; the first is row {wrong[0]}"
        )
    return np.asarray(values / lengths[:, None])
