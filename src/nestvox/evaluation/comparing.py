"""Compare systems on the same trials, dimension by dimension, with every p value corrected for their number.

The first system is the one that the others are held against.
"""

from __future__ import annotations

import functools
import itertools
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nestvox.corpora.trials import Trials, as_trials
from nestvox.corpora.utterances import UtteranceTable, as_table
from nestvox.errors import NestvoxError, ScoresError, TrialsError
from nestvox.evaluation.comparison import (
    Comparison,
    ComparisonRow,
    DisputedTrial,
    MeanOverDims,
    Selection,
    SystemRow,
    disputed_trials,
    select_system,
)
from nestvox.evaluation.estimates import USUAL, Settings
from nestvox.metrics import eer, error_curve, holm, min_dcf, rates_at
from nestvox.metrics.compare import PairedComparison, compare_scores, rank_identically
from nestvox.metrics.wording import difference_in_words
from nestvox.progress import Bars, Progress, no_bars, silent
from nestvox.scoring.conditions import marks_of
from nestvox.scoring.pipeline import check_unscored
from nestvox.scoring.refusals import check_system, check_trials, chosen_on_these, refuse_shared_trials
from nestvox.scoring.sources import Load, known, load_model, names_a_model
from nestvox.scoring.speakers import TrialSpeakers, training_overlap, trial_speakers
from nestvox.scoring.system import Scores, System, Unscored

IDENTICAL = "both have the same scores, or put the trials in the same order: nothing to compare"

_ROUNDING = 1e-5  # of a standard deviation of the scores: more than rotating float32 vectors leaves


def compare(
    a: Any,
    b: Any,
    trials: Trials | str | Path,
    *,
    more: Sequence[Any] = (),
    table: UtteranceTable | str | Path | None = None,
    names: Sequence[str] | None = None,
    dims: Sequence[int] | None = None,
    select_on: Trials | str | Path | None = None,
    speakers: tuple[ArrayLike, ArrayLike] | None = None,
    allow_overlap: bool = False,
    settings: Settings = USUAL,
    n_permutations: int = 2000,
    load: Load | None = None,
    bars: Bars = no_bars,
) -> Comparison:
    """Hold systems against the first on the same trials: is one better, or how many trials would it take to say?

    Args:
        a: the first system: whatever `nestvox.evaluate` takes.
        b: one that is held against it.
        trials: labelled, of both classes, none twice; a list or its path.
        more: further ones.
        table: utterances that the trials name; a model needs it.
        names: of all systems; None: their own, or ``a``, ``b``... where two of those are the same.
        dims: prefix lengths of embeddings; None: those of the stores or models.
        select_on: other trials, on which the system and the dimension are chosen that are put first.
        speakers: names or numbers of the speakers of both sides, (N,) each. Without them the table is asked, then the
            stores, then names like VoxCeleb's, else utterances are resampled and the result says so.
        allow_overlap: compare in spite of training speakers in the trials, with the label ``leaky``.
        settings: operating point, replicates (the same draws for both systems), seed of these and of the permutation,
            and confidence, 1 minus which p values are held against.
        n_permutations: rounds of the permutation by speaker.
        load: makes a model of a path or a name, each once; None: `nestvox.load`.
        bars: shows the phases that take long.

    Raises:
        NestvoxError: as `scoring.sources.known`, `select_system` and `compare_systems`.
    """
    lists = [as_trials(given) for given in (trials, select_on) if given is not None]
    for listed in lists:
        check_trials(listed)
    if select_on is not None:
        refuse_shared_trials(lists[1], lists[0])
    if n_permutations < 1:
        raise NestvoxError(f"a p value takes one permutation or more, got {n_permutations}")
    utterances = as_table(table)
    given = (a, b, *more)
    if names is not None and len(set(names)) < len(given):
        raise NestvoxError(f"a comparison needs two or more systems of different names, got {', '.join(names)}")
    loaded = functools.cache(load or load_model)

    def called(names: Sequence[str | None]) -> dict[int, list[Unscored]]:
        read_first = sorted(range(len(given)), key=lambda number: names_a_model(given[number]))
        asked: dict[str, Any] = {"table": utterances, "dims": dims, "bars": bars, "load": loaded}
        return {i: [known(given[i], listed, name=names[i], **asked) for listed in lists] for i in read_first}

    sources = called([None] * len(given) if names is None else names)
    if names is None and len({source.system.name for source, *_ in sources.values()}) < len(given):
        sources = called(string.ascii_lowercase[: len(given)])
    for source in itertools.chain.from_iterable(sources.values()):  # all is refused that can be before one embeds
        who = trial_speakers(source.trials, [source.system], speakers=speakers, table=utterances)
        check_unscored(source, who, allow_overlap=allow_overlap)

    def scored(which: int) -> list[System]:
        return [sources[number][which].score() for number in range(len(given))]

    selection = None if select_on is None else select_system(lists[1], scored(1), reported=lists[0])
    systems = scored(0)
    with bars("comparing", "comparisons") as progress:
        return compare_systems(
            lists[0],
            systems,
            speakers=speakers,
            table=utterances,
            allow_overlap=allow_overlap,
            settings=settings,
            n_permutations=n_permutations,
            selection=selection,
            progress=progress,
        )


def compare_systems(
    trials: Trials,
    systems: Sequence[System],
    *,
    speakers: tuple[ArrayLike, ArrayLike] | None = None,
    table: UtteranceTable | None = None,
    allow_overlap: bool = False,
    settings: Settings = USUAL,
    n_permutations: int = 2000,
    selection: Selection | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Hold every other system against the first.

    Dimensions that both have are compared one by one; where they have none in common, the largest of each is.

    `systems`, two or more, are scored on these trials. `selection` is of one of them on other trials, see
    `select_system`: it is put first. All else as `compare` takes it.

    Raises:
        NestvoxError: fewer than two systems, or two of one name.
        ScoresError: scores of other trials, or a system that is a copy of another at every dimension.
        TrialsError, TableError: as `scoring.pipeline.score_trials`.
        OverlapError: training speakers of a system stand in the trials.
    """
    targets = check_trials(trials)
    given, systems = tuple(systems), _ordered(trials, systems, selection)
    who = trial_speakers(trials, systems, speakers=speakers, table=table)
    keys = [key for system in systems for key in system.training_speakers]
    labels, notes = training_overlap(who, keys, allow=allow_overlap)
    labels, notes = _said(trials, systems, who, selection, (*labels, *marks_of(trials, table)), notes)
    enrol, test, n_clusters = who.restricted(targets | True)
    first, others = systems[0], systems[1:]
    tasks = [(other, *dims) for other in others for dims in _dims_of(first, other)]
    _refuse_copies(systems)
    paired: list[PairedComparison | None] = []
    for done, (other, dim_a, dim_b) in enumerate(tasks, start=1):
        pair = first.scores[dim_a], other.scores[dim_b]
        drawn: dict[str, Any] = {"n_permutations": n_permutations, **settings.drawn}
        paired.append(None if _same(*pair) else compare_scores(*pair, targets, enrol, test, **drawn))
        progress(done, len(tasks))
    made = sum(found is not None for found in paired)
    figures = {
        (system.name, dim): figures_of(system, dim, targets, settings.point)
        for system in systems
        for dim in system.scores
    }
    of = {"n_trials": len(trials), "n_clusters": n_clusters, "unit": "speakers" if who.known else "utterances"}
    rows = _rows(first, tasks, paired, figures, confidence=settings.confidence, **of)
    return Comparison(
        systems=tuple(figures.values()),
        rows=rows,
        means=tuple(_means(first, other, figures) for other in others if len(_dims_of(first, other)) > 1),
        disputed=_disputed(trials, first, others, figures, table),
        selection=selection,
        n_target=int(targets.sum()),
        n_nontarget=int((~targets).sum()),
        n_clusters=n_clusters,
        trials_source=trials.source,
        trials_sha256=trials.sha256,
        p_target=settings.p_target,
        c_miss=settings.c_miss,
        c_fa=settings.c_fa,
        confidence=settings.confidence,
        method=_method(who, n_clusters, made, n_permutations, settings),
        labels=labels,
        notes=notes,
        scored=given,
    )


def _disputed(
    trials: Trials,
    first: System,
    others: Sequence[System],
    figures: Mapping[tuple[str, int | None], SystemRow],
    table: UtteranceTable | None,
) -> tuple[DisputedTrial, ...]:
    """Trials that only one of two systems decides rightly, at the largest dimension at which they differ."""
    return tuple(
        trial
        for other in others
        for dim_a, dim_b in _last_different(first, other)
        for trial in disputed_trials(
            trials,
            (first.name, other.name),
            (first.scores[dim_a], other.scores[dim_b]),
            (figures[first.name, dim_a].eer_threshold, figures[other.name, dim_b].eer_threshold),
            path_of=(lambda _: None) if table is None else table.path_of,
        )
    )


def _method(who: TrialSpeakers, n_clusters: int, made: int, n_permutations: int, settings: Settings) -> str:
    """What was resampled and exchanged, how often, and what p values were corrected for."""
    unit = "speakers" if who.known else "utterances"
    corrected = f", p values corrected for {made} comparisons (Holm)" if made > 1 else ""
    return (
        f"{100 * settings.confidence:g} % percentile interval of {settings.n_bootstrap} paired bootstrap replicates: "
        f"{n_clusters} {unit} ({who.source}) drawn with replacement on both sides of a trial, one draw for both "
        f"systems; p values of {n_permutations} rounds in which each of the {unit} has the two systems exchanged "
        f"or not{corrected}; seed {settings.seed}"
    )


def _said(
    trials: Trials,
    systems: Sequence[System],
    who: TrialSpeakers,
    selection: Selection | None,
    labels: tuple[str, ...],
    notes: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels and sentences of a comparison."""
    for system, (of_choice, sentences) in ((s, chosen_on_these(trials, s.chosen_on)) for s in systems):
        labels += of_choice
        notes += tuple(f"{system.name}: {sentence}" for sentence in sentences)
    labels = tuple(sorted({*labels, *itertools.chain(*(s.labels for s in systems))}))
    # What two systems say alike, as of the recordings that both heard, is said once.
    notes += tuple(dict.fromkeys(itertools.chain(*(system.notes for system in systems))))
    if not who.known:
        notes += (f"Intervals and p values are {who.warning}.",)
    if selection is not None:
        notes += (selection.sentence,)
    elif len(systems) > 2:
        notes += (
            "Whoever picks the best of these systems by these figures has to measure it on other trials: the best of "
            "several looks better than it is.",
        )
    return labels, notes


def _rows(
    first: System,
    tasks: Sequence[tuple[System, int | None, int | None]],
    paired: Sequence[PairedComparison | None],
    figures: Mapping[tuple[str, int | None], SystemRow],
    *,
    confidence: float,
    **of: Any,
) -> tuple[ComparisonRow, ...]:
    """Every other system against the first, p values corrected for how many comparisons there are."""
    made = [found for found in paired if found is not None]
    p_eer = iter(holm([found.eer.p_value for found in made]))
    p_cost = iter(holm([found.min_dcf.p_value for found in made]))
    rows: list[ComparisonRow] = []
    for (other, dim_a, dim_b), found in zip(tasks, paired, strict=True):
        pair = (first.name, other.name, dim_a, dim_b)
        changes = _changes(figures[first.name, dim_a], figures[other.name, dim_b])
        if found is None:
            rows.append(ComparisonRow(*pair, None, 1.0, 1.0, IDENTICAL, IDENTICAL, **changes))
            continue
        p_values = float(next(p_eer)), float(next(p_cost))
        words = [
            difference_in_words(
                first.name,
                other.name,
                figure,
                percent=percent,
                p_value=p_value,
                confidence=confidence,
                level=1 - confidence,
                **of,
            )
            for figure, percent, p_value in zip((found.eer, found.min_dcf), (True, False), p_values, strict=True)
        ]
        rows.append(ComparisonRow(*pair, found, *p_values, words[0], words[1], **changes))
    return tuple(rows)


def _ordered(trials: Trials, systems: Sequence[System], selection: Selection | None) -> list[System]:
    """The systems as given, the chosen one first; refuses what cannot be compared."""
    names = [system.name for system in systems]
    if len(systems) < 2 or len(set(names)) < len(names):
        raise NestvoxError(
            f"a comparison needs two or more systems of different names, got {', '.join(names) or 'none'}"
        )
    for system in systems:
        check_system(system, trials)
    if selection is None:
        return list(systems)
    if selection.trials_sha256 == trials.sha256 or selection.name not in names:
        raise TrialsError(
            f"the choice of {selection.name} was made on {selection.trials_source}; it must be one of the systems, and "
            "the figures must be of other trials"
        )
    return sorted(systems, key=lambda system: system.name != selection.name)


def copies(one: System, other: System) -> bool:
    """Whether two systems have the same scores, or order the trials alike, at every dimension that both have."""
    return all(_same(one.scores[a], other.scores[b]) for a, b in _dims_of(one, other))


def _refuse_copies(systems: Sequence[System]) -> None:
    for one, other in itertools.combinations(systems, 2):
        if copies(one, other):
            raise ScoresError(
                f"{other.name} and {one.name} have the same scores, or order the trials alike, throughout: one is a "
                "copy of the other"
            )


def _last_different(first: System, other: System) -> list[tuple[int | None, int | None]]:
    """The largest dimension at which they are not the same, e.g. not the full one of two rotations."""
    return [(a, b) for a, b in _dims_of(first, other) if not _same(first.scores[a], other.scores[b])][-1:]


def _same(a: Scores, b: Scores) -> bool:
    if rank_identically(a, b):
        return True
    size = max(float(np.abs(a).max()), float(np.abs(b).max())) or 1.0  # squares of huge scores overflow
    return bool(np.abs(a / size - b / size).max() <= _ROUNDING * (a / size).std())


def _dims_of(first: System, other: System) -> list[tuple[int | None, int | None]]:
    common = [dim for dim in first.scores if dim is not None and dim in other.scores]
    if common:
        return [(dim, dim) for dim in common]
    return [(list(first.scores)[-1], list(other.scores)[-1])]


def figures_of(system: System, dim: int | None, targets: Any, point: tuple[float, float, float]) -> SystemRow:
    """The figures of one system at one dimension; `targets` are the labels (N,), `point` prior and both costs."""
    curve = error_curve(system.scores[dim], targets)
    equal, cost = eer(curve), min_dcf(curve, *point)
    at = rates_at(curve, equal.threshold)
    return SystemRow(
        name=system.name,
        dim=dim,
        eer=equal.rate,
        eer_threshold=equal.threshold,
        accuracy=1 - (at.n_miss + at.n_false_alarm) / len(targets),
        min_dcf=cost.value,
        min_dcf_threshold=cost.threshold,
        mean_norm=None if dim is None or system.embedded is None else system.embedded.mean_norm(dim),
        size_bytes=None if dim is None else system.size_bytes,  # that of a list of scores says nothing of a system
        fingerprint=system.fingerprint,
    )


def _means(first: System, other: System, figures: Mapping[tuple[str, int | None], SystemRow]) -> MeanOverDims:
    pairs = [(figures[first.name, a], figures[other.name, b]) for a, b in _dims_of(first, other)]
    eer_a, eer_b = (float(np.mean([row.eer for row in side])) for side in zip(*pairs, strict=True))
    cost_a, cost_b = (float(np.mean([row.min_dcf for row in side])) for side in zip(*pairs, strict=True))
    dims = tuple(row.dim for row, _ in pairs if row.dim is not None)
    relative = (eer_b - eer_a) / eer_a if eer_a > 0 else None
    return MeanOverDims(first.name, other.name, dims, eer_a, eer_b, relative, cost_a, cost_b)


def _changes(first: SystemRow, other: SystemRow) -> dict[str, Any]:
    def less(a: Any, b: Any) -> Any:
        return None if a is None or b is None else b - a

    return {
        "relative_change": (other.eer - first.eer) / first.eer if first.eer > 0 else None,
        "accuracy_change": other.accuracy - first.accuracy,
        "threshold_change": other.eer_threshold - first.eer_threshold,
        "norm_change": less(first.mean_norm, other.mean_norm),
        "size_change_bytes": less(first.size_bytes, other.size_bytes),
    }
