"""The names of both sides of trials as numbers: each name is kept, checked and compared once, however often it occurs.

Notation: N trials, U distinct names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.names import key_column

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class NamePairs:
    """Names of both sides of trials."""

    names: pl.Series  # (U,) text, sorted as bytes; every one occurs
    enrol: Numbers  # (N,) number of the first side's name
    test: Numbers  # (N,) number of the second side's

    @cached_property
    def keyed(self) -> NamePairs:
        """The same with names as they are compared: names that are one to a reader have one number."""
        keys = key_column(self.names)
        if keys.equals(self.names):
            return self
        names = keys.unique().sort()
        number = names.search_sorted(keys).to_numpy().astype(np.int64)
        return NamePairs(names, number[self.enrol], number[self.test])

    @property
    def codes(self) -> Numbers:
        """(N,) one number a pair, ascending as the names of both sides are."""
        return self.enrol * len(self.names) + self.test

    def text(self, codes: Numbers) -> pl.DataFrame:
        """The pairs of some codes as `enrol` and `test`."""
        sides = zip(("enrol", "test"), np.divmod(codes, len(self.names)), strict=True)
        return pl.DataFrame({name: self.names.gather(side) for name, side in sides})

    def numbered_as(self, others: pl.Series) -> NamePairs:
        """The same with the numbers that these names have in `others` (V,), sorted; names not there come behind."""
        both = pl.DataFrame({"name": self.names}).join(
            pl.DataFrame({"name": others, "number": np.arange(len(others))}), "name", "left", maintain_order="left"
        )
        number = both["number"].fill_null(-1).to_numpy().copy()
        new = np.flatnonzero(number < 0)
        number[new] = len(others) + np.arange(len(new))
        names = pl.concat([others.rename("name"), self.names.gather(new).rename("name")])
        return NamePairs(names, number[self.enrol], number[self.test])


def number_names(enrol: pl.Series, test: pl.Series) -> NamePairs:
    """Number the names of both sides, (N,) text each without nulls."""
    coded = pl.concat([enrol.alias("name"), test.alias("name")]).cast(pl.Categorical)
    distinct = coded.unique()
    found = distinct.cast(pl.String)
    order = found.arg_sort()
    places = distinct.to_physical().gather(order).to_numpy()
    number = np.empty(int(places.max()) + 1 if len(places) else 0, np.int64)
    number[places] = np.arange(len(places))
    codes = number[coded.to_physical().to_numpy()]
    return NamePairs(found.gather(order), codes[: len(enrol)], codes[len(enrol) :])
