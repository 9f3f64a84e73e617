"""The one road from a system to scores: score, normalise, calibrate, split by condition; refusals before any of it.

`score_trials` takes a system that has not scored yet (`sources.known`) and gives
scored trials, which `evaluation` measures, compares, fits a calibration to or sets thresholds on.

Notation: N trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from nestvox.corpora.delimited import write_frame
from nestvox.corpora.scores import write_scores
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import FingerprintError, NestvoxError, ScoresError, TableError
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.model.calibration import LlrCalibration, read_calibration
from nestvox.model.threshold import ScoreSpace, Threshold
from nestvox.progress import Bars, no_bars
from nestvox.scoring.conditions import Sides, marks_of, values_of_sides
from nestvox.scoring.normalise import NORM_METHODS, ScoreNorm, check_cohort, normalised
from nestvox.scoring.quality import trial_quality
from nestvox.scoring.refusals import check_system, check_trials, chosen_on_these
from nestvox.scoring.speakers import TrialSpeakers, training_overlap, trial_speakers
from nestvox.scoring.system import System, Unscored


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """What is done to scores before they are used.

    Attributes:
        norm: normalisation by a cohort, if any.
        calibration: maps to log likelihood ratios, if any; fitted on scores normalised alike.
        thresholds: stored ones that the scores will be held against.
    """

    norm: ScoreNorm | None = None
    calibration: LlrCalibration | None = None
    thresholds: tuple[Threshold, ...] = ()


AS_THEY_COME = Steps()
"""Nothing is done to the scores."""


def read_steps(
    *,
    score_norm: str | None = None,
    cohort: str | Path | None = None,
    top_k: int | None = None,
    calibration: str | Path | None = None,
    thresholds: str | Path | None = None,
) -> Steps:
    """What was asked to be done to the scores.

    `cohort` is a store; `calibration` and `thresholds` are model folders or calibration files that hold maps, and
    thresholds.

    Raises:
        NestvoxError: options that do not go together, or a file that holds no maps or thresholds.
    """
    norm = _score_norm(score_norm, cohort, top_k)
    stored = () if thresholds is None else read_calibration(thresholds).thresholds
    if thresholds is not None and not stored:
        raise NestvoxError(f"{thresholds} holds no thresholds; set one with `nestvox threshold`")
    llr = None if calibration is None else read_calibration(calibration).llr
    if calibration is not None and llr is None:
        raise NestvoxError(f"{calibration} holds no calibration; make one with `nestvox calibrate`")
    return Steps(norm=norm, calibration=llr, thresholds=stored)


def _score_norm(method: str | None, cohort: str | Path | None, top_k: int | None) -> ScoreNorm | None:
    if method is None:
        if cohort is not None or top_k is not None:
            raise NestvoxError(f"{'--cohort' if cohort else '--top-k'} means nothing without --score-norm")
        return None
    known = {str(name): name for name in NORM_METHODS}
    if method not in known:
        raise NestvoxError(f"--score-norm {method}: expected {', '.join(known)}")
    if cohort is None:
        raise NestvoxError("--score-norm needs --cohort: a store of other speakers, by the same model")
    return ScoreNorm(known[method], EmbeddingStore(cohort), top_k)


class Given(TypedDict, total=False):
    """What is known beside a system and its table; the keyword arguments of `score_trials`."""

    speakers: tuple[ArrayLike, ArrayLike] | None
    conditions: Mapping[str, Sides] | Sequence[str]
    steps: Steps
    allow_overlap: bool
    bars: Bars


@dataclass(frozen=True, eq=False)
class ScoredTrials:
    """N trials with the scores of a system, and everything that a number made of them has to say.

    Attributes:
        trials: labelled, of both classes, none twice.
        targets: (N,) labels.
        speakers: of both sides.
        raw: the scores as they came.
        normalised: before the calibration; the same where there is no normalisation.
        system: as they are used; the same where there is no calibration.
        table: utterances that the trials name, if given.
        sides: column to the values of both sides, for the conditions.
        labels: what every number has to carry beside those of the system.
        notes: what a reader has to know beside those of the system.
        steps: what was done.
        allow_overlap: training speakers were let in.
    """

    trials: Trials
    targets: NDArray[np.bool_]
    speakers: TrialSpeakers
    raw: System
    normalised: System
    system: System
    table: UtteranceTable | None = None
    sides: Mapping[str, Sides] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    steps: Steps = AS_THEY_COME
    allow_overlap: bool = False

    def path_of(self, name: str) -> str | None:
        """Audio file of a name of the trials, None where it is not known or the name itself."""
        return self.system.path_of(name) if self.table is None else self.table.path_of(name)

    def frame(self) -> pl.DataFrame:
        """``enrol``, ``test``, ``target``, ``score`` at the largest dimension; where it was changed, also as it came.

        The last column is named after what it means, e.g. ``cosine``.
        """
        dim, values = list(self.system.scores.items())[-1]
        frame = self.trials.frame.with_columns(pl.Series("score", values))
        if self.system is self.raw:
            return frame
        return frame.with_columns(pl.Series(self.raw.space.kind, self.raw.scores[dim]))

    def write(self, path: str | Path) -> None:
        """Write `frame` to a .csv or .parquet file, or lines of score and both names to a .txt file.

        Raises:
            ScoresError: a name with a blank in it, for .txt.
        """
        if Path(path).suffix == ".txt":
            write_scores(self.frame(), path)
            return
        parquet = Path(path).suffix == ".parquet"
        frame = self.frame() if parquet else self.frame().with_columns(pl.col("target").cast(pl.Int8))
        write_frame(frame, Path(path), "parquet" if parquet else "csv")


def score_trials(
    unscored: Unscored,
    *,
    table: UtteranceTable | None = None,
    speakers: tuple[ArrayLike, ArrayLike] | None = None,
    conditions: Mapping[str, Sides] | Sequence[str] = (),
    steps: Steps = AS_THEY_COME,
    allow_overlap: bool = False,
    bars: Bars = no_bars,
) -> ScoredTrials:
    """Score the trials of a system, normalise and calibrate; whatever can be refused is refused before it scores.

    Args:
        unscored: the system and its trials, which are labelled, of both classes, none twice.
        table: utterances that the trials name: speakers, conditions, quality measures and labels of marks come from it.
        speakers: names or numbers of the speakers of both sides, (N,) each; see `speakers.trial_speakers`.
        conditions: columns of the table, or column name to the values of both sides, (N,) each.
        steps: what is done to the scores.
        allow_overlap: go on in spite of training speakers in the trials, with the label ``leaky``.
        bars: shows the phases that take long.

    Raises:
        TrialsError: unknown labels, one class only, duplicates, or speakers that contradict the labels.
        ScoresError: scores of other trials, or of another kind than the calibration was fitted on.
        OverlapError: training speakers, or the cohort's or the calibration's, stand in the trials.
        FingerprintError: cohort, calibration or thresholds are of another model.
        TableError: the table lacks utterances of the trials or a column, or there is none to split by.
        NestvoxError: whatever else the steps raise.
    """
    trials, known = unscored.trials, unscored.system
    targets = check_trials(trials)
    who = trial_speakers(trials, [known], speakers=speakers, table=table)
    if conditions and table is None and not isinstance(conditions, Mapping):
        raise TableError(f"splitting by {', '.join(conditions)} needs the utterance table that has this column")
    if isinstance(conditions, Mapping):
        sides = dict(conditions)
    else:
        sides = {} if table is None else values_of_sides(table, trials, conditions)
    labels, notes = check_unscored(unscored, who, steps=steps, allow_overlap=allow_overlap)
    raw = unscored.score()
    check_system(raw, trials)
    system = raw
    if steps.norm is not None:
        with bars("scoring against the cohort", "dimensions") as progress:
            system = normalised(system, steps.norm, who, progress=progress)
    before = system
    if steps.calibration is not None:
        with bars("measuring quality", "files") as progress:
            quality = trial_quality(steps.calibration.measures, system, trials, table, progress=progress)
        system = calibrated(system, steps.calibration, trials, who.names, quality, allow_overlap=allow_overlap)
    return ScoredTrials(
        trials,
        targets,
        who,
        raw,
        before,
        system,
        table=table,
        sides=sides,
        labels=tuple(sorted({*labels, *marks_of(trials, table)})),
        notes=notes,
        steps=steps,
        allow_overlap=allow_overlap,
    )


def check_unscored(
    unscored: Unscored, speakers: TrialSpeakers, *, steps: Steps = AS_THEY_COME, allow_overlap: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Refuse what the scores of a system could not be used for, before it scores.

    Arguments as `score_trials` takes them; `speakers` are those of the trials.

    Returns:
        Labels and sentences for the results.

    Raises:
        OverlapError, FingerprintError, ScoresError, StoreError, TrialsError, NestvoxError: as `score_trials`.
    """
    system, norm, llr = unscored.system, steps.norm, steps.calibration
    labels, notes = training_overlap(speakers, system.training_speakers, allow=allow_overlap)
    chosen_labels, chosen_notes = chosen_on_these(unscored.trials, system.chosen_on)
    space = system.space
    if norm is not None and unscored.tap:
        check_cohort(norm, speakers, fingerprint=system.fingerprint, tap=unscored.tap)
        space = norm.space
    if llr is not None:
        check_calibration(llr, system.name, system.fingerprint, space)
        llr.refuse_seen(unscored.trials.sha256, speakers.names, allow=allow_overlap)
        space = llr.llr_space
    for threshold in steps.thresholds:
        threshold.refuse_elsewhere(fingerprint=system.fingerprint or "", dim=threshold.dim, space=threshold.space)
    return labels + chosen_labels, notes + chosen_notes


def check_calibration(llr: LlrCalibration, name: str, fingerprint: str | None, space: ScoreSpace) -> None:
    """Refuse a calibration of another model, or of scores that mean something else.

    Raises:
        FingerprintError, ScoresError: with both.
    """
    if llr.fingerprint != (fingerprint or ""):
        raise FingerprintError(
            f"the calibration was fitted on scores of the model {llr.fingerprint or '(unknown)'}, {name} is of "
            f"{fingerprint or '(unknown)'}; calibrate this model"
        )
    if space != llr.space:
        raise ScoresError(
            f"the calibration was fitted on the {llr.space}, the scores of {name} are the {space}; normalise them "
            "alike, or calibrate again"
        )


def calibrated(
    system: System,
    llr: LlrCalibration,
    trials: Trials,
    speakers: Iterable[str],
    quality: Mapping[int | None, Mapping[str, tuple[ArrayLike, ArrayLike]]],
    *,
    allow_overlap: bool = False,
) -> System:
    """Map every score to a log likelihood ratio in nats.

    `system` holds scores of the kind, and of the model, that `llr` was fitted on, on other trials and speakers;
    dimensions without a map are left out, and said. `speakers` are the names in the trials, where they are known;
    `quality` holds the calibration's measures on both sides at each dimension (`quality.trial_quality`).

    Raises:
        FingerprintError: the calibration is of another model.
        ScoresError: it was fitted on scores of another kind, or for other dimensions.
        TrialsError, OverlapError: as `LlrCalibration.refuse_seen`.
    """
    check_calibration(llr, system.name, system.fingerprint, system.space)
    labels = llr.refuse_seen(trials.sha256, speakers, allow=allow_overlap)
    there = {dim: scores for dim, scores in system.scores.items() if dim in llr.maps}
    if not there:
        fitted = ", ".join("scores without a dimension" if dim is None else str(dim) for dim in llr.maps)
        raise ScoresError(f"the calibration was fitted for {fitted}, none of which {system.name} has")
    left_out = [str(dim) for dim in system.scores if dim not in there]
    notes = [f"The calibration holds no map for {', '.join(left_out)} dimensions: left out."] if left_out else []
    if llr.labels:
        notes.append(f"The calibration was fitted on trials labelled {', '.join(llr.labels)}.")
    return replace(
        system,
        scores={dim: llr.llr(dim, scores, quality.get(dim, {})) for dim, scores in there.items()},
        space=llr.llr_space,
        labels=tuple(sorted({*system.labels, *labels})),
        notes=(*system.notes, *notes),
    )
