"""speechbrain and pyannote.audio: what the adapters give is what the toolkit gives, from the same weights.

The toolkits themselves are in the group `toolkits`, which no other test needs: `pip install --group toolkits`.
"""

from __future__ import annotations

import importlib
import io
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nestvox.encoders.foreign.onnx_model import FRONT_ENDS, OnnxModel
from nestvox.encoders.foreign.toolkits import from_pyannote, from_speechbrain
from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank
from nestvox.errors import ModelError

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")
from torch import nn  # noqa: E402

RATE = 16_000


def toolkit(module: str) -> ModuleType:
    """A module of a toolkit; their imports warn, and their torchaudio may be of another torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(module)
        except (ImportError, OSError) as error:
            pytest.skip(f"the group toolkits is not installed, or does not fit this torch: {error}")


def noise(samples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * (200 + 100 * seed) * np.arange(samples) / RATE)
    return (0.1 * tone + 0.05 * rng.standard_normal(samples)).astype(np.float32)


WAVES = [noise(24_000, 1), noise(40_123, 2), noise(4_000, 3)]  # the last as short as is allowed


# Stand-ins: what is called, and what makes the fingerprint


class Features(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.device = "cpu"

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        return waves.unfold(-1, self.size, self.size).abs()


class Classifier(nn.Module):
    """Called as speechbrain's are."""

    def __init__(self, size: int = 100) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = Features(size)
        self.layer = nn.Linear(size, 4)
        self.dropout = nn.Dropout(0.5)
        self.audio_normalizer = SimpleNamespace(sample_rate=8_000)
        self.shapes: list[tuple[int, ...]] = []

    def encode_batch(self, waves: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(waves.shape))
        return self.dropout(self.layer(self.features(waves))).mean(dim=1, keepdim=True)


class Network(Classifier):
    """Called as pyannote's are."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.hparams = {"sample_rate": 8_000, "num_channels": 1, **settings}

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        assert waves.ndim == 3
        return self.encode_batch(waves[:, 0])[:, 0]


@pytest.mark.parametrize(("wrap", "kind"), [(from_speechbrain, Classifier), (from_pyannote, Network)])
def test_utterances_go_in_one_by_one_and_unpadded(wrap: Any, kind: Any) -> None:
    network = kind()
    model = wrap(network, name="mine", training_speakers=["key"])
    assert (model.name, model.sample_rate, model.embedding_dim, model.dims) == ("mine", 8_000, 4, (4,))
    assert model.training_speakers == ("key",)
    found = model.forward(WAVES)
    assert network.shapes[1:] == [(1, len(wave)) for wave in WAVES]
    for row, wave in zip(found, WAVES, strict=True):
        with torch.no_grad():
            frames = torch.from_numpy(wave[: len(wave) // 100 * 100]).reshape(-1, 100).abs()
            expected = nn.functional.linear(frames, network.layer.weight, network.layer.bias).mean(dim=0)
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-6)  # and without dropout
    with pytest.raises(ModelError, match="no tap 'pooled'"):
        model.forward(WAVES, tap="pooled")


def test_weights_and_settings_make_the_fingerprint() -> None:
    plain = from_speechbrain(Classifier(), name="a").fingerprint
    assert from_speechbrain(Classifier(), name="b").fingerprint == plain
    used = Classifier()
    from_speechbrain(used, name="a").forward(WAVES)
    used.features.device = "cuda:0"
    assert from_speechbrain(used, name="a").fingerprint == plain
    trained = Classifier()
    with torch.no_grad():
        trained.layer.bias[0] += 1e-3
    other_rate = Classifier()
    other_rate.audio_normalizer.sample_rate = RATE
    louder = Classifier()
    louder.features.gain = 2.0  # type: ignore[assignment]
    prints = {from_speechbrain(other, name="a").fingerprint for other in (trained, other_rate, louder)}
    prints |= {from_speechbrain(Classifier(), name="a", version="2").fingerprint, plain}
    assert len(prints) == 5
    both = {from_pyannote(Network(window=window), name="a").fingerprint for window in ("hamming", "hann")}
    assert len(both | prints) == 7


def test_other_objects_are_refused() -> None:
    with pytest.raises(ModelError, match="Linear has no encode_batch"):
        from_speechbrain(nn.Linear(2, 2), name="a")
    with pytest.raises(ModelError, match=r"Linear has no hparams.*not a pipeline"):
        from_pyannote(nn.Linear(2, 2), name="a")
    with pytest.raises(ModelError, match="takes 2 channels"):
        from_pyannote(Network(num_channels=2), name="a")


# The toolkits


@pytest.mark.filterwarnings("ignore")
def test_ecapa_of_speechbrain() -> None:
    speaker = toolkit("speechbrain.inference.speaker")
    fbank = toolkit("speechbrain.lobes.features").Fbank(n_mels=80)
    norm = toolkit("speechbrain.processing.features").InputNormalization(norm_type="sentence", std_norm=False)
    torch.manual_seed(3)
    ecapa = toolkit("speechbrain.lobes.models.ECAPA_TDNN").ECAPA_TDNN(
        80, lin_neurons=24, channels=[32, 32, 32, 32, 96], attention_channels=16, se_channels=16
    )
    parts = {"compute_features": fbank, "mean_var_norm": norm, "embedding_model": ecapa, "classifier": nn.Identity()}
    model = from_speechbrain(speaker.EncoderClassifier(modules=parts, hparams={}), name="ecapa")
    assert (model.sample_rate, model.embedding_dim) == (RATE, 24)
    found = model.forward(WAVES)
    for row, wave in zip(found, WAVES, strict=True):
        with torch.no_grad():
            features = norm(fbank(torch.from_numpy(wave)[None]), torch.ones(1))
            assert features.mean(dim=1).abs().max() < 1e-3
            expected = ecapa(features, torch.ones(1))[0, 0]
        np.testing.assert_array_equal(row, expected.numpy())
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.filterwarnings("ignore")
def test_resnet_of_pyannote_and_the_same_weights_behind_our_filter_banks(tmp_path: Path) -> None:
    torch.manual_seed(4)
    network = toolkit("pyannote.audio.models.embedding.wespeaker").WeSpeakerResNet34().eval()
    model = from_pyannote(network, name="resnet34")
    assert (model.sample_rate, model.embedding_dim) == (RATE, 256)
    found = model.forward(WAVES)
    for row, wave in zip(found, WAVES, strict=True):
        with torch.no_grad():
            np.testing.assert_array_equal(row, network(torch.from_numpy(wave)[None, None])[0].numpy())
            features = network.compute_fbank(torch.from_numpy(wave)[None, None])[0].numpy()
        assert np.abs(FRONT_ENDS["wespeaker"](wave) - features).max() < 1e-3

    # What WeSpeaker exports is the network behind the filter banks.
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.resnet = network.resnet

        def forward(self, feats: torch.Tensor) -> torch.Tensor:
            embedding: torch.Tensor = self.resnet(feats)[1]
            return embedding

    content = io.BytesIO()
    torch.onnx.export(
        Behind().eval(),
        (torch.zeros(1, 200, 80),),
        content,
        input_names=["feats"],
        output_names=["embs"],
        dynamic_axes={"feats": {0: "B", 1: "T"}, "embs": {0: "B"}},
        dynamo=False,
    )
    (tmp_path / "resnet34.onnx").write_bytes(content.getvalue())
    ours = OnnxModel(tmp_path / "resnet34.onnx", front_end="wespeaker").forward(WAVES)
    scale = np.abs(found).max(axis=1, keepdims=True)
    assert (np.abs(ours - found) / scale).max() < 1e-3
    # The front end matters: with the other toolkit's, the same file says something else.
    wrong = OnnxModel(tmp_path / "resnet34.onnx", front_end=KaldiFbank(window="povey", scale=1.0)).forward(WAVES)
    assert (np.abs(wrong - found) / scale).max() > 5e-3
