"""The --config YAML of voxceleb_trainer, as a recipe: every key is honoured, said to need nothing, or refused.

`nestvox train config.yaml` recognises such a file by its keys, which are the arguments of ``trainSpeakerNet.py`` and of
the fork with distillation. Its lists become tables and trials, and the teacher's checkpoint a model folder. A key that
is not there has the default of the fork's trainer, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from nestvox.compat.keys import Draft, Key, apply, checked, chosen, kept, needless, refused_unless, to
from nestvox.errors import NestvoxError, RecipeError
from nestvox.gate import naming, read_yaml
from nestvox.home import expand_home
from nestvox.training.recipe.sections import Dim, Epoch, Fraction, PositiveFactor, Samples, Text, Whole

_THEIR_OWN = {"trainfunc", "nClasses", "nOut", "nPerSpeaker", "max_frames", "test_interval", "train_list", "lr_decay"}
_RATE_HZ = 16_000
_HOP, _REST = 160, 240  # samples of a frame, and what the last window needs beyond them
_LOSSES = {"amsoftmax": "am", "aamsoftmax": "aam", "angleproto": "angular", "proto": "prototypical"}
_PAIRWISE = {"angular", "prototypical"}
_MAX_GRAD_NORM = 5.0  # a constant of the fork's trainers
_DEFAULTS: Mapping[str, Any] = {
    "batch_size": 128,
    "gradient_accumulation_steps": 1,
    "nPerSpeaker": 1,
    "test_interval": 5,
    "patience": 10,
    "augment": False,
    "nOut": 512,
    "n_mels": 40,
    "log_input": False,
    "hidden_dim": 256,
    "num_blocks": 8,
    "expansion_factor": 4,
    "groups": 4,
    "ae_latent_dim": 128,
    "lstm_hidden": 256,
    "lstm_layers": 2,
    "distillation_alpha": 0.5,
    "distillation_temperature": 4.0,
    "distillation_type": "cosine",
    "max_test_pairs": 0,
}
# The same for keys that stand in the recipe as they are; what a recipe itself would take there is another number.
_PUT: Mapping[str, Any] = {
    "seed": 10,
    "max_epoch": 500,
    "lr": 0.001,
    "lr_decay": 0.95,
    "weight_decay": 0.0,
    "margin": 0.1,
    "scale": 30.0,
    "max_frames": 200,
    "optimizer": "adam",
    "nDataLoaderThread": 8,
    "mixedprec": True,
}

_Path = Annotated[str, Field(max_length=4_096)]
_Flag = Annotated[bool, Field(strict=True)]
_OF_KEYS: Mapping[str, Any] = {
    **dict.fromkeys(("batch_size", "gradient_accumulation_steps", "nPerSpeaker", "test_interval"), Samples),
    **dict.fromkeys(("max_frames", "max_seg_per_spk", "nClasses"), Samples),
    **dict.fromkeys(("nDataLoaderThread", "n_cpu"), Annotated[Whole, Field(ge=0, le=1_024)]),
    **dict.fromkeys(("patience", "max_test_pairs", "gpu", "gpu_id"), Annotated[Whole, Field(ge=0, le=10**9)]),
    **dict.fromkeys(("nOut", "hidden_dim", "ae_latent_dim", "lstm_hidden", "groups"), Dim),
    **dict.fromkeys(("num_blocks", "expansion_factor", "lstm_layers"), Annotated[Whole, Field(ge=1, le=1_000)]),
    **dict.fromkeys(("train_list", "test_list", "train_path", "test_path"), _Path),
    **dict.fromkeys(("musan_path", "rir_path", "teacher_checkpoint", "initial_model"), _Path | None),
    **dict.fromkeys(("augment", "log_input", "mixedprec", "save_every_epoch", "freeze_teacher"), _Flag),
    **dict.fromkeys(("model", "trainfunc", "optimizer", "distillation_type"), Text),
    "teacher_model": Text | None,
    "max_epoch": Epoch,
    "distillation_alpha": Fraction,
    "distillation_temperature": PositiveFactor,
}
_KINDS: Mapping[str, TypeAdapter[Any]] = {key: TypeAdapter(kind) for key, kind in _OF_KEYS.items()}


@dataclass(frozen=True)
class Migration:
    """What became of a configuration.

    Attributes:
        recipe: content of a recipe, without the paths that `config_data.prepare_data` makes.
        train_list: lines of speaker and file.
        train_path: folder of these files.
        test_list: lines of label and two files; the best weights are chosen on it, as there.
        test_path: folder of these files.
        max_pairs: so many lines of the list count; 0: all.
        n_speakers: that the training list must have; None: the file does not say.
        teacher: checkpoint, a model folder of which is made; None: nobody teaches.
        notes: one sentence for each key that needs a word.
    """

    recipe: Mapping[str, Any]
    train_list: Path
    train_path: Path
    test_list: Path
    test_path: Path
    max_pairs: int
    n_speakers: int | None
    teacher: Path | None
    notes: tuple[str, ...]


def is_voxceleb_trainer(content: object) -> bool:
    """Whether a YAML file is a configuration of voxceleb_trainer: a flat one with names that no recipe has."""
    return isinstance(content, dict) and "kind" not in content and bool(content.keys() & _THEIR_OWN)


def _frames(draft: Draft, value: int) -> None:
    draft.put("data.crop_s", (value * _HOP + _REST) / _RATE_HZ)


def _every_epoch(draft: Draft, value: bool) -> None:
    if value:
        draft.put("run.save_interval", 1)


def _device(draft: Draft, value: int) -> None:
    if value:
        draft.put("run.device", f"cuda:{value}")


_GPU = Key("`run.device`, where it is not 0: one GPU is found by itself", _device)
_NETWORK = "`model`"
_UNHEARD = "whole recordings are embedded, each by itself"
_ELSEWHERE = "only networks that are not here have it; there is MLPMixerSpeaker and LSTMAutoencoder"
_MINING = "only for their triplets, which are refused"
_COSTS = "give them to nestvox evaluate: --p-target, --c-miss, --c-fa"

_KEYS: Mapping[str, Key] = {
    "max_frames": Key("`data.crop_s`: 160 samples a frame and 240 more", _frames),
    "eval_frames": needless(_UNHEARD, unless=[0]),
    "batch_size": kept("batch_size", "`training.batch_size`; times gradient_accumulation_steps"),
    "max_seg_per_spk": needless("an epoch here is every utterance once; set training.epochs by that"),
    "nDataLoaderThread": to("run.workers", lambda value: max(1, value)),
    "augment": kept("augment", "`data.augmentation`: a room, noise, music or babble, at their levels"),
    "seed": to("seed"),
    "test_interval": kept("test_interval", "`training.validate_epochs`, and `training.step_epochs` as coded there"),
    "max_epoch": to("training.epochs"),
    "trainfunc": kept("trainfunc", f"`loss.kind`: {', '.join(f'{a} is {b}' for a, b in _LOSSES.items())}"),
    "patience": kept("patience", "`training.patience`; 0 is never"),
    "optimizer": chosen("training.optimizer", {"adam": "adamw", "sgd": "sgd"}),
    "scheduler": refused_unless(("steplr",), "it is the one that they have"),
    "lr": to("training.learning_rate"),
    "lr_decay": to("training.gamma"),
    "weight_decay": to("training.weight_decay"),
    "hard_prob": needless(_MINING, unless=[0.5]),
    "hard_rank": needless(_MINING, unless=[10]),
    "margin": to("loss.margin"),
    "scale": to("loss.scale"),
    "nPerSpeaker": kept("nPerSpeaker", "`training.balanced.utterances` of a pairwise loss; 1 of the others"),
    "nClasses": kept("nClasses", "the training list must have so many speakers, or fewer"),
    "dcf_p_target": needless(_COSTS, unless=[0.05]),
    "dcf_c_miss": needless(_COSTS, unless=[1]),
    "dcf_c_fa": needless(_COSTS, unless=[1]),
    "initial_model": refused_unless(
        (None, ""),
        "make a model folder of it (nestvox models import-voxceleb-trainer FILE --out FOLDER) and name it as `start` "
        "of a recipe of kind unfreeze",
    ),
    "save_path": needless("everything is in the run's folder, --out", unless=["exps/exp1"]),
    "train_list": kept("train_list", "a table of its files, `data.table`"),
    "test_list": kept("test_list", "`data.dev_trials`: the best weights are chosen on it, so report on another"),
    "train_path": kept("train_path", "where the files of train_list are"),
    "test_path": kept("test_path", "where the files of test_list are, `data.dev_table`"),
    "musan_path": kept("musan_path", "`data.noise`"),
    "rir_path": kept("rir_path", "`data.rooms`"),
    "max_test_pairs": kept("max_test_pairs", "the first so many lines of test_list; 0 is all"),
    "n_mels": kept("n_mels", "refused unless 80, also where it is not there: theirs is 40 then"),
    "log_input": kept("log_input", "refused unless true, also where it is not there: theirs is false then"),
    "model": kept("model", "`model`: MLPMixerSpeaker is mixer, LSTMAutoencoder is lstm_autoencoder"),
    "encoder_type": needless("neither network reads it", unless=["SAP", "ASP"]),
    "nOut": kept("nOut", "`model.embedding_dim`; prefixes from 16 on are trained too, unless head.dims says less"),
    "sinc_stride": refused_unless((), _ELSEWHERE),
    "eval": refused_unless((False,), "nestvox evaluate measures"),
    "port": needless("torchrun says it", unless=["8888", 8888]),
    "distributed": needless("start it with torchrun; the result is the same on any number of processes"),
    "mixedprec": to("training.precision", lambda value: "bfloat16" if value else "float32"),
    "gpu_id": _GPU,
    "gpu": _GPU,
    "prefetch_factor": needless("clips are cut ahead by run.workers", unless=[3]),
    "persistent_workers": needless("they always are", unless=[True]),
    "num_workers_persistent": needless("they always are", unless=[True]),
    "gradient_accumulation_steps": kept(
        "gradient_accumulation_steps", "`training.micro_batch`: gradients are those of one batch; none with a teacher"
    ),
    "enable_profiling": needless("nestvox bench measures a model"),
    "compile_model": needless("it would cost more than it saves here"),
    "eval_batch_size": needless(_UNHEARD, unless=[1, 32]),
    "save_every_epoch": Key("`run.save_interval: 1`", _every_epoch),
    "score_save_epoch": needless("every validation stands in the log"),
    "test_step": needless("test_interval counts, as there"),
    "n_cpu": needless("nDataLoaderThread counts, as there"),
    "hidden_dim": kept("hidden_dim", f"{_NETWORK}: width of the mixer"),
    "num_blocks": kept("num_blocks", f"{_NETWORK}: depth of the mixer"),
    "expansion_factor": kept("expansion_factor", f"{_NETWORK}: expansion of the mixer"),
    "groups": kept("groups", f"{_NETWORK}: groups of the mixer"),
    "ae_latent_dim": kept("ae_latent_dim", f"{_NETWORK}: bottleneck of the LSTM-autoencoder"),
    "lstm_hidden": kept("lstm_hidden", f"{_NETWORK}: hidden of the LSTM-autoencoder"),
    "lstm_layers": kept("lstm_layers", f"{_NETWORK}: depth of the LSTM-autoencoder"),
    "pooling_type": refused_unless(("ASP",), "the LSTM-autoencoder pools means and deviations"),
    "teacher_model": kept("teacher_model", "the checkpoint says which network it is"),
    "teacher_checkpoint": kept("teacher_checkpoint", "`teacher`: a model folder is made of it, strictly"),
    "distillation_alpha": kept("distillation_alpha", "`objective.alpha` of kind distil"),
    "distillation_temperature": kept(
        "distillation_temperature", "`objective.terms.mse.temperature`; to cosine it does nothing, which is said"
    ),
    "distillation_type": kept(
        "distillation_type", "`objective.terms`: cosine, of which mse is 2 / (D T^2); kl over coordinates is refused"
    ),
    "freeze_teacher": refused_unless((True,), "a teacher that learns is none; theirs never learns either"),
    "loss": refused_unless((), "voxceleb_trainer does not read it: say trainfunc"),
    **dict.fromkeys(("num_filters", "kernel_size", "stride"), refused_unless((), f"of the raw waveform: {_ELSEWHERE}")),
    **dict.fromkeys(("num_levels", "fusion_type"), refused_unless((), f"of NestedSpeakerNet: {_ELSEWHERE}")),
    **dict.fromkeys(("init_w", "init_b"), needless("the loss trains them from its own beginning", unless=[10, -5])),
}


def migration_table() -> tuple[tuple[str, str], ...]:
    """Every key of their configurations and what becomes of it; the guide's table."""
    return tuple((key, entry.becomes) for key, entry in _KEYS.items())


def migrate(content: Mapping[str, Any], source: str) -> Migration:
    """Translate a configuration of voxceleb_trainer.

    Args:
        content: as YAML gives it.
        source: its name, for messages.

    Raises:
        RecipeError: an unknown key, one that cannot be honoured (with the reason), or no data.
    """
    draft = Draft(source, said=dict(_DEFAULTS))
    for key, value in {**_PUT, **content}.items():
        if key not in _KEYS:
            raise RecipeError(f"{source}: unknown key {key}; voxceleb_trainer has {', '.join(_KEYS)}")
        apply(_KEYS[key], draft, key, value, lambda name, given: checked(_KINDS, name, given))
    said = draft.said
    for key in ("train_list", "train_path", "test_list", "test_path", "trainfunc", "model"):
        if not said.get(key):
            raise RecipeError(f"{source}: {key} is missing")
    _network(draft)
    _learning(draft)
    _augmentation(draft)
    teacher = _teacher(draft)
    return Migration(
        recipe=draft.recipe,
        **{key: _at_home(said[key], source) for key in ("train_list", "train_path", "test_list", "test_path")},
        max_pairs=said["max_test_pairs"],
        n_speakers=said.get("nClasses"),
        teacher=None if teacher is None else _at_home(teacher, source),
        notes=tuple(draft.notes),
    )


def read_configuration(name_or_path: str | Path) -> Migration | None:
    """Return what becomes of a configuration of voxceleb_trainer; None where the argument is something else.

    Raises:
        RecipeError: see `migrate`.
    """
    path = Path(name_or_path)
    if not path.is_file():
        return None
    try:
        content = read_yaml(path, naming(RecipeError))
    except RecipeError:
        return None  # whose message is the recipe reader's
    return migrate(content, str(path)) if is_voxceleb_trainer(content) else None


def _at_home(path: str, source: str) -> Path:
    try:
        return expand_home(path)
    except NestvoxError as error:  # ~nobody
        raise RecipeError(f"{source}: {error}") from error


def _network(draft: Draft) -> None:
    said, model = draft.said, draft.said["model"]
    networks: Mapping[str, Mapping[str, Any]] = {
        "MLPMixerSpeaker": {
            "architecture": "mixer",
            "variant": "pointwise",
            "width": said["hidden_dim"],
            "depth": said["num_blocks"],
            "expansion": said["expansion_factor"],
            "groups": said["groups"],
        },
        "LSTMAutoencoder": {
            "architecture": "lstm_autoencoder",
            "bottleneck": said["ae_latent_dim"],
            "hidden": said["lstm_hidden"],
            "depth": said["lstm_layers"],
        },
    }
    if model not in networks:
        raise draft.refuse(
            "model",
            model,
            f"there is {' and '.join(networks)}; in place of another network write a recipe of kind scratch with a "
            "model of its own, such as redimnet-b2",
        )
    for key, wanted in (("n_mels", 80), ("log_input", True)):
        if said[key] != wanted:
            raise draft.refuse(key, said[key], f"the networks here hear 80 log-mel bands: say {key}: {wanted}".lower())
    draft.put("kind", "scratch")
    draft.put("model", {**networks[model], "embedding_dim": said["nOut"]})
    draft.put("head.start", "random")
    draft.put("encoder.learning_rate", 1.0)


def _learning(draft: Draft) -> None:
    said, training = draft.said, draft.recipe["training"]
    if said["trainfunc"] not in _LOSSES:
        raise draft.refuse(
            "trainfunc",
            said["trainfunc"],
            f"there is {', '.join(_LOSSES)}; plain softmax has no unit vectors: amsoftmax with margin 0 is the nearest",
        )
    kind = _LOSSES[said["trainfunc"]]
    draft.put("loss.kind", kind)
    batch, steps, each = said["batch_size"], said["gradient_accumulation_steps"], said["nPerSpeaker"]
    if kind in _PAIRWISE:
        if each < 2 or steps > 1:
            raise draft.refuse("nPerSpeaker", each, "a pairwise loss needs two utterances of a speaker in each batch")
        del draft.recipe["loss"]["margin"], draft.recipe["loss"]["scale"]  # those of the other losses
        draft.put("training.balanced", {"speakers": batch, "utterances": each})
    else:
        if each != 1:
            raise draft.refuse("nPerSpeaker", each, f"{said['trainfunc']} counts each utterance by itself; say 1")
        draft.put("loss.prototypes", "random")
        draft.put("training.batch_size", batch * steps)
        if steps > 1:
            draft.put("training.micro_batch", batch)
    draft.put("training.schedule", "step")
    draft.put("training.step_epochs", said["test_interval"])
    draft.put("training.validate_epochs", said["test_interval"])
    draft.put("training.max_grad_norm", _MAX_GRAD_NORM)
    if said["patience"]:
        draft.put("training.patience", said["patience"])
    if said["test_interval"] > 1:
        draft.notes.append(
            f"lr_decay: every {said['test_interval']} epochs (test_interval), as coded there; for every epoch, as the "
            "write-up says, --set training.step_epochs=1"
        )
    if float(training["weight_decay"]) and training["optimizer"] == "adamw":
        draft.notes.append(
            f"weight_decay = {training['weight_decay']}: taken off the matrices (AdamW); their Adam adds it to the "
            "gradients"
        )


def _augmentation(draft: Draft) -> None:
    said = draft.said
    if not said["augment"]:
        draft.put("data.augmentation", {})
        draft.put("data.variants", 1)
        return
    for key, ours in (("musan_path", "data.noise"), ("rir_path", "data.rooms")):
        if not said.get(key):
            raise RecipeError(f"{draft.source}: augment is true, and {key} is missing")
        draft.put(ours, said[key])
    # One in five stays clean there; here one may have both a room and noise. Levels are those of both projects.
    nothing = dict.fromkeys(("p_gain", "p_clip", "p_channel"), 0.0)
    kinds = dict.fromkeys(("noise", "music", "babble"), 1.0)
    draft.put("data.augmentation", {"p_reverb": 0.2, "p_noise": 0.6, "kinds": kinds, **nothing})


def _teacher(draft: Draft) -> str | None:
    """Whose embedding is learned from, and by which term: vectors of one length, so there are no shorter prefixes."""
    said = draft.said
    checkpoint: str | None = said.get("teacher_checkpoint") or None
    if bool(checkpoint) != bool(said.get("teacher_model")):
        raise RecipeError(
            f"{draft.source}: teacher_model and teacher_checkpoint belong together: with one of them voxceleb_trainer "
            "trains without a teacher, and does not say so"
        )
    if checkpoint is None:
        return None
    alpha, kind, temperature = (said[f"distillation_{name}"] for name in ("alpha", "type", "temperature"))
    if not alpha:
        raise draft.refuse("distillation_alpha", alpha, "nothing is learned from the teacher; leave it out")
    if kind not in ("cosine", "mse"):
        raise draft.refuse(
            "distillation_type",
            kind,
            "there is cosine, mse; kl there compares coordinates of embeddings, which are no classes",
        )
    term: dict[str, Any] = {}
    if kind == "mse":
        term = {"per": "element", "temperature": temperature}
        factor = 2 / (said["nOut"] * temperature**2)
        true = alpha * factor / (1 - alpha + alpha * factor)
        draft.notes.append(
            f"distillation_type = 'mse': {factor:.3g} of the cosine, 2 over {said['nOut']} dimensions and the square "
            f"of the temperature: alpha is {true:.3g} in truth; cosine is the same loss with the alpha that it says"
        )
    else:
        draft.notes.append(f"distillation_temperature = {temperature:g}: a cosine does not depend on it")
    draft.notes.append("teacher: it hears the whole clean recording, once; there it hears each clip, with dropout on")
    draft.put("kind", "distil")
    draft.put("objective", {"alpha": alpha, "terms": {kind: term}})
    draft.put("head.dims", [said["nOut"]])
    draft.recipe["training"].pop("micro_batch", None)
    return checkpoint
