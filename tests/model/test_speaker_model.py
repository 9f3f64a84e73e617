"""`SpeakerModel`: what is saved is what is loaded, what was tampered with is refused, and prefixes follow one rule."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch
from safetensors.numpy import load_file, save_file

import nestvox
from nestvox.audio.errors import AudioWarning
from nestvox.encoders.ge2e import GE2E
from nestvox.errors import AudioError, CatalogueError, ModelError, NestvoxError
from nestvox.heads.contract import NotNestedWarning
from nestvox.heads.rotation import Rotation
from nestvox.inspection.bench import bench_model
from nestvox.inspection.inspect import inspect_model
from nestvox.inspection.sample_clips import Clip
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.threshold import Threshold

RATE = 16_000
FILES = ["README.md", "calibration.json", "config.json", "model.safetensors"]


def orthogonal(seed: int, size: int = 256) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def threshold(dim: int, value: float, point: str = "eer") -> Threshold:
    return Threshold(dim, value, point, 0.05, 0.06, 100, 200, "f" * 64, "dev.txt")


def make(seed: int = 0, **changes: Any) -> SpeakerModel:
    """GE2E with random weights and a random rotation."""
    torch.manual_seed(seed)
    parts: dict[str, Any] = {
        "encoder": GE2E(),
        "head": Rotation(orthogonal(seed), (16, 64), "pca", {"n_vectors": 3}),
        "name": "random",
        "thresholds": (threshold(64, 0.25), threshold(64, 0.9, "min_dcf p_target=0.05 c_miss=1 c_fa=1")),
        "training_speakers": ("00000000000000aa",),
        "card": {"licence": "Apache-2.0", "language": ["en"]},
    }
    made = SpeakerModel(**parts | changes)
    made.thresholds = tuple(replace(one, fingerprint=made.fingerprint) for one in made.thresholds)
    return made


@pytest.fixture(scope="module")
def model() -> SpeakerModel:
    return make()


@pytest.fixture(scope="module")
def saved(model: SpeakerModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def noise(seed: int, duration_s: float = 0.8, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(round(duration_s * RATE))).astype(np.float32)


# --- saving and loading


def test_round_trip(model: SpeakerModel, saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == FILES
    loaded = nestvox.load(saved, device="cpu")
    for name in ("name", "thresholds", "training_speakers", "card", "dims", "fingerprint", "truncate_dim"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert (loaded.sample_rate, loaded.min_duration_s, loaded.embedding_dim) == (RATE, 0.1, 256)
    assert loaded.dims == (16, 64, 256)
    assert loaded.head is not None
    assert loaded.head.tensors()["matrix"].tobytes() == model.head.tensors()["matrix"].tobytes()
    np.testing.assert_array_equal(loaded.embed(noise(1)), model.embed(noise(1)))
    assert not loaded.encoder.training


def test_saved_again_is_the_same_files(saved: Path, tmp_path: Path) -> None:
    nestvox.load(saved).save(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes(), name


def test_encoder_without_a_head(tmp_path: Path) -> None:
    bare = make(head=None, thresholds=())
    bare.save(tmp_path / "bare")
    loaded = nestvox.load(tmp_path / "bare", truncate_dim=32)
    assert loaded.head is None
    assert loaded.dims == (256,)
    assert loaded.fingerprint == bare.fingerprint != make().fingerprint
    expected = loaded.forward([noise(1)], tap="embedding")[0, :32]
    with pytest.warns(NotNestedWarning, match="cut to 32 of 256 dimensions, but this model is not nested"):
        found = loaded.embed(noise(1))
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-7)


def test_a_model_that_is_not_nested_warns_when_it_is_cut(model: SpeakerModel) -> None:
    bare = make(head=None, thresholds=())
    for cut in (lambda: bare.embed(noise(1), dim=64), lambda: bare.encode([noise(1)], truncate_dim=64)):
        with pytest.warns(NotNestedWarning, match="cut to 64 of 256") as told:
            cut()
        assert [warning.filename for warning in told] == [__file__], "it names the line of the caller"
    answer = bare.verify(noise(1, 3), noise(2, 3), dim=64)
    assert [warning for warning in answer.warnings if "cut to 64 of 256" in warning]
    # All of it, or a model that is nested: nothing to say, and a warning is an error here.
    assert not any("cut to" in warning for warning in bare.verify(noise(1, 3), noise(2, 3)).warnings)
    for nested in (model, make(1)):
        nested.embed(noise(1), dim=16)
        assert not any("cut to" in warning for warning in nested.verify(noise(1, 3), noise(2, 3), dim=16).warnings)
    bare.embed(noise(1))


def test_fingerprint_follows_every_weight_and_nothing_else(model: SpeakerModel) -> None:
    same = make(name="other name", thresholds=(), training_speakers=(), card={}, truncate_dim=16)
    assert same.fingerprint == model.fingerprint
    assert len(model.fingerprint) == 16
    assert int(model.fingerprint, 16) >= 0
    seen = {model.fingerprint, make(1).fingerprint}
    assert len(seen) == 2
    changed = make()
    assert changed.fingerprint == model.fingerprint
    for parameter in changed.encoder.parameters():  # each alone, and after the fingerprint was asked for
        with torch.no_grad():
            old = parameter.view(-1)[0].item()
            parameter.view(-1)[0] = old + 1e-3
            seen.add(changed.fingerprint)
            parameter.view(-1)[0] = old
    assert len(seen) == 2 + len(list(changed.encoder.parameters()))
    assert changed.fingerprint == model.fingerprint
    matrix = orthogonal(0)
    matrix[:, 0] *= -1
    for head in (Rotation(matrix, (16, 64), "pca", {"n_vectors": 3}), Rotation(orthogonal(0), (32,), "pca"), None):
        changed.head = head
        seen.add(changed.fingerprint)
    assert len(seen) == 2 + len(list(changed.encoder.parameters())) + 3


def test_integer_buffers_stay_integers(tmp_path: Path) -> None:
    bare = make(head=None, thresholds=())
    bare.encoder.register_buffer("steps", torch.tensor([2**40 + 1]))
    bare.save(tmp_path / "model")
    assert load_file(tmp_path / "model" / "model.safetensors")["encoder.steps"].tolist() == [2**40 + 1]


@pytest.mark.parametrize("name", ["config.json", "calibration.json", "model.safetensors"])
def test_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError) as caught:
        nestvox.load(copy)
    assert str(copy / name) in str(caught.value)


def test_card_is_not_needed(copy: Path, model: SpeakerModel) -> None:
    (copy / "README.md").unlink()
    assert nestvox.load(copy).fingerprint == model.fingerprint


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("config.json", lambda c: c.update(format="other"), "format 'other'"),
        ("config.json", lambda c: c["head"].update(kind="tower"), "unknown head 'tower'.*rotation"),
        ("config.json", lambda c: c["head"].pop("kind"), "unknown head"),
        ("config.json", lambda c: c["head"].pop("dims"), "lacks 'dims'"),
        ("config.json", lambda c: c["encoder"].update(architecture="lstm9"), "unknown encoder architecture 'lstm9'"),
        ("config.json", lambda c: c.update(encoder=7), "malformed"),
        ("config.json", lambda c: c.pop("training_speakers"), "malformed.*training_speakers"),
        ("config.json", lambda c: c.update(truncate_dim=512), "dim must be between 1 and 256"),
        ("config.json", lambda c: c["head"].update(dims=[16, 512]), "dims must be"),
        ("config.json", lambda c: c["encoder"].update(min_coverage=0.5), "changed after saving"),
        ("calibration.json", lambda c: c.update(fingerprint="0" * 16), "do not belong to 0000000000000000"),
        ("calibration.json", lambda c: c["thresholds"][0].pop("trials_sha256"), "malformed.*trials_sha256"),
        ("calibration.json", lambda c: c.update(thresholds=3), "malformed"),
    ],
)
def test_tampered_json(copy: Path, name: str, change: Callable[[dict[str, Any]], object], what: str) -> None:
    edit(copy / name, change)
    with pytest.raises(ModelError, match=what) as caught:
        nestvox.load(copy)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "calibration.json"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b""])
def test_json_that_is_none(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(ModelError, match=r"not (JSON|a JSON object)"):
        nestvox.load(copy)


def test_thresholds_of_another_model(copy: Path, tmp_path: Path) -> None:
    make(1).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "calibration.json", copy)
    with pytest.raises(ModelError, match="thresholds of model"):
        nestvox.load(copy)


def test_tampered_weights(copy: Path) -> None:
    path = copy / "model.safetensors"
    whole = path.read_bytes()
    arrays = load_file(path)

    def load_after(**changes: np.ndarray | None) -> None:
        replaced = {key: value for key, value in (arrays | changes).items() if value is not None}
        save_file(replaced, path)
        nestvox.load(copy)

    weight = arrays["encoder.linear.bias"].copy()
    weight[3] += 1e-3
    with pytest.raises(ModelError, match="a file was changed after saving"):
        load_after(**{"encoder.linear.bias": weight})
    with pytest.raises(ModelError, match="not orthogonal"):
        load_after(**{"head.matrix": 2 * arrays["head.matrix"]})
    with pytest.raises(ModelError, match="lacks 'matrix'"):
        load_after(**{"head.matrix": None})
    with pytest.raises(NestvoxError, match=r"linear\.bias"):
        load_after(**{"encoder.linear.bias": None})
    with pytest.raises(NestvoxError, match=r"linear\.bias"):
        load_after(**{"encoder.linear.bias": weight[:-1]})
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cut short"):
        nestvox.load(copy)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ModelError, match="cut short"):
        nestvox.load(copy)


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_replacement_is_whole_or_not_at_all(copy: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """Whichever write it is that never happens, the model that was there is there, to the byte."""
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    other = make(1, name="another")
    written: list[str] = []

    def write_text(path: Path, text: str) -> None:
        if len(written) == stop:
            raise KeyboardInterrupt
        written.append(path.name)
        path.write_text(text)

    with monkeypatch.context() as patched:
        for module in ("folder", "calibration"):
            patched.setattr(f"nestvox.model.{module}.write_text", write_text)
        with pytest.raises(KeyboardInterrupt):
            other.save(copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    other.save(copy)
    assert nestvox.load(copy).name == "another"
    assert sorted(path.name for path in copy.iterdir()) == FILES


def test_two_saves_at_once_leave_one_of_the_two(tmp_path: Path) -> None:
    models = [make(seed) for seed in (1, 2)]
    for _ in range(3):
        threads = [threading.Thread(target=model.save, args=(tmp_path / "model",)) for model in models]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert nestvox.load(tmp_path / "model").fingerprint in {model.fingerprint for model in models}


def test_nothing_foreign_is_overwritten(model: SpeakerModel, tmp_path: Path) -> None:
    project, other = tmp_path / "project", tmp_path / "other"
    project.mkdir()
    (project / "README.md").write_text("mine")
    with pytest.raises(ModelError, match=r"README\.md"):
        model.save(project)
    assert [path.name for path in project.iterdir()] == ["README.md"]
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"config\.json is not of a nestvox model"):
        model.save(other)


def test_names_and_folders_that_are_none(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: not there"):
        nestvox.load(tmp_path)
    with pytest.raises(CatalogueError, match="no-such-model"):
        nestvox.load("no-such-model")
    (tmp_path / "b2-vox2-ptn.pt").touch()
    names = r"--model redimnet-b2-vox2-ptn or redimnet2-b2-vox2-ptn --weights .*b2-vox2-ptn\.pt"
    with pytest.raises(ModelError, match=f"is a file, not a model folder.* {names}"):
        nestvox.load(tmp_path / "b2-vox2-ptn.pt")
    with pytest.raises(ModelError, match="has its own weights"):
        nestvox.load(saved, weights=saved / "model.safetensors")
    with pytest.raises(ModelError, match="between 1 and 256, got 300"):
        nestvox.load(saved, truncate_dim=300)


def test_head_of_another_size() -> None:
    with pytest.raises(ModelError, match=r"the head takes 8-dimensional vectors, the embedding of ge2e has 256"):
        make(head=Rotation(np.eye(8), (8,), "pca"))


# --- embedding


def test_prefix_rule_and_shapes(model: SpeakerModel) -> None:
    audio = noise(2)
    raw = model.embed(audio, normalize=False)
    assert raw.dtype == np.float32
    assert raw.shape == (256,)
    for dim in (1, 16, 50, 256):
        expected = raw[:dim].astype(np.float64) / np.linalg.norm(raw[:dim].astype(np.float64))
        np.testing.assert_allclose(model.embed(audio, dim=dim), expected, atol=1e-6)
        np.testing.assert_array_equal(model.embed(audio, dim=dim, normalize=False), raw[:dim])
    many = model.embed([audio, noise(3, 1.9)], dim=16)
    assert many.shape == (2, 16)
    np.testing.assert_array_equal(many[0], model.embed(audio, dim=16))
    assert model.embed([]).shape == (0, 256)
    for dim in (0, 257, -1):
        with pytest.raises(ModelError, match="between 1 and 256"):
            model.embed(audio, dim=dim)


def test_truncate_dim_is_the_default_and_gives_way(model: SpeakerModel) -> None:
    short = replace(model, truncate_dim=16)
    np.testing.assert_array_equal(short.embed(noise(2)), model.embed(noise(2), dim=16))
    np.testing.assert_array_equal(short.embed(noise(2), dim=64), model.embed(noise(2), dim=64))
    assert short.verify(noise(2), noise(3)).dim == 16


def test_the_head_is_a_rotation_of_the_encoders_embedding(model: SpeakerModel) -> None:
    audio = [noise(4), noise(5, 2.5), noise(6, 0.3)]
    embedding = np.asarray(model.forward(audio, tap="embedding"), np.float64)
    nested = np.asarray(model.forward(audio), np.float64)
    np.testing.assert_allclose(nested, embedding @ orthogonal(0), atol=1e-6)
    np.testing.assert_allclose(nested @ nested.T, embedding @ embedding.T, atol=1e-6)
    frames = model.forward(audio, tap="frames")
    assert [frame.shape[1] for frame in frames] == [256] * 3
    pooled = np.asarray(model.forward(audio, tap="pooled"))
    np.testing.assert_allclose(pooled, np.stack([frame.mean(axis=0) for frame in frames]), atol=1e-6)
    with pytest.raises(ModelError, match="at least one waveform"):
        model.forward([])


def test_layers_by_name(model: SpeakerModel) -> None:
    audio = [noise(4), noise(5, 2.5), noise(6, 0.3)]
    found = model.layers(audio)
    assert list(found) == ["mel", "lstm0", "lstm1", "lstm2"]
    frames = model.forward(audio, tap="frames")
    assert [len(layer) for layer in found["lstm2"]] == [len(frame) for frame in frames]
    # What the last LSTM says, behind the layer that makes a window's embedding of it, is the frame.
    weight, bias = (getattr(model.encoder.linear, part).detach().numpy() for part in ("weight", "bias"))
    made = np.maximum(found["lstm2"][1] @ weight.T + bias, 0)
    np.testing.assert_allclose(made / np.linalg.norm(made, axis=1, keepdims=True), frames[1], atol=1e-5)
    np.testing.assert_array_equal(model.layers(audio, ["mel"])["mel"][2], found["mel"][2])
    assert len(found["mel"][0]) == pytest.approx(len(audio[0]) / 160, abs=77)
    assert model.layers(audio, []) == {}
    with pytest.raises(ModelError, match="hands out no layer 'stage0'; there is mel, lstm0"):
        model.layers(audio, ["stage0"])


def test_paths_arrays_and_lists_are_the_same_recording(model: SpeakerModel, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(7), RATE, subtype="FLOAT")
    expected = model.embed(noise(7))
    np.testing.assert_allclose(model.embed(path), expected, atol=1e-6)
    np.testing.assert_allclose(model.embed(str(path)), expected, atol=1e-6)
    np.testing.assert_allclose(model.embed([path, noise(7).astype(np.float64)]), [expected, expected], atol=1e-6)


@pytest.mark.parametrize(
    ("audio", "what"),
    [
        (np.full(RATE, np.nan, np.float32), "not finite"),
        (np.r_[noise(1), np.inf], "not finite"),
        (np.zeros((2, 2, RATE), np.float32), r"\(2, 2, 16000\)"),
        (np.full(RATE, 1000, np.float32), "32768"),
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros(RATE // 20, np.float32), "0.050 s of audio, at least 0.100 s needed"),
        ([[0.1, 0.2]], "list"),
    ],
)
def test_arrays_that_are_no_audio(model: SpeakerModel, audio: Any, what: str) -> None:
    with pytest.raises(AudioError, match=what):
        model.embed(audio)
    if isinstance(audio, np.ndarray):
        with pytest.raises(AudioError, match=what):
            model.verify(noise(1), audio)
        with pytest.raises(AudioError, match=what):
            model.forward([noise(1), audio])


def test_the_rate_of_arrays_is_honoured_by_every_way_in(model: SpeakerModel, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([noise(7), noise(7)], axis=1) * 0.1, 44_100)
    samples, rate = soundfile.read(tmp_path / "a.flac", dtype="int16")
    expected = model.embed(tmp_path / "a.flac")
    for given in (
        model.embed(samples, sample_rate=rate),
        model.embed((samples, rate)),
        model.embed([(rate, samples.T), (samples[:, 0], rate)])[0],
        model.forward([samples], sample_rate=rate)[0],
        model.encode([torch.tensor(samples)], sample_rate=rate)[0],
    ):
        np.testing.assert_allclose(given / np.linalg.norm(given), expected, atol=1e-5)
    assert model.verify((samples, rate), tmp_path / "a.flac").score > 0.999_99
    assert model.verify(samples, samples[:, 0], sample_rate=rate).score > 0.999_99


def test_a_rate_that_is_not_given_and_cannot_be_the_models_is_told(model: SpeakerModel) -> None:
    low = np.sin(np.arange(2 * RATE) * 0.2).astype(np.float32) / 2  # 509 Hz, and nothing else
    with pytest.warns(AudioWarning, match="nothing above 4 kHz"):
        model.embed(low)
    with pytest.warns(AudioWarning, match="sample_rate="):
        model.forward([low])
    model.embed(low, sample_rate=RATE)
    answer = model.verify(low, (low, RATE))
    assert next(warning for warning in answer.warnings if "4 kHz" in warning).startswith("first recording")
    assert sum("4 kHz" in warning for warning in answer.warnings) == 1


def test_encode_is_embed_in_batches(model: SpeakerModel, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [noise(seed, 0.3 + 0.2 * (seed % 4)) for seed in range(7)]
    expected = model.embed(clips, dim=64)
    np.testing.assert_allclose(model.encode(clips, batch_size=3, truncate_dim=64), expected, atol=1e-5)
    assert capsys.readouterr().err == ""
    raw = model.encode(clips, normalize_embeddings=False, show_progress_bar=True)
    assert "embedding" in capsys.readouterr().err
    np.testing.assert_allclose(raw, model.embed(clips, normalize=False), atol=1e-5)
    assert model.encode(clips[0]).shape == (256,)
    assert model.encode([]).shape == (0, 256)
    with pytest.raises(ModelError, match="batch_size"):
        model.encode(clips, batch_size=0)


def test_similarity_is_the_cosine_of_all_pairs(model: SpeakerModel) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 16))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(model.similarity(rows[:2], 3 * rows[2:]), unit[:2] @ unit[2:].T, atol=1e-12)
    assert model.similarity(rows[0], rows).shape == (1, 5)
    # Whole numbers of one byte, as stores quantise, do not wrap around.
    np.testing.assert_allclose(model.similarity(np.array([[100, 100]], np.int8), [[100, 100]]), 1)
    tiny = model.similarity(rows * 1e-200, rows * 1e200)
    np.testing.assert_allclose(tiny, unit @ unit.T, atol=1e-12)
    masked = np.ma.masked_array(rows, rows > 1)
    for first, second in (
        (rows, rows[:, :8]),
        (np.zeros((2, 16)), rows),
        (rows[None], rows),
        (rows * np.nan, rows),
        (rows * 1j, rows),
        (rows, masked),
        (rows.astype(str), rows),
        (torch.from_numpy(rows).requires_grad_(), rows),
    ):
        with pytest.raises(ModelError, match="similarity"):
            model.similarity(first, second)


def test_a_network_that_gives_zeros_has_no_score(model: SpeakerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    monkeypatch.setattr(SpeakerModel, "embed", lambda *_, **__: np.zeros((2, 256), np.float32))
    with pytest.raises(ModelError, match=r"nothing but zeros for the first recording, which have no direction"):
        model.verify(noise, noise, sample_rate=16_000)


def test_its_repr_is_one_line(model: SpeakerModel) -> None:
    assert repr(model) == (f"SpeakerModel('random', ge2e + rotation, dims (16, 64, 256), {model.fingerprint})")


def test_one_recording_runs_in_one_thread(model: SpeakerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    network = model._network()

    def counted(*given: torch.Tensor, **options: Any) -> Any:
        threads.append(torch.get_num_threads())
        return network(*given, **options)

    monkeypatch.setattr(SpeakerModel, "_network", lambda self: counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model.embed(noise(1))
        model.embed([noise(1), noise(2), noise(3)])
        model.verify(noise(1), noise(2))
        inspect_model(model, [Clip("a", noise(1), synthetic=True)], lengths_s=[1.0], runs=1)
        bench_model(model, gallery=8, queries=1, seconds=0.01)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len(threads) > 10
    assert set(threads) == {1}


def test_files_that_are_no_audio(model: SpeakerModel, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", noise(1, 0.05), RATE)
    (tmp_path / "text.wav").write_text("no audio")
    for name in ("short.wav", "text.wav", "missing.wav"):
        with pytest.raises(AudioError, match=name):
            model.embed([tmp_path / name])


# --- verifying


def test_answer_is_complete(model: SpeakerModel) -> None:
    a, b = noise(8, 3.5), noise(9, 3.5)
    answer = model.verify(a, b, dim=64, operating_point="eer")
    x, y = (model.forward([audio])[0, :64].astype(np.float64) for audio in (a, b))
    assert answer.score == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)
    assert answer.same == (answer.score >= 0.25)
    assert (answer.threshold, answer.reason) == (model.thresholds[0], "")
    assert (answer.dim, answer.model, answer.fingerprint) == (64, "random", model.fingerprint)
    assert (answer.score_name, answer.direction) == ("cosine", "higher is more alike")
    assert answer.warnings == ()
    assert model.verify(a, a).score == pytest.approx(1.0, abs=1e-6)
    assert model.verify(a, a).score <= 1.0


@pytest.mark.parametrize(("offset", "same"), [(1e-6, False), (0.0, True), (-1e-6, True)])
def test_accepts_at_or_above_the_threshold(model: SpeakerModel, offset: float, same: bool) -> None:
    score = model.verify(noise(8), noise(9), dim=64).score
    strict = replace(model, thresholds=(replace(threshold(64, score + offset), fingerprint=model.fingerprint),))
    assert strict.verify(noise(8), noise(9), dim=64).same is same


def test_thresholds_belong_to_a_dimension_and_an_operating_point(model: SpeakerModel) -> None:
    a, b = noise(8), noise(9)
    for point in ("min_dcf", "min_dcf p_target=0.05 c_miss=1 c_fa=1"):
        assert model.verify(a, b, dim=64, operating_point=point).threshold == model.thresholds[1]
    assert model.verify(a, b, dim=64).threshold == model.thresholds[1], "without a word the strictest"
    for options in ({"dim": 16}, {"dim": 256}, {"dim": 64, "operating_point": "far"}):
        answer = model.verify(a, b, **options)
        assert (answer.same, answer.threshold) == (None, None)
        assert "the model has some for 64 at eer, min_dcf" in answer.reason


def test_warnings_name_the_recording(model: SpeakerModel) -> None:
    clipped = np.clip(40 * noise(10, 4), -1, 1)
    answer = model.verify(noise(11, 0.5), clipped)
    assert any(w.startswith("first recording: ") and "short" in w for w in answer.warnings)
    assert any(w.startswith("second recording: ") and "clipped" in w for w in answer.warnings)
    quiet = model.verify(noise(12, 4), np.full(4 * RATE, 0.25, np.float32))
    assert any(w.startswith("second recording: ") and "silent" in w for w in quiet.warnings)
    with pytest.raises(AudioError, match="all 64000 samples are zero"):  # as the file of such samples
        model.verify(noise(12, 4), np.zeros(4 * RATE, np.float32))


def test_card_describes_the_model(model: SpeakerModel, saved: Path) -> None:
    text = (saved / "README.md").read_text()
    assert text == model.model_card()
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["library_name"], front["license"], front["language"]) == ("nestvox", "apache-2.0", ["en"])
    assert model.fingerprint in text
    assert text.count("cosine 0.2500, set at eer on dev.txt (100 target and 200 non-target") == 1
