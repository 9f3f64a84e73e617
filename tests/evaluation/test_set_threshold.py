"""Thresholds by dimension and duration: what they hold, what cannot be set, and that they are used in their place "
"only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import FingerprintError, ModelError, NestvoxError, OverlapError, TrialsError
from nestvox.evaluation.set_threshold import set_thresholds, use_thresholds
from nestvox.metrics.thresholds import DecisionRule
from nestvox.model.threshold import ScoreSpace, Threshold, duration_classes
from nestvox.scoring.sources import known_store
from nestvox.scoring.speakers import trial_speakers

FEW = {"n_bootstrap": 60}
FAR = DecisionRule("far", 0.05)


@pytest.fixture
def made(world):
    """The world's system; take 0 of every speaker lasts 1 s, take 1 30 s, all others 3 s."""
    durations = [{"0": 1.0, "1": 30.0}.get(name[-1], 3.0) for name in world.table.frame["utt_id"]]
    frame = world.table.frame.with_columns(duration_s=pl.Series(durations))
    table = UtteranceTable(frame, world.table.source, world.table.root)
    system = known_store("tiny", world.trials, world.store()).score()
    return system, world.trials, trial_speakers(world.trials, [system], table=table), table


def counted(world, dim: int, threshold: float, chosen=None) -> tuple[float, float]:
    """False-alarm and miss rate of the cosines spelled out."""
    scores, targets = world.cosines(dim), world.trials.frame["target"].to_numpy()
    chosen = np.ones(len(scores), dtype=bool) if chosen is None else chosen
    accepted = scores >= threshold
    return accepted[chosen & ~targets].mean(), (~accepted)[chosen & targets].mean()


@pytest.mark.parametrize("rule", [DecisionRule("eer"), FAR, DecisionRule("frr", 0.05), DecisionRule("min_dcf")])
def test_the_stored_threshold_reproduces_its_error_rates_exactly(world, made, rule):
    system, trials, speakers, table = made
    found = set_thresholds(system, trials, speakers, rule, domain="tiny", table=table, **FEW)
    assert [t.dim for t in found.thresholds] == [8, 16, 32]
    for stored in found.thresholds:
        again = Threshold.from_dict(stored.to_dict())
        assert counted(world, stored.dim, again.value) == (again.p_fa, again.p_miss)
        assert again.p_fa_interval[0] <= again.p_fa <= again.p_fa_interval[1]
        assert again.p_miss_interval[0] <= again.p_miss <= again.p_miss_interval[1]
        assert (again.fingerprint, again.domain, again.operating_point) == ("0123456789abcdef", "tiny", rule.name)
        assert again.trials_sha256 == trials.sha256
        assert (again.n_target, again.n_nontarget) == (trials.n_target, trials.n_nontarget)
        assert "12 speakers" in again.interval
    uses = use_thresholds(found.thresholds, system, trials, speakers, table=table, **FEW)
    for use in uses:
        assert (use.p_fa.value, use.p_miss.value) == (use.threshold.p_fa, use.threshold.p_miss)
        assert (use.p_fa.ends, use.p_miss.ends) == (use.threshold.p_fa_interval, use.threshold.p_miss_interval)
        assert [(rate.value, rate.ends) for rate in use.threshold.rates] == [
            (use.p_fa.value, use.p_fa.ends),
            (use.p_miss.value, use.p_miss.ends),
        ]
        assert use.p_fa.trials.n_clusters == 12


def test_by_the_shorter_recording_where_the_trials_allow(world, made):
    system, trials, speakers, table = made
    classes = duration_classes((2, 4))
    found = set_thresholds(system, trials, speakers, FAR, classes=classes, table=table, **FEW)
    at_32 = {str(t.duration_class): t for t in found.thresholds if t.dim == 32}
    assert set(at_32) == {"None", "0 to 2 s", "2 to 4 s"}
    short = np.array([e.endswith("-0") or t.endswith("-0") for e, t, _ in world.trials.frame.iter_rows()])
    both_long = np.array([e.endswith("-1") and t.endswith("-1") for e, t, _ in world.trials.frame.iter_rows()])
    middle = ~short & ~both_long
    for name, mask in (("0 to 2 s", short), ("2 to 4 s", middle)):
        stored = at_32[name]
        assert counted(world, 32, stored.value, mask) == (stored.p_fa, stored.p_miss)
        assert stored.n_target + stored.n_nontarget == mask.sum()
        assert stored.trials_sha256 == Trials(trials.frame.filter(mask), "x").sha256
    missing = [entry for entry in found.not_set if entry.dim == 32]
    assert [str(entry.duration_class) for entry in missing] == ["4 s and more"]
    assert missing[0].reason == f"0 target and {both_long.sum()} non-target trials: it takes both"


def test_a_class_with_few_trials_says_what_it_takes(made):
    system, trials, speakers, table = made
    strict = set_thresholds(
        system, trials, speakers, DecisionRule("far", 0.01), classes=duration_classes((2,)), table=table, **FEW
    )
    reasons = {str(entry.duration_class): entry.reason for entry in strict.not_set}
    assert "it takes more than 300 (3 / 0.01)" in reasons["0 to 2 s"]
    equal = set_thresholds(
        system, trials, speakers, DecisionRule("eer"), classes=duration_classes((0.5, 2)), table=table, **FEW
    )
    assert {str(e.duration_class): e.reason for e in equal.not_set} == {
        "0 to 0.5 s": "0 target and 0 non-target trials: it takes both"
    }


def test_what_the_trials_cannot_say_is_refused(made):
    system, trials, speakers, _ = made
    with pytest.raises(TrialsError, match=r"world.txt: far 0.001 cannot be said from \d+ non-target trials"):
        set_thresholds(system, trials, speakers, DecisionRule("far", 0.001), **FEW)
    with pytest.raises(NestvoxError, match="need the utterance table"):
        set_thresholds(system, trials, speakers, FAR, classes=duration_classes(), **FEW)


def test_few_errors_are_told(made):
    system, trials, speakers, _ = made
    found = set_thresholds(system, trials, speakers, DecisionRule("far", 0.02), **FEW)
    assert all(any("false alarms rests on" in sentence for sentence in row) for row in found.warnings)
    content = found.to_dict()
    assert len(content["thresholds"]) == len(content["warnings"]) == 3


def test_used_elsewhere_it_is_refused(made):
    system, trials, speakers, table = made
    stored = set_thresholds(system, trials, speakers, FAR, **FEW).thresholds
    with pytest.raises(FingerprintError, match="set for the model 0123456789abcdef"):
        use_thresholds(stored, replace(system, fingerprint="f" * 16), trials, speakers, **FEW)
    with pytest.raises(ModelError, match="splits a cosine, the scores are a LLR"):
        use_thresholds(stored, replace(system, space=ScoreSpace("llr", "x")), trials, speakers, **FEW)
    with pytest.raises(TrialsError, match="there are thresholds for 8, 16, 32"):
        use_thresholds(stored, replace(system, scores={4: system.scores[8]}), trials, speakers, **FEW)
    by_class = set_thresholds(system, trials, speakers, FAR, classes=duration_classes((2,)), table=table, **FEW)
    with pytest.raises(NestvoxError, match="need the utterance table"):
        use_thresholds(by_class.thresholds, system, trials, speakers, **FEW)


def test_labels_of_the_material_stand_with_every_rate(world, made):
    _, trials, speakers, table = made
    system = known_store("leaky", trials, world.store("leaky", training_speakers=(speaker_key("s02"),))).score()
    with pytest.raises(OverlapError, match="s02"):
        set_thresholds(system, trials, speakers, FAR, **FEW)
    marked = UtteranceTable(table.frame.with_columns(synthetic=pl.lit(value=True)), table.source, table.root)
    found = set_thresholds(system, trials, speakers, FAR, table=marked, allow_overlap=True, **FEW)
    assert all(stored.labels == ("leaky", "synthetic") for stored in found.thresholds)
    uses = use_thresholds(found.thresholds, system, trials, speakers, table=marked, allow_overlap=True, **FEW)
    assert all(use.labels == ("leaky", "selected", "synthetic") for use in uses)


def test_unknown_speakers_are_said(made):
    system, trials, _, _ = made
    unknown = trial_speakers(trials, [replace(system, speakers=None)])
    found = set_thresholds(system, trials, unknown, FAR, **FEW)
    assert any("CLUSTERED BY UTTERANCE" in note for note in found.notes)
    assert "CLUSTERED BY UTTERANCE" in found.thresholds[0].interval
