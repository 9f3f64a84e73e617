"""What the values of redimnet-mrl's configuration must be where several keys are decided on together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from nestvox.compat.keys import checked
from nestvox.training.recipe.sections import MOST_LISTED, Dim, Epoch, Samples, Text, Whole

_Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
_Pair = tuple[_Number, _Number]
_Folder = Annotated[str, Field(min_length=1, max_length=4_096)]
_PLACES = ("path", "data_dir", "root", "dir", "folder")

_KINDS: Mapping[str, Any] = {
    "model.embed_dim": Dim | None,
    "model.mrl_dims": Annotated[list[Dim], Field(min_length=1, max_length=64)] | None,
    "model.mrl_weights": Annotated[list[Annotated[float, Field(gt=0, le=1e6)]], Field(max_length=64)] | None,
    "training.batch_size": Samples | None,
    "training.accumulation_steps": Samples | None,
    "training.lr_scheduler": Text,
    "loss.type": Text,
    "training.optimizer": Text,
    "data.train_dataset": _Folder | None,
    "data.val_dataset": _Folder | None,
    "data.min_duration": Annotated[float, Field(ge=0, le=86_400)] | None,
    "data.augmentation": bool | None,
    "data.noise_snr_range": _Pair | None,
    "data.volume_range": _Pair | None,
    "data.num_workers": Annotated[Whole, Field(ge=0, le=1_024)],
    "hardware.mixed_precision": bool | None,
    "logging.wandb": bool | None,
    "logging.wandb_project": Text | None,
    "logging.save_interval": Annotated[Whole, Field(ge=0, le=1_000_000_000)] | None,
    "logging.keep_last_n": Annotated[Whole, Field(ge=0, le=1_000_000_000)] | None,
    "evaluation.num_val_pairs_per_dataset": Annotated[Whole, Field(ge=0, le=100_000_000)] | None,
    "advanced.model_name": Text,
    "advanced.train_type": Text,
    "advanced.pretrained_dataset": Text,
    "advanced.freeze_backbone_epochs": Annotated[Whole, Field(ge=0, le=1_000_000_000)],
    "advanced.progressive_mrl": bool | None,
    "advanced.progressive_schedule": Annotated[list[Epoch], Field(max_length=64)] | None,
}
_ADAPTERS = {key: TypeAdapter(kind) for key, kind in _KINDS.items()}


def checked_value(key: str, value: Any) -> Any:
    """Return a value as its key takes it.

    Args:
        key: ``section.name``; of one that is not decided on together with others the value is returned as it is.
        value: as YAML gives it.

    Raises:
        ValueError: it is of another kind or out of range; the text says what is expected.
    """
    return checked(_ADAPTERS, key, value)


def folders_in(value: Any) -> list[str]:
    """Return the folders that a key names: one, a list, names and folders, or a list of mappings with a path each.

    Args:
        value: of ``data.test_dataset`` or ``evaluation.test_datasets``.

    Raises:
        ValueError: there is no folder in it.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        named = [value[name] for name in _PLACES if isinstance(value.get(name), str)]
        value = named[:1] or list(value.values())
    if isinstance(value, list) and len(value) <= MOST_LISTED:
        return [folder for one in value for folder in folders_in(one)]
    raise ValueError("expected a folder, a list of folders, or names with their folders (name: folder)")
