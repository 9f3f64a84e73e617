"""`nestvox centre`: the mean of a domain's recordings, from stores of the encoder and of the model itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

import nestvox
from nestvox.cli.main import main
from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.utterances import UtteranceTable
from nestvox.encoders.ge2e import GE2E
from nestvox.errors import FingerprintError, ModelError, StoreError
from nestvox.extraction.rotate import rotate_store
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.heads.linear import LinearHead
from nestvox.heads.rotation import Rotation, centred
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.threshold import Threshold
from nestvox.testing import make_store

SIZE, ROWS = 256, 30
NAMES = [f"u{row:02}" for row in range(ROWS)]
VECTORS = np.random.default_rng(1).normal(1.0, 1.0, (ROWS, SIZE)).astype(np.float32)
MATRIX = np.linalg.qr(np.random.default_rng(2).normal(size=(SIZE, SIZE)))[0]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


MEAN = unit(VECTORS.astype(np.float64)).mean(axis=0)


@pytest.fixture(scope="module")
def encoder() -> SpeakerModel:
    torch.manual_seed(0)
    return SpeakerModel(GE2E(), name="tiny", training_speakers=("encoder key",), card={"licence": "MIT"})


def nested_model(encoder: SpeakerModel, rotation: Rotation) -> SpeakerModel:
    model = SpeakerModel(encoder.encoder, rotation, "nested", card={"head_data": "old speech", "results": []})
    model.thresholds = (Threshold(64, 0.5, "eer", 0.1, 0.1, 100, 100, "aa", "t.txt", fingerprint=model.fingerprint),)
    return model


def write_store(path: Path, fingerprint: str, tap: str = "embedding") -> EmbeddingStore:
    speakers = [None if row % 2 else f"s{row}" for row in range(ROWS)]
    paths = [f"{name}.wav" for name in NAMES]
    return make_store(path, VECTORS, NAMES, paths, speakers, fingerprint=fingerprint, tap=tap, dims=())


def test_an_encoder_alone(encoder: SpeakerModel, tmp_path: Path) -> None:
    found = nestvox.centre(encoder, write_store(tmp_path / "s", encoder.fingerprint))
    assert isinstance(found.head, Rotation)
    np.testing.assert_array_equal(found.head.matrix, np.eye(SIZE))
    np.testing.assert_allclose(found.head.mean, MEAN, atol=1e-9)
    assert (found.dims, found.name) == ((SIZE,), "tiny-centred")
    assert found.fingerprint != encoder.fingerprint
    assert found.encoder_fingerprint == encoder.fingerprint
    assert set(found.training_speakers) == {"encoder key", *(speaker_key(f"s{row}") for row in range(0, ROWS, 2))}
    # Its mean decides what it is, and survives the folder.
    found.save(tmp_path / "model")
    again = nestvox.load(tmp_path / "model")
    assert again.fingerprint == found.fingerprint
    np.testing.assert_array_equal(again.head.mean, found.head.mean)
    other = SpeakerModel(encoder.encoder, centred(found.head, MEAN * 0.9))
    assert other.fingerprint != found.fingerprint
    # What redimnet-mrl loads has it too.
    from nestvox.compat.redimnet_mrl.api import load_trained_mrl

    layer = load_trained_mrl(tmp_path / "model").head
    np.testing.assert_allclose(layer.mean.numpy(), found.head.mean)


@pytest.mark.parametrize("first", [None, 0, 64], ids=["no mean before", "everywhere", "behind 64"])
def test_a_nested_model_keeps_its_rotation(encoder: SpeakerModel, tmp_path: Path, first: int | None) -> None:
    old_mean = unit(np.random.default_rng(3).normal(size=(50, SIZE))).mean(axis=0)
    rotation = Rotation(MATRIX, (64, SIZE), "pca")
    model = nested_model(encoder, rotation if first is None else centred(rotation, old_mean, first))
    base = write_store(tmp_path / "base", encoder.fingerprint)
    own = rotate_store(model.head, base, tmp_path / "own", fingerprint=model.fingerprint)
    expected = MEAN @ MATRIX
    expected[: first or 0] = 0
    for store in (base, own):  # of the encoder, and of the model
        found = nestvox.centre(model, store, name="mine")
        np.testing.assert_allclose(found.head.mean, expected, atol=1e-6)
        np.testing.assert_array_equal(found.head.matrix, MATRIX)
        assert (found.dims, found.name, found.thresholds, found.llr) == ((64, SIZE), "mine", (), None)
        assert found.card["head_data"].startswith("old speech; mean of 30 recordings")
        assert "results" not in found.card
    assert model.thresholds, "the old model stays as it is"


def test_some_of_the_recordings(encoder: SpeakerModel, tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", encoder.fingerprint)
    rows = [{"utt_id": NAMES[row], "path": f"{NAMES[row]}.wav", "speaker": "x"} for row in (3, 8, 9)]
    table = UtteranceTable(pl.DataFrame(rows), "t.tsv", tmp_path)
    found = nestvox.centre(encoder, store, table=table)
    expected = unit(VECTORS[[3, 8, 9]].astype(np.float64)).mean(axis=0)
    np.testing.assert_allclose(found.head.mean, expected, atol=1e-9)
    assert set(found.training_speakers) == {"encoder key", speaker_key("s8")}
    with pytest.raises(ModelError, match="two recordings at least"):
        nestvox.centre(encoder, store, table=UtteranceTable(pl.DataFrame(rows[:1]), "t.tsv", tmp_path))
    strange = UtteranceTable(pl.DataFrame([{**rows[0], "utt_id": "nobody"}, rows[1]]), "t.tsv", tmp_path)
    with pytest.raises(StoreError, match="nobody"):
        nestvox.centre(encoder, store, table=strange)


def test_what_does_not_belong_to_the_model(encoder: SpeakerModel, tmp_path: Path) -> None:
    with pytest.raises(FingerprintError, match="00000000000000aa"):
        nestvox.centre(encoder, write_store(tmp_path / "a", "00000000000000aa"))
    with pytest.raises(FingerprintError, match="tap pooled"):
        nestvox.centre(encoder, write_store(tmp_path / "b", encoder.fingerprint, "pooled"))
    trained = SpeakerModel(encoder.encoder, LinearHead(SIZE, (64,), tap="embedding").eval(), "trained")
    with pytest.raises(ModelError, match="linear head, whose own bias"):
        nestvox.centre(trained, write_store(tmp_path / "c", encoder.fingerprint))


def test_as_a_user_types_it(encoder: SpeakerModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), " ".join(printed.out.split()), " ".join(printed.err.split())

    model = nested_model(encoder, Rotation(MATRIX, (64, SIZE), "pca"))
    model.save(tmp_path / "model")
    write_store(tmp_path / "s", encoder.fingerprint)
    lines = "".join(f"{name}\t{name}.wav\tx\t{'train' if row < 20 else 'test'}\n" for row, name in enumerate(NAMES))
    (tmp_path / "t.tsv").write_text("utt_id\tpath\tspeaker\tsplit\n" + lines)
    options = ["--on", tmp_path / "s", "--table", tmp_path / "t.tsv", "--split", "train"]
    more = ["--store", tmp_path / "s", "--rotated", tmp_path / "new"]
    code, text, error = run("centre", tmp_path / "model", *options, *more, "--out", tmp_path / "out")
    assert code == 0, error
    assert "mean of 20 recordings" in text
    assert "20 recordings know their mean roughly" in text
    assert "the thresholds and the calibration of nested are not its own" in text
    found, store = nestvox.load(tmp_path / "out"), EmbeddingStore(tmp_path / "new")
    assert found.thresholds == ()
    assert (store.metadata.fingerprint, store.metadata.dims) == (found.fingerprint, (64, SIZE))
    mean = unit(VECTORS[:20].astype(np.float64)).mean(axis=0)
    np.testing.assert_allclose(store.vectors(), (unit(VECTORS.astype(np.float64)) - mean) @ MATRIX, atol=1e-6)
    for wrong, said in (
        (["--store", tmp_path / "s"], "belong together"),
        (["--split", "train"], "needs --table"),
    ):
        code, _, error = run("centre", tmp_path / "model", "--on", tmp_path / "s", "--out", tmp_path / "o2", *wrong)
        assert (code, said in error) == (2, True)
    assert not (tmp_path / "o2").exists()
