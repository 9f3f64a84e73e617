"""Quality measures of trials: from the table, from the files, from the embeddings."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import soundfile

from nestvox.audio.snr import estimate_snr_db
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import AudioError, NestvoxError, TableError
from nestvox.scoring.quality import durations_s, trial_durations_s, trial_quality
from nestvox.scoring.sources import known_store, system_of_scores

RATE = 16_000


def with_columns(world, **columns) -> UtteranceTable:
    frame = world.table.frame.with_columns(**{name: pl.Series(values) for name, values in columns.items()})
    return UtteranceTable(frame, world.table.source, world.table.root)


def test_durations_of_the_table_and_else_of_the_files(world):
    (world.folder / "audio").mkdir()
    soundfile.write(world.folder / "audio" / "u00-0.wav", np.zeros(RATE), RATE)
    soundfile.write(world.folder / "audio" / "u00-1.wav", np.zeros(3 * RATE), RATE)
    n = len(world.table)
    table = with_columns(world, duration_s=[None, None, 2.5, *[4.0] * (n - 3)], start_s=[None, 1.0, *[0.0] * (n - 2)])
    np.testing.assert_allclose(durations_s(table, np.arange(4)), [1.0, 2.0, 2.5, 4.0])
    with pytest.raises(AudioError, match="u00-3"):
        durations_s(with_columns(world, duration_s=[1.0, 1.0, 1.0, *[None] * (n - 3)]), np.array([3]))


def test_the_shorter_recording_of_a_trial(world):
    seconds = {name: 1.0 + row for row, name in enumerate(world.table.frame["utt_id"])}
    table = with_columns(world, duration_s=list(seconds.values()))
    expected = [min(seconds[enrol], seconds[test]) for enrol, test, _ in world.trials.frame.iter_rows()]
    np.testing.assert_array_equal(trial_durations_s(world.trials, table), expected)


def test_both_sides_of_every_measure(world):
    generator = np.random.default_rng(0)
    (world.folder / "audio").mkdir()
    levels = {}
    for name in world.table.frame["utt_id"]:
        speech = generator.normal(size=RATE) * np.where(
            np.arange(RATE) % 8000 < 5000, 0.1, 0.01 * generator.uniform(0.1, 1)
        )
        soundfile.write(world.folder / "audio" / f"{name}.wav", speech, RATE, subtype="FLOAT")
        levels[name] = estimate_snr_db(speech.astype(np.float32), RATE)
    ages = {name: 20 + row for row, name in enumerate(world.table.frame["utt_id"])}
    table = with_columns(world, age=list(ages.values()), duration_s=[1.0] * len(ages))
    system = known_store("tiny", world.trials, world.store()).score()
    found = trial_quality(["duration", "norm", "snr", "age"], system, world.trials, table)
    assert list(found) == [8, 16, 32]
    enrol, test = world.trials.frame["enrol"], world.trials.frame["test"]
    row_of = {name: row for row, name in enumerate(world.table.frame["utt_id"])}
    for side, names in enumerate((enrol, test)):
        np.testing.assert_array_equal(found[8]["age"][side], [ages[name] for name in names])
        np.testing.assert_allclose(found[32]["snr"][side], [levels[name] for name in names], atol=1e-4)
        np.testing.assert_array_equal(found[16]["duration"][side], np.ones(len(names)))
        for dim in (8, 32):
            lengths = [np.linalg.norm(world.vectors[row_of[name], :dim].astype(np.float64)) for name in names]
            np.testing.assert_allclose(found[dim]["norm"][side], lengths, rtol=1e-6)


def test_what_cannot_be_measured_is_refused(world):
    system = known_store("tiny", world.trials, world.store()).score()
    n = len(world.table)
    for measures, table, error, words in (
        (["duration"], None, TableError, "needs the utterance table"),
        (["norm", "norm"], world.table, NestvoxError, "each quality measure once"),
        (["age"], world.table, TableError, "no column 'age'.*duration, norm and snr"),
        (["age"], with_columns(world, age=[None, *[30] * (n - 1)]), TableError, "1 of .* no number.*u00-0: None"),
        (["sex"], world.table, TableError, "no number in the column"),
        (["snr"], world.table, AudioError, "u00-0"),
    ):
        with pytest.raises(error, match=words):
            trial_quality(measures, system, world.trials, table)
    frame = world.trials.frame.select("enrol", "test").with_columns(score=pl.Series(world.cosines(32)))
    scores = system_of_scores("file", world.trials, frame)
    with pytest.raises(NestvoxError, match="needs embeddings"):
        trial_quality(["norm"], scores, world.trials, world.table)


def test_audio_too_short_for_a_level_is_named(world):
    (world.folder / "audio").mkdir()
    for name in world.table.frame["utt_id"]:
        soundfile.write(world.folder / "audio" / f"{name}.wav", np.full(1600, 0.1), RATE)
    system = known_store("tiny", world.trials, world.store()).score()
    with pytest.raises(TableError, match="too short or too silent to measure 'snr'; the first is u00-0"):
        trial_quality(["snr"], system, world.trials, world.table)
