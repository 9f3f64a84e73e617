"""Trials that only one of two systems decides rightly, found by hand."""

from __future__ import annotations

import numpy as np
import polars as pl

from nestvox.corpora.trials import Trials
from nestvox.evaluation.comparison import disputed_trials


def test_only_trials_that_one_decides_wrongly_the_most_distant_first():
    frame = pl.DataFrame(
        {
            "enrol": ["a", "b", "c", "d", "e", "f"],
            "test": ["u", "v", "w", "x", "y", "z"],
            "target": [True, True, True, False, False, False],
        }
    )
    first = np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.7])  # misses c, accepts f
    second = np.array([0.9, 0.1, 0.8, 0.2, 0.75, 0.3])  # misses b, accepts e
    found = disputed_trials(
        Trials(frame, "t"), ("one", "two"), (first, second), (0.5, 0.5), path_of=lambda name: f"/audio/{name}.wav"
    )
    by_right = {name: [trial.enrol for trial in found if trial.right == name] for name in ("one", "two")}
    # Of 6: b falls from the 5th place to the 1st, e rises from 3rd to 4th, c from 1st to 5th, f falls from 4th to 3rd.
    assert by_right == {"one": ["b", "e"], "two": ["c", "f"]}
    assert [round(6 * trial.distance) for trial in found] == [4, 1, 4, 1]
    assert (found[0].score_a, found[0].score_b, found[0].test_path) == (0.8, 0.1, "/audio/v.wav")
    assert len(disputed_trials(Trials(frame, "t"), ("one", "two"), (first, second), (0.5, 0.5), most=1)) == 2
