"""`search_students`: which mixer learns the most from a teacher, within a limit of parameters and of time.

Sizes are drawn by Optuna, from where good ones were found before. What is over a limit is built or timed and never
trained; what is within both is distilled by a short recipe, whose targets the teacher gives once for all of them.

Source: J. Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011 (how sizes are drawn).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import Field

from nestvox.ablation.costs import CLIP_S, cpu_times
from nestvox.atomic import names_in, write_text
from nestvox.encoders.registry import build
from nestvox.errors import ModelError, NestvoxError, RecipeError, TrainingError
from nestvox.evaluation.results import plain_values
from nestvox.extras import require
from nestvox.gate import naming, parse_json, read_text
from nestvox.locking import held
from nestvox.model.loading import load
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Bars, no_bars
from nestvox.schema import Count, Fraction, StrictModel, Word, validated
from nestvox.training.recipe.kinds import DistilRecipe
from nestvox.training.recipe.recipe import load_recipe, parse_recipe
from nestvox.training.run_log import Watch
from nestvox.training.tasks.encoder import drawn_encoder
from nestvox.training.train import refuse_what_is_not_here, train
from nestvox.zoo.variants import variant

SEARCH_FILE = "search.yaml"
RESULT_FILE = "search.json"

SPACE: Mapping[str, Sequence[Any]] = {
    "width": (32, 48, 64, 96, 128, 192, 256),
    "depth": (1, 2, 3, 4, 6, 8),
    "expansion": (1, 2, 3),
    "groups": (1, 2, 4),
    "kernels": ("3", "3 7", "3 5 9 15", "3 7 15 31"),
    "chunk": (0, 12, 24),
    "stride": (1, 2, 4),
    "planes": (0, 8, 16),
    "mfm": (True, False),
}
"""Arguments of `encoders.MLPMixer` that are drawn, each out of these; Optuna takes kernels as text."""

TRAINED, LARGE, SLOW, NONE = "trained", "too many parameters", "too slow", "no network"
_TRIALS = "trials"
_MOST_DRAWS = 100  # for one student that is within the limits
_error = naming(TrainingError)


class _Rate(StrictModel):
    """EER of a student on the development trials, with its interval."""

    dim: Count
    eer: Fraction
    eer_low: Fraction
    eer_high: Fraction


class _Found(StrictModel):
    """What is kept of a drawn size."""

    drawn: dict[Word, bool | int | Word]
    outcome: Word
    parameters: Count = 0
    cpu_ms: float | None = None
    rates: list[_Rate] = Field(default_factory=list)
    trials: dict[Word, Word | Count] = Field(default_factory=dict)
    labels: list[Word] = Field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether it was trained, or never will be."""
        return bool(self.rates) or self.outcome != TRAINED

    @property
    def eer_mean(self) -> float | None:
        """Over its dimensions; None where it was not trained."""
        return statistics.fmean(rate.eer for rate in self.rates) if self.rates else None

    @property
    def words(self) -> str:
        """Size, costs and outcome."""
        size = ", ".join(f"{key} {value}" for key, value in self.drawn.items())
        cost = "" if self.cpu_ms is None else f", {self.cpu_ms:.2f} ms"
        return f"{size}: {self.parameters:,} parameters{cost}; {'within the limits' if not self.over else self.outcome}"


@dataclass(frozen=True)
class Drawn:
    """One size.

    Attributes:
        number: in the order of drawing, from 0; that of its folder.
        model: its architecture and arguments.
        outcome: ``trained``, ``too many parameters``, ``too slow``, or ``no network`` where arguments exclude each
            other.
        parameters: of the network; 0: there is none.
        cpu_ms: processor time of a clip of three seconds on one thread; None: it was not timed.
        rates: EER with its interval by dimension; empty where it was not trained.
    """

    number: int
    model: Mapping[str, Any]
    outcome: str
    parameters: int
    cpu_ms: float | None
    rates: tuple[Mapping[str, float], ...]

    @property
    def eer_mean(self) -> float | None:
        """Over its dimensions; None where it was not trained."""
        return statistics.fmean(rate["eer"] for rate in self.rates) if self.rates else None


@dataclass(frozen=True)
class StudentSearch:
    """What a search found.

    Attributes:
        max_parameters: limit.
        max_ms: limit of a clip of `clip_s` on one thread.
        clip_s: length of the timed clip.
        teacher: that all learned from.
        drawn: every size, in the order of drawing.
        trials: of development: their sha256 and how many there are.
        labels: of every rate.
        notes: what a reader has to know.
    """

    max_parameters: int
    max_ms: float
    clip_s: float
    teacher: str
    drawn: tuple[Drawn, ...]
    trials: Mapping[str, Any]
    labels: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def trained(self) -> tuple[Drawn, ...]:
        """Those that were trained, the best first."""
        found = [one for one in self.drawn if one.eer_mean is not None]
        return tuple(sorted(found, key=lambda one: (one.eer_mean, one.number)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values; rates are fractions."""
        plain: dict[str, Any] = plain_values(asdict(self))
        means = {one.number: one.eer_mean for one in self.drawn}
        drawn = [{**row, "eer_mean": means[row["number"]]} for row in plain["drawn"]]
        return {**plain, "drawn": drawn, "best": self.trained[0].number}


def search_students(
    recipe: str | Path,
    out: str | Path,
    *,
    n_students: int = 20,
    max_parameters: int = 2_000_000,
    max_ms: float = 5.0,
    seed: int = 0,
    set_: Sequence[str] = (),
    bars: Bars = no_bars,
    announce: Callable[[str], None] | None = None,
    watch: Watch | None = None,
) -> StudentSearch:
    """Draw sizes of a mixer that mixes over time, and distil those that are within the limits.

    The folder gets ``trials/NUMBER``, a run each, and at the end ``search.json``. The same call goes on where one was
    stopped; with more students it draws on.

    Args:
        recipe: of kind distil, short: its name, or a YAML file. Of its model the embedding's size counts.
        out: folder of the search.
        n_students: so many are trained.
        max_parameters: of a student.
        max_ms: processor time of a clip of three seconds on one thread of this machine.
        seed: of what is drawn; the recipe has one of its own.
        set_: ``section.key=value`` each, of the recipe.
        bars: opens a display for each phase.
        announce: told of every size.
        watch: told of every epoch.

    Raises:
        MissingExtraError: Optuna is not installed.
        RecipeError: the recipe is of another kind or teaches nothing.
        TrainingError: the folder holds another search, or too few sizes are within the limits.
    """
    optuna: Any = require("optuna", extra="search", purpose="searching for students")
    if n_students < 1 or max_parameters < 1 or not max_ms > 0:
        raise NestvoxError("a search takes one student or more, and limits above 0")
    folder, tell = Path(out), announce or (lambda _: None)
    base = _base_of(recipe, folder, set_)
    refuse_what_is_not_here(base)
    with held(folder):
        _open_folder(folder, base, (max_parameters, max_ms, seed))
        drawn = _read(folder / _TRIALS)
        teacher = load(str(base.teacher), device="cpu", announce=tell)
        while sum(bool(one.rates) for one in drawn) < n_students:
            if not drawn or drawn[-1].over:
                _refuse_endless(drawn, n_students, max_parameters, max_ms)
                arguments = _next(optuna, drawn, seed)
                drawn.append(_measured(arguments, _model_of(base, arguments), max_parameters, max_ms))
                tell(f"size {len(drawn) - 1}: {drawn[-1].words}")
            place = folder / _TRIALS / f"{len(drawn) - 1:04}"
            write_text(place.with_suffix(".json"), drawn[-1].model_dump_json(indent=1) + "\n")
            if drawn[-1].outcome == TRAINED:
                drawn[-1] = _trained(base, place, teacher, drawn[-1], bars, watch)
                write_text(place.with_suffix(".json"), drawn[-1].model_dump_json(indent=1) + "\n")
        result = _result(drawn, base, max_parameters, max_ms, teacher.name)
        write_text(folder / RESULT_FILE, json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")
    return result


def _base_of(recipe: str | Path, folder: Path, overrides: Sequence[str]) -> DistilRecipe:
    base = load_recipe(recipe, overrides)
    if not isinstance(base, DistilRecipe) or not base.distils or base.model is None:
        raise RecipeError(f"{recipe}: students are searched for by a recipe of kind distil with a model and a teacher")
    if base.data.targets is not None:
        return base
    found = parse_recipe(base.settings(), str(recipe), [f"data.targets={json.dumps(str(folder / 'targets'))}"])
    assert isinstance(found, DistilRecipe)
    return found


def _open_folder(folder: Path, base: DistilRecipe, limits: tuple[int, float, int]) -> None:
    """Write what is searched for into the folder, or see that it holds this search."""
    names = ("max_parameters", "max_ms", "seed")
    body = yaml.safe_dump({**dict(zip(names, limits, strict=True)), "recipe": base.hash}, sort_keys=False)
    there = folder / SEARCH_FILE
    if there.is_file() and read_text(there, _error) != body:
        raise TrainingError(f"{folder} holds a search with another recipe, limit or seed; give another --out")
    if names_in(folder) and not there.is_file():
        raise TrainingError(f"{folder} is not empty and holds no search; give a new folder")
    write_text(there, body)


def _read(folder: Path) -> list[_Found]:
    """The sizes that were drawn, in their order; the last one may have been left in its training."""
    found: list[_Found] = []
    while (place := folder / f"{len(found):04}.json").is_file():
        one = validated(_Found, parse_json(read_text(place, _error), str(place), _error), str(place), _error)
        if one.drawn.keys() != SPACE.keys() or any(one.drawn[name] not in values for name, values in SPACE.items()):
            raise TrainingError(f"{place} is of another space of sizes; give another --out")
        found.append(one)
    return found


def _next(optuna: Any, drawn: Sequence[_Found], seed: int) -> dict[str, Any]:
    """Draw a size. Optuna remembers nothing itself, so that a search that goes on draws what it would have drawn."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: optuna.distributions.CategoricalDistribution(values) for name, values in SPACE.items()}
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=(seed + 1_000_003 * len(drawn)) % 2**32))
    states = optuna.trial.TrialState
    for one in drawn:
        state = states.COMPLETE if one.rates else states.PRUNED
        study.add_trial(
            optuna.trial.create_trial(state=state, value=one.eer_mean, params=one.drawn, distributions=space)
        )
    arguments: dict[str, Any] = study.ask(space).params
    return arguments


def _model_of(base: DistilRecipe, drawn: Mapping[str, Any]) -> dict[str, Any]:
    model = base.model
    if isinstance(model, str):
        size = variant(model)
        model = {"architecture": size.architecture, **size.config}
    assert model is not None
    kept: dict[str, Any] = {name: model[name] for name in ("embedding_dim", "dropout") if name in model}
    kernels = [int(size) for size in drawn["kernels"].split()]
    return {"architecture": "mixer", "variant": "temporal", **kept, **drawn, "kernels": kernels}


def _measured(drawn: dict[str, Any], model: Mapping[str, Any], max_parameters: int, max_ms: float) -> _Found:
    """Count and time a network; it is to be trained where both are within the limits."""
    try:
        with torch.device("meta"):  # counted, and no weights are drawn
            parameters = sum(weight.numel() for weight in build(model).parameters())
    except ModelError:
        return _Found(drawn=drawn, outcome=NONE)
    if parameters > max_parameters:
        return _Found(drawn=drawn, outcome=LARGE, parameters=parameters)
    network = SpeakerModel(drawn_encoder(model, 0).eval(), name="student")
    cpu_ms = cpu_times({"student": network})["student"]
    outcome = TRAINED if cpu_ms <= max_ms else SLOW
    return _Found(drawn=drawn, outcome=outcome, parameters=parameters, cpu_ms=cpu_ms)


def _trained(
    base: DistilRecipe,
    place: Path,
    teacher: SpeakerModel,
    found: _Found,
    bars: Bars,
    watch: Watch | None,
) -> _Found:
    said = [f"model={json.dumps(_model_of(base, found.drawn))}", f"run.name={json.dumps(f'student-{place.name}')}"]
    recipe = parse_recipe(base.settings(), place.name, said)
    trained = train(recipe, place, teacher=teacher, resume=True, bars=bars, watch=watch)
    if trained is None:
        raise TrainingError("a search is run by one process; torchrun is for `nestvox train`")
    rates = []
    for rate in trained.rates:
        low, high = rate.best.ends
        rates.append(_Rate(dim=rate.dim, eer=rate.best.value, eer_low=low, eer_high=high))
    trials: dict[str, Any] = {
        "source": trained.trials.source,
        "sha256": trained.trials.sha256,
        "n_target": trained.trials.n_target,
        "n_nontarget": trained.trials.n_nontarget,
    }
    return found.model_copy(update={"rates": rates, "trials": trials, "labels": list(trained.labels)})


def _refuse_endless(drawn: Sequence[_Found], n_students: int, max_parameters: int, max_ms: float) -> None:
    if len(drawn) >= _MOST_DRAWS * n_students:
        trained = sum(bool(one.rates) for one in drawn)
        raise TrainingError(
            f"{trained} of {len(drawn):,} drawn sizes are within {max_parameters:,} parameters and {max_ms:g} ms, and "
            f"{n_students} were asked for; raise a limit, or lower embedding_dim in the model of the recipe"
        )


def _result(
    found: Sequence[_Found], base: DistilRecipe, max_parameters: int, max_ms: float, teacher: str
) -> StudentSearch:
    drawn = [
        Drawn(
            number,
            _model_of(base, one.drawn),
            one.outcome,
            one.parameters,
            one.cpu_ms,
            tuple(rate.model_dump() for rate in one.rates),
        )
        for number, one in enumerate(found)
    ]
    trials = next(one.trials for one in found if one.rates)
    labels = {label for one in found for label in one.labels}
    return StudentSearch(
        max_parameters,
        max_ms,
        CLIP_S,
        teacher,
        tuple(drawn),
        trials,
        tuple(sorted(labels)),
        (
            "Every student chose its weights, and the search its students, on the development trials: report the best "
            "on other speakers, after a longer training.",
            f"Times are processor time of a clip of {CLIP_S:g} s on one thread of this machine.",
        ),
    )
