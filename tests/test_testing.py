"""The dummies hold what they promise, said by other means than theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.stats import norm

from nestvox.errors import NestvoxError
from nestvox.extraction import embed_table
from nestvox.metrics import cllr, eer, error_curve, min_cllr
from nestvox.scoring import known
from nestvox.testing import MomentModel, make_noises, make_store, make_trials, make_world


def test_a_store_of_the_world_scores_as_it_says(tmp_path: Path) -> None:
    world = make_world(tmp_path, speakers=8, takes=3, dim=16)
    store = world.store(shard_rows=7)
    assert store.speakers == [name[1:3].join(["s", ""]) for name in store.utt_ids]
    assert world.trials.frame["target"].sum() == 8 * 3
    scores = known(store, world.trials).score().scores
    assert sorted(scores) == [4, 8, 16]
    for dim, found in scores.items():
        np.testing.assert_allclose(found, world.cosines(dim), atol=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_error_rates_are_the_ones_asked_for(rate: float) -> None:
    trials, scores = make_trials(rate, targets=2000, nontargets=5000)
    targets = trials.frame["target"].to_numpy()
    assert eer(error_curve(scores, targets)).rate == pytest.approx(rate, abs=1 / 2000)
    assert cllr(error_curve(scores, targets)) == pytest.approx(min_cllr(error_curve(scores, targets)), abs=0.01)
    mean = 2 * norm.isf(rate) ** 2
    for threshold in (-1.0, 0.0, 2.0):
        expected = norm.cdf((threshold - mean) / np.sqrt(2 * mean))
        assert (scores[targets] < threshold).mean() == pytest.approx(expected, abs=1 / 2000)
    sides = trials.frame["enrol"].str.split("/").list.first(), trials.frame["test"].str.split("/").list.first()
    assert ((sides[0] == sides[1]).to_numpy() == targets).all()
    with pytest.raises(NestvoxError, match=r"between 0 and 0\.5"):
        make_trials(0.5)


def test_noises_are_embedded_by_the_model_of_moments(tmp_path: Path) -> None:
    table = make_noises(tmp_path / "audio", [0.5, 0.25], sample_rate=8_000, split=["train", "dev"])
    assert table.frame["split"].to_list() == ["train", "dev"]
    samples, rate = soundfile.read(tmp_path / "audio" / "1.wav")
    assert (len(samples), rate) == (2_000, 8_000)
    store = embed_table(MomentModel(sample_rate=8_000), table, tmp_path / "store", batch_size=2)
    assert store.vectors()[1] == pytest.approx([samples.mean(), samples.std(), abs(samples).mean(), 0.25], abs=1e-6)


def test_a_store_has_the_columns_that_are_given(tmp_path: Path) -> None:
    store = make_store(tmp_path, np.eye(3), paths=list("abc"), conditions=["short", None, ""], dims=(3,), shard_rows=2)
    assert (store.utt_ids, store.paths, store.speakers) == (["u0", "u1", "u2"], list("abc"), [None] * 3)
    assert store.conditions == ["short", None, ""]
    assert store.metadata.n_shards == 2
