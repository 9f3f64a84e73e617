"""What is wrong with a recording, and which channel of it is meant, from the table to the store and its exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from nestvox.corpora.utterances import UtteranceTable
from nestvox.encoders.foreign.adapters import CallableModel, from_callable
from nestvox.errors import AudioError
from nestvox.extraction.embed import embed_table
from nestvox.extraction.formats.interchange import export_store
from nestvox.extraction.store.metadata import StoreMetadata
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import StoreWriter

RATE = 16_000


def moments(waveform: np.ndarray) -> np.ndarray:
    x = waveform.astype(np.float64)
    return np.array([x.mean(), x.std(), np.abs(x).mean(), len(x) / RATE], np.float32)


def moment_model() -> CallableModel:
    return from_callable(moments, sample_rate=RATE, embedding_dim=4, name="moments")


def test_conditions_stand_in_the_store_and_stay_through_a_resumed_run_and_an_export(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    sound = (0.1 * draw.standard_normal(4 * RATE)).astype(np.float32)
    both = np.stack([sound, 0.1 * draw.standard_normal(4 * RATE)], axis=1)
    files = {
        "fine": sound,
        "offset": sound + 0.05,
        "clipped": np.clip(20 * sound, -1, 1),
        "opposite": np.stack([sound, -0.9 * sound], axis=1),
        "call": both,
        "one side": both,
        "begun": sound,
        "stated": sound,
        "pieces": np.concatenate([sound] * 3),
    }
    for name, samples in files.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE)
    rows: dict[str, dict] = {name: {"utt_id": name, "path": f"{name}.wav", "speaker": "s"} for name in files}
    rows["one side"]["channel"] = 1
    rows["begun"] |= {"start_s": 2.2, "duration_s": 5.0}
    rows["stated"]["duration_s"] = 6.0
    table = UtteranceTable(pl.DataFrame(list(rows.values()), infer_schema_length=None), "table", tmp_path)
    options = {"batch_size": 2, "workers": 1, "shard_rows": 3, "max_duration_s": 5.0}
    store = embed_table(moment_model(), table, tmp_path / "store", **options)
    expected = {
        "fine": "",
        "offset": "dc-offset",
        "clipped": "clipped",
        "opposite": "channels-cancel",
        "call": "channels-differ",
        "one side": "",
        "begun": "short partial",
        "stated": "partial",
        "pieces": "",
    }
    assert dict(zip(store.utt_ids, store.conditions, strict=True)) == expected
    np.testing.assert_allclose(store.vectors()[5], moments(both[:, 1].astype(np.float32)), atol=1e-4)
    (tmp_path / "store" / "shard-000001.arrow").unlink()
    again = embed_table(moment_model(), table, tmp_path / "store", **options)
    assert again.conditions == list(expected.values())
    export_store(again, tmp_path / "x.parquet")
    assert pl.read_parquet(tmp_path / "x.parquet")["condition"].to_list() == list(expected.values())


def test_stores_without_conditions_are_read(tmp_path: Path) -> None:
    metadata = StoreMetadata("f" * 16, "m", "nested", (2,), 2, "float32", planned_rows=4, shard_rows=2)
    writer = StoreWriter(tmp_path / "old", metadata)
    writer.write_shard(0, ShardRows(["a", "b"], np.eye(2)))
    writer.write_shard(1, ShardRows(["c", "d"], np.eye(2), conditions=["short", ""]))
    store = writer.finish()
    assert store.conditions == [None, None, "short", ""]
    export_store(store, tmp_path / "x.parquet")
    assert pl.read_parquet(tmp_path / "x.parquet")["condition"].to_list() == [None, None, "short", ""]


@pytest.mark.parametrize("start_s", [None, 0.5])
def test_a_duration_that_no_file_has_ends(tmp_path: Path, start_s: float | None) -> None:
    """A table may claim months of a file of two seconds: what is there is embedded, and told to be a part."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(2 * RATE), RATE)
    row = {"utt_id": "a", "path": "a.wav", "speaker": "s", "start_s": start_s, "duration_s": 9.9e6}
    calls = []
    model = from_callable(lambda x: calls.append(x) or moments(x), sample_rate=RATE, embedding_dim=4, name="moments")
    table = UtteranceTable(pl.DataFrame([row], schema_overrides={"start_s": pl.Float64}), "table", tmp_path)
    store = embed_table(model, table, tmp_path / "store", batch_size=1, workers=1, max_duration_s=5.0)
    assert store.vectors()[0, 3] == pytest.approx(2.0 - (start_s or 0.0))
    assert "partial" in (store.conditions[0] or "")
    assert len(calls) <= 3


def test_a_channel_that_is_not_there_is_told_by_the_utterance(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(2 * RATE), RATE)
    frame = pl.DataFrame({"utt_id": ["a", "b"], "path": ["a.wav"] * 2, "speaker": ["s"] * 2, "channel": [0, 1]})
    table = UtteranceTable(frame, "table", tmp_path)
    with pytest.raises(AudioError, match=r"has one channel, 0; asked for channel 1 \(utterance b\)"):
        embed_table(moment_model(), table, tmp_path / "store", workers=1, batch_size=1)
    store = embed_table(moment_model(), table, tmp_path / "store", workers=1, batch_size=1, skip_bad=True)
    assert store.utt_ids == ["a"]
