"""The part of `nestvox evaluate` that normalises or calibrates scores, and counts the errors of stored thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nestvox.cli.console import say
from nestvox.errors import NestvoxError

if TYPE_CHECKING:
    from nestvox.cli.running import Running
    from nestvox.corpora.trials import Trials
    from nestvox.corpora.utterances import UtteranceTable
    from nestvox.evaluation import Evaluation
    from nestvox.evaluation.llr_fit import LlrCost
    from nestvox.evaluation.set_threshold import ThresholdUse
    from nestvox.evaluation.settings import Settings
    from nestvox.model.threshold import Threshold
    from nestvox.scoring.system import System

__all__ = ["RescoredEvaluation", "evaluate_rescored", "print_rescored"]


@dataclass(frozen=True)
class RescoredEvaluation:
    """An evaluation of scores that were changed on the way, with what the change did.

    Attributes:
        evaluation: of the scores as they came out.
        space: what they mean.
        origin: where the calibration comes from; empty: there is none.
        before: costs of the scores before the calibration, taken for log likelihood ratios; empty without one.
        after: costs after it.
        uses: stored thresholds on these trials.
        p_target: of the costs.
        scores_file: where the scores were written.
    """

    evaluation: Evaluation
    space: str
    origin: str
    before: tuple[LlrCost, ...]
    after: tuple[LlrCost, ...]
    uses: tuple[ThresholdUse, ...]
    p_target: float
    scores_file: Path | None

    def to_json(self) -> dict[str, Any]:
        """What stands in the JSON file beside the evaluation."""
        from nestvox.evaluation.results import plain_values

        parts = {name: [asdict(row) for row in getattr(self, name)] for name in ("before", "after", "uses")}
        found: dict[str, Any] = plain_values(
            {
                "score": self.space,
                "calibrated_by": self.origin or None,
                "llr_cost_before": parts["before"],
                "llr_cost_after": parts["after"],
                "thresholds": parts["uses"],
            }
        )
        return found


def evaluate_rescored(
    trials: Trials,
    *,
    table: UtteranceTable | None,
    scores: Path | None,
    store: Path | None,
    model: str | None,
    dims: Sequence[int] | None,
    running: Running,
    score_norm: str | None,
    cohort: Path | None,
    top_k: int | None,
    calibration: Path | None,
    thresholds: Path | None,
    scores_out: Path | None,
    llr: bool,
    allow_overlap: bool,
    conditions: Sequence[str],
    settings: Settings,
) -> RescoredEvaluation:
    """Score, normalise, calibrate and measure; the arguments are those of `nestvox evaluate`.

    Raises:
        NestvoxError: options that do not go together, and whatever the steps raise.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.cli.source import read_llr, read_score_norm, read_system, rescored_system
    from nestvox.evaluation.compare import trial_speakers
    from nestvox.evaluation.evaluate_system import evaluate_system
    from nestvox.evaluation.llr_fit import llr_costs
    from nestvox.evaluation.set_threshold import use_thresholds
    from nestvox.scoring.refusals import check_trials

    if scores_out is not None and scores_out.suffix not in (".csv", ".parquet"):
        raise NestvoxError(f"--scores-out must end in .csv or .parquet, got {scores_out}")
    targets = check_trials(trials)
    norm = read_score_norm(score_norm, cohort, top_k)
    stored = None if thresholds is None else _stored(thresholds)
    maps = read_llr(calibration)
    raw = read_system(
        trials,
        table,
        scores=scores,
        store=store,
        model=model,
        dims=dims,
        running=running,
        allow_overlap=allow_overlap,
        norm=norm,
        llr=maps,
        thresholds=stored or (),
    )
    speakers = trial_speakers(trials, [raw], table=table)
    before, system = rescored_system(raw, trials, speakers, table, norm=norm, llr=maps, allow_overlap=allow_overlap)
    uses: tuple[ThresholdUse, ...] = ()
    if stored is not None:
        uses = use_thresholds(
            [threshold for threshold in stored if threshold.space == system.space] or stored,
            system,
            trials,
            speakers,
            table=table,
            allow_overlap=allow_overlap,
            n_bootstrap=settings.n_bootstrap,
            seed=settings.seed,
            confidence=settings.confidence,
        )
    with progress_bar("measuring", "rows") as progress:
        evaluation = evaluate_system(
            system,
            trials,
            speakers,
            table=table,
            conditions=conditions,
            llr=llr,
            allow_overlap=allow_overlap,
            settings=settings,
            progress=progress,
        )
    known = {dim: before.scores[dim] for dim in system.scores}
    if scores_out is not None:
        _write_scores(scores_out, trials, raw, system)
    return RescoredEvaluation(
        evaluation,
        str(system.space),
        "" if calibration is None else str(calibration),
        llr_costs(known, targets, *settings.point) if calibration is not None else (),
        llr_costs(system.scores, targets, *settings.point) if calibration is not None else (),
        uses,
        settings.p_target,
        scores_out,
    )


def print_rescored(rescored: RescoredEvaluation) -> None:
    """Print costs before and after the calibration, and what stored thresholds do here."""
    from nestvox.cli.calibrate import print_costs
    from nestvox.cli.source import show_dim
    from nestvox.cli.threshold import print_uses

    if rescored.origin:
        print_costs(
            {"before": rescored.before, "after": rescored.after},
            title=f"calibrated by {rescored.origin}",
            p_target=rescored.p_target,
            labels=rescored.evaluation.labels,
        )
        for row in rescored.evaluation.overall:
            say(f"{show_dim(row.dim, unit='dimensions')}: EER at an LLR of {row.eer_threshold:+.3f} nats", style="dim")
    if rescored.uses:
        print_uses(rescored.uses)
    if rescored.scores_file is not None:
        say(f"Scores ({rescored.space}): {rescored.scores_file!s}")


def _stored(path: Path) -> tuple[Threshold, ...]:
    from nestvox.model.calibration import read_calibration

    found = read_calibration(path).thresholds
    if not found:
        raise NestvoxError(f"{path} holds no thresholds; set one with `nestvox threshold`")
    return found


def _write_scores(path: Path, trials: Trials, raw: System, after: System) -> None:
    """Names, label and score of every trial; where the score was changed, what it was stands beside it."""
    import polars as pl

    from nestvox.corpora.delimited import write_frame

    dim, values = list(after.scores.items())[-1]
    columns = [pl.Series("score", values)]
    if after is not raw:
        columns.append(pl.Series(raw.space.kind, raw.scores[dim]))
    frame = trials.frame.with_columns(*columns)
    if path.suffix == ".parquet":
        write_frame(frame, path, "parquet")
    else:
        write_frame(frame.with_columns(pl.col("target").cast(pl.Int8)), path, "csv")
