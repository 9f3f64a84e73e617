"""The model in the box: made of a trained one, it has its own graph, thresholds, calibration and golden embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from keyed_weights import keyed_weights
from nestvox.compression import box as making
from nestvox.compression import make_box
from nestvox.compression.graph_weights import store_graph
from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable, read_utterances
from nestvox.encoders import build
from nestvox.encoders.runtime.backends import onnx_is_installed
from nestvox.encoders.runtime.onnx_graph import OnnxSession
from nestvox.encoders.runtime.whole_graph import encoder_to_onnx
from nestvox.errors import ModelError
from nestvox.heads import Rotation
from nestvox.model import SpeakerModel, load
from nestvox.model.familiarity import measured
from nestvox.testing import make_world
from nestvox.zoo import box, golden_signal

pytestmark = pytest.mark.skipif(not onnx_is_installed(), reason="the extra onnx is not installed")

MIXER: dict[str, Any] = {"architecture": "mixer", "width": 64, "depth": 1, "groups": 2, "embedding_dim": 24}


def network() -> Any:
    made = build(MIXER).eval()
    made.load_state_dict(keyed_weights(made.state_dict()))
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Speakers who are buzzes of different pitch."""
    made = make_world(tmp_path_factory.mktemp("world"))
    rng = np.random.default_rng(0)
    time_s = np.arange(16_000) / 16_000
    for path, speaker in zip(made.table.audio_paths, made.table.frame["speaker"], strict=True):
        pitch_hz = 80 + 31 * int(str(speaker)[1:]) + rng.normal(0, 0.5)
        wave = np.sign(np.sin(2 * np.pi * pitch_hz * time_s)) + 0.05 * rng.standard_normal(16_000)
        Path(path).parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * wave, 16_000)
    return made


def test_the_box_is_a_model_that_needs_no_torch(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SpeakerModel(
        network(),
        Rotation(np.eye(24), (8, 24), "truncation"),
        "student",
        training_speakers=(speaker_key("s00"), speaker_key("elsewhere")),
        card={"chosen_on": [world.trials.sha256], "head_data": "72 utterances, chosen on /elsewhere/world.txt"},
    )
    card = {"licence": "MIT", "training_data": "buzzes"}
    trials = Trials(world.trials.frame, "/elsewhere/world.txt")
    made = make_box(model, tmp_path / "box", trials=trials, table=world.table, card=card, n_bootstrap=40)
    assert made.form in {"int8", "float16", "float32"}
    assert made.shift["float32"] < 1e-5 < made.shift["int8"] < 0.05
    assert made.shift["float16"] < 2e-3

    monkeypatch.setattr(box, "_FOLDER", tmp_path / "box")
    told: list[str] = []
    boxed = load(announce=told.append)
    assert (boxed.name, boxed.dims, boxed.encoder.architecture) == ("box", (8, 24), "graph")
    assert boxed.fingerprint == load("box").fingerprint != model.fingerprint
    assert boxed.training_speakers == model.training_speakers
    assert told[0].startswith("no model is named: the one in the box is taken (EER ")
    assert boxed.card["licence"] == "MIT"
    assert [row["labels"] for row in boxed.card["results"]] == [["selected"], ["selected"]]

    told_of = "".join(file.read_text() for file in (tmp_path / "box").rglob("*.[jm][sd]*"))
    assert "elsewhere/" not in told_of
    assert "chosen on world.txt" in told_of

    golden = np.load(tmp_path / "box" / "golden.npy")
    np.testing.assert_allclose(boxed.embed(golden_signal(), sample_rate=16_000), golden, atol=1e-6)
    assert golden @ model.embed(golden_signal(), sample_rate=16_000) > 0.999
    assert {(t.dim, t.operating_point) for t in boxed.thresholds} == {
        (dim, point) for dim in (8, 24) for point in ("eer", "far 0.01")
    }
    answer = boxed.verify(*world.table.audio_paths[:2], dim=8)
    assert answer.threshold is not None
    assert answer.threshold.operating_point == "far 0.01"
    assert answer.llr is not None

    for_torch = load(tmp_path / "box" / "torch")
    assert for_torch.encoder.architecture == "mixer"
    assert for_torch.embed(golden_signal(), sample_rate=16_000) @ golden > 0.999
    about = json.loads((tmp_path / "box" / "box.json").read_text())
    (tmp_path / "box" / "box.json").write_text(json.dumps({**about, "better_eer": {"campplus": 0.0}}))
    load(announce=told.append)
    assert told[-1].endswith("; --model campplus is better (0.00%) and has to be fetched")


def test_what_is_familiar_comes_of_the_rows_of_training(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), ["utt_id\tpath\tspeaker\tsplit"]
    for number in range(150):
        split = "train" if number < 30 else "dev" if number < 140 else "test"
        level = np.clip(np.sin(np.arange(34_000) / rng.uniform(900, 1500)), 0.01 * rng.random(), 1)
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * level * rng.standard_normal(34_000), 16_000)
        rows.append(f"{number}\t{number}.wav\ts\t{split}")
    (tmp_path / "table.tsv").write_text("\n".join(rows) + "\n")
    table = read_utterances(tmp_path / "table.tsv")
    found = making._familiar(table, table.where(split="dev"), 16_000, "dev.txt")
    assert found is not None
    assert (found.n_training, found.n_clean, found.source) == (30, 110, "dev.txt")
    kept = [measured(segment.read(sample_rate=16_000).samples, 16_000) for segment in table.segments()[:30]]
    np.testing.assert_allclose(found.mean, np.mean(kept, axis=0))
    assert making._familiar(table, table.where(split="test"), 16_000, "dev.txt") is None
    unsplit = UtteranceTable(table.frame.drop("split"), "table.tsv", tmp_path)
    assert making._familiar(unsplit, unsplit, 16_000, "dev.txt") is None


def test_without_a_box_its_name_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(box, "_FOLDER", tmp_path)
    with pytest.raises(ModelError, match=r"no model is in the box of this nestvox; --model campplus"):
        load("box")


@pytest.mark.parametrize(("storage", "size", "within"), [("float16", 0.75, 2e-3), ("int8", 0.62, 0.05)])
def test_a_graph_in_fewer_bits(storage: Any, size: float, within: float) -> None:
    content = encoder_to_onnx(network())
    small = store_graph(content, storage)
    audio = golden_signal(seconds=1.0)[None]
    exact, found = (OnnxSession(graph).outputs(audio)[1] for graph in (content, small))
    assert len(small) < size * len(content) or len(content) < 1_500_000
    assert 0 < np.abs(found - exact).max() / np.abs(exact).max() < within
    assert store_graph(content, "float32") is content
