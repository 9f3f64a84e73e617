"""Where scores come from on the command line: a score file, a store, or a model that embeds what the trials name.

Options are made into what `scoring.pipeline.run` takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nestvox.errors import FingerprintError, NestvoxError

if TYPE_CHECKING:
    from nestvox.cli.options import Running
    from nestvox.corpora.trials import Trials
    from nestvox.corpora.utterances import UtteranceTable
    from nestvox.extraction.store.store import EmbeddingStore
    from nestvox.scoring.normalise import ScoreNorm
    from nestvox.scoring.pipeline import Steps
    from nestvox.scoring.system import Unscored


def read_source(
    trials: Trials,
    table: UtteranceTable | None,
    *,
    scores: Path | None,
    store: Path | None,
    model: str | None,
    dims: Sequence[int] | None,
    running: Running,
    skip_missing: bool = False,
) -> Unscored:
    """The score file, the store, else the model that was given, ready to score the trials.

    Args:
        trials: labelled, none twice.
        table: needed where a model has to embed.
        scores: score file.
        store: embeddings; with `model` too, they must be of that model.
        model: folder or catalogue name.
        dims: prefix lengths of embeddings.
        running: how a model is loaded and run.
        skip_missing: leave out trials whose utterances are not there.

    Raises:
        NestvoxError: none of the three is given, or they do not go together.
        FingerprintError: the store is of another model.
    """
    from nestvox.extraction.store.store import EmbeddingStore
    from nestvox.scoring.sources import known_store

    if scores is not None:
        if store is not None or model is not None:
            raise NestvoxError("--scores are given already: leave out --store and --model")
        if dims is not None:
            raise NestvoxError("--dims means nothing with --scores: scores have no dimensions")
        return unscored_file(scores.stem, scores, trials)
    if store is not None:
        opened = EmbeddingStore(store)
        if model is not None:
            check_model_folder(model, opened.metadata.fingerprint, str(store))
        return known_store(opened.metadata.model, trials, opened, dims=dims, skip_missing=skip_missing)
    if model is None:
        raise NestvoxError("give --scores, --store, or --model with --table")
    if table is None:
        raise NestvoxError("--model needs --table, which says where the audio of the trials is, or --store")
    return embedding_model(None, model, [trials], table, dims=dims, running=running, skip_missing=skip_missing)[0]


def unscored_file(name: str, path: Path, trials: Trials) -> Unscored:
    """The scores of a file."""
    from nestvox.corpora.scores import read_scores
    from nestvox.scoring.sources import known_scores, system_of_scores

    size = path.stat().st_size if path.is_file() else None
    system = system_of_scores(name, trials, read_scores(path), source=str(path), size_bytes=size)
    return known_scores(system, trials)


def embedding_model(
    name: str | None,
    model: str,
    lists: Sequence[Trials],
    table: UtteranceTable,
    *,
    dims: Sequence[int] | None,
    running: Running,
    skip_missing: bool = False,
) -> list[Unscored]:
    """A model, loaded once, that will embed the utterances that each list names, each once, with a progress bar.

    Args:
        name: for tables and sentences; None: its own.
        model: folder or catalogue name.
        lists: of trials.
        table: utterances that they name.
        dims: prefix lengths.
        running: how it is loaded and run.
        skip_missing: leave out trials that name what the table has not.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.extraction.embed import embed_table
    from nestvox.scoring.sources import known_model

    for trials in lists if not skip_missing else ():  # before anything is loaded, or fetched
        for side in ("enrol", "test"):
            table.resolve(trials.frame[side])
    loaded, path = running.load(model), Path(model)
    files = [path] if path.is_file() else path.iterdir() if path.is_dir() else None
    size = None if files is None else sum(file.stat().st_size for file in files if file.is_file())
    called = name or loaded.name

    def embed(part: UtteranceTable, folder: Path) -> EmbeddingStore:
        with progress_bar(f"embedding with {called}", "utterances") as progress:
            return embed_table(loaded, part, folder, progress=progress)

    return [
        known_model(called, trials, loaded, table, embed, dims=dims, size_bytes=size, skip_missing=skip_missing)
        for trials in lists
    ]


def read_steps(
    *,
    score_norm: str | None = None,
    cohort: Path | None = None,
    top_k: int | None = None,
    calibration: Path | None = None,
    thresholds: Path | None = None,
) -> Steps:
    """What was asked to be done to the scores.

    Args:
        score_norm: method of the normalisation.
        cohort: its store.
        top_k: how many of the cohort count.
        calibration: model folder or calibration file that holds the maps.
        thresholds: model folder or calibration file that holds thresholds.

    Raises:
        NestvoxError: options that do not go together, or a file that holds no maps or thresholds.
    """
    from nestvox.model.calibration import read_calibration
    from nestvox.scoring.pipeline import Steps

    norm = _score_norm(score_norm, cohort, top_k)
    stored = () if thresholds is None else read_calibration(thresholds).thresholds
    if thresholds is not None and not stored:
        raise NestvoxError(f"{thresholds} holds no thresholds; set one with `nestvox threshold`")
    llr = None if calibration is None else read_calibration(calibration).llr
    if calibration is not None and llr is None:
        raise NestvoxError(f"{calibration} holds no calibration; make one with `nestvox calibrate`")
    return Steps(norm=norm, calibration=llr, thresholds=stored)


def _score_norm(method: str | None, cohort: Path | None, top_k: int | None) -> ScoreNorm | None:
    from nestvox.extraction.store.store import EmbeddingStore
    from nestvox.scoring.normalise import NORM_METHODS, ScoreNorm

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
