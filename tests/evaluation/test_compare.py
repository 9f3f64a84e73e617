"""Systems on one trial list: figures, correction, dimensions, labels, refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import nestvox
from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import FingerprintError, NestvoxError, OverlapError, ScoresError, TrialsError
from nestvox.evaluation import Settings, evaluate
from nestvox.evaluation.comparing import IDENTICAL, compare_systems
from nestvox.scoring.sources import known_model, known_store, system_of_scores
from nestvox.scoring.system import System
from nestvox.testing import make_store

FEW = {"settings": Settings(n_bootstrap=100), "n_permutations": 100}


def frame_of(trials: Trials, values: np.ndarray) -> pl.DataFrame:
    return trials.frame.select("enrol", "test").with_columns(pl.Series("score", values))


def noisy(world, seed: int, amount: float = 0.2) -> np.ndarray:
    return world.cosines(32) + amount * np.random.default_rng(seed).normal(size=len(world.trials))


def scored(world, name: str, values: np.ndarray) -> System:
    return system_of_scores(name, world.trials, frame_of(world.trials, values))


def test_figures_are_those_of_evaluate_and_a_shuffled_file_changes_nothing(world):
    values = noisy(world, 1)
    shuffled = frame_of(world.trials, values).sample(fraction=1.0, shuffle=True, seed=3)
    systems = [known_store("store", world.trials, world.store(), dims=[32]).score()]
    systems.append(system_of_scores("noisy", world.trials, shuffled))
    found = compare_systems(world.trials, systems, **FEW)
    direct = evaluate(world.store(), world.trials, dims=[32], settings=Settings(n_bootstrap=60)).headline
    first, second = found.systems
    assert (first.eer, first.min_dcf, first.eer_threshold) == (
        direct.eer.value,
        direct.min_dcf.value,
        direct.eer_threshold,
    )
    assert first.accuracy == pytest.approx(
        np.mean((world.cosines(32) >= first.eer_threshold) == world.trials.frame["target"].to_numpy())
    )
    (row,) = found.rows
    assert row.paired.eer.a == first.eer
    assert row.paired.eer.b == second.eer
    assert (row.dim_a, row.dim_b) == (32, None)
    assert (found.n_target, found.n_nontarget) == (direct.n_target, direct.n_nontarget)
    assert found.trials_sha256 == world.trials.sha256
    assert found.n_clusters == 12
    assert "12 speakers (the speakers of store)" in found.method
    in_one_call = nestvox.compare(world.store("again"), shuffled, world.trials, **FEW)
    assert in_one_call.rows[0].paired == row.paired


def test_dimensions_in_common_are_compared_one_by_one_and_p_values_corrected_together(world):
    generator = np.random.default_rng(5)
    vectors = world.vectors + generator.normal(size=world.vectors.shape).astype(np.float32)
    other = replace(world, vectors=vectors).store("other", fingerprint="f" * 16, dims=(16, 32))
    systems = [
        known_store("one", world.trials, world.store()).score(),
        known_store("two", world.trials, other).score(),
    ]
    found = compare_systems(world.trials, systems, table=world.table, **FEW)
    assert [(row.dim_a, row.dim_b) for row in found.rows] == [(16, 16), (32, 32)]
    raw = sorted(row.paired.eer.p_value for row in found.rows)
    corrected = sorted(row.p_eer for row in found.rows)
    assert corrected == pytest.approx([min(1, 2 * raw[0]), min(1, max(2 * raw[0], raw[1]))])
    assert "corrected for 2 comparisons (Holm)" in found.method
    assert {row.fingerprint for row in found.systems} == {"0123456789abcdef", "f" * 16}
    expected = np.linalg.norm(world.vectors[:, :16].astype(np.float64), axis=1).mean()
    assert next(row for row in found.systems if (row.name, row.dim) == ("one", 16)).mean_norm == pytest.approx(expected)
    assert all(row.size_bytes > 0 for row in found.systems)


def test_a_dimension_that_is_equal_is_said_and_the_others_are_compared(world):
    # A rotation keeps the full dimension and changes the prefixes.
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0]
    one = known_store("plain", world.trials, world.store()).score()
    turned = replace(world, vectors=(world.vectors @ rotation).astype(np.float32)).store("turned")
    two = known_store("rotated", world.trials, turned).score()
    two = replace(two, scores={**two.scores, 32: one.scores[32]})
    found = compare_systems(world.trials, [one, two], **FEW)
    assert [row.paired is None for row in found.rows] == [False, False, True]
    assert found.rows[2].verdict == IDENTICAL
    assert "corrected for 2 comparisons" in found.method


def test_a_copy_is_refused_by_name(world):
    values = noisy(world, 1)
    with pytest.raises(ScoresError, match=r"again and first .* copy"):
        compare_systems(world.trials, [scored(world, "first", values), scored(world, "again", 2 * values - 1)], **FEW)


def test_a_system_of_huge_scores_is_no_copy_of_another(world):
    """The squares of such scores overflow; an infinite spread made any other system look like rounding."""
    systems = [scored(world, "huge", 1e299 * noisy(world, 1)), scored(world, "other", noisy(world, 2))]
    assert compare_systems(world.trials, systems, **FEW).rows[0].paired is not None


def test_a_copy_among_the_others_is_refused_too(world):
    values = noisy(world, 1)
    systems = [scored(world, "first", noisy(world, 2)), scored(world, "b", values), scored(world, "c", values)]
    with pytest.raises(ScoresError, match=r"c and b .* copy"):
        compare_systems(world.trials, systems, **FEW)


def test_a_rotation_of_all_dimensions_is_no_other_system(world):
    """Scores that differ by rounding only are the same scores; prefixes of a rotation are not."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0]
    turned = replace(world, vectors=(world.vectors @ rotation).astype(np.float32)).store("turned")
    systems = [known_store(name, world.trials, store).score() for name, store in (("a", world.store()), ("b", turned))]
    assert not np.array_equal(systems[0].scores[32], systems[1].scores[32])
    found = compare_systems(world.trials, systems, **FEW)
    assert [row.paired is None for row in found.rows] == [False, False, True]
    # What they disagree about is shown where they differ.
    assert {trial.score_a for trial in found.disputed} <= set(systems[0].scores[16].tolist())


def test_what_changes_between_two_checkpoints(world):
    other = replace(world, vectors=2 * world.vectors + 1).store("other", fingerprint="f" * 16)
    systems = [known_store("one", world.trials, world.store()).score(), known_store("two", world.trials, other).score()]
    found = compare_systems(world.trials, systems, **FEW)
    of = {(row.name, row.dim): row for row in found.systems}
    for row in found.rows:
        a, b = of["one", row.dim_a], of["two", row.dim_b]
        assert row.accuracy_change == b.accuracy - a.accuracy
        assert row.threshold_change == b.eer_threshold - a.eer_threshold
        assert row.norm_change == pytest.approx(
            np.linalg.norm(2 * world.vectors[:, : row.dim_a] + 1, axis=1).mean()
            - np.linalg.norm(world.vectors[:, : row.dim_a], axis=1).mean(),
            rel=1e-6,
        )
        assert row.size_change_bytes == b.size_bytes - a.size_bytes
        assert row.relative_change == pytest.approx(b.eer / a.eer - 1)
    (mean,) = found.means
    eers = {name: [of[name, dim].eer for dim in (8, 16, 32)] for name in ("one", "two")}
    assert (mean.a, mean.b, mean.dims) == ("one", "two", (8, 16, 32))
    assert (mean.eer_a, mean.eer_b) == pytest.approx((sum(eers["one"]) / 3, sum(eers["two"]) / 3))
    assert mean.relative_change == pytest.approx(sum(eers["two"]) / sum(eers["one"]) - 1)
    scores = [scored(world, f"s{seed}", noisy(world, seed)) for seed in range(2)]
    scores = [replace(system, size_bytes=size) for system, size in zip(scores, (1000, 779), strict=True)]
    of_files = compare_systems(world.trials, scores, table=world.table, **FEW)
    (row,) = of_files.rows
    assert of_files.means == (), "scores of a file have no dimensions to take a mean over"
    assert {system.size_bytes for system in of_files.systems} == {None}, "how long a list is says nothing of a system"
    assert (row.norm_change, row.size_change_bytes) == (None, None)


def test_a_system_chosen_on_these_trials_is_labelled(world):
    systems = [scored(world, f"s{seed}", noisy(world, seed)) for seed in range(2)]
    chosen = [systems[0], replace(systems[1], chosen_on=("0" * 64, world.trials.sha256))]
    found = compare_systems(world.trials, chosen, table=world.table, **FEW)
    assert found.labels == ("selected",)
    assert any(note.startswith("s1: ") and "these very trials" in note for note in found.notes)
    assert compare_systems(world.trials, systems, table=world.table, **FEW).labels == ()


def test_three_systems_are_held_against_the_first_and_the_choice_is_warned_of(world):
    systems = [scored(world, f"s{seed}", noisy(world, seed)) for seed in range(3)]
    found = compare_systems(world.trials, systems, table=world.table, **FEW)
    assert [(row.a, row.b) for row in found.rows] == [("s0", "s1"), ("s0", "s2")]
    assert any("other trials" in note for note in found.notes)
    assert all("these" in row.verdict or "s0" in row.verdict for row in found.rows)


def test_unknown_speakers_are_said(world):
    systems = [scored(world, f"s{seed}", noisy(world, seed)) for seed in range(2)]
    found = compare_systems(world.trials, systems, **FEW)
    assert any("CLUSTERED BY UTTERANCE" in note for note in found.notes)
    sides = [[name[:3] for name in world.trials.frame[side]] for side in ("enrol", "test")]
    known = compare_systems(world.trials, systems, speakers=(sides[0], sides[1]), **FEW)
    assert known.n_clusters == 12
    assert not known.notes


def test_training_speakers_are_refused_or_labelled(world):
    leaky = world.store("leaky", training_speakers=(speaker_key("s03"),))
    systems = [scored(world, "a", noisy(world, 1)), known_store("b", world.trials, leaky, dims=[32]).score()]
    with pytest.raises(OverlapError, match="s03"):
        compare_systems(world.trials, systems, **FEW)
    found = compare_systems(world.trials, systems, allow_overlap=True, **FEW)
    assert found.labels == ("leaky",)


def test_synthetic_speech_is_labelled(world):
    table = replace(world.table, frame=world.table.frame.with_columns(synthetic=pl.lit(True)), _lines=None)
    systems = [scored(world, f"s{seed}", noisy(world, seed)) for seed in range(2)]
    assert compare_systems(world.trials, systems, table=table, **FEW).labels == ("synthetic",)


def test_other_trials_are_refused(world):
    systems = [scored(world, f"s{seed}", noisy(world, seed)) for seed in range(2)]
    fewer = Trials(world.trials.frame.head(-1), "fewer.txt")
    with pytest.raises(ScoresError, match="same trials only"):
        compare_systems(fewer, systems, **FEW)
    broken = replace(systems[1], scores={None: np.full(len(world.trials), np.nan)})
    with pytest.raises(ScoresError, match="s1 has no finite score"):
        compare_systems(world.trials, [systems[0], broken], **FEW)


def test_unusable_calls_are_refused(world):
    one = scored(world, "one", noisy(world, 1))
    with pytest.raises(NestvoxError, match="two or more"):
        compare_systems(world.trials, [one], **FEW)
    with pytest.raises(NestvoxError, match="different names"):
        compare_systems(world.trials, [one, one], **FEW)
    with pytest.raises(ScoresError, match="have no score"):
        system_of_scores("few", world.trials, frame_of(world.trials, noisy(world, 1)).head(5))
    targets_only = Trials(world.trials.frame.filter(pl.col("target")), "targets.txt")
    with pytest.raises(TrialsError, match="both classes"):
        compare_systems(targets_only, [one, one], **FEW)


def test_a_model_is_embedded_once_a_named_utterance_and_scored_like_its_store(world):
    class Model:
        name, fingerprint, dims, training_speakers, chosen_on = "tiny", "0123456789abcdef", (16, 32), (), ()

        def check_dim(self, dim, /):
            return dim

    asked: list[int] = []

    def embed(part: UtteranceTable, folder):
        asked.append(len(part))
        full = world.store("source")
        rows = part.frame["utt_id"].to_list()
        return make_store(folder, full.take(full.index_of(rows)), rows, dims=full.metadata.dims)

    few = Trials(world.trials.frame.head(20), "few.txt")
    system = known_model("model", few, Model(), world.table, embed).score()
    assert asked == [len(set(few.frame["enrol"]) | set(few.frame["test"]))]
    np.testing.assert_allclose(system.scores[16], world.cosines(16)[:20], atol=1e-12)
    Model.fingerprint = "e" * 16
    with pytest.raises(FingerprintError, match="0123456789abcdef"):
        known_model("model", few, Model(), world.table, embed).score()


def test_json_holds_every_number_with_its_conditions(world):
    systems = [scored(world, f"s{seed}", noisy(world, seed)) for seed in range(2)]
    found = compare_systems(
        world.trials, systems, table=world.table, settings=Settings(p_target=0.01, n_bootstrap=100), n_permutations=100
    )
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["trials_sha256"] == world.trials.sha256
    assert (content["p_target"], content["c_miss"], content["n_clusters"]) == (0.01, 1.0, 12)
    figure = content["rows"][0]["paired"]["eer"]
    paired = found.rows[0].paired
    assert figure["difference"] == paired.eer.difference == figure["b"] - figure["a"]
    assert set(figure) >= {"low", "high", "studentised_low", "standard_error", "p_value"}
    assert content["rows"][0]["paired"]["at_eer"]["only_a"] == paired.at_eer.only_a


def test_same_seed_same_result(world):
    systems = [scored(world, f"s{seed}", noisy(world, seed)) for seed in range(2)]
    one, two, other = (
        compare_systems(
            world.trials, systems, table=world.table, settings=Settings(seed=s, n_bootstrap=100), n_permutations=100
        )
        for s in (1, 1, 2)
    )
    assert one.rows == two.rows
    assert one.rows[0].paired.eer.low != other.rows[0].paired.eer.low


def test_a_notebook_shows_a_short_line_and_a_table(world):
    found = compare_systems(world.trials, [scored(world, "a", noisy(world, 1)), scored(world, "<b>", noisy(world, 2))])
    assert repr(found).startswith(f"Comparison(a and <b>: {found.rows[0].verdict}; ")
    assert found._repr_html_().count("<tr>") == 2
    assert "a and &lt;b&gt;" in found._repr_html_()


def test_an_empty_list_is_refused_as_such(world):
    values = noisy(world, 1)
    none = Trials(world.trials.frame.clear(), "none.txt")
    with pytest.raises(TrialsError, match="no trials to evaluate"):
        nestvox.compare(values, values[::-1], none)
    with pytest.raises(TrialsError, match="no trials to evaluate"):
        nestvox.compare(values, values[::-1], world.trials, select_on=none)
