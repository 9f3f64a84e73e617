"""Normalised and calibrated systems against scores spelled out, and what is refused on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from nestvox.errors import FingerprintError, NestvoxError, OverlapError, ScoresError, StoreError, TrialsError
from nestvox.evaluation.estimates import Settings
from nestvox.evaluation.llr_fit import fit_llr, llr_costs
from nestvox.evaluation.measure import evaluate
from nestvox.metrics import act_dcf, cllr, eer, error_curve, min_cllr
from nestvox.model.threshold import COSINE
from nestvox.scoring.normalise import ScoreNorm, normalised
from nestvox.scoring.pipeline import Steps, calibrated
from nestvox.scoring.sources import known_store, system_of_scores
from nestvox.scoring.speakers import trial_speakers
from nestvox.testing import make_store

N_COHORT = 40


def cohort_of(world, name: str = "cohort", *, speakers=None, fingerprint: str = "0123456789abcdef", labels=()):
    vectors = np.random.default_rng(3).normal(size=(N_COHORT, 32)).astype(np.float32) + 0.2
    ids = [f"c{row}" for row in range(N_COHORT)]
    speakers = [f"cohort{row}" for row in range(N_COHORT)] if speakers is None else speakers
    about = {"fingerprint": fingerprint, "labels": labels, "shard_rows": 16}
    return make_store(world.folder / name, vectors, ids, None, speakers, **about), vectors


def system_and_speakers(world):
    system = known_store("tiny", world.trials, world.store()).score()
    return system, trial_speakers(world.trials, [system], table=world.table)


def spelled_out(world, vectors, method: str, dim: int, top_k: int | None) -> np.ndarray:
    """Score norm as the papers write it, one trial at a time."""

    def cosine(a, b):
        a, b = a[:dim].astype(np.float64), b[:dim].astype(np.float64)
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    row_of = {name: row for row, name in enumerate(world.table.frame["utt_id"])}
    found = []
    for enrol, test, _ in world.trials.frame.iter_rows():
        sides = world.vectors[row_of[enrol]], world.vectors[row_of[test]]
        score = cosine(*sides)
        parts = []
        for side, wanted in zip(sides, ("z", "t"), strict=True):
            against = sorted((cosine(side, other) for other in vectors), reverse=True)[:top_k]
            if method in (wanted, "s", "as"):
                parts.append((score - np.mean(against)) / np.std(against))
        found.append(np.mean(parts))
    return np.array(found)


@pytest.mark.parametrize(("method", "top_k"), [("z", None), ("t", None), ("s", None), ("as", 10)])
def test_every_norm_at_every_dimension_is_the_formula(world, method, top_k):
    system, speakers = system_and_speakers(world)
    cohort, vectors = cohort_of(world)
    found = normalised(system, ScoreNorm(method, cohort, top_k), speakers)
    for dim in (8, 32):
        np.testing.assert_allclose(found.scores[dim], spelled_out(world, vectors, method, dim, top_k), atol=2e-4)
    assert found.space.kind == "normalised"
    assert f"{method}-norm" in str(found.space)
    assert system.space == COSINE


def test_what_a_normalised_score_means_follows_method_cohort_and_top_k(world):
    cohort, _ = cohort_of(world)
    spaces = {ScoreNorm("s", cohort).space, ScoreNorm("z", cohort).space, ScoreNorm("as", cohort, 10).space}
    spaces |= {ScoreNorm("as", cohort, 11).space}
    assert len(spaces) == 4


def test_speakers_of_the_trials_may_not_stand_in_the_cohort(world):
    system, speakers = system_and_speakers(world)
    names = [f"cohort{row}" for row in range(N_COHORT)]
    cohort, _ = cohort_of(world, speakers=["s03", "s01", *names[2:]])
    with pytest.raises(OverlapError, match=r"2 speakers of the trials stand in the cohort .*: s01, s03"):
        normalised(system, ScoreNorm("s", cohort), speakers)
    unnamed, _ = cohort_of(world, "unnamed", speakers=[None, *names[1:]])
    assert any(
        "1 of 40 cohort vectors name no speaker" in n
        for n in normalised(system, ScoreNorm("s", unnamed), speakers).notes
    )


def test_as_norm_of_a_small_cohort_takes_all_of_it_and_says_so(world):
    system, speakers = system_and_speakers(world)
    cohort, _ = cohort_of(world)
    found, whole = (normalised(system, ScoreNorm(method, cohort), speakers) for method in ("as", "s"))
    np.testing.assert_allclose(found.scores[32], whole.scores[32])
    assert "top 40 of 40" in str(found.space)
    assert any("fewer than the usual top 300" in note for note in found.notes)
    assert any("40 cohort scores" in note and "11 %" in note for note in whole.notes)  # 1 / sqrt(2 * 39)
    rough = normalised(system, ScoreNorm("as", cohort, 2), speakers)
    assert any("71 %" in note for note in rough.notes)


def test_cohorts_that_do_not_fit(world):
    system, speakers = system_and_speakers(world)
    ours, _ = cohort_of(world, "tap")
    unrotated = replace(system, embedded=replace(system.embedded, tap="embedding"))
    with pytest.raises(StoreError, match="holds the tap nested, the trials are scored on embedding"):
        normalised(unrotated, ScoreNorm("s", ours), speakers)
    foreign, _ = cohort_of(world, "foreign", fingerprint="f" * 16)
    with pytest.raises(FingerprintError, match="embed the cohort with the same model"):
        normalised(system, ScoreNorm("s", foreign), speakers)
    cohort, _ = cohort_of(world)
    with pytest.raises(NestvoxError, match="top_k is 41, and the cohort has 40 vectors"):
        normalised(system, ScoreNorm("as", cohort, 41), speakers)
    with pytest.raises(NestvoxError, match="top_k means nothing to s-norm"):
        ScoreNorm("s", cohort, 10)
    with pytest.raises(NestvoxError, match="z, t, s, as"):
        ScoreNorm("x", cohort)
    once = normalised(system, ScoreNorm("s", cohort), speakers)
    with pytest.raises(NestvoxError, match="no cosines of embeddings"):
        normalised(once, ScoreNorm("s", cohort), speakers)


def test_labels_of_the_cohort_travel(world):
    system, speakers = system_and_speakers(world)
    cohort, _ = cohort_of(world, labels=("synthetic",))
    assert normalised(system, ScoreNorm("s", cohort), speakers).labels == ("synthetic",)


def halves(world):
    """Trials among the first six speakers, and among the others, each with its system and speakers."""
    store = world.store()
    found = []
    for first in (True, False):
        inside = pl.col("enrol").str.slice(1, 2).cast(int) < 6
        other = pl.col("test").str.slice(1, 2).cast(int) < 6
        frame = world.trials.frame.filter(inside & other if first else ~inside & ~other)
        trials = replace(world.trials, frame=frame, source="dev.txt" if first else "test.txt")
        part = known_store("tiny", trials, store).score()
        found.append((part, trials, trial_speakers(trials, [part], table=world.table)))
    return found


def test_calibrated_on_some_speakers_and_measured_on_others(world):
    (dev, dev_trials, dev_speakers), (test, test_trials, test_speakers) = halves(world)
    llr = fit_llr(dev, dev_trials, dev_speakers).llr
    found = calibrated(test, llr, test_trials, test_speakers.names, {})
    targets = test_trials.frame["target"].to_numpy()
    for dim, values in found.scores.items():
        # An affine map keeps the order, so the error rates stay.
        assert eer(error_curve(values, targets)).rate == pytest.approx(eer(error_curve(test.scores[dim], targets)).rate)
        curve = error_curve(values, targets)
        assert cllr(curve) < cllr(error_curve(test.scores[dim], targets))
        assert min_cllr(curve) == pytest.approx(min_cllr(error_curve(test.scores[dim], targets)))
    cost = llr_costs(found.scores, targets, 0.3)[0]
    assert cost.act_dcf == act_dcf(error_curve(found.scores[8], targets), 0.3).value
    assert (cost.n_target, cost.n_nontarget) == (targets.sum(), (~targets).sum())
    evaluation = evaluate(
        world.store("whole"),
        test_trials,
        table=world.table,
        conditions=["sex"],
        steps=Steps(calibration=llr),
        settings=Settings(n_bootstrap=60, p_target=0.3),
    )
    assert (evaluation.calibrated_by, evaluation.score) == (llr.key, str(llr.llr_space))
    assert evaluation.llr_cost_after == llr_costs(found.scores, targets, 0.3)
    assert evaluation.llr_cost_before == llr_costs(test.scores, targets, 0.3)
    assert evaluation.notes[0].startswith("The scores are the LLR in nats")
    assert evaluation.calibration[0].cllr == pytest.approx(cost.cllr)
    assert {row.condition for row in evaluation.results} >= {"all"}


def test_its_own_trials_and_speakers_are_refused(world):
    (dev, dev_trials, dev_speakers), _ = halves(world)
    llr = fit_llr(dev, dev_trials, dev_speakers).llr
    with pytest.raises(TrialsError, match="these very trials"):
        calibrated(dev, llr, dev_trials, dev_speakers.names, {}, allow_overlap=True)
    part = replace(dev_trials, frame=dev_trials.frame[5:])
    system = known_store("tiny", part, world.store()).score()
    with pytest.raises(OverlapError, match="6 of the evaluated speakers served to fit the calibration: s00, s01"):
        calibrated(system, llr, part, dev_speakers.names, {})
    assert calibrated(system, llr, part, dev_speakers.names, {}, allow_overlap=True).labels == ("leaky",)


def test_scores_of_another_kind_model_or_dimension_are_refused(world):
    (dev, dev_trials, dev_speakers), (test, trials, speakers) = halves(world)
    llr = fit_llr(dev, dev_trials, dev_speakers).llr
    with pytest.raises(FingerprintError, match="fitted on scores of the model 0123456789abcdef"):
        calibrated(replace(test, fingerprint="f" * 16), llr, trials, speakers.names, {})
    cohort, _ = cohort_of(world)
    with pytest.raises(ScoresError, match="fitted on the cosine, the scores of tiny are the normalised cosine"):
        calibrated(normalised(test, ScoreNorm("s", cohort), speakers), llr, trials, speakers.names, {})
    with pytest.raises(ScoresError, match="fitted for 8, 16, 32, none of which"):
        calibrated(replace(test, scores={4: test.scores[8]}), llr, trials, speakers.names, {})
    more = replace(test, scores={4: test.scores[8], **test.scores})
    found = calibrated(more, llr, trials, speakers.names, {})
    assert list(found.scores) == [8, 16, 32]
    assert "no map for 4 dimensions" in found.notes[-1]
    with pytest.raises(NestvoxError, match="calibrated already"):
        fit_llr(found, trials, speakers)


def test_scores_of_a_file(world):
    frame = world.trials.frame.select("enrol", "test").with_columns(score=pl.Series(world.cosines(32)))
    system = system_of_scores("file", world.trials, frame)
    speakers = trial_speakers(world.trials, [system], table=world.table)
    fit = fit_llr(system, world.trials, speakers)
    assert (fit.llr.fingerprint, list(fit.llr.maps), fit.llr.space.kind) == ("", [None], "given")
    cohort, _ = cohort_of(world)
    with pytest.raises(NestvoxError, match="needs a store or a model"):
        normalised(system, ScoreNorm("s", cohort), speakers)
    with pytest.raises(FingerprintError):
        calibrated(system_and_speakers(world)[0], fit.llr, world.trials, [], {})
