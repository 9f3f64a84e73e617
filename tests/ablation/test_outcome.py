"""What is said of an arm: better, worse, not shown; of arms with the same scores; and what a network costs by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nestvox.ablation.costs import count_macs
from nestvox.ablation.outcome import Measured, measure_arms
from nestvox.ablation.spread import mean_difference
from nestvox.encoders.ge2e import GE2E
from nestvox.evaluation.estimates import Settings
from nestvox.metrics.compare import compare_scores
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import no_bars
from nestvox.scoring.system import System
from nestvox.testing import make_trials, make_world

COSTS = {
    "base": {"parameters": 10.0, "macs": None},
    "better": {"parameters": 20.0, "macs": 5.0},
    "twin": {"parameters": 10.0, "macs": 9.0},
    "now": {"parameters": 30.0, "macs": 9.0},
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    world = make_world(tmp_path_factory.mktemp("world"), speakers=30, takes=5)
    names = dict(world.table.frame.select("utt_id", "speaker").iter_rows())
    sides = tuple([names[name] for name in world.trials.frame[side]] for side in ("enrol", "test"))
    good = world.cosines(32)

    def systems(noise: float, *, but_for: float | None = None) -> list[System]:
        found = []
        for seed in (0, 1):
            draw = np.random.default_rng(seed).standard_normal(len(good))
            scale = but_for if but_for is not None and seed else noise
            scores = {32: good + scale * draw}
            found.append(System("x", scores, world.trials.sha256, "made", speakers=sides))
        return found

    arms = {"base": systems(0.3), "better": systems(0.0), "twin": systems(0.3), "now": systems(0.0, but_for=0.3)}
    settings = Settings(n_bootstrap=100)
    return measure_arms(world.trials, arms, (0, 1), COSTS, settings=settings, n_permutations=200, bars=no_bars)


def test_verdicts_need_every_seed(measured: Measured) -> None:
    verdicts = {row.arm: row.verdict for row in measured.rows}
    assert verdicts == {"base": "", "better": "better", "twin": "same scores", "now": "not shown"}
    better = measured.row("better", 32)
    assert all(one is not None and one.paired is not None and one.paired.eer.high < 0 for one in better.against_base)
    assert measured.row("now", 32).against_base[1] is None


def test_the_front_and_the_dominated(measured: Measured) -> None:
    by_cost = {front.cost: front for front in measured.fronts}
    assert by_cost["parameters"].kept == ("base", "twin", "better")
    assert by_cost["macs"].names == ("better", "twin", "now")  # the cost of the base is not known
    assert by_cost["macs"].kept == ("better",)
    assert measured.dominated == {"now": ("better",)}


def test_multiply_accumulates_by_hand() -> None:
    """GE2E hears 3 s as three windows of 160 frames: of each frame all gate matrices, of each window the projection."""
    encoder = GE2E().eval()
    lstm, linear = encoder.lstm, encoder.linear
    recurrent = sum(matrix.numel() for name, matrix in lstm.named_parameters() if name.startswith("weight"))
    mel_bands, bins = 40, 201
    left = count_macs(SpeakerModel(encoder, name="ge2e")) - 3 * 160 * recurrent - 3 * linear.weight.numel()
    frames, rest = divmod(left, mel_bands * bins)  # what is left is the mel filter bank's
    assert rest == 0
    assert 300 <= frames <= 320


def test_the_mean_over_seeds_has_the_interval_of_both(measured: Measured) -> None:
    """Alike arms have an interval around 0; one seed alone has the interval of the comparison."""
    better, now = measured.row("better", 32).difference, measured.row("now", 32).difference
    assert better is not None
    assert now is not None
    assert better.high < 0
    assert now.value == pytest.approx(measured.row("now", 32).eer_mean - measured.row("base", 32).eer_mean)
    assert now.low < now.value < 0 <= now.high  # with the second seed the two are one
    assert measured.row("twin", 32).difference == (0, 0, 0)


def test_of_one_seed_it_is_the_paired_interval() -> None:
    """Drawn by other numbers, so that the two agree as far as their replicates are many."""
    world_trials, base = make_trials(0.1, targets=300, nontargets=300, seed=1)
    arm = base + 0.7 * np.random.default_rng(0).standard_normal(len(base))
    targets = world_trials.frame["target"].to_numpy()
    clusters = np.arange(len(base)) % 40
    other = np.where(targets, clusters, (clusters + 1) % 40)
    settings = Settings(n_bootstrap=4000)
    found = mean_difference([base], [arm], targets, (clusters, other), settings)
    paired = compare_scores(base, arm, targets, clusters, other, n_replicates=4000, n_permutations=1, seed=5).eer
    assert found.value == pytest.approx(paired.difference)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), abs=0.004)
