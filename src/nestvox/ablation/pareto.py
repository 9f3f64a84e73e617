"""Which models are worth having: the Pareto front of errors against a cost, and who is dominated.

A model is dominated where another has no more errors and costs no more, and is better in one of the two. (V. Pareto's
optimality; two models with the same figures do not dominate each other.)

Notation: N models, K costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_numbers
from nestvox.errors import NestvoxError


@dataclass(frozen=True)
class Front:
    """The arms of a study against one cost.

    Attributes:
        cost: its name, of `COSTS`.
        names: of the arms whose cost is known.
        errors: mean equal error rate of each, fractions.
        values: cost of each.
        kept: names of those that none dominates, cheapest first.
    """

    cost: str
    names: tuple[str, ...]
    errors: tuple[float, ...]
    values: tuple[float, ...]
    kept: tuple[str, ...]


def dominators(figures: ArrayLike) -> NDArray[np.bool_]:
    """Who dominates whom.

    Args:
        figures: (N, K) finite, of which less is better.

    Returns:
        (N, N): whether the model of the row dominates the model of the column.

    Raises:
        NestvoxError: no table of finite numbers.
    """
    table = as_numbers(figures, "errors and costs", ndim=2, error=NestvoxError)
    no_worse = (table[:, None, :] <= table[None, :, :]).all(axis=2)
    better = (table[:, None, :] < table[None, :, :]).any(axis=2)
    return np.asarray(no_worse & better, np.bool_)


def pareto_front(figures: ArrayLike) -> NDArray[np.bool_]:
    """(N,) models that no other dominates; arguments and errors as `dominators`."""
    return np.asarray(~dominators(figures).any(axis=0), np.bool_)
