"""Metrics side by side with the usual way, in one run.

    python benchmarks/metrics.py
    python benchmarks/metrics.py --quick

1. EER and minDCF of ten million trials: nestvox, against scikit-learn's `roc_curve` and what one reads off it.
2. The same with their intervals over 5,000 speakers, without resampling: nestvox, against each figure by itself in
   plain numpy, with its own curve and its own sums over the trials that share a speaker; and against resampling, timed
   on one draw of the speakers and scaled up to 1,000.
3. 1,000 clustered bootstrap replicates on 37,611 trials over 40 speakers: nestvox, against copying the trials of the
   drawn speakers and computing the curve anew, with scikit-learn. The second is timed on a few replicates and scaled
   up, which the table says.
4. Reading a list of 580,000 trials: nestvox, against a loop over the lines that splits them into three Python lists.
5. Adaptive S-norm of a million trials against a cohort of 5,000: nestvox, against scoring both sides of each trial
   against the cohort, timed on a few trials and scaled up, and against doing that once an utterance with one large
   matrix.

Each measurement is a process of its own, so that its peak memory is its own; what a process weighs before the work is
taken off, but the input is not. The ways take turns, and the fastest run of each counts. One thread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FULL = {
    "trials": 10_000_000,
    "replicates": 1000,
    "copied": 20,
    "lines": 580_000,
    "normed": 1_000_000,
    "utterances": 20_000,
}
QUICK = {"trials": 500_000, "replicates": 200, "copied": 5, "lines": 50_000, "normed": 50_000, "utterances": 2_000}
COHORT, WIDTH, TOP_K = 5_000, 256, 300
SPEAKERS = 5_000


def scored(n_trials: int) -> tuple[Floats, NDArray[np.bool_]]:
    generator = np.random.default_rng(0)
    targets = generator.random(n_trials) < 0.5
    scores = generator.normal(size=n_trials)
    scores[targets] += 3
    return scores, targets


def clustered() -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """37,611 trials over 40 speakers, half of them targets, as in VoxCeleb1-O."""
    generator = np.random.default_rng(0)
    enrol = generator.integers(0, 40, 37_611)
    targets = np.arange(37_611) % 2 == 0
    test = np.where(targets, enrol, (enrol + generator.integers(1, 40, 37_611)) % 40)
    voice = generator.normal(size=40)
    scores = 3 * targets + 0.5 * (voice[enrol] + voice[test]) + generator.normal(size=37_611)
    return scores, targets, enrol, test


def embeddings(sizes: dict[str, int]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], Floats]:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(sizes["utterances"], WIDTH)).astype(np.float32)
    cohort = generator.normal(size=(COHORT, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cohort /= np.linalg.norm(cohort, axis=1, keepdims=True)
    sides = generator.integers(0, sizes["utterances"], (2, sizes["normed"]))
    scores = np.concatenate([np.einsum("ij,ij->i", vectors[a], vectors[b]) for a, b in _parts(sides)])
    return vectors, cohort, sides, scores.astype(np.float64)


def _parts(sides: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return [(sides[0, i : i + 50_000], sides[1, i : i + 50_000]) for i in range(0, sides.shape[1], 50_000)]


def read_off(scores: Floats, targets: NDArray[np.bool_]) -> tuple[float, float]:
    """EER and minDCF(0.05) as scripts take them from scikit-learn's curve."""
    from sklearn.metrics import roc_curve

    p_fa, p_hit, _ = roc_curve(targets, scores)
    p_miss = 1 - p_hit
    nearest = np.nanargmin(np.abs(p_miss - p_fa))
    return float((p_miss[nearest] + p_fa[nearest]) / 2), float(np.min(0.05 * p_miss + 0.95 * p_fa) / 0.05)


class Task(NamedTuple):
    """What is timed, how much of the whole it is, and the size of its input."""

    work: Callable[[], list[float]]
    scale: float
    input_bytes: int


Way = Callable[[dict[str, int]], Task]


def curve_nestvox(sizes: dict[str, int]) -> Task:
    from nestvox.metrics import eer, error_curve, min_dcf

    scores, targets = scored(sizes["trials"])

    def work() -> list[float]:
        curve = error_curve(scores, targets)
        return [eer(curve).rate, min_dcf(curve, 0.05).value]

    return Task(work, 1, scores.nbytes + targets.nbytes)


def curve_sklearn(sizes: dict[str, int]) -> Task:
    import sklearn.metrics  # noqa: F401  loaded before the clock starts

    scores, targets = scored(sizes["trials"])
    return Task(lambda: list(read_off(scores, targets)), 1, scores.nbytes + targets.nbytes)


def spoken(n_trials: int) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """The trials of `scored` over 5,000 speakers."""
    scores, targets = scored(n_trials)
    enrol, other = np.random.default_rng(1).integers(0, SPEAKERS, (2, n_trials))
    return scores, targets, enrol, np.where(targets, enrol, np.where(other == enrol, (other + 1) % SPEAKERS, other))


def logit_ends(rate: float, error: float) -> list[float]:
    from scipy.stats import t

    ends = np.log(rate / (1 - rate)) + np.array([-1, 1]) * t.ppf(0.975, SPEAKERS - 1) * error / (rate * (1 - rate))
    return [float(end) for end in 1 / (1 + np.exp(-ends))]


def intervals_nestvox(sizes: dict[str, int]) -> Task:
    from nestvox.metrics import eer, error_curve, min_dcf
    from nestvox.metrics.influence import Clusters, eer_influence, logit_interval, min_dcf_influence

    trials = spoken(sizes["trials"])

    def work() -> list[float]:
        curve, clusters = error_curve(*trials[:2]), Clusters(*trials[2:])
        figures = (eer(curve).rate, eer_influence(curve)), (min_dcf(curve).value, min_dcf_influence(curve))
        ends = [logit_interval(value, clusters.standard_error(of), clusters.size) for value, of in figures]
        return [end for pair in ends for end in pair]

    return Task(work, 1, sum(part.nbytes for part in trials))


def intervals_plain(sizes: dict[str, int]) -> Task:
    from sklearn.metrics import roc_curve

    trials = scores, targets, enrol, test = spoken(sizes["trials"])
    n_target, n_nontarget = int(targets.sum()), int((~targets).sum())

    def error_of(threshold: float, of_miss: float, of_fa: float) -> float:
        """Standard error of ``of_miss p_miss + of_fa p_fa`` at a threshold: all two trials that share a speaker."""
        accepted = scores >= threshold
        miss, fa = np.mean(~accepted[targets]), np.mean(accepted[~targets])
        influence = np.where(targets, of_miss * (~accepted - miss) / n_target, of_fa * (accepted - fa) / n_nontarget)
        sums = np.zeros(SPEAKERS)
        np.add.at(sums, enrol, influence)
        np.add.at(sums, test[~targets], influence[~targets])
        pairs = np.sort(np.stack([enrol[~targets], test[~targets]]), axis=0)
        _, pair = np.unique(pairs[0] * SPEAKERS + pairs[1], return_inverse=True)
        of_pair = np.bincount(pair, influence[~targets])
        return float(SPEAKERS / (SPEAKERS - 1) * np.sqrt(sums @ sums - of_pair @ of_pair))

    def work() -> list[float]:
        p_fa, p_hit, thresholds = roc_curve(targets, scores)
        nearest = int(np.argmin(np.abs(1 - p_hit - p_fa)))
        rate = float(1 - p_hit[nearest] + p_fa[nearest]) / 2
        low, high = (int(np.searchsorted(p_fa + p_hit - 1, at)) for at in (-rate / 2, rate / 2))
        share = float((p_fa[high] - p_fa[low]) / (p_fa[high] - p_fa[low] + p_hit[high] - p_hit[low]))
        found = logit_ends(rate, error_of(thresholds[nearest], share, 1 - share))
        p_fa, p_hit, thresholds = roc_curve(targets, scores)
        costs = (1 - p_hit) + 19 * p_fa
        return found + logit_ends(float(costs.min()), error_of(thresholds[int(np.argmin(costs))], 1.0, 19.0))

    return Task(work, 1, sum(part.nbytes for part in trials))


def intervals_copied(sizes: dict[str, int]) -> Task:
    import sklearn.metrics  # noqa: F401

    trials = spoken(sizes["trials"])
    scores, targets, enrol, test = trials
    drawn = np.bincount(np.random.default_rng(0).integers(0, SPEAKERS, SPEAKERS), minlength=SPEAKERS)

    def work() -> list[float]:
        rows = np.repeat(np.arange(len(scores)), np.where(targets, drawn[enrol], drawn[enrol] * drawn[test]))
        return list(read_off(scores[rows], targets[rows]))

    return Task(work, sizes["replicates"], sum(part.nbytes for part in trials))


def bootstrap_nestvox(sizes: dict[str, int]) -> Task:
    from nestvox.metrics import speaker_bootstrap

    trials = clustered()

    def work() -> list[float]:
        found = speaker_bootstrap(*trials, n_replicates=sizes["replicates"])
        return [*found.eer, *found.min_dcf]

    return Task(work, 1, sum(part.nbytes for part in trials))


def bootstrap_copied(sizes: dict[str, int]) -> Task:
    import sklearn.metrics  # noqa: F401

    scores, targets, enrol, test = clustered()
    generator = np.random.default_rng(0)

    def work() -> list[float]:
        found = []
        for _ in range(sizes["copied"]):
            drawn = np.bincount(generator.integers(0, 40, 40), minlength=40)
            rows = np.repeat(np.arange(len(scores)), np.where(enrol == test, drawn[enrol], drawn[enrol] * drawn[test]))
            found.append(read_off(scores[rows], targets[rows]))
        ends: list[float] = np.quantile(found, [0.025, 0.975], axis=0).T.ravel().tolist()
        return ends

    return Task(
        work, sizes["replicates"] / sizes["copied"], sum(part.nbytes for part in (scores, targets, enrol, test))
    )


def list_file(sizes: dict[str, int]) -> Path:
    path = Path(tempfile.gettempdir()) / f"nestvox-trials-{sizes['lines']}-{os.getppid()}.txt"
    if not path.exists():
        generator = np.random.default_rng(0)
        enrol, test = generator.integers(0, 1251, (2, sizes["lines"]))
        takes = generator.integers(0, 40, (2, sizes["lines"]))
        path.write_text(
            "".join(
                f"{int(a == b)} id{10001 + a}/x6uYqmx31kE/{i:05}.wav id{10001 + b}/8jEAjG6SegY/{j:05}.wav\n"
                for a, b, i, j in zip(enrol, test, *takes, strict=True)
            )
        )
    return path


def read_nestvox(sizes: dict[str, int]) -> Task:
    from nestvox.corpora.trials import read_trials

    path = list_file(sizes)

    def work() -> list[float]:
        trials = read_trials(path)
        return [len(trials), trials.n_target]

    return Task(work, 1, path.stat().st_size)


def read_loop(sizes: dict[str, int]) -> Task:
    path = list_file(sizes)

    def work() -> list[float]:
        labels, enrol, test = [], [], []
        with path.open() as file:
            for line in file:
                label, a, b = line.split()
                labels.append(int(label))
                enrol.append(a)
                test.append(b)
        return [len(labels), sum(labels)]

    return Task(work, 1, path.stat().st_size)


def norm_nestvox(sizes: dict[str, int]) -> Task:
    from nestvox.metrics import as_norm

    made = embeddings(sizes)
    vectors, cohort, (enrol, test), scores = made

    def work() -> list[float]:
        return [float(as_norm(scores, enrol, test, vectors, cohort, top_k=TOP_K)[:1000].mean())]

    return Task(work, 1, sum(part.nbytes for part in made))


def norm_trial_by_trial(sizes: dict[str, int]) -> Task:
    made = embeddings(sizes)
    vectors, cohort, (enrol, test), scores = made
    n_timed = min(1000, sizes["normed"])

    def work() -> list[float]:
        found = []
        for score, a, b in zip(scores[:n_timed], enrol[:n_timed], test[:n_timed], strict=True):
            sides = [np.sort(cohort @ vectors[row])[-TOP_K:].astype(np.float64) for row in (a, b)]
            found.append(sum((score - side.mean()) / side.std() for side in sides) / 2)
        return [float(np.mean(found))]

    return Task(work, sizes["normed"] / n_timed, sum(part.nbytes for part in made))


def norm_whole_matrix(sizes: dict[str, int]) -> Task:
    made = embeddings(sizes)
    vectors, cohort, (enrol, test), scores = made

    def work() -> list[float]:
        top = np.sort(vectors @ cohort.T, axis=1)[:, -TOP_K:].astype(np.float64)
        mean, std = top.mean(axis=1), top.std(axis=1)
        found = ((scores - mean[enrol]) / std[enrol] + (scores - mean[test]) / std[test]) / 2
        return [float(found[:1000].mean())]

    return Task(work, 1, sum(part.nbytes for part in made))


TASKS: dict[str, tuple[str, list[Way]]] = {
    "curve": ("EER + minDCF, {trials:,} trials", [curve_nestvox, curve_sklearn]),
    "intervals": (
        "both with intervals, {trials:,} trials, 5,000 speakers",
        [intervals_nestvox, intervals_plain, intervals_copied],
    ),
    "bootstrap": ("{replicates:,} clustered replicates, 37,611 trials", [bootstrap_nestvox, bootstrap_copied]),
    "read": ("reading {lines:,} trials", [read_nestvox, read_loop]),
    "norm": (
        "AS-norm, {normed:,} trials, {utterances:,} utterances, cohort 5,000",
        [norm_nestvox, norm_whole_matrix, norm_trial_by_trial],
    ),
}
WAYS = {way.__name__: way for _, ways in TASKS.values() for way in ways}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, one turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", choices=list(TASKS), action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    if options.worker is not None:
        print(json.dumps(_measure(WAYS[options.worker], sizes)))
        return 0
    turns = 1 if options.quick else options.turns
    report: dict[str, Any] = {"sizes": sizes, "turns": turns, "cores": os.cpu_count(), "rows": []}
    print(f"fastest of {turns} runs each, {os.cpu_count()} cores, one thread; peak memory includes the input\n")
    print("| task | way | seconds | ratio | peak MiB | of the input | result |")
    print("|---|---|---:|---:|---:|---:|---|")
    for name, (title, ways) in TASKS.items():
        if options.only and name not in options.only:
            continue
        runs: dict[str, list[dict[str, Any]]] = {way.__name__: [] for way in ways}
        for turn in range(turns):
            # Whoever goes first in one turn goes last in the next.
            for way in ways if turn % 2 == 0 else ways[::-1]:
                runs[way.__name__].append(_process(way.__name__, quick=options.quick))
        best = {key: min(found, key=lambda run: run["seconds"]) for key, found in runs.items()}
        first = best[ways[0].__name__]
        for name_of_way, run in best.items():
            scaled = f" (measured {run['measured_s']:.1f} s, scaled up)" if run["scale"] != 1 else ""
            row = {"task": name, "way": name_of_way, **run}
            report["rows"].append(row)
            ratio, memory = run["seconds"] / first["seconds"], run["peak_mib"] / run["input_mib"]
            result = ", ".join(f"{value:.6g}" for value in run["result"])
            print(
                f"| {title.format(**sizes)} | {name_of_way}{scaled} | {run['seconds']:.3f} | {ratio:.1f} x | "
                f"{run['peak_mib']:.0f} | {memory:.1f} x | {result} |",
                flush=True,
            )
    (Path(tempfile.gettempdir()) / f"nestvox-trials-{sizes['lines']}-{os.getpid()}.txt").unlink(missing_ok=True)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _process(way: str, *, quick: bool) -> dict[str, Any]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    command = [sys.executable, __file__, "--worker", way, *(["--quick"] if quick else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads})
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure(way: Way, sizes: dict[str, int]) -> dict[str, Any]:
    import sklearn.metrics  # noqa: F401

    import nestvox.corpora.trials
    import nestvox.metrics  # noqa: F401

    before = _now_mib()  # with all libraries of all ways, so that none pays for its imports
    task = way(sizes)
    _forget_peak()
    began = time.perf_counter()
    result = task.work()
    measured = time.perf_counter() - began
    return {
        "seconds": measured * task.scale,
        "measured_s": measured,
        "scale": task.scale,
        "peak_mib": _peak_mib() - before,
        "input_mib": task.input_bytes / 2**20,
        "result": result,
    }


def _forget_peak() -> None:
    """What making the input took is not the work's (Linux; elsewhere the peak stays that of the whole process)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status_mib(key: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(row for row in status.read_text().splitlines() if row.startswith(key))
    return int(line.split()[1]) / 1024


def _peak_mib() -> float:
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return _status_mib("VmHWM") or whole


def _now_mib() -> float:
    return _status_mib("VmRSS") or _peak_mib()


if __name__ == "__main__":
    sys.exit(main())
