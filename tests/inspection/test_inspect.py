"""Models with one known flaw each: inspection finds it and no other, and measures what can be counted by hand."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

from nestvox.cli.main import main
from nestvox.encoders import registry
from nestvox.encoders.contract import Encoder, Taps
from nestvox.heads.rotation import Rotation, truncation
from nestvox.inspection.inspect import Inspection, inspect_model
from nestvox.inspection.sample_clips import Clip, read_clips, tones
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.threshold import ScoreSpace, Threshold

RATE = 16_000
FRAME = 160
SIZE = 8


class Stub(Encoder):
    """Mean of |spectrum| over real frames, through a matrix; `flaw` says what is wrong with it."""

    architecture = "stub"
    sample_rate = RATE
    frame_rate_hz = RATE / FRAME
    frames_dim = pooled_dim = embedding_dim = SIZE
    min_samples = 1_600

    def __init__(self, *, flaw: str = "") -> None:
        super().__init__()
        self.flaw = flaw
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(FRAME // 2 + 1, SIZE)
        self.register_buffer("steps", torch.tensor(3))

    def config(self) -> dict[str, Any]:
        return {"flaw": self.flaw}

    def forward(self, audio: torch.Tensor, lengths: torch.Tensor | None = None, *, layers: Any = ()) -> Taps:
        lengths = self.check_input(audio, lengths)
        if self.flaw == "breaks":
            raise RuntimeError("the network is broken")
        if self.flaw == "long clips" and audio.shape[1] > 9 * RATE:
            raise RuntimeError("no clip above 9 s")
        count = lengths // FRAME
        if self.flaw == "padding":
            count = torch.full_like(count, int(count.max()))
        whole = audio[:, : int(count.max()) * FRAME].unfold(1, FRAME, FRAME)
        frames = self.linear(torch.fft.rfft(whole).abs())
        mask = torch.arange(frames.shape[1])[None] < count[:, None]
        pooled = (frames * mask[:, :, None]).sum(1) / count[:, None]
        if self.flaw == "batch":
            pooled = pooled + 0.01 * len(audio)
        if self.flaw == "random":
            pooled = torch.nn.functional.dropout(pooled, 0.5)
        if self.flaw == "nan":
            pooled = pooled * torch.nan
        if self.flaw == "zero":
            pooled = pooled * 0
        return Taps(frames.transpose(1, 2) * mask[:, None], mask, pooled, pooled)


def orthogonal() -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(0).standard_normal((SIZE, SIZE)))[0]


def make(flaw: str = "", kind: type[SpeakerModel] = SpeakerModel, **parts: Any) -> SpeakerModel:
    return kind(Stub(flaw=flaw), Rotation(orthogonal(), (2, 4), "pca"), "stub", backend="eager", **parts)


TONES = [Clip(clip.name, clip.samples[: 2 * RATE], synthetic=True) for clip in tones(RATE)[:3]]


def look(model: SpeakerModel, clips: list[Clip] | None = None, **options: Any) -> Inspection:
    return inspect_model(model, clips or TONES, **{"runs": 1, "lengths_s": (0.2,), **options})


def failed(found: Inspection) -> set[str]:
    return {check.name for check in found.checks if check.outcome == "fail"}


def outcome(found: Inspection, name: str) -> tuple[str, str]:
    (check,) = [check for check in found.checks if check.name == name]
    return check.outcome, check.detail


def threshold(dim: int | None = 2, value: float = 0.5, **more: Any) -> Threshold:
    return Threshold(dim, value, "eer", 0.05, 0.05, 10, 20, "f" * 64, "dev.txt", **more)


# --- flaws


@pytest.mark.parametrize(
    ("flaw", "expected"),
    [
        ("", set()),
        ("padding", {"padding"}),
        ("batch", {"batch", "padding"}),
        ("nan", {"finite", "unit length", "nested", "batch", "padding", "itself", "opus", "mp3"}),
        ("zero", {"unit length", "nested", "batch", "padding", "itself", "opus", "mp3"}),
        ("breaks", {"runs"}),
    ],
)
def test_each_flaw_is_found_and_no_other(flaw: str, expected: set[str]) -> None:
    found = look(make(flaw))
    assert failed(found) == expected
    assert found.passed == (not expected)
    json.dumps(found.to_dict(), allow_nan=False)


def test_chance_in_the_network_is_found() -> None:
    # Whatever else goes wrong then is chance too.
    assert {"deterministic", "itself", "batch", "padding"} <= failed(look(make("random")))


class Deaf(SpeakerModel):
    """Hears only what no codec at 16 kbit/s keeps: the band above 7.5 kHz."""

    def forward(self, waveforms: Any, **options: Any) -> Any:
        rows = [np.fft.rfft(waveform[:RATE])[-500:] for waveform in waveforms]
        return np.stack([np.concatenate([row.real, row.imag])[:SIZE] for row in rows]).astype(np.float32)


def test_codecs_are_judged_on_recordings_only() -> None:
    model = make(kind=Deaf)
    assert {outcome(look(model), codec)[0] for codec in ("opus", "mp3")} == {"note"}
    spoken = look(model, [replace(clip, synthetic=False) for clip in TONES])
    assert {outcome(spoken, codec)[0] for codec in ("opus", "mp3")} == {"fail"}
    heard = look(make(), [replace(clip, synthetic=False) for clip in TONES])
    assert {outcome(heard, codec)[0] for codec in ("opus", "mp3")} == {"pass"}
    assert (spoken.labels, look(model).labels) == ((), ("synthetic",))


def test_padding_difference_is_measured() -> None:
    (good,) = [check for check in look(make()).checks if check.name == "padding"]
    (bad,) = [check for check in look(make("padding")).checks if check.name == "padding"]
    assert good.value is not None
    assert good.limit is not None
    assert bad.value is not None
    assert good.value <= 1e-6 < good.limit == bad.limit < bad.value


def test_one_clip_alone_is_enough() -> None:
    assert failed(look(make("batch"), TONES[:1])) == {"batch", "padding"}
    assert failed(look(make("padding"), TONES[:1])) == {"padding"}
    assert not failed(look(make(), TONES[:1]))


class Unnormalised(SpeakerModel):
    """Truncates after it normalised, which is what many do."""

    def embed(self, audio: Any, *, dim: int | None = None, normalize: bool = True, **options: Any) -> Any:
        return super().embed(audio, normalize=normalize, **options)[..., :dim]


class Lenient(SpeakerModel):
    """Takes whatever it is given."""

    def embed(self, audio: Any, *, dim: int | None = None, normalize: bool = True, **options: Any) -> Any:
        if isinstance(audio, Path) or len(audio) < RATE or not np.isfinite(audio).all():
            return np.full(dim or SIZE, 0.5, np.float32)
        return super().embed(audio, dim=dim, normalize=normalize, **options)


class Foreign(SpeakerModel):
    """Refuses bad audio by errors that no caller expects."""

    def embed(self, audio: Any, *, dim: int | None = None, normalize: bool = True, **options: Any) -> Any:
        if isinstance(audio, Path) or len(audio) < RATE:
            raise ValueError("shape mismatch")
        return super().embed(audio, dim=dim, normalize=normalize, **options)


def test_truncated_and_not_normalised_again() -> None:
    assert failed(look(make(kind=Unnormalised))) >= {"unit length", "nested", "itself"}


def test_bad_audio_that_is_taken() -> None:
    found = look(make(kind=Lenient))
    assert failed(found) == {"silent file", "short file", "short array", "NaN in the audio"}
    assert outcome(found, "silent file")[1] == "embedded as if nothing were wrong"


def test_bad_audio_refused_by_foreign_errors() -> None:
    found = look(make(kind=Foreign))
    assert failed(found) == {"silent file", "short file", "short array"}
    assert "ValueError where SilentAudioError is promised: shape mismatch" in outcome(found, "silent file")[1]


def test_a_length_that_breaks_the_network() -> None:
    found = look(make("long clips"), lengths_s=(1.0, 10.0))
    assert failed(found) == {"latency"}
    assert [row.clip_s for row in found.latency] == [1.0]


# --- thresholds and calibration


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (threshold(fingerprint="0" * 16), "is of the model 0000000000000000"),
        (threshold(dim=9), "the model has 8"),
        (threshold(space=ScoreSpace("llr", "calibration 123")), "calibration that the model does not hold"),
    ],
)
def test_thresholds_that_are_not_of_this_model(wrong: Threshold, what: str) -> None:
    found = look(make(thresholds=(threshold(), wrong)))
    assert failed(found) == {"thresholds"}
    assert what in outcome(found, "thresholds")[1]


def test_a_dimension_without_a_threshold() -> None:
    model = make(thresholds=(threshold(2), threshold(8)))
    assert outcome(look(model), "thresholds") == (
        "note",
        "none for 4 dimensions: verify gives a score and no verdict there",
    )
    assert failed(look(model, require_thresholds=True)) == {"thresholds"}
    own = make().fingerprint
    model.thresholds = tuple(threshold(dim, fingerprint=own) for dim in (2, 4, 8))
    assert outcome(look(model, require_thresholds=True), "thresholds") == ("pass", "3, every dimension has one")


# --- what is measured


class Known(Stub):
    """(3, 4, 12, 0, ...) times the seconds of the clip."""

    def forward(self, audio: torch.Tensor, lengths: torch.Tensor | None = None, *, layers: Any = ()) -> Taps:
        seconds = self.check_input(audio, lengths)[:, None] / RATE
        embedding = seconds * torch.tensor([3.0, 4.0, 12.0, *[0.0] * (SIZE - 3)])
        return Taps(torch.zeros(len(audio), 0, 0), torch.zeros(len(audio), 0, dtype=torch.bool), embedding, embedding)


def test_norms_and_energy_by_hand() -> None:
    model = SpeakerModel(Known(), Rotation(np.eye(SIZE), (2, 4), "pca"), "known", backend="eager")
    clips = [Clip(str(n), np.full(n * RATE, 0.1, np.float32)) for n in (1, 3)]
    rows = look(model, clips).dims
    assert [(row.dim, row.shape) for row in rows] == [(2, (2, 2)), (4, (2, 4)), (8, (2, 8))]
    assert [row.norm_mean for row in rows] == pytest.approx([10.0, 26.0, 26.0])  # 5 and 13 times 1 s and 3 s
    assert [row.norm_sd for row in rows] == pytest.approx([10 / 2**0.5, 26 / 2**0.5, 26 / 2**0.5], rel=1e-6)
    assert [row.energy_share for row in rows] == pytest.approx([25 / 169, 1.0, 1.0])


def test_norms_and_cosines_of_each_clip_by_hand() -> None:
    model = make()
    found = look(model)
    rotated = []
    for clip in TONES:
        frames = clip.samples[: len(clip.samples) // FRAME * FRAME].reshape(-1, FRAME)
        spectrum = np.abs(np.fft.rfft(frames.astype(np.float64)))
        weight, bias = (part.detach().numpy().astype(np.float64) for part in model.encoder.linear.parameters())
        rotated.append((spectrum @ weight.T + bias).mean(axis=0) @ orthogonal())
    assert [row.clip for row in found.clip_norms] == [clip.name for clip in TONES]
    for row, clip, vector in zip(found.clip_norms, TONES, rotated, strict=True):
        assert row.duration_s == len(clip.samples) / RATE
        for dim in (2, 4, SIZE):
            assert row.norms[dim] == pytest.approx(np.linalg.norm(vector[:dim]), rel=1e-4)
    assert [matrix.dim for matrix in found.similarities] == [2, 4, SIZE]
    for matrix in found.similarities:
        for i, j in np.ndindex(3, 3):
            a, b = rotated[i][: matrix.dim], rotated[j][: matrix.dim]
            assert matrix.cosines[i][j] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-4)


def test_what_has_no_direction_has_no_cosine() -> None:
    for flaw in ("zero", "nan"):
        found = look(make(flaw))
        assert found.similarities[-1].cosines == ((None,) * 3,) * 3
        json.dumps(found.to_dict(), allow_nan=False)


def test_memory() -> None:
    found = look(make())
    assert found.memory is not None
    # A layer in single precision, a counter of 64 bits, and a matrix in double precision.
    assert found.memory.weights_bytes == 4 * (SIZE * 81 + SIZE) + 8 + 8 * SIZE * SIZE
    if sys.platform == "linux":
        peak = int(
            next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1]
        )
        assert found.memory.peak_process_bytes == pytest.approx(1024 * peak, rel=0.1)
    assert found.memory.peak_gpu_bytes is None


def test_an_identity_is_not_learnt() -> None:
    (_, head) = look(SpeakerModel(Stub(), truncation(SIZE, (2, 4)), "stub", backend="eager")).parts
    assert (head.parameters, head.values) == (0, SIZE * SIZE)


@pytest.mark.parametrize("width", ["80", "120"])
def test_tables_are_whole_at_every_width(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.chdir(tmp_path)
    names = []
    for number in range(12):
        names.append(tmp_path / f"a-recording-with-a-long-name[bold]-{number}.wav")
        soundfile.write(names[-1], tones(RATE)[number % 4].samples[: 2 * RATE], RATE)
    with pytest.raises(SystemExit):
        main(["inspect", str(saved), *map(str, names), "--runs", "1", "--json", str(tmp_path / "i.json")])
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "i.json").read_text())
    flat = "".join(shown.split())
    for row in found["clip_norms"]:
        assert f"[bold]-{row['clip'].rpartition('-')[2]}" in flat  # the rest may be on the line above
        assert all(f"{norm:.4g}" in flat for norm in row["norms"].values())
    for cosine in found["similarities"][-1]["cosines"][3]:
        assert f"{cosine:.3f}" in shown


def test_sizes_by_hand(tmp_path: Path) -> None:
    model = make()
    model.save(tmp_path / "m")
    found = look(model, folder=tmp_path / "m")
    encoder, head = found.parts
    weights = SIZE * 81 + SIZE
    assert (encoder.part, encoder.kind, encoder.parameters) == ("encoder", "stub", weights)
    assert (encoder.values, encoder.bytes) == (weights + 1, 4 * weights + 8)  # and a counter of 64 bits
    assert (head.part, head.kind, head.parameters) == ("head", "rotation", SIZE * SIZE)
    assert head.bytes == model.head.tensors()["matrix"].nbytes
    assert found.files == {path.name: len(path.read_bytes()) for path in (tmp_path / "m").iterdir()}
    # Safetensors adds names and shapes in front, and nothing else.
    assert 0 < found.files["model.safetensors"] - encoder.bytes - head.bytes < 2000


def test_latency_leaves_out_what_is_too_short() -> None:
    rows = look(make(), lengths_s=(0.05, 0.5, 1.0), runs=3).latency
    assert [(row.clip_s, row.runs) for row in rows] == [(0.5, 3), (1.0, 3)]
    assert all(row.real_time_factor == pytest.approx(row.median_ms / 1000 / row.clip_s) for row in rows)
    assert all(row.median_ms > 0 for row in rows)


def test_progress_reaches_its_end() -> None:
    told: list[tuple[int, int | None]] = []
    look(make(), progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 7) for done in range(8)]


# --- clips


def test_tones_are_the_same_always_and_long_enough() -> None:
    first, second = tones(RATE), tones(RATE)
    assert [a.samples.tobytes() for a in first] == [b.samples.tobytes() for b in second]
    assert all(clip.synthetic and clip.samples.dtype == np.float32 and abs(clip.samples).max() <= 1 for clip in first)
    # The strongest line of a tone is its pitch.
    for clip, pitch_hz in zip(first, (105, 140, 190, 235), strict=True):
        spectrum = np.abs(np.fft.rfft(clip.samples))
        assert np.argmax(spectrum) * RATE / len(clip.samples) == pytest.approx(pitch_hz, abs=0.05 * pitch_hz)
    assert min(len(clip.samples) for clip in tones(RATE, min_duration_s=6.0)) > 6 * RATE


def test_long_recordings_are_read_in_part(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", 0.1 * np.random.default_rng(0).standard_normal(5 * RATE), RATE)
    (clip,) = read_clips([tmp_path / "long.wav"], sample_rate=8_000, max_duration_s=2.0)
    assert (len(clip.samples), clip.synthetic) == (2 * 8_000, False)


# --- as a user types it


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(registry._CLASSES, "stub", f"{__name__}:Stub")
    model = make()
    model.thresholds = tuple(threshold(dim, fingerprint=model.fingerprint) for dim in model.dims)
    model.save(tmp_path / "model")
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(2 * RATE), RATE)
    return tmp_path / "model"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        main(["inspect", *map(str, arguments)])
        code: object = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return int(str(code)), printed.out, printed.err


def test_command_passes_a_good_model(saved: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, text, error = run(capsys, saved, "--runs", 1, "--json", tmp_path / "i.json")
    assert (code, error) == (0, "")
    assert "SYNTHETIC: tried on 4 generated tones" in text
    assert text.endswith("PASS\n")
    written = json.loads((tmp_path / "i.json").read_text())
    assert (written["passed"], written["labels"], written["model"]) == (True, ["synthetic"], "stub")
    assert written["fingerprint"] == json.loads((saved / "config.json").read_text())["fingerprint"]
    assert [row["clip_s"] for row in written["latency"]] == [1, 3, 10]
    assert {check["name"]: check["outcome"] for check in written["checks"]}["fingerprint"] == "pass"


def test_command_on_recordings_is_not_synthetic(
    saved: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, text, _ = run(capsys, saved, tmp_path / "a.wav", "--runs", 1, "--json", tmp_path / "i.json")
    assert "SYNTHETIC" not in text
    assert "tried on 1 recordings" in text
    written = json.loads((tmp_path / "i.json").read_text())
    assert (written["labels"], written["clips"]) == ([], [str(tmp_path / "a.wav")])
    assert code == (0 if written["passed"] else 1)


@pytest.mark.parametrize("flaw", ["padding", "nan"])
def test_command_fails_a_broken_model(
    saved: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, flaw: str
) -> None:
    make(flaw).save(tmp_path / "broken")
    code, text, error = run(capsys, tmp_path / "broken", "--runs", 1, "--json", tmp_path / "i.json")
    assert (code, error) == (1, "")
    assert f"fail  {'padding' if flaw == 'padding' else 'finite'}" in text
    assert "\nFAIL: " in text
    assert json.loads((tmp_path / "i.json").read_text())["passed"] is False


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda folder: (folder / "calibration.json").unlink(), "calibration.json: not there"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: not there"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda folder: change_json(folder / "config.json", fingerprint="0" * 16), "config.json says|this is 0000"),
        (lambda folder: change_json(folder / "calibration.json", fingerprint="0" * 16), "0000000000000000"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:99]),
            "not a safetensors file|damaged or cut short",
        ),
    ],
    ids=["no calibration", "no config", "half a config", "other fingerprint", "other thresholds", "half the weights"],
)
def test_command_fails_a_damaged_folder(
    saved: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, damage: Any, what: str
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "damaged"))
    damage(folder)
    code, text, error = run(capsys, folder, "--json", tmp_path / "i.json")
    assert (code, error) == (1, "")
    assert text.endswith("FAIL: loads\n")
    (check,) = json.loads((tmp_path / "i.json").read_text())["checks"]
    assert any(part in check["detail"] for part in what.split("|")), check


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["nowhere", "--offline"], "nowhere"),
        (["."], "config.json"),
        (["MODEL", "text.wav"], "text.wav"),
        (["MODEL", "none.wav"], "none.wav"),
        (["MODEL", "--runs", "0"], "--runs"),
        ([], "Usage: "),
    ],
)
def test_wrong_calls_exit_2(
    saved: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    what: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.wav").write_text("no audio")
    code, _, error = run(capsys, *[str(saved) if a == "MODEL" else a for a in arguments])
    assert code == 2
    assert what in error
