"""Embedding a table: the rows are the model's own, whatever the batches, the faults and the interruptions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from nestvox.audio.read import read
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import AudioError, FingerprintError, ModelError, StoreError
from nestvox.extraction.embed import embed_table, run_embedding
from nestvox.extraction.settings import EmbeddingSettings
from nestvox.extraction.store.metadata import read_metadata
from nestvox.extraction.store.store import EmbeddingStore

RATE = 16_000
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_resume.py"


@dataclass
class MomentModel:
    """Moments of the waveform: what a batch is padded with would show in every one of them."""

    name: str = "moments"
    fingerprint: str = "00000000000000aa"
    sample_rate: int = RATE
    min_duration_s: float = 0.1
    dims: tuple[int, ...] = (2, 4)
    training_speakers: tuple[str, ...] = ("key",)
    calls: list[list[int]] = field(default_factory=list)
    room: float = float("inf")

    def forward(self, waveforms: Sequence[np.ndarray], *, tap: str) -> object:
        self.calls.append([len(waveform) for waveform in waveforms])
        if len(waveforms) * max(map(len, waveforms)) > self.room:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        if tap == "frames":
            return [waveform[: len(waveform) // 160 * 160].reshape(-1, 160)[:, :4] for waveform in waveforms]
        return np.stack([moments(waveform) for waveform in waveforms])


def moments(waveform: np.ndarray) -> np.ndarray:
    x = waveform.astype(np.float64)
    return np.array([x.mean(), x.std(), np.abs(x).mean(), len(x) / RATE], np.float32)


@pytest.fixture
def table(tmp_path: Path) -> UtteranceTable:
    """Thirty noises of 0.2 to 2 s in 16 and 8 kHz."""
    draw = np.random.default_rng(11)
    rows = []
    for number in range(30):
        rate = RATE if number % 3 else 8_000
        samples = 0.1 * draw.standard_normal(int(draw.uniform(0.2, 2.0) * rate))
        soundfile.write(tmp_path / f"{number}.wav", samples, rate, subtype="FLOAT")
        duration_s = round(len(samples) / rate, 2)
        rows.append({"utt_id": f"u{number}", "path": f"{number}.wav", "speaker": "s", "duration_s": duration_s})
    return UtteranceTable(pl.DataFrame(rows), "table", tmp_path)


def one_by_one(table: UtteranceTable) -> np.ndarray:
    return np.stack([moments(read(path, sample_rate=RATE)[0]) for path in table.audio_paths])


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("known", [True, False])
def test_rows_are_the_models_own_in_table_order(
    tmp_path: Path, table: UtteranceTable, batch_size: int, known: bool
) -> None:
    if not known:
        table = UtteranceTable(table.frame.drop("duration_s"), "table", table.root)
    model = MomentModel()
    store = embed_table(model, table, tmp_path / "s", batch_size=batch_size, shard_rows=8)
    assert store.utt_ids == table.frame["utt_id"].to_list()
    np.testing.assert_array_equal(store.vectors(), one_by_one(table))
    assert max(len(call) for call in model.calls) == min(batch_size, 8)
    assert (store.metadata.dims, store.metadata.dim) == ((2, 4), 4)
    assert (store.metadata.fingerprint, store.metadata.training_speakers) == (model.fingerprint, ("key",))
    store.verify()


def test_choices_are_recorded_and_kept(tmp_path: Path, table: UtteranceTable) -> None:
    embed_table(MomentModel(), table, tmp_path / "s", batch_size=3, workers=2, threads=1)
    (tmp_path / "s" / "shard-000000.arrow").unlink()
    model = MomentModel()
    _, run = run_embedding(model, table, tmp_path / "s")
    assert (run.batch_size, run.workers, run.threads) == (3, 2, 1)
    assert max(len(call) for call in model.calls) == 3
    assert sum(len(call) for call in model.calls) == 30  # no trial before them


def test_trial_on_a_large_table(tmp_path: Path, table: UtteranceTable) -> None:
    frame = pl.concat([table.frame.with_columns(pl.col("utt_id") + f"-{copy}") for copy in range(6)])
    large = UtteranceTable(frame, "table", table.root)
    store, run = run_embedding(MomentModel(), large, tmp_path / "s")
    assert run.batch_size in {1, 4, 16, 64}
    assert 0 < run.trial_s < run.wall_s
    assert store.metadata.run["batch_size"] == run.batch_size
    seconds = sum(soundfile.info(path).duration for path in large.audio_paths)
    assert run.audio_s == pytest.approx(seconds, rel=1e-3)  # the trial's seconds are not counted
    assert run.rows == 180
    assert run.utterances_per_s == pytest.approx(180 / run.wall_s)
    assert run.real_time_factor == pytest.approx(run.wall_s / run.audio_s)


def test_taps(tmp_path: Path, table: UtteranceTable) -> None:
    pooled = embed_table(MomentModel(), table, tmp_path / "p", tap="pooled", batch_size=4)
    assert (pooled.metadata.tap, pooled.metadata.dims) == ("pooled", ())
    frames = embed_table(MomentModel(), table, tmp_path / "f", tap="frames", batch_size=4)
    for (name, found), path in zip(frames.iter_frames(), table.audio_paths, strict=True):
        samples = read(path, sample_rate=RATE)[0]
        assert name == f"u{path.stem}"
        np.testing.assert_array_equal(found, samples[: len(samples) // 160 * 160].reshape(-1, 160)[:, :4])


def test_segments_read_just_that(tmp_path: Path) -> None:
    samples = 0.1 * np.random.default_rng(1).standard_normal(10 * RATE)
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    rows = {"utt_id": ["a", "b", "c"], "path": ["long.wav"] * 3, "speaker": ["s"] * 3}
    frame = pl.DataFrame({**rows, "start_s": [1.0, 4.5, None], "duration_s": [2.0, None, 3.0]})
    store = embed_table(MomentModel(), UtteranceTable(frame, "table", tmp_path), tmp_path / "s", batch_size=2)
    expected = [samples[RATE : 3 * RATE], samples[int(4.5 * RATE) :], samples]
    np.testing.assert_allclose(store.vectors(), np.stack([moments(part) for part in expected]), atol=1e-6)


def test_long_recordings_go_in_pieces(tmp_path: Path) -> None:
    samples = (0.1 * np.random.default_rng(1).standard_normal(10 * RATE)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    frame = pl.DataFrame({"utt_id": ["a"], "path": ["long.wav"], "speaker": ["s"]})
    table = UtteranceTable(frame, "table", tmp_path)
    model = MomentModel()
    store = embed_table(model, table, tmp_path / "s", batch_size=1, workers=1, threads=1, max_duration_s=3.0)
    assert max(max(call) for call in model.calls) <= 3 * RATE
    quarters = np.stack([moments(part) for part in np.split(samples, 4)]).astype(np.float64)
    np.testing.assert_allclose(store.vectors()[0], quarters.mean(axis=0), atol=1e-6)
    frames = embed_table(MomentModel(), table, tmp_path / "f", tap="frames", max_duration_s=2.5)
    np.testing.assert_array_equal(next(frames.iter_frames())[1], samples.reshape(-1, 160)[:, :4])


def test_silence_in_a_long_recording_is_passed_over(tmp_path: Path) -> None:
    """A call that was put on hold: whole pieces of zeros, which alone would be an error."""
    samples = (0.1 * np.random.default_rng(1).standard_normal(10 * RATE)).astype(np.float32)
    samples[: 5 * RATE] = 0.0
    soundfile.write(tmp_path / "call.wav", samples, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "silent.wav", np.zeros(10 * RATE), RATE)
    frame = pl.DataFrame({"utt_id": ["a", "b"], "path": ["call.wav", "silent.wav"], "speaker": ["s"] * 2})
    table = UtteranceTable(frame, "table", tmp_path)
    seen: list[int] = []
    options = {"max_duration_s": 2.5, "skip_bad": True}
    store = embed_table(MomentModel(), table, tmp_path / "s", progress=lambda done, total: seen.append(done), **options)
    sounding = np.stack([moments(part) for part in np.split(samples, 4)[2:]]).astype(np.float64)
    np.testing.assert_allclose(store.vectors(), [sounding.mean(axis=0)], atol=1e-6)
    assert [(failure.utt_id, failure.reason[-12:]) for failure in store.metadata.failed] == [
        ("b", "samples are zero"[-12:])
    ]
    assert seen == sorted(seen)
    assert seen[-1] == 2
    frames = embed_table(MomentModel(), table, tmp_path / "f", tap="frames", **options)
    assert [failure.utt_id for failure in frames.metadata.failed] == ["a", "b"]  # their times would be wrong


def test_a_table_that_understates_a_long_file_is_told(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.full(10 * RATE, 0.1), RATE)
    frame = pl.DataFrame({"utt_id": ["a"], "path": ["long.wav"], "speaker": ["s"], "duration_s": [1.0]})
    table = UtteranceTable(frame, "table", tmp_path)
    with pytest.raises(AudioError, match=r"longer than the 1\.0 s that its table says"):
        embed_table(MomentModel(), table, tmp_path / "s", max_duration_s=2.0)


def spoil(table: UtteranceTable) -> None:
    (table.root / "3.wav").write_bytes(b"no audio")
    (table.root / "17.wav").unlink()
    soundfile.write(table.root / "29.wav", np.zeros(RATE), RATE)


@pytest.mark.parametrize("known", [True, False])
def test_bad_audio_stops_by_name_or_is_recorded(tmp_path: Path, table: UtteranceTable, known: bool) -> None:
    spoil(table)
    if not known:
        table = UtteranceTable(table.frame.drop("duration_s"), "table", table.root)
    with pytest.raises(AudioError, match=r"3\.wav: .*utterance u3.*--skip-bad"):
        embed_table(MomentModel(), table, tmp_path / "s", batch_size=4, shard_rows=2)
    store, run = run_embedding(MomentModel(), table, tmp_path / "s", EmbeddingSettings(shard_rows=2, skip_bad=True))
    assert [failure.utt_id for failure in store.metadata.failed] == ["u3", "u17", "u29"]
    assert "zero" in store.metadata.failed[2].reason
    good = [row for row in range(30) if row not in {3, 17, 29}]
    assert store.utt_ids == [f"u{row}" for row in good]
    kept = UtteranceTable(table.frame[good], "table", table.root)
    np.testing.assert_array_equal(store.vectors(), one_by_one(kept))
    assert run.rows + run.resumed_rows == 27
    assert run.failed == 3


def test_what_cannot_be_read_whole_is_in_the_list_of_the_store(tmp_path: Path, table: UtteranceTable) -> None:
    """A wav whose header counts a part of what it holds: the part is no utterance."""
    path = table.root / "3.wav"
    content = path.read_bytes()
    at = content.index(b"data") + 4
    length = int.from_bytes(content[at : at + 4], "little")
    path.write_bytes(content[:at] + (length // 2).to_bytes(4, "little") + content[at + 4 :])
    store = embed_table(MomentModel(), table, tmp_path / "s", shard_rows=2, skip_bad=True)
    ((name, reason),) = [(failure.utt_id, failure.reason) for failure in store.metadata.failed]
    assert name == "u3"
    assert reason.startswith(f"{length - length // 2:,} bytes stand behind the end of the sound")


def test_a_shard_of_bad_audio_alone(tmp_path: Path, table: UtteranceTable) -> None:
    for number in (0, 1, 28, 29):
        (table.root / f"{number}.wav").write_bytes(b"no audio")
    table = UtteranceTable(table.frame.drop("duration_s"), "table", table.root)
    store = embed_table(MomentModel(), table, tmp_path / "s", shard_rows=2, batch_size=2, skip_bad=True)
    assert len(store) == 26
    assert store.metadata.shards[0].rows == 0
    assert store.vectors().shape == (26, 4)


def test_nothing_readable_is_an_error(tmp_path: Path, table: UtteranceTable) -> None:
    for path in table.audio_paths:
        path.write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"0\.wav: .*nor can any other"):
        embed_table(MomentModel(), table, tmp_path / "s", skip_bad=True)
    assert not (tmp_path / "s").exists()


def test_batches_that_do_not_fit_are_halved(tmp_path: Path, table: UtteranceTable) -> None:
    model = MomentModel(room=4.5 * RATE)
    store = embed_table(model, table, tmp_path / "s", batch_size=16)
    np.testing.assert_array_equal(store.vectors(), one_by_one(table))
    too_large = [len(call) * max(call) for call in model.calls if len(call) * max(call) > model.room]
    # It learns: what is as large as a batch that did not fit is not tried again.
    assert too_large
    assert too_large == sorted(set(too_large), reverse=True)
    with pytest.raises(ModelError, match="lower --max-duration-s"):
        embed_table(MomentModel(room=RATE), table, tmp_path / "t", batch_size=16, threads=1, workers=1)


def test_other_errors_of_the_model_show(tmp_path: Path, table: UtteranceTable) -> None:
    class Broken(MomentModel):
        def forward(self, waveforms: Sequence[np.ndarray], *, tap: str) -> object:
            if len(self.calls) > 3:
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
            return super().forward(waveforms, tap=tap)

    with pytest.raises(AudioError, match=r"fails on it: RuntimeError: mat1 .*\(utterance "):
        embed_table(Broken(), table, tmp_path / "s", batch_size=1)


def test_another_model_or_table_is_refused(tmp_path: Path, table: UtteranceTable) -> None:
    embed_table(MomentModel(), table, tmp_path / "s", batch_size=4)
    with pytest.raises(FingerprintError, match="00000000000000bb"):
        embed_table(MomentModel(fingerprint="00000000000000bb"), table, tmp_path / "s")
    with pytest.raises(StoreError, match=r"tap .nested. there, .pooled. now"):
        embed_table(MomentModel(), table, tmp_path / "s", tap="pooled")
    fewer = UtteranceTable(table.frame.head(29), "table", table.root)
    with pytest.raises(StoreError, match="planned_rows 30 there, 29 now"):
        embed_table(MomentModel(), fewer, tmp_path / "s")
    moved = UtteranceTable(table.frame.with_columns(path=pl.lit("0.wav")), "table", table.root)
    with pytest.raises(StoreError, match="the rows of the table"):
        embed_table(MomentModel(), moved, tmp_path / "s")


def test_meaningless_options_are_refused(tmp_path: Path, table: UtteranceTable) -> None:
    with pytest.raises(StoreError, match="batch_size must be at least 1"):
        embed_table(MomentModel(), table, tmp_path / "s", batch_size=0)
    with pytest.raises(StoreError, match="max_duration_s must be at least twice"):
        embed_table(MomentModel(), table, tmp_path / "s", max_duration_s=0.1)
    with pytest.raises(StoreError, match="no utterances"):
        embed_table(MomentModel(), UtteranceTable(table.frame.head(0), "table", table.root), tmp_path / "s")


def test_progress_and_labels(tmp_path: Path, table: UtteranceTable) -> None:
    table = UtteranceTable(table.frame.with_columns(synthetic=pl.lit(value=True)), "table", table.root)
    seen: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None, /) -> None:
        seen.append((done, total))

    store = embed_table(MomentModel(), table, tmp_path / "s", batch_size=4, shard_rows=7, progress=progress)
    assert store.metadata.labels == ("synthetic",)
    assert seen[0] == (0, 30)
    assert seen[-1] == (30, 30)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_interrupted_run_resumes_byte_for_byte(tmp_path: Path, table: UtteranceTable) -> None:
    options = {"batch_size": 3, "shard_rows": 4, "workers": 1, "threads": 1}
    embed_table(MomentModel(), table, tmp_path / "whole", **options)
    for stop_after in (0, 1, 5, 6, 20):

        def interrupt(done: int, total: int | None, /, limit: int = stop_after) -> None:
            if done > limit:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            embed_table(MomentModel(), table, tmp_path / "parts", **options, progress=interrupt)
    assert not read_metadata(tmp_path / "parts").complete
    _, run = run_embedding(MomentModel(), table, tmp_path / "parts", EmbeddingSettings(**options))
    assert run.resumed_rows > 0
    assert run.rows + run.resumed_rows == 30
    whole, parts = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("whole", "parts"))
    assert whole == parts


def test_finished_store_is_left_as_it_is(tmp_path: Path, table: UtteranceTable) -> None:
    embed_table(MomentModel(), table, tmp_path / "s", batch_size=4)
    model = MomentModel()
    _, run = run_embedding(model, table, tmp_path / "s")
    assert model.calls == []
    assert (run.rows, run.resumed_rows) == (0, 30)
    assert (run.utterances_per_s, run.real_time_factor) == (0.0, 0.0)


def kill(tmp_path: Path, kills: int, *options: str) -> dict[str, int]:
    out = tmp_path / "kills.json"
    subprocess.run([sys.executable, BENCHMARK, "--kills", str(kills), "--json", out, *options], check=True)
    return json.loads(out.read_text())


def test_killed_runs_make_the_same_store(tmp_path: Path) -> None:
    report = kill(tmp_path, 2, "--limit", "60", "--shard-rows", "4")
    assert report["kills -9"] == 2
    assert report["stores_different"] == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_make_the_same_store(tmp_path: Path) -> None:
    report = kill(tmp_path, 50)
    assert report["kills -9"] == 50
    assert report["stores_different"] == 0


def test_reading_while_a_run_is_under_way(tmp_path: Path, table: UtteranceTable) -> None:
    def look(done: int, total: int | None, /) -> None:
        if 0 < done < 30:
            partial = EmbeddingStore(tmp_path / "s", allow_partial=True)
            np.testing.assert_array_equal(partial.vectors(), one_by_one(table)[: len(partial)])

    embed_table(MomentModel(), table, tmp_path / "s", batch_size=3, shard_rows=6, progress=look)
