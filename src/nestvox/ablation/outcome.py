"""What a study found: every arm at every dimension over its seeds, held against the base, and what is worth its cost.

Each seed is a comparison of its own: the arm and the base with the same seed, on the same trials, with the paired
interval and the permutation by speaker of `nestvox compare`. A difference counts as shown where it has one sign with
every seed and every p value is small enough; the interval of the mean over seeds says what others could bring.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nestvox.ablation.pareto import Front, dominators, pareto_front
from nestvox.ablation.spread import MeanDifference, mean_difference
from nestvox.corpora.trials import Trials
from nestvox.evaluation.comparing import compare_systems, copies, figures_of
from nestvox.evaluation.comparison import ComparisonRow
from nestvox.evaluation.estimates import Settings
from nestvox.evaluation.results import plain_values
from nestvox.metrics.estimate import TrialSet
from nestvox.progress import Bars
from nestvox.scoring.refusals import check_trials
from nestvox.scoring.speakers import trial_speakers
from nestvox.scoring.system import System

BETTER, WORSE, NOT_SHOWN, SAME = "better", "worse", "not shown", "same scores"


@dataclass(frozen=True)
class ArmRow:
    """An arm at one dimension, over its seeds.

    Attributes:
        arm: its name.
        dim: prefix length.
        seeds: in the order of the rates.
        eer: equal error rate with each seed.
        min_dcf: normalised minimum cost with each seed.
        eer_mean: over seeds.
        eer_sd: standard deviation over seeds; None with a single one.
        min_dcf_mean: over seeds.
        difference: of the EER, the arm's less the base's, mean over seeds, with its interval over speakers and seeds;
            None for the base.
        against_base: with each seed; None for the base itself, and where both have the same scores.
        verdict: ``better`` or ``worse`` than the base with every seed, ``not shown``, ``same scores`` with every seed;
            empty for the base.
    """

    arm: str
    dim: int
    seeds: tuple[int, ...]
    eer: tuple[float, ...]
    min_dcf: tuple[float, ...]
    eer_mean: float
    eer_sd: float | None
    min_dcf_mean: float
    difference: MeanDifference | None
    against_base: tuple[ComparisonRow | None, ...]
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Measured(TrialSet):
    """Every arm on one list of trials.

    Attributes:
        trials_source: where they are from.
        rows: every arm at every dimension.
        method: how the differences were tested.
        fronts: at the largest dimension that all have, one a cost.
        dominated: arms that another beats in errors without being worse in any cost, with the names of those.
        dim: of fronts and dominated.
    """

    trials_source: str
    rows: tuple[ArmRow, ...]
    method: str
    fronts: tuple[Front, ...]
    dominated: Mapping[str, tuple[str, ...]]
    dim: int

    def row(self, arm: str, dim: int) -> ArmRow:
        """Of an arm at a dimension."""
        return next(row for row in self.rows if (row.arm, row.dim) == (arm, dim))


@dataclass(frozen=True)
class ArmAbout:
    """What an arm is.

    Attributes:
        name: of the arm.
        factor: that it belongs to; ``base`` or ``control``.
        changes: settings of the base that it changes.
        costs: of its model, by name; None where one is not known.
        seconds: that a run took, mean over seeds.
        best_epochs: whose weights are kept, by seed.
    """

    name: str
    factor: str
    changes: Mapping[str, Any]
    costs: Mapping[str, float | None]
    seconds: float
    best_epochs: tuple[int, ...]


@dataclass(frozen=True)
class Ablation:
    """What a study found.

    Attributes:
        name: of the study.
        hash: of everything that decides the result.
        arms: the base first, the controls last.
        seeds: of each.
        dev: on the development trials, on which every run also chose its weights.
        report: on the trials that the study is reported on; None: it names none.
        machine: that times are of.
        confidence: 1 minus it is what p values are held against.
        notes: what a reader has to know.
    """

    name: str
    hash: str
    arms: tuple[ArmAbout, ...]
    seeds: tuple[int, ...]
    dev: Measured
    report: Measured | None
    machine: str
    confidence: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; rates are fractions."""
        plain: dict[str, Any] = plain_values(asdict(self))
        return plain


def measure_arms(
    trials: Trials,
    systems: Mapping[str, Sequence[System]],
    seeds: Sequence[int],
    costs: Mapping[str, Mapping[str, float | None]],
    *,
    settings: Settings,
    n_permutations: int,
    bars: Bars,
) -> Measured:
    """Hold every arm against the first, seed by seed.

    Args:
        trials: labelled.
        systems: arm to its scores with each seed; the first arm is the base.
        seeds: in the order of the systems.
        costs: of each arm, by name.
        settings: operating point, replicates, confidence.
        n_permutations: rounds of the permutation by speaker.
        bars: shows the comparisons.
    """
    targets = check_trials(trials)
    base = next(iter(systems))
    by_seed: list[dict[tuple[str, int], ComparisonRow | None]] = []
    method = ""
    for number, seed in enumerate(seeds):
        named = {arm: replace(found[number], name=arm) for arm, found in systems.items()}
        with bars(f"comparing, seed {seed}", "comparisons") as progress:
            rows, said = _against_base(trials, named, settings, n_permutations, progress)
        by_seed.append(rows)
        method = said or method
    who = trial_speakers(trials, list(systems[base]))
    enrol, test, n_clusters = who.restricted(targets | True)
    found = []
    for arm, of_seeds in systems.items():
        for dim in of_seeds[0].dims:
            pair = [[system.scores[dim] for system in one if dim in system.scores] for one in (systems[base], of_seeds)]
            figures = [figures_of(system, dim, targets, settings.point) for system in of_seeds]
            rates = [row.eer for row in figures]
            against = tuple(rows.get((arm, dim)) for rows in by_seed)
            found.append(
                ArmRow(
                    arm=arm,
                    dim=dim,
                    seeds=tuple(seeds),
                    eer=tuple(rates),
                    min_dcf=tuple(row.min_dcf for row in figures),
                    eer_mean=statistics.fmean(rates),
                    eer_sd=statistics.stdev(rates) if len(rates) > 1 else None,
                    min_dcf_mean=statistics.fmean(row.min_dcf for row in figures),
                    difference=None
                    if arm == base or len(pair[0]) < len(pair[1])
                    else mean_difference(pair[0], pair[1], targets, (enrol, test), settings),
                    against_base=against,
                    verdict="" if arm == base else _verdict(against, 1 - settings.confidence),
                )
            )
    shared = set.intersection(*(set(of_seeds[0].dims) for of_seeds in systems.values()))
    dim = max(shared) if shared else 0
    errors = {row.arm: row.eer_mean for row in found if row.dim == (dim or systems[row.arm][0].dims[-1])}
    return Measured(
        trials_sha256=trials.sha256,
        n_target=int(targets.sum()),
        n_nontarget=int((~targets).sum()),
        n_clusters=n_clusters,
        labels=tuple(sorted({label for of_seeds in systems.values() for one in of_seeds for label in one.labels})),
        trials_source=trials.source,
        rows=tuple(found),
        method=method,
        fronts=tuple(_front(cost, errors, costs) for cost in next(iter(costs.values()))),
        dominated=_dominated(errors, costs),
        dim=dim,
    )


def _against_base(
    trials: Trials, named: Mapping[str, System], settings: Settings, n_permutations: int, progress: Any
) -> tuple[dict[tuple[str, int], ComparisonRow | None], str]:
    """The rows of one seed; of arms with the same scores, as two that kept one starting point, one is compared."""
    alone: dict[str, System] = {}
    twin: dict[str, str] = {}
    for arm, system in named.items():
        same = next((other for other, one in alone.items() if copies(one, system)), None)
        twin[arm] = arm if same is None else same
        if same is None:
            alone[arm] = system
    if len(alone) < 2:
        return {}, ""
    comparison = compare_systems(
        trials, list(alone.values()), settings=settings, n_permutations=n_permutations, progress=progress
    )
    rows = {(row.b, row.dim_b): row for row in comparison.rows}
    found: dict[tuple[str, int], ComparisonRow | None] = {
        (arm, dim): replace(row, b=arm)
        for arm in named
        for dim in named[arm].dims
        if (row := rows.get((twin[arm], dim))) is not None
    }
    return found, comparison.method


def _verdict(against: Sequence[ComparisonRow | None], level: float) -> str:
    paired = [(row, row.paired.eer.difference) for row in against if row is not None and row.paired is not None]
    if not paired:
        return SAME
    if len(paired) < len(against) or any(row.p_eer > level for row, _ in paired):
        return NOT_SHOWN
    if all(difference < 0 for _, difference in paired):
        return BETTER
    return WORSE if all(difference > 0 for _, difference in paired) else NOT_SHOWN


def _front(cost: str, errors: Mapping[str, float], costs: Mapping[str, Mapping[str, float | None]]) -> Front:
    points = [(arm, error, value) for arm, error in errors.items() if (value := costs[arm][cost]) is not None]
    if not points:
        return Front(cost, (), (), (), ())
    kept = pareto_front([[error, value] for _, error, value in points])
    best = sorted((point for point, good in zip(points, kept, strict=True) if good), key=lambda point: point[1:][::-1])
    names, rates, values = zip(*points, strict=True)
    return Front(cost, names, rates, values, tuple(name for name, _, _ in best))


def _dominated(
    errors: Mapping[str, float], costs: Mapping[str, Mapping[str, float | None]]
) -> dict[str, tuple[str, ...]]:
    """By all costs together that are known of every arm."""
    known = [cost for cost in next(iter(costs.values())) if all(costs[arm][cost] is not None for arm in errors)]
    names = list(errors)
    by = dominators([[errors[arm], *(float(costs[arm][cost] or 0.0) for cost in known)] for arm in names])
    found = {
        arm: tuple(other for row, other in enumerate(names) if by[row, column]) for column, arm in enumerate(names)
    }
    return {arm: others for arm, others in found.items() if others}
