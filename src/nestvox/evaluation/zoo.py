"""Which speakers make the errors, and whether speakers differ at all: Doddington's zoo.

G. Doddington, W. Liggett, A. Martin, M. Przybocki and D. Reynolds ("Sheep, goats, lambs and wolves: a statistical
analysis of speaker performance in the NIST 1998 speaker recognition evaluation", ICSLP 1998) call a speaker a *goat*
who is hard to recognise (low target scores), a *lamb* whose model is easy to imitate (high non-target scores as the
enrolled side), a *wolf* who is good at imitating (high non-target scores as the test side); the others are *sheep*. As
there, the Kruskal-Wallis test asks whether such differences between speakers exist. It takes trials as independent.
Trials that share a recording are not, and where recordings are used often it finds differences between speakers who
have none; it is shown because others show it, and with the share of the variance that speakers make.

A single speaker is called a goat, lamb or wolf by a test of its own that does not take trials as independent: the mean
of the normal scores of his trials (the rank among all scores of the class, on the probit scale), its standard error
from all pairs of his trials that share a recording or, for non-targets, the other speaker
(`metrics.influence.standard_error`), Student's t, one-sided, Holm's correction over the speakers.

Notation: N trials, S speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestvox.metrics import error_curve, holm
from nestvox.metrics.distributions import chdtrc, ndtri, stdtr
from nestvox.metrics.influence import Clusters, eer_influence, standard_error

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

ANIMALS = ("goats", "lambs", "wolves")

_FEWEST = 5  # scores of a speaker in the Kruskal-Wallis test, whose p value is of many
_LEVEL = 0.05


@dataclass(frozen=True)
class SpeakerRow:
    """One speaker's trials, decided at the EER threshold of all.

    Attributes:
        speaker: name.
        n_target: target trials.
        n_nontarget: non-target trials, on either side.
        n_miss: targets rejected.
        n_false_alarm: non-targets accepted, on either side.
        mean_target: mean target score; None without target trials.
        mean_nontarget: mean non-target score.
        eer_change: by how much the equal error rate would rise if his trials counted double (first order); below 0
            for a speaker who makes it look better.
        animals: of `ANIMALS`, what a test of this speaker alone says; empty for a sheep.
    """

    speaker: str
    n_target: int
    n_nontarget: int
    n_miss: int
    n_false_alarm: int
    mean_target: float | None
    mean_nontarget: float | None
    eer_change: float
    animals: tuple[str, ...]

    @property
    def n_errors(self) -> int:
        """Errors that he takes part in."""
        return self.n_miss + self.n_false_alarm


@dataclass(frozen=True)
class ZooTest:
    """Whether speakers differ in one way, and which do.

    Attributes:
        animal: of `ANIMALS`.
        n_speakers: with enough trials for the test (five or more).
        n_trials: of these speakers.
        statistic: Kruskal-Wallis H, corrected for ties; None where there are fewer than two such speakers or all
            scores are equal.
        degrees_of_freedom: `n_speakers` - 1.
        p_value: of the chi-squared distribution.
        variance_share: share of the variance of the ranks that lies between speakers, beyond chance (epsilon squared).
        n_tested: speakers with enough recordings (three or more, and as many partners for non-targets) for a test of
            their own.
        speakers: those whom it names, the most extreme first.
    """

    animal: str
    n_speakers: int
    n_trials: int
    statistic: float | None
    degrees_of_freedom: int
    p_value: float | None
    variance_share: float | None
    n_tested: int
    speakers: tuple[str, ...]


def speaker_rows(
    scores: Floats,
    targets: Mask,
    enrol: Integers,
    test: Integers,
    names: Sequence[str],
    threshold: float,
    zoo: Sequence[ZooTest] = (),
) -> tuple[SpeakerRow, ...]:
    """One row a speaker, most errors first.

    Args:
        scores: (N,) finite.
        targets: (N,) labels, both classes.
        enrol: (N,) speaker of the first side, 0 to S - 1.
        test: (N,) of the second side.
        names: S names.
        threshold: scores at or above it are accepted.
        zoo: tests whose speakers are marked.
    """
    size = len(names)
    accepted = scores >= threshold

    def sums(values: Floats, mask: Mask) -> Floats:
        both = np.concatenate([enrol[mask], test[mask]])
        return np.bincount(both, np.tile(values[mask], 2), size).astype(np.float64)

    ones = np.ones(len(scores))
    # Both sides of a target trial are one speaker, who is counted once.
    n_target, n_nontarget = sums(ones, targets) / 2, sums(ones, ~targets)
    n_miss, n_false_alarm = sums(ones, targets & ~accepted) / 2, sums(ones, ~targets & accepted)
    with np.errstate(invalid="ignore"):
        mean_target = sums(scores, targets) / 2 / n_target
        mean_nontarget = sums(scores, ~targets) / n_nontarget
    change = Clusters(enrol, test).by_cluster(eer_influence(error_curve(scores, targets)))
    animals: dict[str, list[str]] = {}
    for found in zoo:
        for speaker in found.speakers:
            animals.setdefault(speaker, []).append(found.animal)
    rows = [
        SpeakerRow(
            speaker=name,
            n_target=round(n_target[i]),
            n_nontarget=round(n_nontarget[i]),
            n_miss=round(n_miss[i]),
            n_false_alarm=round(n_false_alarm[i]),
            mean_target=float(mean_target[i]) if n_target[i] else None,
            mean_nontarget=float(mean_nontarget[i]) if n_nontarget[i] else None,
            eer_change=float(change[i]),
            animals=tuple(animals.get(name, ())),
        )
        for i, name in enumerate(names)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.n_errors, -row.eer_change, row.speaker)))


def zoo_tests(
    scores: Floats,
    targets: Mask,
    enrol: Integers,
    test: Integers,
    names: Sequence[str],
    recordings: tuple[Integers, Integers],
) -> tuple[ZooTest, ...]:
    """Goats, lambs and wolves: whether they exist, and who they are.

    `recordings` are the numbers of both sides' recordings, (N,) each; all else as `speaker_rows` takes it.
    """
    found = []
    first, second = recordings
    for animal in ANIMALS:
        mask = targets if animal == "goats" else ~targets
        ranks = mid_ranks(scores[mask])
        normal = ndtri(ranks)  # bounded ranks would make the errors of extreme speakers too small
        one, other = (test, enrol) if animal == "wolves" else (enrol, test)
        mine, theirs = (second, first) if animal == "wolves" else (first, second)
        # What else his trials share: for a target the other recording, which is his too; else the other speaker.
        partner = theirs[mask] if animal == "goats" else int(mine.max()) + 1 + other[mask]
        t_values, degrees, tested = [], [], []
        speakers, own_recording = one[mask], mine[mask]
        order = np.argsort(speakers, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(speakers[order])) + 1):
            sides = (own_recording[rows], partner[rows])
            shared, numbered = np.unique(np.concatenate(sides), return_inverse=True)
            own, others = (len(shared), len(shared)) if animal == "goats" else (len(np.unique(side)) for side in sides)
            if min(own, others) < 3:
                continue
            mean = float(normal[rows].mean())
            deviation = normal[rows] - mean
            error = standard_error(deviation / len(rows), numbered[: len(rows)], numbered[len(rows) :])
            if animal == "goats":
                # With all pairs of m recordings each one's sum is (m - 2) / (m - 1) of what it would be around the
                # true mean.
                error *= (own - 1) / (own - 2)
            if error == 0:  # all his scores are equal, so nothing is known of how they vary
                continue
            t_values.append(mean / error)
            degrees.append(min(own, others) - 1)
            tested.append(int(speakers[rows[0]]))
        t = np.array(t_values) * (-1 if animal == "goats" else 1)
        corrected = holm(stdtr(np.array(degrees, dtype=np.float64), -t))
        named = [tested[i] for i in np.argsort(-t, kind="stable") if corrected[i] <= _LEVEL]
        found.append(
            ZooTest(
                animal,
                *kruskal_wallis(ranks, speakers),
                n_tested=len(tested),
                speakers=tuple(names[speaker] for speaker in named),
            )
        )
    return tuple(found)


def kruskal_wallis(
    values: Floats, groups: Integers, fewest: int = _FEWEST
) -> tuple[int, int, float | None, int, float | None, float | None]:
    """Test whether groups of values have one distribution (W. H. Kruskal and W. A. Wallis, JASA 47, 1952).

    `values` and the numbers of their `groups` are (N,); groups with fewer than `fewest` values are left out.

    Returns:
        Groups used, values used, H corrected for ties, its degrees of freedom, p value, and epsilon squared,
        ``(H - k + 1) / (n - k)``, not below 0. H, p and epsilon are None for fewer than two groups or equal values.
    """
    sizes = np.bincount(groups)
    used = sizes[groups] >= fewest
    kept, codes = values[used], np.unique(groups[used], return_inverse=True)[1]
    n, k = len(kept), int(codes.max()) + 1 if len(codes) else 0
    if k < 2 or kept.min() == kept.max():
        return k, n, None, max(k - 1, 0), None, None
    ranks = mid_ranks(kept) * n  # 0.5 to n - 0.5
    counts = np.bincount(codes)
    means = np.bincount(codes, ranks) / counts
    # The variance of the ranks, ties included, is what the statistic is divided by.
    statistic = float((n - 1) * (counts @ (means - n / 2) ** 2) / ((ranks - n / 2) @ (ranks - n / 2)))
    share = max(0.0, (statistic - k + 1) / (n - k)) if n > k else 0.0
    return k, n, statistic, k - 1, float(chdtrc(k - 1, statistic)), share


def mid_ranks(values: Floats) -> Floats:
    """(N,) share of the values below each, ties counted half: mean exactly one half."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.asarray(middle[inverse] / len(inverse))
