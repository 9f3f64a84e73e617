"""Thresholds from labelled pairs of the user's own domain, by duration where the pairs allow, and their use elsewhere.

Notation: N trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.corpora.trials import Trials, as_trials
from nestvox.corpora.utterances import UtteranceTable, as_table
from nestvox.errors import ModelError, NestvoxError, TrialsError
from nestvox.evaluation.estimates import PERCENTILE
from nestvox.evaluation.results import plain_values
from nestvox.metrics.bootstrap import check_replicates, seeded
from nestvox.metrics.estimate import Estimate, TrialSet
from nestvox.metrics.thresholds import DecisionRule, MeasuredThreshold, fit_threshold, measure_threshold
from nestvox.model.threshold import DurationClass, Threshold
from nestvox.progress import Bars, Progress, no_bars, silent
from nestvox.scoring.conditions import enrol_clips_of, marks_of
from nestvox.scoring.pipeline import AS_THEY_COME, Steps, score_trials
from nestvox.scoring.quality import trial_durations_s
from nestvox.scoring.refusals import SELECTED, check_trials
from nestvox.scoring.sources import Load, known
from nestvox.scoring.speakers import TrialSpeakers, training_overlap
from nestvox.scoring.system import System

_FEWEST_TRIALS = 30
_FEWEST_SPEAKERS = 5

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class NotSet(TrialSet):
    """A duration class that has no threshold of its own, and why."""

    dim: int | None
    duration_class: DurationClass
    reason: str


@dataclass(frozen=True)
class ThresholdsSet:
    """What was set, and what could not be.

    Attributes:
        thresholds: dimensions ascending; for each the one for any duration first.
        not_set: duration classes without a threshold of their own.
        warnings: for each threshold, sentences on what its trials are too few to say.
        labels: what has to be said with every rate.
        notes: what a reader has to know, in sentences.
    """

    thresholds: tuple[Threshold, ...]
    not_set: tuple[NotSet, ...]
    warnings: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; rates are fractions."""
        plain: dict[str, Any] = plain_values(asdict(self))
        return plain


@dataclass(frozen=True, kw_only=True)
class ThresholdUse(TrialSet):
    """What a stored threshold does on other trials; labelled ``selected`` where it was set on these very ones.

    Attributes:
        threshold: as it was stored, with the rates that it promises.
        p_fa: false-alarm rate here.
        p_miss: miss rate here.
        interval: in words.
    """

    threshold: Threshold
    p_fa: Estimate
    p_miss: Estimate
    interval: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values; rates are fractions."""
        return {**super().to_dict(), "threshold": asdict(self.threshold)}


def threshold(
    system: Any,
    trials: Trials | str | Path,
    rule: DecisionRule,
    *,
    table: UtteranceTable | str | Path | None = None,
    dims: Sequence[int] | None = None,
    domain: str = "",
    default: bool = False,
    classes: Sequence[DurationClass] = (),
    steps: Steps = AS_THEY_COME,
    n_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    allow_overlap: bool = False,
    load: Load | None = None,
    bars: Bars = no_bars,
) -> ThresholdsSet:
    """Score labelled pairs of the user's own domain and set a threshold at every dimension.

    Args:
        system: whatever `nestvox.evaluate` takes.
        trials: labelled, of both classes, none twice; a list or its path.
        rule: operating point.
        table: utterances that the trials name: speakers, durations, and the audio for a model.
        dims: prefix lengths of embeddings; None: those of the store or model.
        domain: what the user calls this material.
        default: it decides where nobody asks for another.
        classes: durations of the shorter recording that get a threshold of their own; they need the table.
        steps: what is done to the scores first.
        n_bootstrap: replicates of the intervals, clustered by speaker.
        seed: of the replicates.
        confidence: of the intervals.
        allow_overlap: set it on speakers that the model was trained on, with the label ``leaky``.
        load: makes a model of a path or a name; None: `nestvox.load`.
        bars: shows the phases that take long.

    Raises:
        NestvoxError: as `scoring.sources.known`, `scoring.pipeline.score_trials` and `set_thresholds`.
    """
    listed = as_trials(trials)
    targets = check_trials(listed)
    check_replicates(n_bootstrap, confidence)
    seeded(seed)
    if reason := rule.too_few(int(targets.sum()), int((~targets).sum())):
        raise TrialsError(reason, source=listed.source)
    if classes and table is None:
        raise NestvoxError("thresholds by duration need --table, which says how long the recordings are")
    utterances = as_table(table)
    source = known(system, listed, table=utterances, dims=dims, bars=bars, load=load)
    scored = score_trials(source, table=utterances, steps=steps, allow_overlap=allow_overlap, bars=bars)
    with bars("setting", "thresholds") as progress:
        return set_thresholds(
            scored.system,
            listed,
            scored.speakers,
            rule,
            domain=domain,
            default=default,
            classes=classes,
            table=utterances,
            allow_overlap=allow_overlap,
            n_bootstrap=n_bootstrap,
            seed=seed,
            confidence=confidence,
            progress=progress,
        )


def set_thresholds(
    system: System,
    trials: Trials,
    speakers: TrialSpeakers,
    rule: DecisionRule,
    *,
    domain: str = "",
    default: bool = False,
    classes: Sequence[DurationClass] = (),
    table: UtteranceTable | None = None,
    enrol_clips: int | None = None,
    allow_overlap: bool = False,
    n_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    progress: Progress = silent,
) -> ThresholdsSet:
    """Set a threshold for every dimension, and one for each duration class that has the trials for it.

    `speakers` are those of the trials; `table` holds durations and marks; `enrol_clips` are the recordings of each
    profile on the first side, None: as the trials name them. All else as `threshold` takes it.

    Raises:
        TrialsError: the trials cannot say what is asked; unknown labels, one class only, duplicates.
        OverlapError: the model was trained on speakers of the trials; they are named.
        NestvoxError: classes without a table, or an interval that so few replicates cannot bound.
    """
    targets = check_trials(trials)
    labels, notes = training_overlap(speakers, system.training_speakers, allow=allow_overlap)
    labels = tuple(sorted({*system.labels, *labels, *marks_of(trials, table)}))
    if classes and table is None:
        raise NestvoxError("thresholds by duration need the utterance table that says how long the recordings are")
    shorter_s = trial_durations_s(trials, table) if classes and table is not None else np.zeros(len(trials))
    clips = enrol_clips_of(trials, table) if enrol_clips is None else enrol_clips
    everything: list[DurationClass | None] = [None, *classes]
    hashes = [_sha256(trials, _of_class(duration_class, shorter_s)) for duration_class in everything]
    found: list[Threshold] = []
    warnings: list[tuple[str, ...]] = []
    not_set: list[NotSet] = []
    for n_dim, (dim, scores) in enumerate(system.scores.items()):
        for n_class, duration_class in enumerate(everything):
            mask = _of_class(duration_class, shorter_s)
            of = TrialSet(
                trials_sha256=hashes[n_class],
                n_target=int(targets[mask].sum()),
                n_nontarget=int((~targets[mask]).sum()),
                labels=labels,
            )
            enrol, test, n_speakers = speakers.restricted(mask)
            try:
                if duration_class is not None and (reason := _too_few(rule, of, n_speakers)):
                    raise TrialsError(reason)
                measured = fit_threshold(
                    scores[mask],
                    targets[mask],
                    enrol,
                    test,
                    rule,
                    n_replicates=n_bootstrap,
                    seed=seed,
                    confidence=confidence,
                )
            except TrialsError as error:
                if duration_class is None:
                    raise TrialsError(str(error), source=trials.source) from error
                given = of.trials_to_dict()
                not_set.append(NotSet(**given, dim=dim, duration_class=duration_class, reason=str(error)))
            else:
                kept = {"domain": domain, "default": default, "duration_class": duration_class, "enrol_clips": clips}
                words = _in_words(measured, speakers, seed)
                found.append(_threshold(measured, system, of, rule, dim, trials.source, interval=words, **kept))
                warnings.append(measured.warnings())
            progress(n_dim * len(everything) + n_class + 1, len(system.scores) * len(everything))
    if not speakers.known:
        notes += (f"Intervals are {speakers.warning}.",)
    return ThresholdsSet(tuple(found), tuple(not_set), tuple(warnings), labels, (*system.notes, *notes))


def use_thresholds(
    thresholds: Sequence[Threshold],
    system: System,
    trials: Trials,
    speakers: TrialSpeakers,
    *,
    table: UtteranceTable | None = None,
    allow_overlap: bool = False,
    n_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[ThresholdUse, ...]:
    """Count the errors of stored thresholds on other trials: what they promise, held against what they do.

    Thresholds of dimensions that the system has not, or of profiles of another size, are passed over. `table` holds
    durations, where a threshold is for a duration class; all else as `set_thresholds` takes it.

    Raises:
        FingerprintError: a threshold of another model.
        ModelError: a threshold on another kind of score, or all are of profiles of another size.
        TrialsError: no threshold is for any of the dimensions, or a duration class has no trials of both classes.
        OverlapError: the model was trained on speakers of the trials.
    """
    targets = check_trials(trials)
    labels, _ = training_overlap(speakers, system.training_speakers, allow=allow_overlap)
    labels = tuple(sorted({*system.labels, *labels, *marks_of(trials, table)}))
    here = [threshold for threshold in thresholds if threshold.dim in system.scores]
    if not here:
        dims = sorted({-1 if threshold.dim is None else threshold.dim for threshold in thresholds})
        there = ", ".join("scores" if dim < 0 else str(dim) for dim in dims) or "none"
        raise TrialsError(f"there is no threshold for any of the dimensions measured; there are thresholds for {there}")
    clips = enrol_clips_of(trials, table)
    if not any(threshold.enrol_clips == clips for threshold in here):
        others = " and ".join(_profiles(one) for one in sorted({threshold.enrol_clips for threshold in here}))
        raise ModelError(
            f"the thresholds were set on {others}, these trials are {_profiles(clips)}: they say nothing about them"
        )
    here = [threshold for threshold in here if threshold.enrol_clips == clips]
    by_duration = any(threshold.duration_class is not None for threshold in here)
    if by_duration and table is None:
        raise NestvoxError("thresholds by duration need the utterance table that says how long the recordings are")
    shorter_s = trial_durations_s(trials, table) if by_duration and table is not None else np.zeros(len(trials))
    found = []
    for threshold in here:
        threshold.refuse_elsewhere(
            fingerprint=system.fingerprint or "", dim=threshold.dim, space=system.space
        )  # the dimension is among the system's
        mask = _of_class(threshold.duration_class, shorter_s)
        enrol, test, _ = speakers.restricted(mask)
        measured = measure_threshold(
            system.scores[threshold.dim][mask],
            targets[mask],
            enrol,
            test,
            threshold.value,
            n_replicates=n_bootstrap,
            seed=seed,
            confidence=confidence,
        )
        trials_sha256 = _sha256(trials, mask)
        own = {SELECTED} if trials_sha256 == threshold.trials_sha256 else set()
        of = TrialSet(
            trials_sha256=trials_sha256,
            n_target=measured.n_target,
            n_nontarget=measured.n_nontarget,
            n_clusters=measured.n_clusters,
            labels=tuple(sorted({*labels, *own})),
        )
        found.append(
            ThresholdUse(
                **of.trials_to_dict(),
                threshold=threshold,
                p_fa=_rate("FAR", threshold.dim, measured.point.p_fa, measured.p_fa, of),
                p_miss=_rate("FRR", threshold.dim, measured.point.p_miss, measured.p_miss, of),
                interval=_in_words(measured, speakers, seed),
            )
        )
    return tuple(found)


def _profiles(clips: int) -> str:
    return "pairs of recordings" if clips == 1 else f"profiles of {clips} recordings"


def _rate(name: str, dim: int | None, value: float, ends: tuple[float, float], trials: TrialSet) -> Estimate:
    low, high = ends
    return Estimate(name=name, dim=dim, value=value, low=low, high=high, interval=PERCENTILE, trials=trials)


def _of_class(duration_class: DurationClass | None, shorter_s: NDArray[np.float64]) -> Mask:
    if duration_class is None:
        return np.ones(len(shorter_s), dtype=np.bool_)
    high = math.inf if duration_class.high_s is None else duration_class.high_s
    return np.asarray((shorter_s >= duration_class.low_s) & (shorter_s < high))


def _sha256(trials: Trials, mask: Mask) -> str:
    return trials.sha256 if mask.all() else Trials(trials.frame.filter(mask), trials.source).sha256


def _too_few(rule: DecisionRule, of: TrialSet, n_speakers: int) -> str:
    """Why a duration class cannot have a threshold of its own; empty where it can."""
    counts = f"{of.n_target} target and {of.n_nontarget} non-target trials: it takes"
    if not of.n_target or not of.n_nontarget:
        return f"{counts} both"
    if n_speakers < _FEWEST_SPEAKERS:
        return f"{n_speakers} speakers: it takes {_FEWEST_SPEAKERS} or more to say how sure it is"
    if rule.rate is None and min(of.n_target, of.n_nontarget) <= _FEWEST_TRIALS:
        return f"{counts} more than {_FEWEST_TRIALS} of each to tell an error rate of 10 % from none"
    return rule.too_few(of.n_target, of.n_nontarget)


def _threshold(
    measured: MeasuredThreshold,
    system: System,
    of: TrialSet,
    rule: DecisionRule,
    dim: int | None,
    source: str,
    **kept: Any,
) -> Threshold:
    # The draws in which only rejecting everybody holds the rule leave the interval open upwards.
    ends = None if measured.value is None else (float(measured.value.low), float(measured.value.high))
    return Threshold(
        dim=dim,
        value=measured.point.threshold,
        operating_point=rule.name,
        p_fa=measured.point.p_fa,
        p_miss=measured.point.p_miss,
        n_target=of.n_target,
        n_nontarget=of.n_nontarget,
        trials_sha256=of.trials_sha256,
        trials_source=source,
        labels=of.labels,
        fingerprint=system.fingerprint or "",
        space=system.space,
        value_interval=None if ends is None or not all(map(math.isfinite, ends)) else ends,
        p_fa_interval=(measured.p_fa.low, measured.p_fa.high),
        p_miss_interval=(measured.p_miss.low, measured.p_miss.high),
        **kept,
    )


def _in_words(measured: MeasuredThreshold, speakers: TrialSpeakers, seed: int) -> str:
    unit = f"speakers ({speakers.source})" if speakers.known else "utterances"
    return (
        f"{100 * measured.confidence:g} % percentile interval of {measured.n_replicates} bootstrap replicates (seed "
        f"{seed}): {measured.n_clusters} {unit} drawn with replacement on both sides of a trial; rates no narrower "
        "than Wilson's interval of independent trials" + (f"; {speakers.warning}" if speakers.warning else "")
    )
