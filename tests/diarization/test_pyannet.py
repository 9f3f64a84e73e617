"""The segmentation network against numbers of the original, with generated and with real weights."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")

from nestvox.diarization.pyannet import (  # noqa: E402
    CHUNK_SAMPLES,
    FEWEST_SAMPLES,
    FRAMES,
    POWERSET,
    PyanNet,
    activity,
    frames_of,
    load_segmentation,
)
from nestvox.errors import DownloadError, ModelError, WeightsError  # noqa: E402
from nestvox.zoo import find, load_encoder  # noqa: E402
from nestvox.zoo.weights import load_strict  # noqa: E402


def noise(seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(CHUNK_SAMPLES)


def voice(f0: float, seed: int) -> np.ndarray:
    """A harmonic sound with two moving formants."""
    t = np.arange(CHUNK_SAMPLES) / 16_000
    psi = np.random.Generator(np.random.PCG64(seed)).uniform(0, 2 * math.pi, 24)
    f = f0 * (1 + 0.06 * np.sin(2 * math.pi * 0.7 * t) + 0.03 * np.sin(2 * math.pi * 5.1 * t))
    phi = 2 * math.pi * np.cumsum(f) / 16_000
    low, high = 500 + 250 * np.sin(2 * math.pi * 1.9 * t + seed), 1500 + 500 * np.sin(2 * math.pi * 1.3 * t + 2 * seed)
    total = np.zeros(CHUNK_SAMPLES)
    for h in range(1, 25):
        gain = 1 / (1 + ((h * f - low) / 90) ** 2) + 0.6 / (1 + ((h * f - high) / 130) ** 2) + 0.02
        total += gain / math.sqrt(h) * np.sin(h * phi + psi[h - 1])
    return total * (0.55 + 0.45 * np.sin(2 * math.pi * 3.7 * t + seed)) ** 1.5


def signals() -> dict[str, np.ndarray]:
    t = np.arange(CHUNK_SAMPLES) / 16_000
    first = ((t > 0.8) & (t < 4.2)) | ((t > 7.0) & (t < 9.3))
    second = (t > 3.6) & (t < 7.6)
    voices = 0.12 * voice(118, 1) * first + 0.12 * voice(211, 2) * second + 0.003 * noise(77)
    chirp = 0.3 * np.sin(2 * math.pi * (100 * t + 195 * t**2)) * (0.5 + 0.5 * np.sin(2 * math.pi * 0.9 * t))
    chirp += 0.02 * noise(1234)
    return {"voices": voices.astype(np.float32), "chirp": chirp.astype(np.float32)}


def drawn(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weights that the golden numbers with generated weights were made with."""
    z = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(math.prod(shape))
    if len(shape) < 2:
        z = 1 + 0.1 * z if key.endswith(".weight") else 0.05 * z
    else:
        z *= (4 if key == "classifier.weight" else 1.5) / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(z.reshape(shape).astype(np.float32))


def probabilities(network: PyanNet, audio: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(audio)[None])[0].exp().numpy()


@pytest.fixture(scope="module")
def generated() -> PyanNet:
    network = PyanNet()
    computed = ("filterbank.low_hz_", "filterbank.band_hz_", "filterbank.n_", "filterbank.window_")
    state = {k: v if k.endswith(computed) else drawn(k, tuple(v.shape)) for k, v in network.state_dict().items()}
    network.load_state_dict(state)
    return network.eval()


@pytest.fixture(scope="module")
def real() -> PyanNet:
    try:
        return load_segmentation()
    except DownloadError as error:
        pytest.skip(str(error))


def test_names_and_shapes_are_those_of_the_checkpoint(reference_dir: Path) -> None:
    listed = json.loads((reference_dir / "segmentation" / "keys.json").read_text())
    state = PyanNet().state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == dict(listed)
    assert sum(tensor.numel() for tensor in state.values()) == 1_473_515


def test_generated_weights(generated: PyanNet, reference_dir: Path) -> None:
    golden = np.load(reference_dir / "segmentation" / "random.npz")
    for name, audio in signals().items():
        found = probabilities(generated, audio)
        assert found.shape == (FRAMES, 7)
        np.testing.assert_allclose(found, np.exp(golden[f"logp_{name}"]), atol=2e-5)
    short = probabilities(generated, signals()["chirp"][:48_000])
    np.testing.assert_allclose(short, np.exp(golden["logp_chirp_3s"]), atol=2e-5)


@pytest.mark.parametrize("name", ["voices", "dev00"])
def test_real_weights(real: PyanNet, reference_dir: Path, speech_dir: Path, name: str) -> None:
    golden = np.load(reference_dir / "segmentation" / "real.npz")
    if name == "voices":
        audio = signals()[name]
    else:
        path = speech_dir / "diarization" / "ami" / f"{name}.flac"
        audio = soundfile.read(path, frames=CHUNK_SAMPLES, dtype="float32")[0]
    found = probabilities(real, audio)
    np.testing.assert_allclose(found, np.exp(golden[f"logp_{name}"]), atol=2e-5)
    assert (found.argmax(axis=1) == golden[f"argmax_{name}"]).all()


def test_filters_of_the_real_weights(real: PyanNet, reference_dir: Path) -> None:
    golden = np.load(reference_dir / "segmentation" / "real.npz")["filters_rows_0_39_40_79"]
    with torch.inference_mode():
        found = real.sincnet.conv1d[0].filterbank()[[0, 39, 40, 79], 0].numpy()
    np.testing.assert_array_equal(found, golden)


def test_chunks_of_a_batch_do_not_meet(generated: PyanNet) -> None:
    both = np.stack(list(signals().values()))
    with torch.inference_mode():
        together = generated(torch.from_numpy(both)).exp().numpy()
    np.testing.assert_allclose(together[1], probabilities(generated, both[1]), atol=2e-6)


def test_counting_frames() -> None:
    assert FRAMES == frames_of(CHUNK_SAMPLES) == 589
    assert frames_of(48_000) == 175
    assert frames_of(FEWEST_SAMPLES) == 2
    assert frames_of(FEWEST_SAMPLES - 1) == 1


def test_classes_are_sets_of_speakers() -> None:
    assert POWERSET.sum(axis=1).tolist() == [0, 1, 1, 1, 2, 2, 2]
    logs = np.log(np.array([0.1, 0.2, 0.1, 0.05, 0.3, 0.15, 0.1], np.float32))
    np.testing.assert_allclose(activity(logs), [0.65, 0.5, 0.3], atol=1e-6)


def test_it_is_no_encoder_and_loads_strictly() -> None:
    assert find("segmentation-3.0").licence == "MIT"
    with pytest.raises(ModelError, match="no speaker encoder"):
        load_encoder("segmentation-3.0")
    network = PyanNet()
    state = dict(network.state_dict())
    state.pop("lstm.weight_hh_l3")
    with pytest.raises(WeightsError, match=r"1 missing: lstm\.weight_hh_l3"):
        load_strict(network, state, "x")
