"""Trials and scores that cannot be measured, and numbers that would mislead, are refused here, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.corpora.name_pairs import NamePairs, number_names
from nestvox.corpora.trials import Trials
from nestvox.errors import FingerprintError, ScoresError, TrialsError
from nestvox.names import key_column

if TYPE_CHECKING:
    from nestvox.evaluation.results import Evaluation
    from nestvox.scoring.system import System

SELECTED = "selected"
"""Label of numbers on trials that something about the system was chosen on."""

_SHOWN = 10
_FARTHEST = 1e300  # from 0: sums and differences of such scores are still finite


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
    pairs = trials.doubled
    if len(pairs):
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


def check_system(system: System, trials: Trials) -> None:
    """Refuse scores of other trials.

    Raises:
        ScoresError: the hash of the trials differs, or a dimension has not one finite score a trial.
    """
    if system.trials_sha256 != trials.sha256:
        raise ScoresError(
            f"{system.name} was scored on trials {system.trials_sha256[:12]}, the others on {trials.sha256[:12]} "
            f"({trials.source}); systems are compared on the same trials only"
        )
    for dim, values in system.scores.items():
        if values.shape != (len(trials),) or not np.isfinite(values).all():
            at = "" if dim is None else f" at dimension {dim}"
            raise ScoresError(f"{system.name}{at} has no finite score for each of the {len(trials)} trials")


def align_scores(trials: Trials, scores: pl.DataFrame, *, source: str | None = None) -> tuple[NDArray[np.float64], int]:
    """Bring scores into the order of the trials.

    `trials` has no duplicates; `scores` has the columns ``enrol``, ``test``, ``score``, and ``fingerprint`` where the
    scorer wrote it; ``target``, where it is there, is held against the labels. `source` is the name of the score file.

    Returns:
        (N,) float64, and the number of scores that no trial names.

    Raises:
        ScoresError: a non-finite score, two scores for one trial, trials without a score, or other labels.
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
    listed = trials.pairs.keyed
    sides = (scores[side].cast(pl.String).fill_null("") for side in ("enrol", "test"))
    given = number_names(*sides).keyed.numbered_as(listed.names)
    listed = NamePairs(given.names, listed.enrol, listed.test)
    order, codes = listed.codes, given.codes
    said = None
    if "target" in scores.columns:
        said = pl.DataFrame({"code": codes, "said": scores["target"].cast(pl.Boolean)})
    if np.array_equal(order, codes):  # the same trials in the same order, none of them twice
        found, n_pairs = values.to_numpy(), len(codes)
        _refuse_other_labels(trials, listed, source, said)
    else:
        pairs = pl.DataFrame({"code": codes, "score": values}).unique()
        n_pairs = len(pairs)
        twice = pairs.filter(pairs["code"].is_duplicated())["code"].unique().to_numpy()
        if len(twice):
            shown = _listed(given.text(twice).sort("enrol", "test"))
            raise ScoresError(f"{len(twice)} trials have two different scores: {shown}", source=source)
        _refuse_other_labels(trials, listed, source, None if said is None else said.unique())
        joined = pl.DataFrame({"code": order}).join(pairs, on="code", how="left", maintain_order="left")["score"]
        missing = order[joined.is_null().to_numpy()]
        if len(missing):
            exchanged = NamePairs(given.names, *np.divmod(missing, len(given.names))[::-1]).codes
            turned = int(np.isin(exchanged, codes).sum())
            raise ScoresError(
                f"{len(missing)} of {len(order)} trials of {trials.source} have no score: "
                f"{_listed(given.text(missing[: _SHOWN + 1]), len(missing))}; "
                + (
                    f"{turned} of them have one with their sides exchanged: write the sides as the list has them, or "
                    if turned
                    else ""
                )
                + "score them, or evaluate the list that was scored",
                source=source,
            )
        found = joined.to_numpy()
    check_scale(found, source=source)
    return found, n_pairs - len(order)


def _refuse_other_labels(trials: Trials, listed: NamePairs, source: str | None, said: pl.DataFrame | None) -> None:
    """`said`: the code of each scored trial and its label; None where the scores have no labels."""
    if said is None:
        return
    known = pl.DataFrame({"code": listed.codes, "target": trials.frame["target"]})
    both = known.join(said, on="code", how="inner", maintain_order="left").drop_nulls()
    other = both.filter(pl.col("target") != pl.col("said"))["code"].to_numpy()
    if len(other):
        raise ScoresError(
            f"{len(other)} of {len(both)} labels in the scores differ from those of {trials.source}: "
            f"{_listed(listed.text(other))}; give the list that was scored",
            source=source,
        )


def check_scale(scores: NDArray[np.float64], *, source: str | None = None) -> None:
    """Refuse scores so large that their sums overflow; such numbers stand for something else, e.g. a failed trial.

    Raises:
        ScoresError: a score beyond 1e300 in either direction.
    """
    far = np.flatnonzero(np.abs(scores) > _FARTHEST)
    if len(far):
        raise ScoresError(
            f"{len(far)} of {len(scores)} scores lie beyond {_FARTHEST:g}, the first is {scores[far[0]]:g}: if it "
            "stands for a trial that was not scored, leave the trial out of the list; else divide all scores by one "
            "number, which changes no error rate",
            source=source,
        )


def refuse_another_model(found: str, wanted: str, where: str) -> None:
    """Refuse embeddings or scores of another model.

    Raises:
        FingerprintError: with both.
    """
    if found != wanted:
        raise FingerprintError(
            f"{where} is of the model {found}, not {wanted}: embeddings and scores of different models cannot be "
            "compared; embed both with one model"
        )


def refuse_copies(evaluations: Mapping[str, Evaluation]) -> None:
    """Refuse two systems whose figures agree number by number at every dimension: one is a copy of the other.

    Raises:
        ScoresError: with both names.
    """
    seen: dict[tuple[float, ...], str] = {}
    for name, found in evaluations.items():
        figures = tuple(
            number
            for row in found.overall
            for number in (row.dim or 0, row.eer.value, row.eer_threshold, row.min_dcf.value, row.min_dcf_threshold)
        )
        if figures in seen:
            raise ScoresError(
                f"{name} and {seen[figures]} have the same error rates and thresholds at every dimension: one is a "
                "copy of the other, or was read twice"
            )
        seen[figures] = name


def refuse_shared_trials(selection: Trials, reported: Trials) -> None:
    """Refuse to choose on trials that are reported: the best of several looks better on them than it is.

    Raises:
        TrialsError: the same list, or trials (in either order of their sides) that stand in both.
    """
    if selection.sha256 == reported.sha256:
        raise TrialsError(
            f"{selection.source} and {reported.source} are the same trials (sha256 {reported.sha256[:12]}): what is "
            "chosen on the trials that are reported looks better than it is; choose on others"
        )
    pairs = []
    for trials in (selection, reported):
        low, high = pl.min_horizontal("enrol", "test"), pl.max_horizontal("enrol", "test")
        keys = trials.frame.select(*(key_column(trials.frame[side].cast(pl.String)) for side in ("enrol", "test")))
        pairs.append(keys.select(low.alias("enrol"), high.alias("test")).unique())
    shared = pairs[1].join(pairs[0], on=["enrol", "test"], how="semi").sort("enrol", "test")
    if len(shared):
        raise TrialsError(
            f"{len(shared)} of {len(pairs[1])} trials of {reported.source} stand in {selection.source} too, which the "
            f"choice is made on: {_listed(shared)}; choose on others"
        )


def chosen_on_these(trials: Trials, chosen_on: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Label and sentence for a model that was chosen on the trials it is measured on; nothing for another.

    `chosen_on`: hashes of the trials that something about the model was chosen on.
    """
    if trials.sha256 not in chosen_on:
        return (), ()
    return (SELECTED,), (
        f"The model's head was chosen or its thresholds were set on these very trials (sha256 {trials.sha256[:12]}): "
        "its figures on them are too good.",
    )


def _listed(pairs: pl.DataFrame, number: int | None = None) -> str:
    shown = ", ".join(f"{enrol} {test}" for enrol, test in pairs.select("enrol", "test").head(_SHOWN).iter_rows())
    more = (len(pairs) if number is None else number) - _SHOWN
    return shown + (f" and {more} more" if more > 0 else "")
