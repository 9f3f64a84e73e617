"""A frozen encoder becomes a nested model: on the right speakers, with thresholds that mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

import nestvox
from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.encoders.registry import build
from nestvox.errors import ModelError, OverlapError, StoreError, TableError, TrainingError
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.heads.contract import truncate
from nestvox.heads.rotation import Rotation, truncation
from nestvox.model.speaker_model import SpeakerModel
from nestvox.testing import make_store
from nestvox.training.data.development import Development
from nestvox.training.tasks.rotation import nest_encoder

SIZE, SPEAKERS, TAKES = 128, 30, 4
DEV_FROM = 20  # speakers 0 to 19 are for training, 20 to 29 for development


@pytest.fixture(scope="module")
def encoder() -> SpeakerModel:
    torch.manual_seed(0)
    network = build({"architecture": "mixer", "width": 16, "depth": 1, "embedding_dim": SIZE}).eval()
    return SpeakerModel(network, name="tiny", training_speakers=("encoder key",), card={"licence": "MIT"})


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> UtteranceTable:
    rows = [
        {
            "utt_id": f"u{speaker:02}-{take}",
            "path": f"{speaker}/{take}.wav",
            "speaker": f"s{speaker}",
            "split": "train" if speaker < DEV_FROM else "dev",
        }
        for speaker in range(SPEAKERS)
        for take in range(TAKES)
    ]
    return UtteranceTable(pl.DataFrame(rows), "table.tsv", tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def store(encoder: SpeakerModel, table: UtteranceTable, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """Speakers in the last 12 coordinates, sessions in the first 40."""
    return write_store(tmp_path_factory.mktemp("store") / "s", encoder.fingerprint, table)


def write_store(path: Path, fingerprint: str, table: UtteranceTable, **changes: object) -> EmbeddingStore:
    generator = np.random.default_rng(1)
    rows = len(table)
    vectors = 0.1 * generator.standard_normal((rows, SIZE))
    vectors[:, -12:] += generator.standard_normal((SPEAKERS, 12)).repeat(TAKES, axis=0)
    vectors[:, :40] += 0.7 * generator.standard_normal((rows, 40))
    columns = (table.frame[column].to_list() for column in ("utt_id", "path", "speaker"))
    metadata = {"tap": "embedding", "dims": (), "shard_rows": 50} | changes
    return make_store(path, vectors, *columns, fingerprint=fingerprint, **metadata)


def dev_trials(speakers: range = range(DEV_FROM, SPEAKERS)) -> Trials:
    names = [(f"s{s}", f"u{s:02}-{take}") for s in speakers for take in range(TAKES)]
    rows = [(a, b, x == y) for k, (x, a) in enumerate(names) for y, b in names[k + 1 :]]
    schema = {"enrol": pl.String, "test": pl.String, "target": pl.Boolean}
    return Trials(pl.DataFrame(rows, schema, orient="row"), "dev.txt")


def parts(table: UtteranceTable) -> tuple[UtteranceTable, UtteranceTable]:
    return table.where(split="train"), table.where(split="dev")


def weights(model: SpeakerModel) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in model.encoder.state_dict().items()}


def test_the_whole(encoder: SpeakerModel, table: UtteranceTable, store: EmbeddingStore, tmp_path: Path) -> None:
    train, dev = parts(table)
    before = weights(encoder)
    calls: list[tuple[int, int | None]] = []
    fit = nest_encoder(
        encoder,
        store,
        train,
        dev,
        dev_trials(),
        centre="none",
        progress=lambda done, total: calls.append((done, total)),
    )
    model = fit.model
    assert weights(encoder) == before, "the encoder is frozen"
    assert weights(model) == before
    assert model.encoder is encoder.encoder
    assert calls[-1][0] == calls[-1][1] == len(calls)
    assert list(fit.candidates) == ["truncation", "pca", "discriminant", "refined", "best"]
    assert model.head is fit.candidates["best"].rotation
    assert fit.candidates["best"].eers[16] < fit.candidates["truncation"].eers[16] - 0.1
    assert fit.candidates["best"].eers[SIZE] == pytest.approx(fit.candidates["truncation"].eers[SIZE], abs=1e-3)
    assert (model.name, model.dims) == ("tiny-nested", (16, 32, 64, 128))
    assert model.fingerprint != encoder.fingerprint
    expected = {speaker_key(f"s{s}") for s in range(SPEAKERS)} | {"encoder key"}
    assert set(model.training_speakers) == set(fit.speakers) == expected
    assert model.card["licence"] == "MIT"
    assert "80 utterances of 20 speakers (table.tsv), chosen on dev.txt" in model.card["head_data"]
    model.save(tmp_path / "model")
    assert nestvox.load(tmp_path / "model").fingerprint == model.fingerprint


def test_the_mean_is_of_the_training_speakers(
    encoder: SpeakerModel, table: UtteranceTable, store: EmbeddingStore
) -> None:
    train, dev = parts(table)
    vectors = store.take(store.index_of(train.frame["utt_id"].to_list())).astype(np.float64)
    mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
    fit = nest_encoder(encoder, store, train, dev, dev_trials(), method="discriminant", centre="all")
    assert list(fit.candidates) == ["truncation", "centred", "pca", "discriminant", "best"]
    np.testing.assert_allclose(fit.model.head.mean, mean @ fit.model.head.matrix, atol=1e-9)
    assert fit.candidates["best"].eers[SIZE] == fit.candidates["centred"].eers[SIZE]
    assert {threshold.fingerprint for threshold in fit.model.thresholds} == {fit.model.fingerprint}
    # What is best on the development trials is chosen where nobody says otherwise.
    default = nest_encoder(encoder, store, train, dev, dev_trials(), method="discriminant")
    assert default.candidates["best"].criterion <= fit.candidates["best"].criterion


def test_thresholds_give_the_rates_that_they_were_stored_with(
    encoder: SpeakerModel, table: UtteranceTable, store: EmbeddingStore
) -> None:
    trials = dev_trials()
    model = nest_encoder(encoder, store, *parts(table), trials, dims=(8, 64), method="pca").model
    assert {(t.dim, t.operating_point.split()[0]) for t in model.thresholds} == {
        (dim, point) for dim in (8, 64, SIZE) for point in ("eer", "min_dcf", "far")
    }
    rows = {name: row for row, name in enumerate(store.utt_ids)}
    nested = model.head.transform(store.vectors())
    for stored in model.thresholds:
        unit = truncate(nested, stored.dim).astype(np.float64)
        errors = {True: [0, 0], False: [0, 0]}
        for enrol, test, target in trials.frame.iter_rows():
            score = unit[rows[enrol]] @ unit[rows[test]]
            # A threshold on a score itself may fall to either side of it in another precision.
            if abs(score - stored.value) < 1e-6:
                score = stored.value
            errors[target][0] += (score >= stored.value) != target
            errors[target][1] += 1
        assert (errors[True][1], errors[False][1]) == (stored.n_target, stored.n_nontarget)
        p_miss, p_fa = (errors[target][0] / errors[target][1] for target in (True, False))
        assert (stored.p_miss, stored.p_fa) == (pytest.approx(p_miss), pytest.approx(p_fa))
        assert (stored.trials_sha256, stored.trials_source, stored.labels) == (trials.sha256, "dev.txt", ())
        if stored.operating_point == "eer":
            assert abs(stored.p_fa - stored.p_miss) <= 1 / stored.n_target + 1 / stored.n_nontarget


def test_minimum_cost_threshold_is_cheapest(
    encoder: SpeakerModel, table: UtteranceTable, store: EmbeddingStore
) -> None:
    trials = dev_trials()
    development = Development.of(parts(table)[1], trials)
    pairs = development.pairs(lambda names: store.take(store.index_of(names)))
    model = SpeakerModel(encoder.encoder, truncation(SIZE, (64,)), "cut")
    found, missing = development.thresholds(model, pairs, ("leaky",))
    assert all(threshold.fingerprint == model.fingerprint for threshold in found)
    assert all(threshold.value_interval and threshold.p_fa_interval for threshold in found)
    assert len(found) + len(missing) == 4
    for stored in found:
        assert stored.labels == ("leaky",)
        assert stored.default == (stored.operating_point == "eer")  # that decides until the owner sets one
        assert stored.fitted
    points = {(t.dim, t.operating_point): t for t in found}
    name = "min_dcf p_target=0.05 c_miss=1 c_fa=1"
    for dim in (64, SIZE):
        scores = pairs.scores(truncation(SIZE), dim)

        def cost(p_miss: float, p_fa: float) -> float:
            return 0.05 * p_miss + 0.95 * p_fa

        costs = [cost(np.mean(scores[pairs.target] < t), np.mean(scores[~pairs.target] >= t)) for t in scores]
        stored = points.get((dim, name))
        if stored is None:  # rejecting everybody is cheaper than any score
            assert dim == 64
            assert cost(1.0, 0.0) <= min(costs)
        else:
            assert dim == SIZE
            assert cost(stored.p_miss, stored.p_fa) == pytest.approx(min(costs))


def test_same_seed_same_model(encoder: SpeakerModel, table: UtteranceTable, store: EmbeddingStore) -> None:
    one, same, other = (
        nest_encoder(encoder, store, *parts(table), dev_trials(), seed=seed, name="n").candidates["refined"].rotation
        for seed in (1, 1, 2)
    )
    assert one.matrix.tobytes() == same.matrix.tobytes()
    assert one.matrix.tobytes() != other.matrix.tobytes()


def test_speakers_on_both_sides_are_refused_by_name(
    encoder: SpeakerModel, table: UtteranceTable, store: EmbeddingStore
) -> None:
    train, dev = parts(table)
    both = replace(train, frame=pl.concat([train.frame, dev.frame.head(1)]), _lines=None)
    with pytest.raises(OverlapError, match="s20"):
        nest_encoder(encoder, store, both, dev, dev_trials())
    # Trials that name training utterances would slip past a look at the tables alone.
    with pytest.raises(TableError, match="u00-0"):
        nest_encoder(encoder, store, train, dev, dev_trials(range(3)))


def test_labels_of_synthetic_speech_travel(
    encoder: SpeakerModel, table: UtteranceTable, store: EmbeddingStore, tmp_path: Path
) -> None:
    marked = write_store(tmp_path / "s", encoder.fingerprint, table, labels=("synthetic",))
    model = nest_encoder(encoder, marked, *parts(table), dev_trials(), method="pca").model
    assert {t.labels for t in model.thresholds} == {("synthetic",)}
    train, dev = parts(table)
    dev = replace(dev, frame=dev.frame.with_columns(synthetic=pl.lit(value=True)), _lines=None)
    model = nest_encoder(encoder, store, train, dev, dev_trials(), method="pca").model
    assert {t.labels for t in model.thresholds} == {("synthetic",)}


def test_what_cannot_be_nested(
    encoder: SpeakerModel, table: UtteranceTable, store: EmbeddingStore, tmp_path: Path
) -> None:
    train, dev = parts(table)
    nested = SpeakerModel(encoder.encoder, Rotation(np.eye(SIZE), (16,), "pca"), "done")
    with pytest.raises(ModelError, match="done has a head already"):
        nest_encoder(nested, store, train, dev, dev_trials())
    other = write_store(tmp_path / "other", "0" * 16, table)
    with pytest.raises(ModelError, match=f"0000000000000000.*needed is the embedding of {encoder.fingerprint}"):
        nest_encoder(encoder, other, train, dev, dev_trials())
    pooled = write_store(tmp_path / "pooled", encoder.fingerprint, table, tap="pooled")
    with pytest.raises(ModelError, match="tap pooled"):
        nest_encoder(encoder, pooled, train, dev, dev_trials())
    unlabelled = dev_trials()
    unlabelled = Trials(unlabelled.frame.with_columns(target=pl.lit(None, pl.Boolean)), "unknown.txt")
    with pytest.raises(TrainingError, match=r"unknown\.txt: \d+ trials have no label"):
        nest_encoder(encoder, store, train, dev, unlabelled)
    more = pl.concat([train.frame, train.frame.head(1).with_columns(utt_id=pl.lit("new"), path=pl.lit("new.wav"))])
    with pytest.raises(StoreError, match=r"lacks 1 of 81 utterances, e\.g\. new"):
        nest_encoder(encoder, store, replace(train, frame=more, _lines=None), dev, dev_trials())
