"""Quality measures of both sides of every trial: what a calibration may know beside the score.

Notation: N trials.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.audio.snr import estimate_snr_db
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import NestvoxError, TableError
from nestvox.model.calibration import DURATION, NORM, SNR
from nestvox.progress import Progress, silent
from nestvox.scoring.conditions import recordings_in
from nestvox.scoring.system import System

Floats = NDArray[np.float64]
Sides = tuple[Floats, Floats]


def trial_quality(
    measures: Sequence[str],
    system: System,
    trials: Trials,
    table: UtteranceTable | None,
    *,
    progress: Progress = silent,
) -> dict[int | None, dict[str, Sides]]:
    """Take every measure of both sides, at every dimension of the system.

    Args:
        measures: ``duration`` (seconds, of the table or the file), ``norm`` (of the embedding's prefix), ``snr`` (dB,
            measured on the audio), or a numeric column of the table.
        system: embeddings, for ``norm``.
        trials: N of them.
        table: utterances that the trials name, for all other measures.
        progress: told the audio files measured.

    Returns:
        Dimension to measure to both sides, (N,) each.

    Raises:
        NestvoxError: a measure is asked twice, or there are no embeddings to take ``norm`` from.
        TableError: there is no table, or a column is missing, empty or not numeric; or audio too short for ``snr``.
        AudioError: audio that cannot be read.
    """
    check_measures(measures, table)
    common: dict[str, Sides] = {}
    for measure in measures:
        if measure == NORM:
            continue
        assert table is not None  # or it was refused
        common[measure] = _of_sides(measure, trials, table, progress)
    found: dict[int | None, dict[str, Sides]] = {}
    for dim in system.scores:
        found[dim] = dict(common)
        if NORM in measures:
            if system.embedded is None or dim is None:
                raise NestvoxError(
                    f"the quality measure {NORM!r} needs embeddings: give a store or a model, not scores"
                )
            found[dim][NORM] = system.embedded.norms(dim)
    return found


def check_measures(measures: Sequence[str], table: UtteranceTable | None) -> None:
    """Refuse measures that cannot be taken, before anything is embedded for them.

    Raises:
        NestvoxError: a measure is asked twice.
        TableError: there is no table, or it has no such column.
    """
    if len(set(measures)) < len(measures):
        raise NestvoxError(f"each quality measure once, got {', '.join(measures)}")
    for measure in measures:
        if measure == NORM:
            continue
        if table is None:
            raise TableError(
                f"the quality measure {measure!r} needs the utterance table that the trials name (--table)"
            )
        if measure not in (DURATION, SNR) and measure not in table.frame.columns:
            raise TableError(
                f"no column {measure!r} for a quality measure; nestvox itself takes {DURATION}, {NORM} and {SNR}, the "
                f"table has {', '.join(table.frame.columns)}",
                source=table.source,
            )


def trial_durations_s(trials: Trials, table: UtteranceTable) -> Floats:
    """(N,) seconds of the shorter recording of every trial.

    Raises:
        TableError: the table lacks utterances of the trials.
        AudioError: the table does not say how long an utterance is, and its file cannot be read.
    """
    return np.minimum(*_of_sides(DURATION, trials, table, silent))


def durations_s(table: UtteranceTable, rows: NDArray[np.int64]) -> Floats:
    """(n,) seconds of these rows: as the table says, else as the files do.

    Raises:
        AudioError: a file cannot be read.
    """
    return np.array([table.segment(int(row)).length_s() for row in rows], dtype=np.float64)


def _of_sides(measure: str, trials: Trials, table: UtteranceTable, progress: Progress) -> Sides:
    named = recordings_in(table, trials)
    used, positions = np.unique(named.rows, return_inverse=True)
    values = _of_rows(measure, table, used, progress)[positions]
    # A profile is as long as its recordings together; of anything else it has their mean.
    together = np.add.reduceat(values, named.starts[:-1]) if len(values) else values
    of_names = together if measure == DURATION else together / np.diff(named.starts)
    return of_names[named.enrol], of_names[named.test]


def _of_rows(measure: str, table: UtteranceTable, rows: NDArray[np.int64], progress: Progress) -> Floats:
    if measure == DURATION:
        return durations_s(table, rows)
    if measure == SNR:
        return _snr_of_rows(table, rows, progress)
    column = table.frame[measure][rows]
    values = column.cast(pl.Float64, strict=False)
    wrong = (values.is_null() | ~values.is_finite().fill_null(value=False)).arg_true()
    if len(wrong):
        name = table.frame["utt_id"][int(rows[int(wrong[0])])]
        raise TableError(
            f"{len(wrong)} of {len(rows)} utterances have no number in the column; the first is {name}: "
            f"{column[int(wrong[0])]!r}",
            source=table.source,
            column=measure,
        )
    return values.to_numpy()


def _snr_of_rows(table: UtteranceTable, rows: NDArray[np.int64], progress: Progress) -> Floats:
    found = np.empty(len(rows))
    for done, row in enumerate(map(int, rows), start=1):
        heard = table.segment(row).read()
        found[done - 1] = estimate_snr_db(heard.samples, heard.sample_rate)
        progress(done, len(rows))
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        name = table.frame["utt_id"][int(rows[wrong[0]])]
        raise TableError(
            f"{len(wrong)} utterances are too short or too silent to measure {SNR!r}; the first is {name}",
            source=table.source,
        )
    return found
