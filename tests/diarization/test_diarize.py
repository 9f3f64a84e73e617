"""Recordings to RTTM: a conversation that is put together here, what is odd, and runs that are stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")

from nestvox.audio.segment import Segment  # noqa: E402
from nestvox.cli.main import main  # noqa: E402
from nestvox.diarization import Turn, diarize, diarize_files, read_turns  # noqa: E402
from nestvox.diarization.chunks import seconds_of  # noqa: E402
from nestvox.diarization.one_recording import DiarizationSettings  # noqa: E402
from nestvox.diarization.segmentation import by_network  # noqa: E402
from nestvox.diarization.vectors import speaker_vectors  # noqa: E402
from nestvox.encoders.pooling import TAP  # noqa: E402
from nestvox.encoders.whole_utterances import WholeUtteranceEncoder  # noqa: E402
from nestvox.errors import AudioError, NestvoxError  # noqa: E402
from nestvox.model import SpeakerModel  # noqa: E402

RATE = 16_000


class Bands(WholeUtteranceEncoder):
    """Levels of eight bands, fifty times a second, and their mean: sounds of different colour are far apart."""

    architecture, sample_rate, frame_rate_hz, min_samples = "bands", RATE, 50.0, 320
    frames_dim = pooled_dim = embedding_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.pool = TAP(8)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def config(self) -> dict[str, object]:
        return {}

    def run(self, audio: torch.Tensor, layers: object) -> dict[str, torch.Tensor]:
        power = torch.fft.rfft(audio[:, : audio.shape[1] // 320 * 320].reshape(len(audio), -1, 320)).abs()
        return {"frames": power[..., :160].reshape(*power.shape[:2], 8, 20).mean(dim=3).transpose(1, 2) * self.scale}

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        return pooled


class Listener:
    """In place of the segmentation network: A where the first half second of a hundredth is loud and positive."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        frames = batch[:, : 270 * 589].reshape(len(batch), 589, 270)
        loud = frames.abs().amax(dim=2) > 0.01
        logs = torch.full((len(batch), 589, 7), -12.0)
        logs[..., 0] = torch.where(loud, -12.0, -1e-4)
        logs[..., 1] = torch.where(loud, -1e-4, -12.0)
        return logs


@pytest.fixture(scope="module")
def model() -> SpeakerModel:
    return SpeakerModel(Bands(), name="bands", backend="eager")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two sounds, 2-12 s and 15-24 s of 26 s."""
    t = np.arange(26 * RATE) / RATE
    first, second = (t >= 2) & (t < 12), (t >= 15) & (t < 24)
    tone = 0.2 * np.sin(2 * np.pi * 3000 * t) * np.sign(np.sin(2 * np.pi * 50 * t))
    noise = 0.1 * np.random.default_rng(0).normal(size=len(t))
    soundfile.write(tmp_path / "two.wav", (noise * first + tone * second).astype(np.float32), RATE)
    return tmp_path / "two.wav"


def test_windows_and_chunks_are_pooled_from_one_forward(model: SpeakerModel, recording: Path) -> None:
    found = by_network(Listener(), Segment(recording), 26 * RATE, 1.0)  # type: ignore[arg-type]
    count = np.rint(found.expected).astype(int)
    assert [round(seconds_of(edge)) for edge in np.flatnonzero(np.diff(count))] == [2, 12, 15, 24]
    calls: list[int] = []

    class Counting(SpeakerModel):
        def forward(self, waveforms, **kwargs):  # type: ignore[no-untyped-def]
            calls.append(len(waveforms[0]))
            return super().forward(waveforms, **kwargs)

    counting = Counting(model.encoder, name="bands", backend="eager")
    heard = speaker_vectors(counting, Segment(recording), found, count, window_s=2.0, hop_s=0.5)
    assert calls == [10 * RATE, 10 * RATE, 6 * RATE], "every sample is heard once"
    assert heard.local is not None
    assert heard.local.shape == (17, 3, 8)
    assert np.isnan(heard.local[:, 1:]).all()
    # By hand: frames of the second stretch, and of them those of the window at 16 s.
    audio = soundfile.read(recording, dtype="float32")[0]
    frames = model.forward([audio[10 * RATE : 20 * RATE]], tap="frames")[0]
    centres = 10 + (np.arange(len(frames)) + 0.5) / 50
    chosen = frames[(centres >= 16) & (centres < 18)]
    with torch.inference_mode():
        by_hand = model.encoder.embed(model.encoder.pool(torch.from_numpy(chosen.T.copy())[None]))[0].numpy()
    row = heard.windows[heard.begins_s.tolist().index(16.0)]
    np.testing.assert_allclose(row, by_hand / np.linalg.norm(by_hand), atol=1e-5)


def test_two_sounds_are_two_speakers(
    model: SpeakerModel, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nestvox.diarization.pyannet.load_segmentation", lambda **_: Listener())
    out = tmp_path / "out"
    found = diarize(model, [recording], out, threshold=0.3)
    turns = read_turns(out / "two.rttm")
    assert [turn.speaker for turn in turns] == ["SPEAKER_00", "SPEAKER_01"]
    np.testing.assert_allclose([turns[0].stretch, turns[1].stretch], [(2, 12), (15, 24)], atol=0.1)
    assert found.files[0].speakers == 2
    assert found.files[0].speech_s == pytest.approx(19, abs=0.2)
    assert diarize(model, [recording], tmp_path / "one", threshold=0.3, speakers=1).files[0].speakers == 1
    with pytest.raises(NestvoxError, match=r"other settings \(fewest, most\)"):
        diarize(model, [recording], out, threshold=0.3, speakers=2)
    with pytest.raises(NestvoxError, match="no threshold is known for bands"):
        diarize(model, [recording], out)
    again = diarize(model, [recording], out, threshold=0.3)
    assert again.files[0].taken_s is None
    assert again.real_time_factor is None


def test_voice_activity_in_place_of_the_network(
    model: SpeakerModel, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nestvox.audio.vad.importlib.util.find_spec", lambda _: None)  # energy, which hears any sound
    diarize(model, [recording], tmp_path / "out", threshold=0.3, segmentation="vad")
    turns = read_turns(tmp_path / "out" / "two.rttm")
    assert [turn.speaker for turn in turns] == ["SPEAKER_00", "SPEAKER_01"]
    np.testing.assert_allclose([turns[0].stretch, turns[1].stretch], [(2, 12), (15, 24)], atol=0.1)


def test_odd_recordings(model: SpeakerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nestvox.diarization.pyannet.load_segmentation", lambda **_: Listener())
    noise = 0.1 * np.random.default_rng(1).normal(size=RATE).astype(np.float32)
    soundfile.write(tmp_path / "silence.wav", np.zeros(12 * RATE, np.float32), RATE)
    soundfile.write(tmp_path / "short.wav", noise[: 3 * RATE // 10], RATE)
    soundfile.write(tmp_path / "shorter.wav", noise[:100], RATE)
    left, right = (np.repeat(np.r_[noise[:8000] * on, noise[:8000] * (1 - on)], 4) for on in (1, 0))
    soundfile.write(tmp_path / "a side each.wav", np.stack([left, right], axis=1), 8000)
    files = sorted(tmp_path.glob("*.wav"))
    found = {file.file: file for file in diarize(model, files, tmp_path / "out", threshold=0.3).files}
    assert found["silence"].speakers == found["shorter"].speakers == 0
    assert (tmp_path / "out" / "silence.rttm").read_text() == ""
    assert found["short"].speakers == 1
    assert read_turns(tmp_path / "out" / "short.rttm")[-1].end_s <= 0.301
    assert found["a_side_each"].duration_s == 8.0
    (one,) = diarize(model, [files[0]], tmp_path / "left", threshold=0.3, channel=0).files
    assert one.speech_s == pytest.approx(4.0, abs=0.1), "the other side is silent there"


def test_a_stopped_run_goes_on(model: SpeakerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{name}.wav" for name in "abc"]
    for file in files:
        soundfile.write(file, np.full(RATE, 0.1, np.float32), RATE)
    heard: list[str] = []

    def found(
        model: object, network: object, segment: Segment, file: str, *_: object, **__: object
    ) -> tuple[Turn, ...]:
        heard.append(file)
        if len(heard) == 2:
            raise KeyboardInterrupt
        return (Turn(file, 0.0, 1.0, "SPEAKER_00"),)

    monkeypatch.setattr(diarize_files, "diarize_segment", found)
    with pytest.raises(KeyboardInterrupt):
        diarize(model, files, tmp_path / "out", threshold=0.3, segmentation="vad")
    assert [path.name for path in (tmp_path / "out").glob("*.rttm")] == ["a.rttm"]
    before = (tmp_path / "out" / "a.rttm").stat().st_mtime_ns
    done: list[int] = []
    diarize(model, files, tmp_path / "out", threshold=0.3, segmentation="vad", progress=lambda n, _: done.append(n))
    assert heard == ["a", "b", "b", "c"]
    assert done == [1, 2, 3]
    assert (tmp_path / "out" / "a.rttm").stat().st_mtime_ns == before
    assert sorted(path.name for path in (tmp_path / "out").glob("*.rttm")) == ["a.rttm", "b.rttm", "c.rttm"]


def test_bad_files_and_bad_calls(model: SpeakerModel, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    soundfile.write(tmp_path / "good.wav", np.full(RATE, 0.1, np.float32), RATE)
    files = [tmp_path / "bad.wav", tmp_path / "good.wav"]
    call = {"threshold": 0.3, "segmentation": "vad"}
    with pytest.raises(AudioError, match=r"bad\.wav"):
        diarize(model, files, tmp_path / "out", **call)  # type: ignore[arg-type]
    bad, good = diarize(model, files, tmp_path / "out", skip_bad=True, **call).files  # type: ignore[arg-type]
    assert bad.problem
    assert not good.problem
    assert not (tmp_path / "out" / "bad.rttm").exists()
    with pytest.raises(NestvoxError, match=r"would be one good\.rttm"):
        diarize(model, [files[1], tmp_path / "x" / "good.wav"], tmp_path / "other", **call)  # type: ignore[arg-type]
    with pytest.raises(NestvoxError, match="not both"):
        diarize(model, files, tmp_path / "other", speakers=2, max_speakers=3, **call)  # type: ignore[arg-type]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "x.rttm").write_text("")
    with pytest.raises(NestvoxError, match="no run of this command made"):
        diarize(model, files, tmp_path / "theirs", **call)  # type: ignore[arg-type]
    for wrong in ({"step_s": 0.1}, {"step_s": 11}, {"threshold": 2.0}):
        with pytest.raises(NestvoxError, match=r"chunks begin|a threshold is"):
            DiarizationSettings(**{"threshold": 0.5, **wrong})  # type: ignore[arg-type]


def test_command_on_real_speech(
    speech_dir: Path, tmp_path: Path, pretrained: Callable[[str], object], capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(pretrained("campplus"), Exception):
        pytest.skip("the weights of campplus cannot be had")
    excerpt = speech_dir / "diarization" / "ami" / "dev00.flac"
    audio = soundfile.read(excerpt, frames=10 * RATE)[0]
    soundfile.write(tmp_path / "dev00.wav", audio, RATE)
    call = ["diarize", str(tmp_path / "dev00.wav"), "--out", str(tmp_path / "out"), "--model", "campplus"]
    with pytest.raises(SystemExit) as end:
        main([*call, "--step-s", "2", "--speakers", "1", "--json", str(tmp_path / "out.json")])
    shown = capsys.readouterr()
    if "cannot be had" in shown.err or "could not fetch" in shown.err:
        pytest.skip("the weights of the segmentation cannot be had")
    assert not end.value.code, shown.err
    (turn,) = read_turns(tmp_path / "out" / "dev00.rttm")
    assert turn.start_s == pytest.approx(1.44, abs=0.7)
    assert json.loads((tmp_path / "out.json").read_text())["files"][0]["speakers"] == 1
