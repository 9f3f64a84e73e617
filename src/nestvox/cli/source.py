"""Where scores come from on the command line: a score file, a store, or a model that embeds what the trials name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nestvox.errors import FingerprintError, NestvoxError

if TYPE_CHECKING:
    from nestvox.cli.running import Running
    from nestvox.corpora.trials import Trials
    from nestvox.corpora.utterances import UtteranceTable
    from nestvox.extraction.store.store import EmbeddingStore
    from nestvox.model.calibration import LlrCalibration
    from nestvox.model.speaker_model import SpeakerModel
    from nestvox.model.threshold import Threshold
    from nestvox.progress import Progress
    from nestvox.scoring.rescore import ScoreNorm
    from nestvox.scoring.speakers import TrialSpeakers
    from nestvox.scoring.system import System

__all__ = [
    "check_model_folder",
    "embedded_system",
    "load_for_trials",
    "read_llr",
    "read_score_norm",
    "read_system",
    "rescored_system",
    "show_dim",
    "show_score",
]


def read_system(
    trials: Trials,
    table: UtteranceTable | None,
    *,
    scores: Path | None,
    store: Path | None,
    model: str | None,
    dims: Sequence[int] | None,
    running: Running,
    allow_overlap: bool = False,
    norm: ScoreNorm | None = None,
    llr: LlrCalibration | None = None,
    thresholds: Sequence[Threshold] = (),
) -> System:
    """The scores of the trials: of the file, of the store, else of the model.

    Whatever can be refused is refused before a model embeds anything.

    Args:
        trials: labelled, none twice.
        table: needed where a model has to embed.
        scores: score file.
        store: embeddings; with `model` too, they must be of that model.
        model: folder or catalogue name.
        dims: prefix lengths of embeddings.
        running: how a model is loaded and run.
        allow_overlap: take a model's own training speakers.
        norm: what the scores will be normalised by.
        llr: what they will be mapped by.
        thresholds: what they will be held against.

    Raises:
        NestvoxError: none of the three is given, or they do not go together.
        FingerprintError: the store is of another model.
    """
    from nestvox.corpora.scores import read_scores
    from nestvox.extraction.store.store import EmbeddingStore
    from nestvox.scoring.system import system_of_scores, system_of_store

    if scores is not None:
        if store is not None or model is not None:
            raise NestvoxError("--scores are given already: leave out --store and --model")
        if dims is not None:
            raise NestvoxError("--dims means nothing with --scores: scores have no dimensions")
        return system_of_scores(scores.stem, trials, read_scores(scores), source=str(scores))
    if store is not None:
        opened = EmbeddingStore(store)
        if model is not None:
            check_model_folder(model, opened.metadata.fingerprint, str(store))
        return system_of_store(opened.metadata.model, trials, opened, dims=dims)
    if model is None:
        raise NestvoxError("give --scores, --store, or --model with --table")
    if table is None:
        raise NestvoxError("--model needs --table, which says where the audio of the trials is, or --store")
    loaded = load_for_trials(
        model,
        [trials],
        table,
        dims=dims,
        running=running,
        allow_overlap=allow_overlap,
        norm=norm,
        llr=llr,
        thresholds=thresholds,
    )
    return embedded_system(model, model, loaded, trials, table, dims=dims)


def load_for_trials(
    model: str,
    lists: Sequence[Trials],
    table: UtteranceTable,
    *,
    dims: Sequence[int] | None,
    running: Running,
    allow_overlap: bool = False,
    norm: ScoreNorm | None = None,
    llr: LlrCalibration | None = None,
    thresholds: Sequence[Threshold] = (),
) -> SpeakerModel:
    """Load a model, and refuse before anything is embedded what its scores could not be used for.

    Args:
        model: folder or catalogue name.
        lists: trials that it will score.
        table: utterances that they name.
        dims: prefix lengths.
        running: how a model is loaded and run.
        allow_overlap: take its own training speakers.
        norm: what the scores will be normalised by.
        llr: what they will be mapped by.
        thresholds: what they will be held against.

    Raises:
        TableError: the table lacks utterances of the trials.
        ModelError: a dimension that the model does not have.
        OverlapError: its training speakers, the cohort's or the calibration's stand in the trials; they are named.
        FingerprintError: cohort, calibration or thresholds are of another model.
        TrialsError: the calibration was fitted on these trials.
    """
    from nestvox.evaluation.compare import trial_speakers
    from nestvox.scoring.rescore import check_calibration, check_cohort
    from nestvox.scoring.speakers import training_overlap

    speakers = [trial_speakers(trials, [], table=table) for trials in lists]
    loaded = running.load(model)
    for dim in dims or ():
        loaded.check_dim(dim)
    for trials, known in zip(lists, speakers, strict=True):
        training_overlap(known, loaded.training_speakers, allow=allow_overlap)
        if norm is not None:
            check_cohort(norm, known, fingerprint=loaded.fingerprint, tap="nested")
        if llr is not None:
            check_calibration(llr, model, loaded.fingerprint)
            llr.refuse_seen(trials.sha256, known.names, allow=allow_overlap)
    for threshold in thresholds:
        threshold.refuse_elsewhere(fingerprint=loaded.fingerprint, dim=threshold.dim, space=threshold.space)
    return loaded


def embedded_system(
    name: str,
    model: str,
    loaded: SpeakerModel,
    trials: Trials,
    table: UtteranceTable,
    *,
    dims: Sequence[int] | None,
) -> System:
    """Embed the utterances that the trials name, each once, with a progress bar."""
    from nestvox.cli.progress import progress_bar
    from nestvox.extraction.embed import embed_table
    from nestvox.scoring.system import system_of_model

    path = Path(model)
    files = [path] if path.is_file() else path.iterdir() if path.is_dir() else None
    size = None if files is None else sum(file.stat().st_size for file in files if file.is_file())
    with progress_bar(f"embedding with {name}", "utterances") as progress:

        def embed(part: UtteranceTable, folder: Path, report: Progress = progress) -> EmbeddingStore:
            return embed_table(loaded, part, folder, progress=report)

        return system_of_model(
            name, trials, loaded, table, embed, dims=dims, size_bytes=size, chosen_on=loaded.chosen_on
        )


def read_score_norm(method: str | None, cohort: Path | None, top_k: int | None) -> ScoreNorm | None:
    """The score normalisation that was asked for, or None.

    Raises:
        NestvoxError: options that do not go together.
    """
    from nestvox.extraction.store.store import EmbeddingStore
    from nestvox.scoring.rescore import NORM_METHODS, ScoreNorm

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


def read_llr(calibration: Path | None) -> LlrCalibration | None:
    """The maps of a model folder or calibration file, or None where none is given.

    Raises:
        NestvoxError: it holds none.
    """
    from nestvox.model.calibration import read_calibration

    if calibration is None:
        return None
    llr = read_calibration(calibration).llr
    if llr is None:
        raise NestvoxError(f"{calibration} holds no calibration; make one with `nestvox calibrate`")
    return llr


def rescored_system(
    system: System,
    trials: Trials,
    speakers: TrialSpeakers,
    table: UtteranceTable | None,
    *,
    norm: ScoreNorm | None,
    llr: LlrCalibration | None,
    allow_overlap: bool,
) -> tuple[System, System]:
    """Normalise and calibrate what was asked for.

    Returns:
        The scores before the calibration, and after; the same where there is none.

    Raises:
        FingerprintError, ScoresError, TrialsError, OverlapError: as `rescore.normalised` and `rescore.calibrated`.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.scoring.quality import trial_quality
    from nestvox.scoring.rescore import calibrated, normalised

    if norm is not None:
        with progress_bar("scoring against the cohort", "dimensions") as progress:
            system = normalised(system, norm, speakers, progress=progress)
    if llr is None:
        return system, system
    with progress_bar("measuring quality", "files") as progress:
        quality = trial_quality(llr.measures, system, trials, table, progress=progress)
    return system, calibrated(system, llr, trials, speakers.names, quality, allow_overlap=allow_overlap)


def check_model_folder(model: str, fingerprint: str, where: str) -> None:
    """Refuse embeddings that a model folder did not make; a catalogue name is not loaded for this.

    Raises:
        FingerprintError: another model made them.
        NestvoxError: `model` is no model folder.
    """
    from nestvox.model.calibration import read_calibration

    if not (Path(model) / "config.json").is_file():
        raise NestvoxError(
            f"{model} is no model folder: to use embeddings of an encoder, leave out --model, give --out"
        )
    own = read_calibration(model).fingerprint
    if own != fingerprint:
        raise FingerprintError(
            f"{where} holds embeddings of the model {fingerprint}, {model} is {own}; embed with this model"
        )


def show_dim(dim: int | None, *, unit: str = "") -> str:
    """A prefix length, in a table or with its unit in a sentence; scores of a file have none."""
    if dim is None:
        return "scores" if unit else "-"
    return f"{dim} {unit}".rstrip()


def show_score(score: float) -> str:
    """A score or threshold with four decimals, or four digits where those would say too little or too much."""
    return f"{score:.4f}" if score == 0 or 0.1 <= abs(score) < 1e6 else f"{score:.4g}"
