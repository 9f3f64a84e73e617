"""Encoders of others: filter banks against Kaldi's own code, ONNX files, and functions, up to a store."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.corpora.utterances import read_utterances, write_utterances
from nestvox.encoders.foreign.adapters import from_callable
from nestvox.encoders.foreign.onnx_model import FRONT_ENDS, OnnxModel
from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank
from nestvox.errors import FingerprintError, MissingExtraError, ModelError
from nestvox.extraction.embed import embed_table
from nestvox.testing import make_noises

RATE = 16_000


def noise(samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * 300 * np.arange(samples) / RATE)
    return (level * (tone + generator.standard_normal(samples))).astype(np.float32)


def kaldi(audio: np.ndarray, *, window: str, scale: float = 1.0, rate: int = RATE, n_mels: int = 80) -> np.ndarray:
    """Kaldi's own features, through the package that carries its code."""
    native = pytest.importorskip("kaldi_native_fbank", reason="the group test is not installed")
    options = native.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = rate
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = n_mels
    fbank = native.OnlineFbank(options)
    fbank.accept_waveform(rate, (audio * scale).tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(number) for number in range(fbank.num_frames_ready)])


@pytest.mark.parametrize("window", ["povey", "hamming"])
@pytest.mark.parametrize(("scale", "rate", "n_mels"), [(1.0, 16_000, 80), (32768.0, 16_000, 80), (1.0, 8_000, 40)])
def test_filter_banks_are_kaldis(window: Any, scale: float, rate: int, n_mels: int) -> None:
    ours = KaldiFbank(sample_rate=rate, n_mels=n_mels, window=window, scale=scale, subtract_mean=False)
    for audio in (noise(24_001), noise(400, 1), noise(9_999, 2, level=1e-3), np.full(4_000, 0.25, np.float32)):
        expected = kaldi(audio, window=window, scale=scale, rate=rate, n_mels=n_mels)
        found = ours(audio)
        assert found.shape == expected.shape
        # A constant leaves rounding only, of whose logarithm nobody cares.
        if audio.std() > 0:
            assert np.abs(found - expected).max() < 1e-3


def test_the_mean_over_time_is_subtracted() -> None:
    audio = noise(16_000)
    expected = kaldi(audio, window="hamming", scale=32768.0)
    expected -= expected.mean(axis=0)
    assert np.abs(FRONT_ENDS["wespeaker"](audio) - expected).max() < 1e-3


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(400, 12_000), seed=st.integers(0, 99))
def test_frames_are_whole_and_depend_on_their_own_samples(samples: int, seed: int) -> None:
    plain = KaldiFbank(subtract_mean=False)
    audio = noise(samples, seed)
    features = plain(audio)
    assert features.shape == ((samples - 400) // 160 + 1, 80)
    assert np.isfinite(features).all()
    last = len(features) - 1
    np.testing.assert_allclose(plain(audio[last * 160 : last * 160 + 400])[0], features[last], atol=1e-4)


def test_long_audio_is_the_same_in_pieces() -> None:
    plain = KaldiFbank(subtract_mean=False)
    audio = noise(5_000 * 160 + 400)
    features = plain(audio)
    assert len(features) == 5_001
    np.testing.assert_allclose(features[4_000:], plain(audio[4_000 * 160 :]), atol=1e-4)


def test_silence_is_finite_and_too_short_is_refused() -> None:
    silent = KaldiFbank(subtract_mean=False)(np.zeros(800, np.float32))
    np.testing.assert_allclose(silent, np.log(np.finfo(np.float32).eps), atol=1e-5)
    with pytest.raises(ModelError, match="at least 400"):
        KaldiFbank()(np.zeros(399, np.float32))
    with pytest.raises(ModelError, match="unknown window 'hann'"):
        KaldiFbank(window="hann")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no filter bank of 0 bands"):
        KaldiFbank(n_mels=0)


# ONNX files

WEIGHT = np.random.default_rng(5).standard_normal((80, 12)).astype(np.float32) / 9


def write_onnx(path: Path, *, inputs: Any = (("feats", ("B", "T", 80)),), metadata: Any = (), drop: str = "") -> Path:
    """A network: the mean over time of tanh(features times WEIGHT)."""
    # The bands that the input declares, so that the file itself is sound.
    bands = inputs[0][1][-1]
    weight = WEIGHT if bands == 80 else np.ones((bands, 12), np.float32)
    onnx = pytest.importorskip("onnx", reason="the group test is not installed")
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    helper = onnx.helper
    nodes = [
        helper.make_node("MatMul", [inputs[0][0], "weight"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["active"]),
        helper.make_node("ReduceMean", ["active"], ["embs"], axes=[1], keepdims=int(drop == "mean")),
    ]
    graph = helper.make_graph(
        nodes,
        "speaker",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("embs", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, value in metadata:
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("toolkit", "window", "scale"), [("wespeaker", "hamming", 32768.0), ("3dspeaker", "povey", 1.0)]
)
def test_an_onnx_file_gets_kaldis_features(tmp_path: Path, toolkit: str, window: str, scale: float) -> None:
    model = OnnxModel(write_onnx(tmp_path / "net.onnx"), front_end=toolkit)
    assert (model.name, model.embedding_dim, model.dims, model.sample_rate) == ("net", 12, (12,), RATE)
    waves = [noise(16_000, 1), noise(9_000, 2)]
    found = model.forward(waves)
    for row, wave in zip(found, waves, strict=True):
        features = kaldi(wave, window=window, scale=scale)
        expected = np.tanh((features - features.mean(axis=0)) @ WEIGHT).mean(axis=0)
        np.testing.assert_allclose(row, expected, atol=1e-4)
    np.testing.assert_array_equal(model.forward(waves[1:])[0], found[1])


def test_an_onnx_file_may_say_what_trained_it(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a.onnx", metadata=[("framework", "3d-speaker"), ("language", "English")])
    model = OnnxModel(path)
    assert model.front_end == FRONT_ENDS["3dspeaker"]
    assert model.metadata["language"] == "English"
    narrow = write_onnx(tmp_path / "n.onnx", metadata=[("framework", "wespeaker"), ("sample_rate", "8000")])
    assert OnnxModel(narrow).sample_rate == 8_000
    other = OnnxModel(path, front_end="wespeaker")
    assert other.front_end.window == "hamming"
    # the same file behind other features is another model
    assert other.fingerprint != model.fingerprint == OnnxModel(path, name="b").fingerprint
    with pytest.raises(ModelError, match=r"not known which filter banks.*says 'nothing'.*'wespeaker'"):
        OnnxModel(write_onnx(tmp_path / "c.onnx"))
    with pytest.raises(ModelError, match="front_end 'nemo'"):
        OnnxModel(path, front_end="nemo")


def test_onnx_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    length = ("length", ("B",))
    for number, inputs in enumerate(
        [[("x", ("B", "T", 64))], [("x", (1, "B", "T", 80))], [("x", ("B", "T", 80)), length]]
    ):
        path = write_onnx(tmp_path / f"{number}.onnx", inputs=inputs)
        with pytest.raises(ModelError, match=r"expected one input \(batch, frames, 80\).*from_callable"):
            OnnxModel(path, front_end="wespeaker")
    with pytest.raises(ModelError, match=r"output embs has shape \(1, 1, 12\)"):
        OnnxModel(write_onnx(tmp_path / "d.onnx", drop="mean"), front_end="wespeaker")
    whole = (tmp_path / "0.onnx").read_bytes()
    for name, content in (("empty", b""), ("cut", whole[: len(whole) // 2]), ("text", b"not a network")):
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=f"{name}.onnx: not an ONNX network"):
            OnnxModel(tmp_path / f"{name}.onnx", front_end="wespeaker")
    with pytest.raises(ModelError, match=r"gone\.onnx: cannot be read"):
        OnnxModel(tmp_path / "gone.onnx", front_end="wespeaker")


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"nestvox\[onnx\]"):
        OnnxModel(tmp_path / "any.onnx")


# Functions


def loudness(audio: np.ndarray) -> np.ndarray:
    return np.array([np.abs(audio).max(), audio.std(), len(audio) / RATE])


def test_a_function_is_a_model() -> None:
    model = from_callable(loudness, sample_rate=RATE, name="loudness", embedding_dim=3)
    wave = noise(8_000)
    rows = model.forward([wave, wave[:4_000]])
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows[1], loudness(wave[:4_000]), rtol=1e-6)
    as_tensor = from_callable(
        lambda audio: torch.tensor(loudness(audio), requires_grad=True)[None],
        sample_rate=RATE,
        name="t",
        embedding_dim=3,
    )
    np.testing.assert_allclose(as_tensor.forward([wave])[0], rows[0], rtol=1e-6)


def test_version_and_name_make_the_fingerprint() -> None:
    prints = {
        from_callable(loudness, sample_rate=RATE, name=name, embedding_dim=3, version=version).fingerprint
        for name in ("a", "b")
        for version in ("1", "2")
    }
    assert len(prints) == 4
    again = from_callable(print, sample_rate=RATE, name="a", embedding_dim=3, version="1")
    assert again.fingerprint in prints


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros(4), r"shape \(4,\), expected \(3,\)"),
        (np.zeros((2, 3)), r"shape \(2, 3\)"),
        (np.array([1.0, np.nan, 0.0]), "not finite for a clip of 0.50 s"),
        ("words", "no array of numbers"),
        (None, r"odd gave"),
    ],
)
def test_results_that_are_no_vectors_are_refused(result: Any, message: str) -> None:
    model = from_callable(lambda audio: result, sample_rate=RATE, name="odd", embedding_dim=3)
    with pytest.raises(ModelError, match=message):
        model.forward([noise(8_000)])


def test_calls_that_make_no_sense_are_refused() -> None:
    model = from_callable(loudness, sample_rate=RATE, name="loudness", embedding_dim=3)
    with pytest.raises(ModelError, match="no tap 'frames'"):
        model.forward([noise(8_000)], tap="frames")
    with pytest.raises(ModelError, match="at least one waveform"):
        model.forward([])
    with pytest.raises(ModelError, match="a size of its vectors"):
        from_callable(loudness, sample_rate=RATE, name="x", embedding_dim=0)


def write_table(folder: Path, count: int = 6) -> Any:
    speakers = [f"s{number % 2}" for number in range(count)]
    table = make_noises(folder, [0.5 + number / 32 for number in range(count)], speakers)
    write_utterances(table, folder / "utterances.tsv")
    return read_utterances(folder / "utterances.tsv")


def test_a_function_embeds_a_table_one_call_at_a_time(tmp_path: Path) -> None:
    inside = threading.Semaphore(1)

    def alone(audio: np.ndarray) -> np.ndarray:
        assert inside.acquire(blocking=False), "called from two threads at once"
        try:
            return loudness(audio)
        finally:
            inside.release()

    table = write_table(tmp_path)
    model = from_callable(alone, sample_rate=RATE, name="loudness", embedding_dim=3)
    store = embed_table(model, table, tmp_path / "store", batch_size=1, streams=2, workers=1)
    expected = [loudness(soundfile.read(tmp_path / path)[0]) for path in table.frame["path"]]
    np.testing.assert_allclose(store.take(store.index_of(table.frame["utt_id"])), expected, rtol=1e-4)
    assert store.metadata.dims == (3,)
    changed = from_callable(alone, sample_rate=RATE, name="loudness", embedding_dim=3, version="2")
    with pytest.raises(FingerprintError):
        embed_table(changed, table, tmp_path / "store", batch_size=1, streams=1, workers=1)


def test_an_onnx_file_embeds_a_table(tmp_path: Path) -> None:
    table = write_table(tmp_path)
    model = OnnxModel(write_onnx(tmp_path / "net.onnx"), front_end="wespeaker")
    store = embed_table(model, table, tmp_path / "store", batch_size=2, streams=2, workers=1)
    assert store.metadata.fingerprint == model.fingerprint
    assert isinstance(table.frame, pl.DataFrame)
    waves = [soundfile.read(tmp_path / path, dtype="float32")[0] for path in table.frame["path"]]
    np.testing.assert_allclose(store.take(store.index_of(table.frame["utt_id"])), model.forward(waves), atol=1e-6)
