"""A measured number never stands without its trials, and results say all of it."""

from __future__ import annotations

import dataclasses

import pytest

from nestvox.metrics import Estimate, TrialSet

TRIALS = TrialSet(trials_sha256="ab" * 32, n_target=40, n_nontarget=60, n_clusters=7, labels=("leaky",))


def test_one_number_with_its_interval_counts_hash_and_labels():
    found = Estimate(
        name="EER", dim=16, value=0.1, low=0.05, high=0.2, interval="studentised", error=0.03, trials=TRIALS
    )
    assert found.to_dict() == {
        "name": "EER",
        "dim": 16,
        "value": 0.1,
        "low": 0.05,
        "high": 0.2,
        "interval": "studentised",
        "error": 0.03,
        "trials_sha256": "ab" * 32,
        "n_target": 40,
        "n_nontarget": 60,
        "n_clusters": 7,
        "labels": ("leaky",),
    }
    assert found.ends == (0.05, 0.2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.value = 0.0  # type: ignore[misc]


def test_without_an_interval_both_ends_are_the_number():
    found = Estimate(name="AUC", dim=None, value=1.0, trials=TRIALS)
    assert (found.ends, found.interval, found.low) == ((1.0, 1.0), "", None)
    with pytest.raises(TypeError, match="trials"):
        Estimate(name="AUC", dim=None, value=1.0)  # type: ignore[call-arg]
