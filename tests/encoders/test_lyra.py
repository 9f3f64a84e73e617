"""The codec Lyra as an encoder: what its files say, whoever runs them, in whatever order."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nestvox import load
from nestvox.encoders import Encoder, build
from nestvox.errors import DownloadError, MissingExtraError, ModelError, WeightsError
from nestvox.zoo import find, load_encoder

SIZES = {"encoder_bytes": 1_779_200, "quantizer_bytes": 329_012}


@pytest.fixture(scope="module")
def interpreters() -> Any:
    return pytest.importorskip("ai_edge_litert.interpreter", reason="the extra [codec] is not installed")


@pytest.fixture(scope="module")
def lyra(codec_dir: Path, interpreters: Any, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NESTVOX_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_encoder("lyra", weights=codec_dir, announce=lambda _: None)


def waves() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    return [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (640, 16_000, 33_333, 8_001)]


def by_hand(interpreters: Any, file: Path, wave: NDArray[np.float32]) -> NDArray[np.float32]:
    network = interpreters.Interpreter(model_path=str(file), num_threads=1)
    run = network.get_signature_runner()
    padded = np.pad(wave, (0, -len(wave) % 320)).reshape(-1, 1, 320)
    return np.stack([run(input_audio=block)["output_0"].ravel() for block in padded])


def test_latents_are_those_of_the_file_run_by_hand(lyra: Encoder, interpreters: Any, codec_dir: Path) -> None:
    wave = waves()[2]
    expected = by_hand(interpreters, codec_dir / "soundstream_encoder.tflite", wave)
    found = lyra(torch.from_numpy(wave)[None])
    assert found.frames.shape == (1, 64, -(-len(wave) // 320))
    assert np.array_equal(found.frames[0].T.numpy(), expected)
    assert expected.std() > 1
    statistics = np.concatenate([expected.mean(0), expected.std(0, ddof=1)])
    np.testing.assert_allclose(found.embedding[0].numpy(), statistics, rtol=1e-4, atol=1e-4)


def test_neither_order_nor_company_nor_padding_changes_anything(lyra: Encoder) -> None:
    clips = waves()
    lengths = torch.tensor([len(wave) for wave in clips])
    audio = torch.full((len(clips), 40_000), torch.nan)
    for row, wave in zip(audio, clips, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    together = lyra(audio, lengths, layers=lyra.layer_rates_hz)
    for row in reversed(range(len(clips))):
        alone = lyra(torch.from_numpy(clips[row])[None], layers=lyra.layer_rates_hz)
        assert int(together.frame_mask[row].sum()) == -(-len(clips[row]) // 320)
        assert torch.equal(alone.embedding[0], together.embedding[row])
        for name, layer in together.layers.items():
            assert torch.equal(layer.values[row][:, layer.mask[row]], alone.layers[name].values[0])
            assert not layer.values[row][:, ~layer.mask[row]].any()


def test_codes_are_whole_numbers_and_more_stages_come_closer(lyra: Encoder) -> None:
    layers = lyra(torch.from_numpy(waves()[1])[None], layers=lyra.layer_rates_hz).layers
    codes, latents = layers["codes"].values, layers["latents"].values
    assert codes.shape == (1, 46, 50)
    assert torch.equal(codes, codes.round())
    assert 0 <= codes.min() < codes.max() <= 15
    errors = [float((layers[f"dequantised{n}"].values - latents).square().mean()) for n in (16, 30, 46)]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < errors[0] < float(latents.var())


def test_dequantised_is_what_the_decoder_gives(lyra: Encoder, interpreters: Any, codec_dir: Path) -> None:
    layers = lyra(torch.from_numpy(waves()[3])[None], layers=lyra.layer_rates_hz).layers
    network = interpreters.Interpreter(model_path=str(codec_dir / "quantizer.tflite"), num_threads=1)
    encode, decode = network.get_signature_runner("encode"), network.get_signature_runner("decode")
    for stages in (16, 30, 46):
        for frame in range(0, 26, 3):
            latent = layers["latents"].values[0, :, frame].numpy().reshape(1, 1, 64)
            codes = encode(input_frames=latent, num_quantizers=np.asarray(stages, np.int32))["output_0"]
            assert np.array_equal(codes.ravel()[:stages], layers["codes"].values[0, :stages, frame].numpy())
            expected = decode(encoding_indices=codes)["output_0"].ravel()
            found = layers[f"dequantised{stages}"].values[0, :, frame].numpy()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_frames_may_be_those_that_are_sent(lyra: Encoder) -> None:
    sent = build({"architecture": "lyra", **SIZES, "stages": 16})
    sent.load_state_dict(lyra.state_dict())
    wave = torch.from_numpy(waves()[3])[None]
    assert torch.equal(sent(wave).frames, lyra(wave, layers=["dequantised16"]).layers["dequantised16"].values)


@pytest.mark.usefixtures("empty_cache")
def test_a_model_of_it_is_saved_and_read(lyra: Encoder, codec_dir: Path, tmp_path: Path) -> None:
    model = load("lyra", weights=codec_dir, announce=lambda _: None)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.fingerprint == model.fingerprint
    assert np.array_equal(again.embed(waves()[1]), model.embed(waves()[1]))


@pytest.mark.usefixtures("empty_cache")
def test_files_at_hand_must_be_the_catalogues(codec_dir: Path, tmp_path: Path) -> None:
    for name in ("soundstream_encoder.tflite", "quantizer.tflite"):
        (tmp_path / name).write_bytes((codec_dir / name).read_bytes())
    whole = b"".join((tmp_path / name).read_bytes() for name in ("soundstream_encoder.tflite", "quantizer.tflite"))
    assert hashlib.sha256(whole).hexdigest() == find("lyra").sha256
    (tmp_path / "quantizer.tflite").write_bytes(b"TFL3" + bytes(60))
    with pytest.raises(DownloadError, match=r"quantizer\.tflite has SHA-256 \w+, expected 841ee059"):
        load_encoder("lyra", weights=tmp_path, announce=lambda _: None)
    (tmp_path / "quantizer.tflite").unlink()
    with pytest.raises(WeightsError, match=r"the folder needs quantizer\.tflite"):
        load_encoder("lyra", weights=tmp_path, announce=lambda _: None)
    with pytest.raises(DownloadError, match="give the folder they lie in"):
        load_encoder("lyra", weights=codec_dir / "quantizer.tflite", announce=lambda _: None)
    with pytest.raises(DownloadError, match=r"offline.*soundstream_encoder\.tflite"):
        load_encoder("lyra", offline=True, announce=lambda _: None)


def test_other_bytes_and_a_missing_extra_are_told(interpreters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = build({"architecture": "lyra", **SIZES})
    with pytest.raises(ModelError, match="the encoder of lyra is no network"):
        empty(torch.zeros(1, 16_000))
    with pytest.raises(ModelError, match=r"needs at least 0\.040 s"):
        empty(torch.zeros(1, 639))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingExtraError, match="codec"):
        empty(torch.zeros(1, 16_000))
