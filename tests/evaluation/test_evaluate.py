"""Rows, conditions, refusals and labels of the three roads, against figures computed the long way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import nestvox
from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import (
    FingerprintError,
    NestvoxError,
    OverlapError,
    ScoresError,
    StoreError,
    TableError,
    TrialsError,
)
from nestvox.evaluation import Settings, evaluate
from nestvox.metrics import act_dcf, cllr, eer, error_curve, min_dcf
from nestvox.scoring.sources import known_model, known_store, system_of_scores

FEW = {"settings": Settings(n_bootstrap=60)}


def trials_of(rows: list[tuple[str, str, bool | None]]) -> Trials:
    return Trials(
        pl.DataFrame(rows, schema={"enrol": pl.String, "test": pl.String, "target": pl.Boolean}, orient="row"), "t"
    )


def scored(world, scores) -> pl.DataFrame:
    return world.trials.frame.select("enrol", "test").with_columns(score=pl.Series(scores, dtype=pl.Float64))


def test_store_scores_are_cosines_of_renormalised_prefixes(world):
    evaluation = evaluate(world.store(), world.trials, **FEW)
    targets = world.trials.frame["target"].to_numpy()
    assert evaluation.dims == (8, 16, 32)
    for dim in (8, 16, 32):
        curve = error_curve(world.cosines(dim), targets)
        row = evaluation.rates(dim)
        assert row.eer.value == pytest.approx(eer(curve).rate, abs=1e-12)
        assert row.min_dcf.value == pytest.approx(min_dcf(curve).value, abs=1e-12)
        assert row.eer_threshold == pytest.approx(eer(curve).threshold, abs=1e-9)
        assert row.eer.low <= row.eer.value <= row.eer.high
    assert evaluation.headline.dim == 32
    assert evaluation.fingerprint == evaluation.headline.fingerprint == "0123456789abcdef"
    worst = evaluation.highest_nontargets[0]
    assert worst.score == pytest.approx(world.cosines(32)[~targets].max())
    assert not worst.target
    assert evaluation.lowest_targets[0].score == pytest.approx(world.cosines(32)[targets].min())


def test_what_else_the_field_reports_stands_beside_it(world):
    """AUC by scikit-learn, costs at the usual priors, misses on the DET curve, each with its interval."""
    metrics = pytest.importorskip("sklearn.metrics")
    targets = world.trials.frame["target"].to_numpy()
    llr = 8 * world.cosines(32) - 2
    settings = Settings(n_bootstrap=60, p_target=0.2, c_miss=3)
    evaluation = evaluate(llr, world.trials, table=world.table, llr=True, settings=settings)
    found = {figure.name: figure for figure in evaluation.further}
    curve = error_curve(llr, targets)
    fa, miss = curve.p_fa[::-1], curve.p_miss[::-1]
    points = {"(0.01)": (0.01, 1, 1), "(0.05)": (0.05, 1, 1), "(0.2, 3, 1)": (0.2, 3, 1)}
    expected = {"AUC": metrics.roc_auc_score(targets, llr)}
    for name, point in points.items():
        expected |= {f"minDCF{name}": min_dcf(curve, *point).value, f"actDCF{name}": act_dcf(curve, *point).value}
    expected |= {"Cllr": cllr(curve), "FRR at FAR 1 %": np.interp(0.01, fa, miss)}
    expected |= {"FRR at FAR 10 %": np.interp(0.1, fa, miss)}
    assert int((~targets).sum()) < 3000  # so that one in a thousand cannot be said
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(expected, abs=1e-9)
    assert found["minDCF(0.2, 3, 1)"].value == evaluation.headline.min_dcf.value
    assert found["minDCF(0.2, 3, 1)"].low == evaluation.headline.min_dcf.low
    for figure in evaluation.further:  # rejecting everybody costs 1 whoever speaks
        assert (figure.low is None) == (figure.value == 1)
        assert figure.low is None or figure.low <= figure.value <= figure.high
    plain = evaluate(world.store(), world.trials, **FEW)
    assert [figure.dim for figure in plain.further if figure.name == "AUC"] == [8, 16, 32]
    assert not any(figure.name.startswith(("Cllr", "actDCF")) for figure in plain.further)
    perfect = evaluate(targets.astype(float), world.trials, table=world.table, **FEW).further
    assert {(figure.low, figure.interval) for figure in perfect} == {(None, "")}


def test_all_three_roads_agree(world):
    by_store = evaluate(world.store(), world.trials, dims=[16], **FEW)
    by_scores = evaluate(
        system_of_scores(
            "the scores",
            world.trials,
            scored(world, world.cosines(16)).sample(fraction=1, shuffle=True, seed=3),
            dim=16,
        ),
        world.trials,
        table=world.table,
        **FEW,
    )

    class Model:
        name, fingerprint, dims, training_speakers, chosen_on = "tiny", "0123456789abcdef", (8, 16, 32), (), ()

        def check_dim(self, dim, /):
            return dim

    def embed(table, folder):
        part = replace(world, table=table, vectors=world.vectors[world.table.resolve(table.frame["utt_id"])])
        return part.store(str(folder))

    model = known_model("tiny", world.trials, Model(), world.table, embed, dims=[16])
    by_model = evaluate(model, world.trials, table=world.table, **FEW)
    for other in (by_scores, by_model):
        assert other.headline.eer.value == pytest.approx(by_store.headline.eer.value, abs=1e-12)
        assert other.headline.eer.high == pytest.approx(by_store.headline.eer.high, abs=1e-12)
        assert other.headline.trials_sha256 == by_store.headline.trials_sha256


def test_one_call_takes_paths_stores_and_scores(world, tmp_path):
    """The path of a store and of a score file give what the opened ones give; what needs a table says so."""
    store = world.store("paths")
    trials = tmp_path / "trials.csv"
    world.trials.frame.with_columns(pl.col("target").cast(pl.Int8)).write_csv(trials)
    scores = tmp_path / "scores.csv"
    scored(world, world.cosines(32)).write_csv(scores)
    expected = nestvox.evaluate(store, world.trials, **FEW).headline
    assert nestvox.evaluate(store.path, trials, **FEW).headline == expected
    by_file = nestvox.evaluate(scores, str(trials), table=world.table, **FEW).headline
    assert by_file.eer.value == pytest.approx(expected.eer.value, abs=1e-12)
    assert nestvox.evaluate(scores, trials, labels=["synthetic"], **FEW).labels == ("synthetic",)
    with pytest.raises(NestvoxError, match="no dimensions"):
        nestvox.evaluate(scores, trials, dims=[16], **FEW)
    with pytest.raises(NestvoxError, match="needs the utterance table"):
        nestvox.evaluate("ge2e", trials, **FEW)


def test_conditions_partition_the_trials(world):
    evaluation = evaluate(
        world.store(), world.trials, table=world.table, conditions=["corpus", "sex"], dims=[32], **FEW
    )
    rows = {row.condition: row for row in (*evaluation.results, *evaluation.not_computable)}
    assert set(rows) == {"all", "corpus=a", "corpus=b", "corpus=mixed", "sex=f", "sex=(none)", "sex=mixed"}
    for column in ("corpus", "sex"):
        parts = [row for name, row in rows.items() if name.startswith(column)]
        assert sum(row.n_target for row in parts) == world.trials.n_target
        assert sum(row.n_nontarget for row in parts) == world.trials.n_nontarget
    frame = world.trials.frame
    in_a = pl.col("enrol").str.slice(1, 2).cast(pl.Int8) < 6
    part = Trials(frame.filter(in_a & (pl.col("test").str.slice(1, 2).cast(pl.Int8) < 6)), "a")
    alone = evaluate(world.store(), part, dims=[32], **FEW).headline
    assert rows["corpus=a"].trials_sha256 == part.sha256 == alone.trials_sha256
    assert rows["corpus=a"].n_clusters == 6
    assert (rows["corpus=a"].eer.value, rows["corpus=a"].eer.low) == (alone.eer.value, alone.eer.low)
    # Two speakers of different corpora are never one speaker.
    assert [(row.condition, row.reason) for row in evaluation.not_computable] == [
        ("corpus=mixed", "no target trials"),
        ("sex=mixed", "no target trials"),
    ]


def test_a_condition_of_one_speaker_is_shown_with_its_reason(world):
    sides = [
        ["x" if name.startswith("u00") else "y" for name in world.trials.frame[side]] for side in ("enrol", "test")
    ]
    evaluation = evaluate(world.store(), world.trials, conditions={"who": tuple(sides)}, dims=[32], **FEW)
    assert {row.condition: row.reason for row in evaluation.not_computable} == {
        "who=x": "no non-target trials",
        "who=mixed": "no target trials",
    }


def test_a_column_of_names_is_no_condition(world):
    many = [[f"v{row}" for row in range(len(world.trials))]] * 2
    with pytest.raises(TrialsError, match="values in these trials"):
        evaluate(world.store(), world.trials, conditions={"id": tuple(many)}, **FEW)
    with pytest.raises(TableError, match="no column 'nothing'"):
        evaluate(world.store(), world.trials, table=world.table, conditions=["nothing"], **FEW)
    with pytest.raises(TableError, match="needs the utterance table"):
        evaluate(world.store(), world.trials, conditions=["corpus"], **FEW)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no trials"),
        ([("a", "b", True), ("a", "c", True)], "2 target and 0 non-target"),
        ([("a", "b", True), ("a", "c", None), ("d", "c", None)], "2 of 3 trials have no label"),
        ([("a", "b", True), ("a", "c", False), ("a", "b", True)], r"1 trials are listed more than once .* a b"),
    ],
)
def test_trials_that_cannot_be_measured(rows, words):
    with pytest.raises(TrialsError, match=words):
        evaluate(np.zeros(len(rows)), trials_of(rows), **FEW)


def test_missing_scores_are_listed_ten_at_a_time(world):
    scores = scored(world, world.cosines(32))
    first = [f"{enrol} {test}" for enrol, test in scores.select("enrol", "test").head(12).iter_rows()]
    with pytest.raises(ScoresError) as caught:
        evaluate(scores[12:], world.trials, **FEW)
    message = str(caught.value)
    assert f"12 of {len(world.trials)} trials" in message
    assert all(name in message for name in first[:10])
    assert first[10] not in message
    assert "and 2 more" in message


def test_non_finite_scores_are_counted_and_placed(world):
    values = world.cosines(32)
    values[[4, 9]] = np.nan, np.inf
    with pytest.raises(ScoresError, match=r"2 of \d+ scores are not finite.*row 5"):
        evaluate(scored(world, values), world.trials, **FEW)
    with pytest.raises(ScoresError, match=r"2 of \d+ scores are not finite.*number 5"):
        evaluate(values, world.trials, **FEW)


@pytest.mark.parametrize("largest", [1.7e308, -1e301])
def test_scores_whose_sums_overflow_are_refused_and_others_are_measured(world, largest):
    """A system that writes the least number there is for a trial that failed must not get a figure for it."""
    values = world.cosines(32)
    values[6] = largest
    for scores in (scored(world, values), values):
        with pytest.raises(ScoresError, match=r"1 of \d+ scores lie beyond 1e\+300"):
            evaluate(scores, world.trials, **FEW)
    plain = evaluate(world.cosines(32), world.trials, table=world.table, **FEW).headline
    for factor in (1e299, 1e-305):
        found = evaluate(factor * world.cosines(32), world.trials, table=world.table, **FEW)
        assert (found.headline.eer, found.headline.min_dcf) == (plain.eer, plain.min_dcf)
        assert sum(found.histograms[0].n_target) == plain.n_target


def test_sides_the_other_way_round_are_told(world):
    turned = scored(world, world.cosines(32)).rename({"enrol": "test", "test": "enrol"})
    n = len(world.trials)
    with pytest.raises(ScoresError, match=rf"{n} of {n} trials .* {n} of them have one with their sides exchanged"):
        evaluate(turned, world.trials, **FEW)


def test_two_scores_for_one_trial_are_refused_unless_equal(world):
    scores = scored(world, world.cosines(32))
    evaluate(pl.concat([scores, scores[:3]]), world.trials, **FEW)
    again = scores[:1].with_columns(pl.col("score") + 1)
    with pytest.raises(ScoresError, match="1 trials have two different scores"):
        evaluate(pl.concat([scores, again]), world.trials, **FEW)


def test_scores_without_a_trial_are_counted(world):
    more = pl.DataFrame({"enrol": ["x", "y"], "test": ["y", "z"], "score": [0.0, 1.0]})
    evaluation = evaluate(pl.concat([scored(world, world.cosines(32)), more]), world.trials, table=world.table, **FEW)
    assert evaluation.n_ignored_scores == 2
    assert any("2 scores that no trial names" in note for note in evaluation.notes)
    assert evaluation.headline.eer.value == evaluate(world.store(), world.trials, **FEW).headline.eer.value


def test_fingerprints_must_agree(world):
    mixed = scored(world, world.cosines(32)).with_columns(
        fingerprint=pl.Series(["a" * 16] + ["b" * 16] * (len(world.trials) - 1))
    )
    with pytest.raises(FingerprintError, match="2 models"):
        evaluate(mixed, world.trials, **FEW)
    one = mixed.with_columns(fingerprint=pl.lit("a" * 16))
    with pytest.raises(FingerprintError, match="fedcba9876543210"):
        evaluate(system_of_scores("the scores", world.trials, one, fingerprint="fedcba9876543210"), world.trials, **FEW)


def test_training_speakers_are_refused_by_name_or_labelled_on_every_row(world):
    store = world.store(training_speakers=(speaker_key("s03"), speaker_key("s07"), speaker_key("elsewhere")))
    with pytest.raises(OverlapError, match="s03, s07"):
        evaluate(store, world.trials, **FEW)
    evaluation = evaluate(store, world.trials, allow_overlap=True, table=world.table, conditions=["corpus"], **FEW)
    assert {row.labels for row in evaluation.results} == {("leaky",)}
    assert evaluation.to_dict()["labels"] == ["leaky"]
    others = world.store("others", training_speakers=(speaker_key("elsewhere"),))
    assert evaluate(others, world.trials, **FEW).labels == ()


def test_synthetic_speech_is_labelled_where_it_is_in_the_trials(world):
    def table(flag) -> UtteranceTable:
        return replace(world.table, frame=world.table.frame.with_columns(synthetic=flag))

    only_u00 = table(pl.col("utt_id").str.starts_with("u00"))
    assert evaluate(world.store(), world.trials, table=only_u00, **FEW).headline.labels == ("synthetic",)
    without = Trials(world.trials.frame.filter(~pl.col("enrol").str.starts_with("u00")), "rest")
    assert evaluate(world.store(), without, table=only_u00, **FEW).labels == ()
    assert evaluate(world.store("made", labels=("synthetic",)), world.trials, **FEW).labels == ("synthetic",)


def test_labels_that_contradict_the_table_are_refused(world):
    frame = world.trials.frame.with_columns(target=pl.when(pl.int_range(pl.len()) == 0).then(False).otherwise("target"))
    with pytest.raises(TrialsError, match=r"1 of \d+ labels contradict the speakers: u00-0 u00-1"):
        evaluate(world.store(), Trials(frame, "wrong"), table=world.table, **FEW)


def voxceleb(contradiction: bool) -> tuple[Trials, np.ndarray]:
    generator = np.random.default_rng(5)
    rows = [
        (f"id{10000 + a}/x/{i}.wav", f"id{10000 + (a if same else (a + i + 1) % 8)}/y/{i}.wav", bool(same))
        for a in range(8)
        for i in range(6)
        for same in (1, 0)
    ]
    if contradiction:
        rows[0] = (*rows[0][:2], False)
    return trials_of(rows), generator.normal(size=len(rows)) + [row[2] for row in rows]


def test_speakers_come_from_voxceleb_names_unless_labels_contradict_them():
    evaluation = evaluate(*reversed(voxceleb(contradiction=False)), **FEW)
    assert "8 speakers (VoxCeleb ids" in evaluation.headline.interval
    assert evaluation.headline.n_clusters == 8
    assert evaluation.notes == ()
    doubtful = evaluate(*reversed(voxceleb(contradiction=True)), **FEW)
    assert "CLUSTERED BY UTTERANCE" in doubtful.headline.interval
    assert "1 labels contradict the ids" in doubtful.headline.interval
    assert any("CLUSTERED BY UTTERANCE" in note for note in doubtful.notes)


def test_unknown_speakers_are_said_loudly_and_overlap_is_not_claimed_checked(world):
    evaluation = evaluate(
        system_of_scores("the scores", world.trials, world.cosines(32), training_speakers=[speaker_key("s03")]),
        world.trials,
        **FEW,
    )
    assert "CLUSTERED BY UTTERANCE because the trials do not say who speaks" in evaluation.headline.interval
    assert any("not checked" in note for note in evaluation.notes)
    assert evaluation.headline.n_clusters == len(set(world.trials.frame["enrol"]) | set(world.trials.frame["test"]))


def test_speakers_of_the_caller_are_used(world):
    speakers = tuple([name[:3] for name in world.trials.frame[side]] for side in ("enrol", "test"))
    given = evaluate(world.cosines(32), world.trials, speakers=speakers, **FEW).headline
    table = evaluate(world.cosines(32), world.trials, table=world.table, **FEW).headline
    assert given.eer.ends == table.eer.ends
    with pytest.raises(TrialsError, match="for each side"):
        evaluate(world.cosines(32), world.trials, speakers=([1], [2]), **FEW)


def test_same_seed_same_result_whatever_the_order(world):
    once = evaluate(world.store(), world.trials, **FEW)
    assert evaluate(world.store(), world.trials, **FEW) == once
    shuffled = Trials(world.trials.frame.sample(fraction=1, shuffle=True, seed=1), "shuffled")
    again = evaluate(world.store(), shuffled, **FEW)
    assert [(r.eer.value, r.eer.low, r.min_dcf.high, r.trials_sha256) for r in again.results] == [
        (r.eer.value, r.eer.low, r.min_dcf.high, r.trials_sha256) for r in once.results
    ]


def test_no_errors_at_all_is_said_to_have_no_interval():
    trials, _ = voxceleb(contradiction=False)
    perfect = evaluate(trials.frame["target"].cast(float).to_numpy(), trials, **FEW)
    assert perfect.headline.eer.value == perfect.headline.eer.high == 0
    (note,) = perfect.notes
    fewest = min(perfect.headline.n_target, perfect.headline.n_nontarget)
    assert f"{fewest} of a class without an error only say that the rate is below {300 / fewest:.3g} %" in note


def test_scores_no_better_than_chance_are_said_to_be_distances():
    trials, _ = voxceleb(contradiction=False)
    distances = 1 - trials.frame["target"].cast(float).to_numpy()
    for scores, percent in ((distances, "100.0"), (np.zeros(len(trials)), "50.0")):
        none, note = evaluate(scores, trials, **FEW).notes
        assert "an interval cannot be had" in none, "every draw of the speakers gives the same rate"
        assert note.startswith(f"An EER of {percent} % is no better than chance: are the scores distances")


def test_dimensions_and_vectors_that_have_no_cosine(world):
    store = world.store()
    with pytest.raises(ScoresError, match="1 to 32, got 16, 64"):
        evaluate(store, world.trials, dims=[16, 64], **FEW)
    world.vectors[7, :8] = 0
    with pytest.raises(ScoresError, match=r"first 8 dimensions of 1 embeddings.*u01-1"):
        evaluate(world.store("zero"), world.trials, **FEW)
    assert evaluate(world.store("zero"), world.trials, dims=[16], **FEW).dims == (16,)


def test_names_that_the_store_lacks(world):
    frame = world.trials.frame.with_columns(pl.col("test").replace("u00-1", "stranger"))
    with pytest.raises(StoreError, match="stranger"):
        evaluate(world.store(), Trials(frame, "t"), **FEW)


def test_impossible_settings_are_refused_before_any_work(world):
    with pytest.raises(NestvoxError, match="p_target"):
        evaluate(world.store(), world.trials, settings=Settings(p_target=1.5))
    with pytest.raises(NestvoxError, match="it takes 40"):
        evaluate(world.store(), world.trials, settings=Settings(n_bootstrap=5))
    with pytest.raises(NestvoxError, match="seed is a whole number of at least 0, got -1"):
        evaluate(world.store(), world.trials, settings=Settings(seed=-1))


def test_the_operating_point_reaches_every_row(world):
    evaluation = evaluate(
        world.store(), world.trials, settings=Settings(p_target=0.01, c_miss=10, c_fa=2, n_bootstrap=60)
    )
    curve = error_curve(world.cosines(32), world.trials.frame["target"].to_numpy())
    assert evaluation.headline.min_dcf.value == pytest.approx(min_dcf(curve, 0.01, 10, 2).value, abs=1e-12)
    assert {(row.p_target, row.c_miss, row.c_fa) for row in evaluation.results} == {(0.01, 10, 2)}


def test_asking_for_a_row_that_is_not_there_names_those_that_are(world):
    with pytest.raises(TrialsError, match="all at 8"):
        evaluate(world.store(), world.trials, **FEW).rates(7)


def test_a_store_that_is_not_nested_says_so_where_it_is_cut(world):
    for changes in ({"tap": "embedding", "dims": ()}, {"dims": (32,)}):
        plain = world.store(f"plain-{len(changes)}", **changes)
        found = evaluate(plain, world.trials, table=world.table, dims=[8, 16, 32], **FEW)
        assert any("tiny is not nested: 8, 16 of 32 dimensions are plain truncation" in note for note in found.notes)
        system = known_store("plain", world.trials, plain, dims=[8, 32]).score()
        assert any("plain is not nested: 8 of 32 dimensions" in note for note in system.notes)
        whole = evaluate(plain, world.trials, table=world.table, **FEW)
        assert not any("not nested" in note for note in whole.notes)
    nested = evaluate(world.store("nested"), world.trials, table=world.table, dims=[8], **FEW)
    assert not any("not nested" in note for note in nested.notes)


def test_speakers_and_worst_trials_of_the_dimension_that_is_asked_for(world):
    store, targets = world.store(), world.trials.frame["target"].to_numpy()
    few = replace(FEW["settings"], detail_dim=8)
    found = evaluate(store, world.trials, table=world.table, **{**FEW, "settings": few})
    whole = evaluate(store, world.trials, table=world.table, **FEW)
    assert (found.detail_dim, whole.detail_dim) == (8, 32)
    assert found.results == whole.results, "the rates are of every dimension as ever"
    assert found.highest_nontargets[0].score == pytest.approx(world.cosines(8)[~targets].max())
    at_8 = evaluate(store, world.trials, table=world.table, dims=[8], **FEW)
    assert (found.speakers, found.zoo, found.lowest_targets) == (at_8.speakers, at_8.zoo, at_8.lowest_targets)
    with pytest.raises(NestvoxError, match="at 9 dimensions: measured are 8, 16, 32"):
        evaluate(store, world.trials, table=world.table, settings=replace(few, detail_dim=9))
