"""The configuration of redimnet-mrl, as a recipe: every key is honoured, said to need nothing, or refused.

`nestvox train config.yaml` recognises such a file by its sections. Its folders of speakers become tables, its pairs a
trial list, its network the released one with a head that begins as the pretrained one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestvox.compat.keys import Draft, Key, apply, chosen, kept, needless, refused_unless, to
from nestvox.compat.redimnet_mrl.config_values import checked_value, folders_in
from nestvox.errors import NestvoxError, RecipeError
from nestvox.gate import naming, read_yaml
from nestvox.home import expand_home

_SECTIONS = {"model", "loss", "training", "data", "hardware", "logging", "evaluation", "advanced"}
_THEIR_OWN = {"advanced", "hardware", "logging", "evaluation"}
SEED = 42
_LOSSES = {"AAMSoftmax": "aam", "SubCenter": "subcenter", "Triplet": "triplet"}
_OF_LOSSES = {"scale": ("aam", "subcenter"), "easy_margin": ("aam", "subcenter"), "sub_centers": ("subcenter",)}
_OPTIMIZERS = {"AdamW": "adamw", "SGD": "sgd"}
_NEVER = 9999


@dataclass(frozen=True)
class Migration:
    """What became of a configuration.

    Attributes:
        recipe: content of a recipe, without the paths of the tables that `prepare_data` makes.
        train_folder: folder of speaker folders to train on.
        dev_folder: likewise, of the pairs that the best weights are chosen on.
        test_folders: whose speakers must be in neither.
        n_pairs: development pairs, half of them targets.
        min_duration_s: shorter files are left out.
        notes: one sentence for each key that needs a word.
    """

    recipe: Mapping[str, Any]
    train_folder: Path
    dev_folder: Path
    test_folders: tuple[Path, ...]
    n_pairs: int
    min_duration_s: float
    notes: tuple[str, ...]


def is_redimnet_mrl(content: object) -> bool:
    """Whether a YAML file is a configuration of redimnet-mrl: it has sections that no recipe has."""
    return isinstance(content, dict) and "kind" not in content and bool(content.keys() & _THEIR_OWN)


def _folders(name: str, becomes: str) -> Key:
    return Key(becomes, lambda draft, value: draft.said.update({name: folders_in(value)}))


def _epochs(key: str, becomes: str) -> Key:
    """A number of epochs, of which 0 and nothing say never."""

    def rule(draft: Draft, value: Any) -> None:
        if value:
            draft.put(key, value)

    return Key(becomes, rule)


_OFFICIAL = "the released network says it; redimnet-mrl reads it only where use_pretrained is false"

_KEYS: Mapping[str, Key] = {
    "model.name": needless("advanced.model_name counts, as there"),
    "model.embed_dim": kept("embed_dim", "`head.dims`: the largest"),
    "model.mrl_dims": kept("mrl_dims", "`head.dims`"),
    "model.mrl_weights": kept("mrl_weights", "`loss.weights`, each bound to its dimension"),
    **{
        f"model.{name}": Key(f"nothing to do: {_OFFICIAL}", lambda _draft, _value: None)
        for name in ("F", "C", "block_1d_type", "block_2d_type", "pooling_func", "out_channels", "feat_type")
    },
    "loss.type": chosen("loss.kind", _LOSSES),
    "loss.margin": to("loss.margin"),
    "loss.scale": to("loss.scale"),
    "loss.easy_margin": to("loss.easy_margin"),
    "loss.num_subcenters": to("loss.sub_centers"),
    "training.num_epochs": to("training.epochs"),
    "training.batch_size": kept("batch_size", "`training.batch_size` over `accumulation_steps` micro-batches"),
    "training.accumulation_steps": kept(
        "accumulation_steps", "`training.micro_batch`: gradients are those of one batch"
    ),
    "training.max_grad_norm": to("training.max_grad_norm"),
    "training.learning_rate": to("training.learning_rate"),
    "training.lr_scheduler": kept("lr_scheduler", "`training.schedule` (step: 30 epochs, 0.1; exponential: 0.95)"),
    "training.warmup_epochs": to("training.warmup_epochs"),
    "training.min_lr": to("training.min_learning_rate"),
    "training.optimizer": chosen("training.optimizer", _OPTIMIZERS),
    "training.weight_decay": to("training.weight_decay"),
    "training.betas": to("training.betas"),
    "training.dropout": needless("a linear head has no hidden units to drop; redimnet-mrl ignores it too", unless=[0]),
    "training.feat_agg_dropout": needless("a frozen network runs without dropout; read from scratch only", unless=[0]),
    "data.train_dataset": kept("train", "a table of its speaker folders, `data.table`"),
    "data.val_dataset": kept("val", "the same; pairs drawn from it are `data.dev_trials`"),
    "data.test_dataset": _folders("test", "its speakers must stand in neither training nor development"),
    "data.sample_rate": refused_unless((16_000,), "the networks take 16 kHz; files of any rate are resampled"),
    "data.chunk_duration": to("data.crop_s"),
    "data.min_duration": kept("min_duration", "shorter files are left out of the tables"),
    "data.augmentation": kept("augmentation", "`data.augmentation` and `data.variants`"),
    "data.noise_snr_range": kept("snr", "`data.augmentation`: white noise at a true signal-to-noise ratio"),
    "data.volume_range": kept("volume", "`data.augmentation`: gain in dB"),
    "data.num_workers": to("run.workers", lambda value: max(1, value)),
    "data.pin_memory": needless("features come from memory-mapped files"),
    "data.prefetch_factor": needless("features come from memory-mapped files"),
    "hardware.device": to("run.device"),
    "hardware.mixed_precision": kept(
        "mixed_precision", "`training.precision: bfloat16` where the encoder runs in training"
    ),
    "hardware.compile": needless("the head is a few matrix products"),
    "hardware.distributed": needless("start it with torchrun; the result is the same on any number of processes"),
    "hardware.world_size": needless("torchrun says it", unless=[1]),
    "hardware.rank": needless("torchrun says it", unless=[0]),
    "logging.log_dir": needless("everything is in the run's folder, --out"),
    "logging.save_dir": needless("everything is in the run's folder, --out"),
    "logging.tensorboard": needless("always written", unless=[True]),
    "logging.wandb": kept("wandb", "`run.wandb`: the project"),
    "logging.wandb_project": kept("wandb_project", "`run.wandb`"),
    "logging.wandb_run_name": to("run.name"),
    "logging.wandb_tags": needless("the recipe and its hash stand in the run", unless=[[]]),
    "logging.wandb_watch_model": needless("gradients are not uploaded"),
    "logging.save_interval": _epochs(
        "run.save_interval", "`run.save_interval`: a model folder `checkpoints/epoch_N` every so many epochs"
    ),
    "logging.keep_last_n": _epochs("run.keep_last_n", "`run.keep_last_n`: of these the newest"),
    "logging.save_best_only": needless("the best model is kept always; save_interval says what else", unless=[True]),
    "logging.log_interval": to("run.log_steps"),
    "logging.val_interval": to("training.validate_epochs"),
    "evaluation.use_eer_validation": refused_unless((True,), "a loss says nothing about verification; set it to true"),
    "evaluation.use_eer_for_best_model": refused_unless((True,), "the best model is the one with the best EER"),
    "evaluation.test_datasets": _folders(
        "tests", "their speakers must stand in neither; pairs to choose by come from data.val_dataset"
    ),
    "evaluation.num_val_pairs_per_dataset": kept("n_pairs", "pairs drawn from data.val_dataset, half of them targets"),
    "evaluation.eval_all_dims_during_training": needless("every dimension is always measured", unless=[True]),
    "evaluation.metrics": needless("EER, minDCF and intervals are always measured"),
    "evaluation.eer_threshold": needless("thresholds are set on the development trials", unless=["auto"]),
    "evaluation.test_pairs": needless("report with nestvox evaluate --trials"),
    "evaluation.eval_all_dims": needless("every dimension is always measured", unless=[True]),
    "seed": to("seed"),
    "deterministic": needless("a run is reproducible on one kind of device in any case"),
    "advanced.use_pretrained": refused_unless(
        (True,), "its own sizes are invented ones; write a recipe of kind scratch with model"
    ),
    "advanced.model_name": kept("model_name", "`start`"),
    "advanced.train_type": kept("train_type", "`start`"),
    "advanced.pretrained_dataset": kept("dataset", "`start`"),
    "advanced.freeze_backbone_epochs": kept("freeze", "`kind: linear`, or `unfreeze` with a stage at that epoch"),
    "advanced.pretrained_checkpoint": refused_unless(
        (None,),
        "make a model folder of the file (nestvox models import-weights NAME FILE --out FOLDER) and name it as `start`",
    ),
    "advanced.progressive_mrl": kept("progressive", "`kind: progressive`"),
    "advanced.progressive_schedule": kept("schedule", "`stages`: one more dimension, from the largest, at each epoch"),
    "advanced.mixed_datasets": refused_unless((False, None), "name several tables in data.table of a recipe"),
    "advanced.dataset_sampling_weights": needless("there is one training set", unless=[[1.0]]),
}


def migration_table() -> tuple[tuple[str, str], ...]:
    """Every key of config.yaml and what becomes of it, in the order of the file; the guide's table."""
    return tuple((key, entry.becomes) for key, entry in _KEYS.items())


def migrate(content: Mapping[str, Any], source: str) -> Migration:
    """Translate a configuration of redimnet-mrl.

    Args:
        content: as YAML gives it.
        source: its name, for messages.

    Raises:
        RecipeError: an unknown key, one that cannot be honoured (with the reason), or no data.
    """
    draft = Draft(source, {"seed": SEED})
    for key, value in _flat(content, source):
        if key not in _KEYS:
            known = ", ".join(name for name in _KEYS if name.split(".")[0] == key.split(".", maxsplit=1)[0])
            raise RecipeError(f"{source}: unknown key {key}; redimnet-mrl has {known or ', '.join(sorted(_SECTIONS))}")
        apply(_KEYS[key], draft, key, value, checked_value)
    said = draft.said
    for name, key in (("train", "data.train_dataset"), ("val", "data.val_dataset")):
        if said.get(name) is None:
            raise RecipeError(f"{source}: {key} must name a folder of speaker folders")
    loss = draft.recipe.get("loss", {})
    for name, kinds in _OF_LOSSES.items():  # the file says them all, whatever the loss
        if loss.get("kind", "aam") not in kinds:
            loss.pop(name, None)
    _network(draft)
    _dims(draft)
    _optimisation(draft)
    _augmentation(draft)
    _logging(draft)
    return Migration(
        recipe=draft.recipe,
        train_folder=_at_home(said["train"], source),
        dev_folder=_at_home(said["val"], source),
        test_folders=tuple(
            dict.fromkeys(_at_home(folder, source) for folder in [*said.get("tests", ()), *said.get("test", ())])
        ),
        n_pairs=int(said.get("n_pairs") or 500),
        min_duration_s=float(said.get("min_duration") or 0.0),
        notes=tuple(draft.notes),
    )


def _at_home(folder: str, source: str) -> Path:
    try:
        return expand_home(folder)
    except NestvoxError as error:  # ~nobody
        raise RecipeError(f"{source}: {error}") from error


def read_configuration(name_or_path: str | Path) -> Migration | None:
    """Return what becomes of a configuration of redimnet-mrl; None where the argument is something else.

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
    return migrate(content, str(path)) if is_redimnet_mrl(content) else None


def _flat(content: Mapping[str, Any], source: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for section, values in content.items():
        if section not in _SECTIONS:
            found.append((str(section), values))
            continue
        if not isinstance(values, Mapping):
            raise RecipeError(f"{source}: {section} must be a section with keys, got {values!r}")
        found += [(f"{section}.{key}", value) for key, value in values.items()]
    return found


def _network(draft: Draft) -> None:
    said, recipe = draft.said, draft.recipe
    name = said.get("model_name", "b2")
    draft.put("start", f"redimnet-{name}-{said.get('dataset', 'vox2')}-{said.get('train_type', 'ptn')}")
    if said.get("train_type", "ptn") == "ptn":
        draft.notes.append(
            "advanced.train_type = 'ptn': the published error rates (b2: 0.57 %) are those of ft_lm, a better start"
        )
    if "freeze" not in said:
        draft.notes.append(
            "advanced.freeze_backbone_epochs is not there: the encoder stays frozen; redimnet-mrl would train all of "
            "it from the first epoch, which 0 asks for"
        )
    frozen, epochs = said.get("freeze", _NEVER), recipe.get("training", {}).get("epochs", 30)
    unfreezes = isinstance(epochs, int) and frozen < epochs  # what is no number is refused as a recipe's
    progressive = bool(said.get("progressive"))
    if unfreezes and progressive:
        raise draft.refuse(
            "advanced.progressive_mrl", True, "together with freeze_backbone_epochs; run one after the other"
        )
    draft.put("kind", "unfreeze" if unfreezes else "progressive" if progressive else "linear")
    if unfreezes:
        draft.put("stages", [{"epoch": frozen, "train": ["all"]}])
        if said.get("mixed_precision"):
            draft.put("training.precision", "bfloat16")
    elif said.get("mixed_precision"):
        draft.notes.append("hardware.mixed_precision = True: a frozen encoder runs once; the head trains in float32")


def _dims(draft: Draft) -> None:
    said = draft.said
    given = [int(d) for d in said.get("mrl_dims") or (64, 128, 192, 256)]
    weights = said.get("mrl_weights")
    if weights is not None:
        if len(weights) != len(given):
            raise draft.refuse("model.mrl_weights", weights, f"{len(given)} dims need as many weights")
        draft.put("loss.weights", {d: float(w) for d, w in zip(given, weights, strict=True)})
    largest = int(said.get("embed_dim") or max(given))
    if max(given) != largest:
        draft.notes.append(f"model.embed_dim = {largest}: added to the dims, so that the full size is trained too")
        if weights is not None:
            draft.recipe["loss"]["weights"][largest] = 1.0
    dims = sorted({*given, largest})
    draft.put("head.dims", dims)
    if draft.recipe["kind"] == "progressive":
        epochs = [0, *(int(epoch) for epoch in said.get("schedule") or ())]
        falling = dims[::-1]
        draft.put(
            "stages",
            [
                {"epoch": epoch, "dims": falling[: len(falling) if number == len(epochs) - 1 else number + 1]}
                for number, epoch in enumerate(epochs[: len(falling)])
            ],
        )


def _optimisation(draft: Draft) -> None:
    said = draft.said
    batch, steps = int(said.get("batch_size") or 64), int(said.get("accumulation_steps") or 1)
    draft.put("training.batch_size", batch * steps)
    if draft.recipe.get("loss", {}).get("kind") == "triplet":
        draft.put("training.balanced", {"speakers": max(2, batch * steps // 2), "utterances": 2})
    elif steps > 1:
        draft.put("training.micro_batch", batch)
    schedule = said.get("lr_scheduler", "cosine")
    if schedule not in ("cosine", "step", "exponential"):
        raise draft.refuse("training.lr_scheduler", schedule, "there is cosine, step, exponential")
    draft.put("training.schedule", schedule)
    if schedule == "step":
        draft.put("training.step_epochs", 30)
    draft.put("training.gamma", 0.95 if schedule == "exponential" else 0.1)


def _augmentation(draft: Draft) -> None:
    said = draft.said
    if not said.get("augmentation"):
        draft.put("data.augmentation", {})
        draft.put("data.variants", 1)
        return
    # Only what redimnet-mrl does: no rooms, no codecs. Its own noise is 20 dB weaker than its configuration says.
    settings: dict[str, Any] = dict.fromkeys(("p_reverb", "p_noise", "p_gain", "p_clip", "p_channel"), 0.0)
    if said.get("snr") is not None:
        settings |= {"p_noise": 1.0, "kinds": {"white": 1.0}, "snr_noise_db": [float(db) for db in said["snr"]]}
    if said.get("volume") is not None:
        settings |= {"p_gain": 1.0, "gain_db": [float(db) for db in said["volume"]]}
    draft.put("data.augmentation", settings)
    draft.put("data.variants", 4)


def _logging(draft: Draft) -> None:
    if draft.said.get("wandb"):
        draft.put("run.wandb", draft.said.get("wandb_project") or "nestvox")
