"""ONNX files as models: loaded by path, used by every command, saved whole, told apart by their bytes."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nestvox.cli.app import app
from nestvox.corpora.utterances import UtteranceTable, write_utterances
from nestvox.errors import FingerprintError, ModelError, NestvoxError, WeightsError

onnx = pytest.importorskip("onnx", reason="the group test is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

from nestvox.encoders.foreign.onnx_encoder import OnnxEncoder  # noqa: E402
from nestvox.encoders.foreign.onnx_model import FRONT_ENDS, OnnxModel, read_onnx  # noqa: E402
from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank  # noqa: E402
from nestvox.encoders.registry import build  # noqa: E402
from nestvox.extraction.embed import embed_table  # noqa: E402
from nestvox.heads.rotation import Rotation  # noqa: E402
from nestvox.model.loading import load  # noqa: E402
from nestvox.model.speaker_model import SpeakerModel  # noqa: E402
from nestvox.testing import make_noises  # noqa: E402

RATE = 16_000
WESPEAKER = {"framework": "wespeaker", "sample_rate": "16000", "output_dim": "12", "normalize_samples": "0"}


def weight(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((80, 12)).astype(np.float32) / 9


def write_onnx(path: Path, *, seed: int = 5, metadata: dict[str, str] | None = None, **saving: Any) -> Path:
    """A network: the mean over time of tanh(features times weight)."""
    helper = onnx.helper
    nodes = [
        helper.make_node("MatMul", ["feats", "weight"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["active"]),
        helper.make_node("ReduceMean", ["active"], ["embs"], axes=[1], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("feats", onnx.TensorProto.FLOAT, ("B", "T", 80))]
    outputs = [helper.make_tensor_value_info("embs", onnx.TensorProto.FLOAT, None)]
    constants = [onnx.numpy_helper.from_array(weight(seed), "weight")]
    graph = helper.make_graph(nodes, "speaker", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.helper.set_model_props(model, metadata or {})
    onnx.save(model, path, **saving)
    return path


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def by_hand(audio: np.ndarray, front_end: KaldiFbank, seed: int = 5) -> np.ndarray:
    return np.tanh(front_end(audio) @ weight(seed)).mean(axis=0)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return write_onnx(tmp_path / "net.onnx", metadata=WESPEAKER)


def test_a_file_is_a_model(net: Path) -> None:
    model = load(net)
    assert (model.name, model.embedding_dim, model.dims, model.sample_rate) == ("net", 12, (12,), RATE)
    waves = [noise(16_000, 1), noise(9_000, 2), noise(1_600, 3)]
    found = model.forward(waves)
    for row, wave in zip(found, waves, strict=True):
        np.testing.assert_allclose(row, by_hand(wave, FRONT_ENDS["wespeaker"]), atol=1e-5)
        np.testing.assert_array_equal(model.forward([wave])[0], row)  # neither batch nor padding
    np.testing.assert_array_equal(found, OnnxModel(net).forward(waves))
    assert model.forward(waves, tap="embedding").shape == (3, 12)
    with pytest.raises(NestvoxError, match=r"at least 0\.100 s"):
        model.forward([noise(1_599)])


def test_it_has_one_tap(net: Path) -> None:
    model = load(net)
    for tap in ("frames", "pooled"):
        with pytest.raises(ModelError, match=f"has no tap '{tap}'.*closed box; use embedding"):
            model.forward([noise(RATE)], tap=tap)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="has no tap 'pooled'"):
        model.features([noise(RATE)])
    with pytest.raises(ModelError, match=r"has no tap 'frames'.*closed box"):
        model.layers([noise(RATE)])
    with pytest.raises(ModelError, match=r"1600 samples.*got 1599"):
        model.encoder.run([noise(1_599)])
    with pytest.raises(ModelError, match="float32 only, not in bfloat16"):
        load(net, precision="bfloat16").forward([noise(RATE)])


def test_bytes_and_front_end_make_the_fingerprint(tmp_path: Path, net: Path) -> None:
    known = load(net).fingerprint
    same = tmp_path / "other name.onnx"
    same.write_bytes(net.read_bytes())
    assert load(same).fingerprint == known == OnnxModel(net).fingerprint
    others = {
        load(write_onnx(tmp_path / "weights.onnx", seed=6, metadata=WESPEAKER)).fingerprint,
        load(write_onnx(tmp_path / "words.onnx", metadata={**WESPEAKER, "comment": "x"})).fingerprint,
        load(net, front_end="3dspeaker").fingerprint,
        load(net, front_end=KaldiFbank(window="hamming", scale=32768.0, subtract_mean=False)).fingerprint,
    }
    assert len(others | {known}) == 5


def test_it_is_saved_whole(tmp_path: Path, net: Path) -> None:
    model = load(net)
    waves = [noise(12_000, 4)]
    expected = model.forward(waves)
    model.save(tmp_path / "model")
    net.unlink()
    again = SpeakerModel.from_folder(tmp_path / "model")
    assert again.fingerprint == model.fingerprint
    np.testing.assert_array_equal(again.forward(waves), expected)
    assert "`onnx`" in (tmp_path / "model" / "README.md").read_text()

    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["encoder"]["front_end"]["window"] = "povey"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="a file was changed after saving"):
        SpeakerModel.from_folder(tmp_path / "model")
    config["encoder"]["size_bytes"] -= 1
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises((ModelError, WeightsError), match="network"):
        SpeakerModel.from_folder(tmp_path / "model")


def test_it_takes_a_rotation(tmp_path: Path, net: Path) -> None:
    plain = load(net)
    matrix = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    nested = SpeakerModel(plain.encoder, Rotation(matrix, (4, 12), "test"), name="nested")
    a, b = noise(RATE, 1), noise(RATE, 2)
    before = np.dot(plain.embed(a), plain.embed(b))
    assert np.dot(nested.embed(a), nested.embed(b)) == pytest.approx(before, abs=1e-6)
    nested.save(tmp_path / "nested")
    again = load(tmp_path / "nested")
    assert again.dims == (4, 12)
    np.testing.assert_array_equal(again.embed(a, dim=4), nested.embed(a, dim=4))


def test_it_can_be_copied_and_sent(net: Path) -> None:
    model = load(net)
    wave = [noise(RATE)]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.fingerprint == model.fingerprint
        np.testing.assert_array_equal(other.forward(wave), model.forward(wave))
    moved = copy.deepcopy(model).to("meta")  # whatever the device, the bytes stay
    np.testing.assert_array_equal(moved.forward(wave), model.forward(wave))


# What the file and the description beside it say


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"framework": "wespeaker"}, KaldiFbank(window="hamming", scale=32768.0)),
        ({"framework": "3d-speaker", "normalize_samples": "1"}, KaldiFbank(window="povey", scale=1.0)),
        ({"framework": "3d-speaker", "normalize_samples": "0"}, KaldiFbank(window="povey", scale=32768.0)),
        (
            {"framework": "wespeaker", "feature_normalize_type": "global-mean"},
            KaldiFbank(16_000, 80, "hamming", 32768.0),
        ),
        ({"framework": "wespeaker", "sample_rate": "8000"}, KaldiFbank(8_000, 80, "hamming", 32768.0)),
    ],
)
def test_what_exports_for_sherpa_onnx_say(tmp_path: Path, said: dict[str, str], expected: KaldiFbank) -> None:
    assert read_onnx(write_onnx(tmp_path / "a.onnx", metadata=said)).front_end == expected


def test_what_they_say_wrongly(tmp_path: Path) -> None:
    odd = write_onnx(tmp_path / "a.onnx", metadata={**WESPEAKER, "feature_normalize_type": "per-band"})
    with pytest.raises(ModelError, match="normalised by 'per-band'"):
        load(odd)
    long = write_onnx(tmp_path / "b.onnx", metadata={**WESPEAKER, "output_dim": "192"})
    with pytest.raises(ModelError, match="have 192 numbers and gives 12"):
        load(long)


def test_a_description_beside_the_file(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "net.v2.onnx")
    beside = tmp_path / "net.v2.nestvox.json"
    with pytest.raises(ModelError, match=r'says \'nothing\'.*"front_end": "wespeaker".*net\.v2\.nestvox\.json'):
        load(path)
    beside.write_text('{"front_end": "3dspeaker", "licence": "Apache-2.0", "language": ["zh"]}')
    model = load(path)
    assert model.encoder.config()["front_end"]["window"] == "povey"
    assert (model.card["licence"], model.card["language"]) == ("Apache-2.0", ["zh"])
    assert "license: apache-2.0" in model.model_card()
    beside.write_text('{"front_end": {"window": "hamming", "scale": 1.0, "subtract_mean": false}}')
    wave = noise(RATE)
    mine = KaldiFbank(window="hamming", scale=1.0, subtract_mean=False)
    np.testing.assert_allclose(load(path).forward([wave])[0], by_hand(wave, mine), atol=1e-5)
    # What is asked for wins, also over the description.
    assert load(path, front_end="wespeaker").encoder.config()["front_end"]["scale"] == 32768.0
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text('{"front_end": "3dspeaker"}')
    assert load(path, front_end=str(elsewhere)).encoder.config()["front_end"]["window"] == "povey"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no description of a front end that can be read"),
        ("[]", "is no object"),
        (
            '{"frontend": "wespeaker"}',
            "has frontend; a description has front_end, language, licence, output, training_data",
        ),
        ('{"front_end": 3}', "toolkit's name or an object, got 3"),
        ('{"front_end": "nemo"}', "front_end 'nemo'"),
        ('{"front_end": {"windows": "povey"}}', "has windows; known: sample_rate, n_mels, window"),
        ('{"front_end": {"window": "hann"}}', "got 'hann'"),
        ('{"front_end": {"n_mels": "many"}}', "front_end: "),
    ],
)
def test_descriptions_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = write_onnx(tmp_path / "net.onnx")
    (tmp_path / "net.nestvox.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load(path)


def test_weights_beside_the_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the runtime would look for them
    path = write_onnx(
        tmp_path / "a.onnx", metadata=WESPEAKER, save_as_external_data=True, location="a.data", size_threshold=0
    )
    assert (tmp_path / "a.data").is_file()
    with pytest.raises(ModelError, match=r"a\.onnx: keeps weights in a file beside it.*one file"):
        load(path)


def test_options_that_mean_nothing(tmp_path: Path, net: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.onnx: cannot be read"):
        load(tmp_path / "gone.onnx")
    with pytest.raises(ModelError, match="runs on the CPU; leave out weights and device"):
        load(net, weights=net)
    with pytest.raises(ModelError, match="leave out weights and device"):
        load(net, device="cuda")
    load(net).save(tmp_path / "model")
    with pytest.raises(ModelError, match="only an ONNX file is told its front end"):
        load(tmp_path / "model", front_end="wespeaker")


# Stores and commands


@pytest.fixture
def table(tmp_path: Path) -> UtteranceTable:
    speakers = [f"s{number // 2}" for number in range(8)]
    table = make_noises(tmp_path, [0.5 + number / 32 for number in range(8)], speakers)
    write_utterances(table, tmp_path / "table.tsv")
    return table


def nestvox(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_stores_know_the_file(tmp_path: Path, net: Path, table: UtteranceTable) -> None:
    model = load(net)
    store = embed_table(model, table, tmp_path / "store", batch_size=3)
    waves = [soundfile.read(path, dtype="float32")[0] for path in table.audio_paths]
    np.testing.assert_allclose(
        store.vectors(), np.stack([by_hand(wave, FRONT_ENDS["wespeaker"]) for wave in waves]), atol=1e-5
    )
    assert store.metadata.fingerprint == model.fingerprint
    # A model that knows no torch goes on with the store: it is the same model.
    (tmp_path / "store" / "shard-000000.arrow").unlink()
    embed_table(OnnxModel(net), table, tmp_path / "store")
    store.verify()
    other = load(write_onnx(tmp_path / "other.onnx", seed=6, metadata=WESPEAKER))
    with pytest.raises(FingerprintError, match="holds vectors of the model net"):
        embed_table(other, table, tmp_path / "store")


def test_commands_take_the_path(tmp_path: Path, net: Path, table: UtteranceTable) -> None:
    done = nestvox("embed", tmp_path / "table.tsv", "--model", net, "--out", tmp_path / "store")
    assert done.exit_code == 0, done.output
    assert "rows         8 x 12 float32, tap nested" in done.output
    refused = nestvox("embed", tmp_path / "table.tsv", "--model", net, "--out", tmp_path / "p", "--tap", "pooled")
    assert isinstance(refused.exception, ModelError)

    answer = tmp_path / "answer.json"
    done = nestvox("verify", tmp_path / "0.wav", tmp_path / "1.wav", "--model", net, "--json", answer)
    assert done.exit_code == 3, done.output  # it has no thresholds
    assert json.loads(answer.read_text())["fingerprint"] == load(net).fingerprint

    trials = tmp_path / "trials.txt"
    trials.write_text("".join(f"{int(a // 2 == b // 2)} u{a} u{b}\n" for a in range(8) for b in range(a)))
    result = tmp_path / "result.json"
    on_trials = ("--trials", trials, "--table", tmp_path / "table.tsv", "--bootstrap", 50)
    done = nestvox("evaluate", "--model", net, *on_trials, "--json", result)
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert load(net).fingerprint in result.read_text()

    done = nestvox(
        "models", "import-onnx", net, "--out", tmp_path / "model", "--name", "mine", "--front-end", "3dspeaker"
    )
    assert done.exit_code == 0, done.output
    folder = load(tmp_path / "model")
    assert (folder.name, folder.fingerprint) == ("mine", load(net, front_end="3dspeaker").fingerprint)
    compared = tmp_path / "compared.json"
    done = nestvox("compare", net, tmp_path / "model", *on_trials, "--permutations", 50, "--json", compared)
    assert done.exit_code in (0, 1), done.output + repr(done.exception)
    assert str(net.stat().st_size) in compared.read_text()


def test_the_encoder_is_the_file(net: Path) -> None:
    model = load(net).to("cpu")
    encoder: Any = model.encoder
    assert isinstance(encoder, OnnxEncoder)
    assert encoder.network.tobytes() == net.read_bytes()
    assert list(encoder.parameters()) == []
    with pytest.raises(ValueError, match="read-only"):
        encoder.network[0] = 7
    with pytest.raises(ModelError, match="built without its file"):
        build({"architecture": "onnx", **encoder.config()}).run([noise(RATE)])
    with pytest.raises(WeightsError, match=r"expected network, .* bytes of an ONNX file"):
        build({"architecture": "onnx", **encoder.config()}).take({"network": encoder.network[1:]}, "here")
