"""A model as one ONNX file gives the vectors of the model, at each dimension, for batches and lengths of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from keyed_weights import keyed_weights
from nestvox.cli.app import app
from nestvox.compression import compress
from nestvox.encoders import build
from nestvox.encoders.runtime.backends import onnx_is_installed
from nestvox.errors import ModelError
from nestvox.heads import LinearHead, MlpHead, Rotation
from nestvox.model import SpeakerModel, export_onnx, load

pytestmark = pytest.mark.skipif(not onnx_is_installed(), reason="the extra onnx is not installed")

MIXER: dict[str, Any] = {"architecture": "mixer", "width": 16, "depth": 2, "groups": 2, "embedding_dim": 12}
AUDIO = (0.1 * np.random.default_rng(0).standard_normal((3, 24_000))).astype(np.float32)


def encoder() -> Any:
    network = build(MIXER).eval()
    network.load_state_dict(keyed_weights(network.state_dict()))
    return network


def head(kind: str, network: Any) -> Any:
    rng = np.random.default_rng(1)
    matrix = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    torch.manual_seed(0)
    made: Any = {
        "none": lambda: None,
        "rotation": lambda: Rotation(matrix, (4, 12), "pca"),
        "centred": lambda: Rotation(matrix, (4, 12), "pca", mean=0.1 * rng.standard_normal(12)),
        "linear": lambda: LinearHead(network.pooled_dim, (4, 12), norm="fixed"),
        "mlp": lambda: MlpHead(12, (4, 12), tap="embedding", hidden=7, layers=3),
    }[kind]()
    if isinstance(made, torch.nn.Module):
        with torch.no_grad():
            for number, tensor in enumerate(made.state_dict().values()):
                if tensor.is_floating_point():
                    drawn = torch.from_numpy(rng.standard_normal(tuple(tensor.shape)).astype(np.float32))
                    tensor.copy_(0.5 + drawn.abs() if number < 4 else drawn)
    return made


def run(path: Path, audio: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == ["waveform"]
    (found,) = session.run(["embedding"], {"waveform": audio})
    return np.asarray(found)


@pytest.mark.parametrize("kind", ["none", "rotation", "centred", "linear", "mlp"])
def test_the_graph_gives_what_the_model_gives(kind: str, tmp_path: Path) -> None:
    network = encoder()
    model = SpeakerModel(network, head(kind, network), backend="eager")
    for dim in (4, None):
        size = export_onnx(model, tmp_path / "m.onnx", dim=dim)
        assert size == (tmp_path / "m.onnx").stat().st_size
        for audio in (AUDIO, AUDIO[:1, :7_001]):
            if model.head is None and dim == 4:
                expected = model.embed(list(audio), normalize=False, sample_rate=16_000)[:, :4]
                expected /= np.linalg.norm(expected, axis=1, keepdims=True)
            else:
                expected = model.embed(list(audio), dim=dim, sample_rate=16_000)
            np.testing.assert_allclose(run(tmp_path / "m.onnx", audio), expected, rtol=0, atol=1e-5)


def test_the_file_is_a_model_again(tmp_path: Path) -> None:
    network = encoder()
    model = SpeakerModel(network, head("linear", network), "small", training_speakers=("ab12", "cd34"), backend="eager")
    export_onnx(model, tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx", truncate_dim=4)
    assert (again.name, again.dims, again.truncate_dim) == ("small", (4, 12), 4)
    assert again.training_speakers == ("ab12", "cd34")
    assert again.fingerprint not in {model.fingerprint, load(exported(model, tmp_path / "o.onnx", 4)).fingerprint}
    ragged = [AUDIO[0, :length] for length in (400, 9_999, 24_000)]
    for dim in (4, 12):
        expected = model.embed(ragged, dim=dim, sample_rate=16_000)
        np.testing.assert_allclose(again.embed(ragged, dim=dim, sample_rate=16_000), expected, rtol=0, atol=1e-5)
        # What stands beside an utterance in a batch, and how long that is, changes nothing of it.
        together = again.encode(ragged, truncate_dim=dim, batch_size=3, sample_rate=16_000)
        np.testing.assert_array_equal(together, again.embed(ragged, dim=dim, sample_rate=16_000))

    again.save(tmp_path / "folder")
    assert load(tmp_path / "folder").fingerprint == again.fingerprint
    with pytest.raises(ModelError, match="has no tap 'pooled'"):
        again.features([AUDIO[0]])
    with pytest.raises(ModelError, match="has its front end inside"):
        load(tmp_path / "m.onnx", front_end="wespeaker")
    with pytest.raises(ModelError, match="runs on the CPU"):
        load(tmp_path / "m.onnx", device="cuda")


def exported(model: SpeakerModel, path: Path, dim: int) -> Path:
    export_onnx(model, path, dim=dim)
    return path


def test_what_a_file_says_of_itself_is_checked(tmp_path: Path) -> None:
    import onnx

    file = exported(SpeakerModel(encoder()), tmp_path / "m.onnx", 12)
    for key, value in (("sample_rate", "0"), ("min_samples", "many"), ("dim", "")):
        network = onnx.load(file)
        for item in network.metadata_props:
            item.value = value if item.key == key else item.value
        onnx.save(network, tmp_path / "other.onnx")
        with pytest.raises(ModelError, match=f"other.onnx: what it says of itself.*{key}"):
            load(tmp_path / "other.onnx")


def test_a_compressed_model_goes_out_too_by_the_command(tmp_path: Path) -> None:
    network = encoder()
    compress(SpeakerModel(network, head("linear", network), "small"), tmp_path, forms=["int8-dynamic"])
    folder, file = tmp_path / "int8-dynamic", tmp_path / "out.onnx"
    result = CliRunner().invoke(app, ["export", str(folder), "--onnx", str(file), "--dim", "4"])
    assert result.exit_code == 0, result.output
    assert "output embedding (batch, 4), of length 1" in " ".join(result.output.split())
    model = load(folder)
    np.testing.assert_allclose(run(file, AUDIO[:1]), model.embed([AUDIO[0]], dim=4, sample_rate=16_000), atol=1e-5)

    import onnx

    about = {item.key: item.value for item in onnx.load(file).metadata_props}
    assert about["fingerprint"] == model.fingerprint
    assert (about["sample_rate"], about["dim"], about["dims"]) == ("16000", "4", "4,12")


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    model = SpeakerModel(encoder())
    with pytest.raises(ModelError, match=r"ends in \.onnx"):
        export_onnx(model, tmp_path / "m.bin")
    with pytest.raises(ModelError, match="between 1 and 12"):
        export_onnx(model, tmp_path / "m.onnx", dim=13)
    with pytest.raises(ModelError, match="ge2e cannot be written as one ONNX graph"):
        export_onnx(SpeakerModel(build({"architecture": "ge2e"})), tmp_path / "m.onnx")
    result = CliRunner().invoke(app, ["export", "store"])
    assert "give --out FILE for the vectors of a store, or --onnx FILE for a model" in str(result.exception)
    assert not list(tmp_path.iterdir())
