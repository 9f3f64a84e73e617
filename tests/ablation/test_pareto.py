"""The front and who dominates whom, against sets that are compared model by model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nestvox.ablation import pareto_front
from nestvox.ablation.pareto import dominators
from nestvox.errors import NestvoxError

# Few different numbers, so that ties are common.
TABLES = st.tuples(st.integers(1, 8), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(0, 3).map(float))
)


@given(TABLES)
def test_a_model_is_kept_unless_another_is_better_somewhere_and_nowhere_worse(table: np.ndarray) -> None:
    rows = [tuple(row) for row in table.tolist()]
    beaten = {
        (a, b)
        for a, one in enumerate(rows)
        for b, other in enumerate(rows)
        if one != other and not any(x > y for x, y in zip(one, other, strict=True))
    }
    assert {tuple(pair) for pair in np.argwhere(dominators(table)).tolist()} == beaten
    assert pareto_front(table).tolist() == [all(b != row for _, b in beaten) for row in range(len(rows))]


@given(TABLES)
def test_somebody_is_always_kept_and_beats_every_other(table: np.ndarray) -> None:
    front = pareto_front(table)
    assert front.any()
    assert dominators(table)[front].any(axis=0).tolist() == (~front).tolist()


def test_by_hand() -> None:
    figures = [[0.05, 2.6], [0.05, 7.8], [0.04, 7.8], [0.06, 1.0], [0.04, 7.8]]
    assert pareto_front(figures).tolist() == [True, False, True, True, True]
    with pytest.raises(NestvoxError):
        pareto_front([[float("nan"), 1.0]])
