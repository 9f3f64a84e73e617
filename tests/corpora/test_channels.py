"""A table with channels is read, wherever it is read, as a table of files that hold one channel each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile

from nestvox.audio.augment import Augmentation, Banks
from nestvox.corpora import Trials, UtteranceTable, check_corpus, read_utterances, write_utterances
from nestvox.corpora.augmented import voices_of, write_augmented
from nestvox.corpora.shards import prepare_shards, write_shards
from nestvox.encoders.foreign.adapters import from_callable
from nestvox.extraction.embed import embed_table
from nestvox.scoring.quality import trial_quality

RATE = 16_000
CALLS = 6


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[UtteranceTable, UtteranceTable]:
    """Six calls of two people of 3 s, as files of two channels, and the same sides as files of their own."""
    folder = tmp_path_factory.mktemp("calls")
    draw = np.random.default_rng(8)
    rows = []
    for call in range(CALLS):
        level = np.clip(np.sin(np.arange(3 * RATE) / 3000), 0.02, None)[:, None]
        sides = level * draw.normal(0, 0.05, (3 * RATE, 2)) * [1.0, 3.0]
        soundfile.write(folder / f"{call}.wav", sides, RATE)
        for channel in (0, 1):
            name = f"{call}{'AB'[channel]}"
            soundfile.write(folder / f"{name}.wav", sides[:, channel], RATE)
            rows.append({"utt_id": name, "path": f"{call}.wav", "speaker": f"s{channel}{call % 3}", "channel": channel})
    calls = pl.DataFrame(rows).with_columns(start_s=pl.lit(0.5), duration_s=pl.lit(2.25))
    sides = calls.with_columns(path=pl.col("utt_id") + ".wav").drop("channel")
    return UtteranceTable(calls, "calls", folder), UtteranceTable(sides, "sides", folder)


def embedded(table: UtteranceTable, out: Path) -> Any:
    def sound(samples: np.ndarray) -> np.ndarray:
        return np.array([samples.std(), np.abs(samples).max(), samples[100], len(samples)])

    model = from_callable(sound, sample_rate=RATE, name="sound", embedding_dim=4)
    store = embed_table(model, table, out, batch_size=2, workers=2)
    return store.vectors().tolist(), store.conditions


def copied(table: UtteranceTable, out: Path) -> Any:
    heavy = Augmentation(p_reverb=0, kinds={"babble": 1.0}, p_noise=1.0, voices=(1, 2), p_channel=0)
    write_augmented(table, out, augmentation=heavy, banks=Banks(voices=voices_of(table)), workers=1)
    written = read_utterances(out / "utterances.tsv")
    assert "channel" not in written.frame.columns
    return [segment.read().samples.tobytes() for segment in written.segments()]


def sharded(table: UtteranceTable, out: Path) -> Any:
    write_shards(table, out)
    found = read_utterances(out / "utterances.tsv")
    again = prepare_shards(sorted(out.glob("*.tar")), root=out).table
    heard = [[segment.read().samples.tobytes() for segment in one.segments()] for one in (found, again)]
    assert heard[0] == heard[1]
    return heard[0]


def checked(table: UtteranceTable, _: Path) -> Any:
    report = check_corpus([table])
    return [(one.kind, one.count, one.examples) for one in report.findings if one.kind != "file-in-two-splits"]


def written(table: UtteranceTable, out: Path) -> Any:
    out.mkdir()
    heard = []
    for suffix in ("tsv", "csv", "parquet"):
        write_utterances(table, out / f"t.{suffix}")
        heard += [segment.read().samples.tobytes() for segment in read_utterances(out / f"t.{suffix}").segments()]
    return heard


def snr(table: UtteranceTable, _: Path) -> Any:
    names = table.frame["utt_id"].to_list()
    trials = Trials(pl.DataFrame({"enrol": names, "test": names[::-1], "target": [True] * len(names)}), "t")
    system: Any = SimpleNamespace(scores={None: np.zeros(len(names))}, vectors=None)
    return trial_quality(["snr"], system, trials, table)[None]["snr"][0].tolist()


@pytest.mark.parametrize("road", [embedded, copied, sharded, checked, written, snr])
def test_every_road_reads_the_channel(
    tables: tuple[UtteranceTable, UtteranceTable], tmp_path: Path, road: Callable[[UtteranceTable, Path], Any]
) -> None:
    calls, sides = (road(table, tmp_path / table.source) for table in tables)
    assert calls == sides
