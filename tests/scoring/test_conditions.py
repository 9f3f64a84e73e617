"""Parts of a list: durations by the shorter side, numbers in their order."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from nestvox.errors import TableError
from nestvox.evaluation import Settings, evaluate
from nestvox.scoring.conditions import condition_masks, durations_of_sides, values_of_sides


def test_the_shorter_side_decides_and_a_border_belongs_to_the_longer_class():
    enrol, test = durations_of_sides([1.0, 2.0, 30.0, 9.0, None], [9.0, 5.0, 16.0, 3.999, 5.0])
    assert enrol == test
    assert enrol == ["0 to 2 s", "2 to 4 s", "16 s and more", "2 to 4 s", None]


def test_classes_stand_in_the_order_of_their_seconds():
    sides = durations_of_sides([20.0, 9.0, 1.0, 5.0, None], [20.0, 9.0, 1.0, 5.0, 1.0])
    assert list(condition_masks({"duration": sides}, 5)) == [
        "duration=0 to 2 s",
        "duration=4 to 8 s",
        "duration=8 to 16 s",
        "duration=16 s and more",
        "duration=(none)",
    ]


def test_a_table_with_durations_can_be_split_by_them(world):
    seconds = [1.5 if row % 2 else 6.0 for row in range(len(world.table))]
    table = replace(world.table, frame=world.table.frame.with_columns(pl.Series("duration_s", seconds)))
    evaluation = evaluate(
        world.store(), world.trials, table=table, conditions=["duration"], dims=[32], settings=Settings(n_bootstrap=60)
    )
    rows = {row.condition: row for row in evaluation.results}
    assert list(rows) == ["all", "duration=0 to 2 s", "duration=4 to 8 s"]
    long = {name for name, value in zip(world.table.frame["utt_id"], seconds, strict=True) if value > 2}
    both_long = world.trials.frame.filter(pl.col("enrol").is_in(long) & pl.col("test").is_in(long))
    found = rows["duration=4 to 8 s"]
    assert (found.n_target, found.n_target + found.n_nontarget) == (both_long["target"].sum(), len(both_long))


def test_a_table_without_durations_cannot(world):
    with pytest.raises(TableError, match="duration"):
        values_of_sides(world.table, world.trials, ["duration"])


def test_a_column_of_that_name_is_taken_as_it_is(world):
    frame = world.table.frame.with_columns(pl.lit("short").alias("duration"), pl.lit(3.0).alias("duration_s"))
    sides = values_of_sides(replace(world.table, frame=frame), world.trials, ["duration"])
    assert set(sides["duration"][0]) == {"short"}
