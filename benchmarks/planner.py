"""Hold the planner against simulated studies: the spread that it predicts, and how often planned studies find.

    python benchmarks/planner.py
    python benchmarks/planner.py --studies 1000 --json planner.json

The model. Every speaker has a voice as a target and a mask as an impostor, drawn apart (the planner leaves their
covariance out); they make three tenths of the variance of the scores of each system, and half of the variance is common
to both. True EERs are 5 and 8 %. The correlations that the planner needs come from one large pilot study of the same
model with as many trials a speaker as the study planned. The spread of 600 studies is known to 3 %, a share of 400
studies of 80 % to 2 points.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nestvox.metrics import eer, error_curve, plan_study, speaker_correlation, system_correlation
from nestvox.metrics.influence import eer_influence, standard_error
from nestvox.metrics.plan import SpeakerCorrelation, difference_error, eer_error

RATES = (0.05, 0.08)
DESIGNS = ((30, 10, 10), (30, 40, 40), (120, 10, 20))
PLANS = ((0.05, 0.03, 12), (0.05, 0.015, 12))


class Pair(NamedTuple):
    """Scores of two systems, labels and the speakers of both sides, (N,) each."""

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    targets: NDArray[np.bool_]
    enrol: NDArray[np.int64]
    test: NDArray[np.int64]


def study(
    n_speakers: int, n_target: int, n_nontarget: int, generator: np.random.Generator, rates: tuple[float, float] = RATES
) -> Pair:
    """Two systems on new speakers, `n_target` and `n_nontarget` trials each."""
    one = np.repeat(np.arange(n_speakers), n_target)
    other = np.repeat(np.arange(n_speakers), n_nontarget)
    partner = (other + generator.integers(1, n_speakers, len(other))) % n_speakers
    enrol, test = np.concatenate([one, other]), np.concatenate([one, partner])
    targets = np.arange(len(enrol)) < len(one)

    def part() -> NDArray[np.float64]:
        voice, mask = generator.normal(size=(2, n_speakers))
        effect = np.where(targets, voice[enrol], (mask[enrol] + mask[test]) / math.sqrt(2))
        return np.asarray(math.sqrt(0.3) * effect + math.sqrt(0.7) * generator.normal(size=len(enrol)))

    common = part()
    a, b = (-2 * NormalDist().inv_cdf(rate) * targets + math.sqrt(0.5) * (common + part()) for rate in rates)
    return Pair(a, b, targets, enrol, test)


def rate_of(scores: NDArray[np.float64], targets: NDArray[np.bool_]) -> float:
    return eer(error_curve(scores, targets)).rate


def pilot(
    n_target: int, n_nontarget: int, seed: int, rates: tuple[float, float] = RATES
) -> tuple[SpeakerCorrelation, float]:
    """Correlations of one large study; those of errors are the mean of both systems."""
    found = study(1500, n_target, n_nontarget, np.random.default_rng((seed, 0)), rates)
    sides = found.targets, found.enrol, found.test
    both = np.mean([speaker_correlation(scores, *sides) for scores in (found.a, found.b)], axis=0)
    return SpeakerCorrelation(*map(float, both)), system_correlation(found.a, found.b, *sides)


def spread(design: tuple[int, int, int], n_studies: int, seed: int) -> dict[str, Any]:
    """Predicted and observed standard deviations of one EER and of the difference."""
    clusters, correlation = pilot(*design[1:], seed)
    seen = np.empty((n_studies, 2))
    for number in range(n_studies):
        found = study(*design, np.random.default_rng((seed, 1, number)))
        seen[number] = rate_of(found.a, found.targets), rate_of(found.b, found.targets)
    counts = design[0] * design[1], design[0] * design[2]
    one = eer_error(RATES[0], design[0], *counts, clusters)
    both = difference_error(
        RATES[0], RATES[1] - RATES[0], design[0], *counts, correlation=correlation, clusters=clusters
    )
    return {
        "speakers": design[0],
        "targets_each": design[1],
        "nontargets_each": design[2],
        "studies": n_studies,
        "eer_error_predicted": one,
        "eer_error_seen": float(seen[:, 0].std()),
        "difference_error_predicted": both,
        "difference_error_seen": float((seen[:, 1] - seen[:, 0]).std()),
    }


def power(plan: tuple[float, float, int], n_studies: int, seed: int) -> dict[str, Any]:
    """How many of the planned studies find the difference that they were planned for."""
    rate, difference, per_speaker = plan
    rates = (rate, rate + difference)
    clusters, correlation = pilot(per_speaker, per_speaker, seed, rates)
    made = plan_study(rate, difference, 40, per_speaker=per_speaker, correlation=correlation, clusters=clusters)
    found = 0
    for number in range(n_studies):
        a, b, targets, *sides = study(
            made.speakers_needed, per_speaker, per_speaker, np.random.default_rng((seed, 2, number)), rates
        )
        error = standard_error(eer_influence(error_curve(b, targets)) - eer_influence(error_curve(a, targets)), *sides)
        found += abs(rate_of(b, targets) - rate_of(a, targets)) > 1.96 * error
    return {
        "eer": rate,
        "difference": difference,
        "per_speaker": per_speaker,
        "speakers_needed": made.speakers_needed,
        "studies": n_studies,
        "planned_power": made.power,
        "found": found / n_studies,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    print(f"standard deviation over {options.studies} studies, in points\n")
    print("| speakers | trials each | EER: predicted | seen | difference: predicted | seen |")
    print("|---:|---:|---:|---:|---:|---:|")
    spreads = []
    for design in DESIGNS:
        row = spread(design, options.studies, options.seed)
        spreads.append(row)
        cells = [
            f"{100 * row[f'{name}_error_{kind}']:.2f}"
            for name in ("eer", "difference")
            for kind in ("predicted", "seen")
        ]
        print(f"| {design[0]} | {design[1]} + {design[2]} | {' | '.join(cells)} |", flush=True)
    n_planned = options.studies * 2 // 3
    print(f"\nof {n_planned} studies of the size planned, how many find the difference\n")
    print("| EER % | difference | speakers planned | planned | found |")
    print("|---:|---:|---:|---:|---:|")
    powers = []
    for plan in PLANS:
        row = power(plan, n_planned, options.seed)
        powers.append(row)
        print(
            f"| {100 * row['eer']:g} | {100 * row['difference']:g} points | {row['speakers_needed']} "
            f"| {row['planned_power']:.0%} | {row['found']:.0%} |",
            flush=True,
        )
    print(f"\n{time.perf_counter() - began:.0f} s")
    if options.json is not None:
        options.json.write_text(json.dumps({"spread": spreads, "power": powers}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
