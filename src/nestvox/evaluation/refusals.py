"""Trials and scores that cannot be measured are refused here, with the reason and the place."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.corpora.trials import Trials
from nestvox.errors import FingerprintError, ScoresError, TrialsError

__all__ = ["align_scores", "check_trials"]

_SHOWN = 10


def check_trials(trials: Trials) -> NDArray[np.bool_]:
    """Return the labels (N,) of trials that can be evaluated.

    Raises:
        TrialsError: no trials, unknown labels, one class only, or a trial listed twice.
    """
    frame = trials.frame
    if frame.is_empty():
        raise TrialsError("no trials to evaluate", source=trials.source)
    n_unknown = frame["target"].null_count()
    if n_unknown:
        raise TrialsError(
            f"{n_unknown} of {len(frame)} trials have no label; error rates need to know which are targets",
            source=trials.source,
        )
    twice = frame.filter(frame.select("enrol", "test").is_duplicated())
    if len(twice):
        pairs = twice.select("enrol", "test").unique(maintain_order=True)
        raise TrialsError(
            f"{len(pairs)} trials are listed more than once and would count twice: {_listed(pairs)}; remove the copies",
            source=trials.source,
        )
    targets = frame["target"].to_numpy().astype(np.bool_)
    n_target = int(targets.sum())
    if n_target in (0, len(targets)):
        raise TrialsError(
            f"error rates need trials of both classes, got {n_target} target and {len(targets) - n_target} non-target",
            source=trials.source,
        )
    return targets


def align_scores(trials: Trials, scores: pl.DataFrame, *, source: str | None = None) -> tuple[NDArray[np.float64], int]:
    """Bring scores into the order of the trials.

    Args:
        trials: without duplicates.
        scores: columns ``enrol``, ``test``, ``score``, and ``fingerprint`` where the scorer wrote it.
        source: name of the score file, for messages.

    Returns:
        (N,) float64, and the number of scores that no trial names.

    Raises:
        ScoresError: a non-finite score, two scores for one trial, or trials without a score.
        FingerprintError: scores of more than one model.
    """
    if "fingerprint" in scores.columns:
        models = sorted(str(value) for value in scores["fingerprint"].unique())
        if len(models) > 1:
            raise FingerprintError(
                f"{source or 'the scores'} mixes scores of {len(models)} models ({', '.join(models)}); "
                "error rates over different models mean nothing"
            )
    values = scores["score"].cast(pl.Float64)
    wrong = (~values.is_finite()).fill_null(value=True)
    if wrong.any():
        first = int(wrong.arg_true()[0])
        enrol, test = scores["enrol"][first], scores["test"][first]
        raise ScoresError(
            f"{wrong.sum()} of {len(values)} scores are not finite; the first is {values[first]} for {enrol} {test} "
            f"in row {first + 1}",
            source=source,
        )
    pairs = scores.select("enrol", "test", pl.col("score").cast(pl.Float64)).unique()
    twice = pairs.filter(pairs.select("enrol", "test").is_duplicated()).select("enrol", "test").unique()
    if len(twice):
        raise ScoresError(
            f"{len(twice)} trials have two different scores: {_listed(twice.sort('enrol', 'test'))}", source=source
        )
    joined = trials.frame.join(pairs, on=["enrol", "test"], how="left", maintain_order="left")
    missing = joined.filter(pl.col("score").is_null())
    if len(missing):
        raise ScoresError(
            f"{len(missing)} of {len(joined)} trials of {trials.source} have no score: {_listed(missing)}; "
            "score them, or evaluate the list that was scored",
            source=source,
        )
    return joined["score"].to_numpy(), len(pairs) - len(joined)


def _listed(pairs: pl.DataFrame) -> str:
    shown = ", ".join(f"{enrol} {test}" for enrol, test in pairs.select("enrol", "test").head(_SHOWN).iter_rows())
    return shown + (f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else "")
