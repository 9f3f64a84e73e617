"""Trials whose utterances are not at hand: left out on request, and said wherever the number appears."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from nestvox.corpora.trials import Trials
from nestvox.errors import TrialsError
from nestvox.names import key_column

_SHOWN = 3


def without_missing(trials: Trials, names: Collection[str]) -> tuple[Trials, tuple[str, ...]]:
    """Leave out the trials that name an utterance which is not there.

    What remains is another list with another hash, and its source says so: a rate on it is not one on the whole list.

    Args:
        trials: a list.
        names: what the utterances may be called.

    Returns:
        The remaining trials, and a sentence on what was left out; the list itself and nothing where all is there.

    Raises:
        TrialsError: no trial remains.
    """
    frame = trials.frame
    known = key_column(pl.Series(list(names), dtype=pl.String)).implode()
    there = frame.select(key_column(frame[side]).is_in(known).alias(side) for side in ("enrol", "test"))
    kept = there["enrol"] & there["test"]
    n_left_out = len(kept) - int(kept.sum())
    if not n_left_out:
        return trials, ()
    absent = pl.concat([frame["enrol"].filter(~there["enrol"]), frame["test"].filter(~there["test"])])
    absent = absent.unique(maintain_order=True)
    examples = ", ".join(absent.head(_SHOWN))
    if n_left_out == len(kept):
        raise TrialsError(
            f"none of {len(kept)} trials has both of its utterances; {len(absent)} are missing, e.g. {examples}",
            source=trials.source,
        )
    counted = f"{n_left_out:,} of {len(kept):,} trials"
    note = (
        f"{counted} were left out because {len(absent):,} utterances are missing, e.g. {examples}: "
        f"these are not the rates of the whole list (sha256 {trials.sha256})."
    )
    return Trials(frame.filter(kept), f"{trials.source} without {counted}"), (note,)
