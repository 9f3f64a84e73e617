"""How often a 95 % interval holds the true error rate, and a test at 5 % errs, under a model in which both are known.

    python benchmarks/coverage.py
    python benchmarks/coverage.py --studies 1000 --json coverage.json
    python benchmarks/coverage.py --only band

The model. Every speaker has a voice (how well he is recognised) and a mask (how easily he is taken for others), normal
and correlated by one half. A target score is the distance, plus the voice, plus noise; a non-target score is the masks
of both speakers, plus noise; three tenths of each variance are the speakers'. Both scores are normal with variance 1,
so the equal error rate is Phi(-distance / 2) exactly, and the lowest cost is found on a fine grid of thresholds. Each
study draws new speakers and new trials; a non-target trial takes its second speaker by chance.

The intervals: `trials` resamples trials as if they were independent, as most scripts do; `percentile` resamples
speakers on both sides; `studentised` is from the standard error over speakers. A share of 500 studies has a standard
deviation of 1 % where it is 95 %.

The band: the interval of the miss rate at a false-alarm rate, from the influences of the trials on it
(`metrics.influence.det_band`), where the non-targets can tell that rate from none (more than 3 / rate of them).

The tests: two systems that are equally good, each with speaker effects of its own beside common ones, compared on the
same trials. `first side` is the permutation by speaker in which the coin of a trial's first speaker alone decides.
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

from nestvox.metrics import compare_scores, eer, error_curve, min_dcf, speaker_bootstrap
from nestvox.metrics.influence import Clusters, det_band, eer_influence, logit_interval, min_dcf_influence

P_TARGET = 0.05
FARS = (0.01, 0.05, 0.1, 0.3)
SETTINGS = (
    (20, 10, 10, 0.05),
    (20, 20, 60, 0.05),
    (40, 10, 10, 0.05),
    (40, 20, 60, 0.05),
    (40, 20, 60, 0.02),
    (100, 10, 10, 0.05),
    (100, 20, 60, 0.05),
    (100, 20, 60, 0.02),
)


class Trials(NamedTuple):
    """Scores (N,), labels (N,) and the speakers of both sides (N,)."""

    scores: NDArray[np.float64]
    targets: NDArray[np.bool_]
    enrol: NDArray[np.int64]
    test: NDArray[np.int64]


def study(n_speakers: int, n_target: int, n_nontarget: int, rate: float, generator: np.random.Generator) -> Trials:
    """One study: `n_target` and `n_nontarget` trials a speaker, true equal error rate `rate`."""
    voice, own = generator.normal(size=(2, n_speakers))
    mask = 0.5 * voice + math.sqrt(0.75) * own
    one = np.repeat(np.arange(n_speakers), n_target)
    other = np.repeat(np.arange(n_speakers), n_nontarget)
    partner = (other + generator.integers(1, n_speakers, len(other))) % n_speakers
    noise = math.sqrt(0.7) * generator.normal(size=len(one) + len(other))
    of_target = -2 * NormalDist().inv_cdf(rate) + math.sqrt(0.3) * voice[one]
    of_nontarget = math.sqrt(0.15) * (mask[other] + mask[partner])
    return Trials(
        np.concatenate([of_target, of_nontarget]) + noise,
        np.arange(len(noise)) < len(one),
        np.concatenate([one, other]),
        np.concatenate([one, partner]),
    )


def true_cost(rate: float) -> float:
    """Lowest normalised cost of the model at P_TARGET."""
    distance, phi = -2 * NormalDist().inv_cdf(rate), NormalDist().cdf
    thresholds = np.linspace(-2, distance + 4, 20_001)
    return min(phi(t - distance) + (1 - P_TARGET) / P_TARGET * phi(-t) for t in thresholds)


def cover(setting: tuple[int, int, int, float], n_studies: int, n_replicates: int, seed: int) -> dict[str, Any]:
    """Coverage and mean width of every interval over many studies of one setting."""
    rate, cost = setting[3], true_cost(setting[3])
    inside: dict[str, int] = {}
    width: dict[str, float] = {}
    for number in range(n_studies):
        trials = study(*setting, np.random.default_rng((seed, number)))
        found = speaker_bootstrap(*trials, p_target=P_TARGET, n_replicates=n_replicates, seed=number)
        curve = error_curve(trials.scores, trials.targets)
        clusters = Clusters(trials.enrol, trials.test)
        student = [
            logit_interval(figure, clusters.standard_error(influence), clusters.size)
            for figure, influence in (
                (eer(curve).rate, eer_influence(curve)),
                (min_dcf(curve, P_TARGET).value, min_dcf_influence(curve, P_TARGET)),
            )
        ]
        alone = np.arange(len(trials.scores))  # every trial its own cluster: trials are resampled
        naive = speaker_bootstrap(
            trials.scores, trials.targets, alone, alone, p_target=P_TARGET, n_replicates=n_replicates, seed=number
        )
        intervals: dict[str, tuple[tuple[float, float], float]] = {
            "eer trials": (naive.eer, rate),
            "eer percentile": (found.eer, rate),
            "eer studentised": (student[0], rate),
            "min_dcf trials": (naive.min_dcf, cost),
            "min_dcf percentile": (found.min_dcf, cost),
            "min_dcf studentised": (student[1], cost),
        }
        for name, (interval, truth) in intervals.items():
            low, high = interval
            inside[name] = inside.get(name, 0) + (low <= truth <= high)
            width[name] = width.get(name, 0.0) + high - low
    return {
        "speakers": setting[0],
        "targets_each": setting[1],
        "nontargets_each": setting[2],
        "eer": rate,
        "studies": n_studies,
        "coverage": {name: count / n_studies for name, count in inside.items()},
        "mean_width": {name: total / n_studies for name, total in width.items()},
    }


def true_miss(rate: float, p_fa: float) -> float:
    """Miss rate of the model at a false-alarm rate."""
    normal = NormalDist()
    return normal.cdf(normal.inv_cdf(1 - p_fa) + 2 * normal.inv_cdf(rate))


def cover_band(setting: tuple[int, int, int, float], n_studies: int, seed: int) -> dict[str, Any]:
    """How often the band around the DET curve holds the true miss rate, at each of FARS that the trials can say."""
    fars = [far for far in FARS if setting[0] * setting[2] * far > 3]
    truth = np.array([true_miss(setting[3], far) for far in fars])
    inside, width = np.zeros(len(fars)), np.zeros(len(fars))
    for number in range(n_studies):
        trials = study(*setting, np.random.default_rng((seed, number)))
        curve = error_curve(trials.scores, trials.targets)
        _, low, high = det_band(curve, Clusters(trials.enrol, trials.test), fars)
        inside += (low <= truth) & (truth <= high)
        width += high - low
    return {
        "speakers": setting[0],
        "targets_each": setting[1],
        "nontargets_each": setting[2],
        "eer": setting[3],
        "studies": n_studies,
        "coverage": {far: count / n_studies for far, count in zip(fars, inside.tolist(), strict=True)},
        "mean_width": {far: total / n_studies for far, total in zip(fars, width.tolist(), strict=True)},
    }


def equal_systems(
    n_speakers: int, n_target: int, n_nontarget: int, rate: float, generator: np.random.Generator
) -> tuple[Trials, Trials]:
    """Two systems of one true rate on the same trials; half of the variance of the scores is common to both."""
    common = study(n_speakers, n_target, n_nontarget, rate, generator)
    mean = np.where(common.targets, -2 * NormalDist().inv_cdf(rate), 0.0)
    systems = []
    for _ in range(2):
        effect, noise = generator.normal(size=n_speakers), generator.normal(size=len(common.scores))
        shared = np.where(
            common.targets, effect[common.enrol], (effect[common.enrol] + effect[common.test]) / math.sqrt(2)
        )
        part = math.sqrt(0.3) * shared + math.sqrt(0.7) * noise
        systems.append(common._replace(scores=mean + math.sqrt(0.5) * (common.scores - mean + part)))
    return systems[0], systems[1]


def first_side_p(a: Trials, b: Trials, n_rounds: int, generator: np.random.Generator) -> float:
    """P value of the permutation that exchanges a non-target trial by the coin of its first speaker."""
    ranks = [np.argsort(np.argsort(trials.scores)).astype(np.float64) for trials in (a, b)]
    observed = eer(error_curve(b.scores, b.targets)).rate - eer(error_curve(a.scores, a.targets)).rate
    as_large = 0
    for _ in range(n_rounds):
        exchanged = generator.integers(0, 2, a.enrol.max() + 1)[a.enrol] == 1
        one, two = np.where(exchanged, ranks[1], ranks[0]), np.where(exchanged, ranks[0], ranks[1])
        difference = eer(error_curve(two, a.targets)).rate - eer(error_curve(one, a.targets)).rate
        as_large += abs(difference) >= abs(observed) - 1e-12
    return (1 + as_large) / (1 + n_rounds)


def err(setting: tuple[int, int, int, float], n_studies: int, n_replicates: int, seed: int) -> dict[str, Any]:
    """How often each test calls two equal systems different at the 5 % level."""
    wrong = dict.fromkeys(("permutation", "percentile", "studentised", "first side", "mcnemar"), 0)
    for number in range(n_studies):
        generator = np.random.default_rng((seed, number))
        a, b = equal_systems(*setting, generator)
        found = compare_scores(
            a.scores, b.scores, *a[1:], n_replicates=n_replicates, n_permutations=n_replicates, seed=number
        )
        figure = found.eer
        wrong["permutation"] += figure.p_value <= 0.05
        wrong["percentile"] += not figure.low <= 0 <= figure.high
        wrong["studentised"] += not figure.studentised_low <= 0 <= figure.studentised_high
        wrong["first side"] += first_side_p(a, b, n_replicates // 2, generator) <= 0.05
        wrong["mcnemar"] += found.at_eer.p_mid <= 0.05
    return {
        "speakers": setting[0],
        "targets_each": setting[1],
        "nontargets_each": setting[2],
        "eer": setting[3],
        "studies": n_studies,
        "wrong": {name: count / n_studies for name, count in wrong.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two settings of 100 studies")
    parser.add_argument("--only", choices=("coverage", "band", "tests"), help="one of the three tables")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = (SETTINGS[2], SETTINGS[3]) if options.quick else SETTINGS
    n_studies = min(options.studies, 100) if options.quick else options.studies
    began = time.perf_counter()
    tables = {"coverage": print_coverage, "band": print_band, "tests": print_tests}
    found = {}
    for name in [options.only] if options.only else tables:
        found[name] = tables[name](settings, n_studies, options.replicates, options.seed)
        print()
    print(f"{time.perf_counter() - began:.0f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def print_row(setting: tuple[int, int, int, float], shown: list[str]) -> None:
    """One line of a table."""
    print(f"| {setting[0]} | {setting[1]} + {setting[2]} | {100 * setting[3]:g} | {' | '.join(shown)} |", flush=True)


def print_coverage(settings: Any, n_studies: int, n_replicates: int, seed: int) -> list[dict[str, Any]]:
    """The intervals of EER and minDCF."""
    rows = []
    print(f"per cent of {n_studies} studies whose 95 % interval holds the truth (and mean width in points)\n")
    print(
        "| speakers | trials each | EER % | EER: trials | percentile | studentised | minDCF: trials | perc. | stud. |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for setting in settings:
        row = cover(setting, n_studies, n_replicates, seed)
        rows.append(row)
        shown = [
            f"{100 * row['coverage'][name]:.1f}" + (f" ({100 * row['mean_width'][name]:.1f})" if "eer" in name else "")
            for name in row["coverage"]
        ]
        print_row(setting, shown)
    return rows


def print_band(settings: Any, n_studies: int, _n_replicates: int, seed: int) -> list[dict[str, Any]]:
    """The band around the DET curve."""
    rows = []
    print(f"per cent of {n_studies} studies whose 95 % band holds the true miss rate (and mean width in points)\n")
    print(f"| speakers | trials each | EER % | {' | '.join(f'at FAR {100 * far:g} %' for far in FARS)} |")
    print(f"|---:|---:|---:|{'---:|' * len(FARS)}")
    for setting in settings:
        row = cover_band(setting, n_studies, seed)
        rows.append(row)
        of, width = row["coverage"], row["mean_width"]
        print_row(setting, [f"{100 * of[far]:.1f} ({100 * width[far]:.1f})" if far in of else "-" for far in FARS])
    return rows


def print_tests(settings: Any, n_studies: int, n_replicates: int, seed: int) -> list[dict[str, Any]]:
    """How often tests call equal systems different."""
    rows = []
    print(f"per cent of {n_studies} studies of two equal systems that a test at 5 % calls different, by their EER\n")
    print("| speakers | trials each | EER % | permutation | percentile | studentised | first side | McNemar |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for setting in settings:
        row = err(setting, n_studies, n_replicates // 2, seed)
        rows.append(row)
        print_row(setting, [f"{100 * share:.1f}" for share in row["wrong"].values()])
    return rows


if __name__ == "__main__":
    sys.exit(main())
