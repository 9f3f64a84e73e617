"""The network of redimnet-mrl, rebuilt from its checkpoints exactly as that project defines it.

Its backbone is that of ReDimNet b2 with a hop of 160 samples, an untrained layer before the pooling and an untrained
pooling; its projection is a batch norm and a linear layer to 256 numbers, or to as many as the file has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nestvox.encoders.contract import Encoder
from nestvox.encoders.registry import build
from nestvox.errors import WeightsError
from nestvox.zoo.catalogue import entries, find
from nestvox.zoo.checkpoint import Checkpoint, read_checkpoint
from nestvox.zoo.weights import load_strict

CATALOGUE_NAME = "redimnet-mrl"
_BASE = "redimnet-b2-vox2-ptn"
RELEASED_DIMS = (64, 128, 192, 256)
_STATE_KEYS = ("model_state_dict", "state_dict")
_NUMBERS = ("epoch", "global_step", "best_val_loss", "best_eer")
_LAST_LAYER = "projection.linear.weight"


def is_theirs(tensors: Mapping[str, Any]) -> bool:
    """Whether these are the tensors of a network of redimnet-mrl, by their names."""
    return any(name.startswith("backbone.backbone.") for name in tensors)


def network_of(tensors: Mapping[str, Tensor], source: str) -> Encoder:
    """Build the network of that project's tensors, in evaluation mode.

    Args:
        tensors: by that project's names.
        source: name of the file, for messages.

    Raises:
        WeightsError: they are of another network.
    """
    if not is_theirs(tensors):
        if tensors and all(name.startswith(("encoder.", "head.", "_extra_state")) for name in tensors):
            raise WeightsError(
                f"{source}: the state of a model of nestvox.mrl, and no checkpoint of redimnet-mrl: load_trained_mrl "
                "opens it; one that does not say of which network it is (without _extra_state) is loaded with "
                "load_state_dict into a model made as that one was"
            )
        raise WeightsError(f"{source}: no checkpoint of redimnet-mrl: it has no tensors of backbone.backbone")
    entry = find(CATALOGUE_NAME)
    config = {**entry.config, "architecture": entry.architecture}
    if (last := tensors.get(_LAST_LAYER)) is not None and last.ndim == 2:
        config["embed_dim"] = last.shape[0]
    encoder = build(config, available=sum(tensor.numel() for tensor in tensors.values()))
    try:
        load_strict(encoder, tensors, source)
    except WeightsError as error:
        raise WeightsError(
            f"{error}. Of redimnet-mrl, networks on ReDimNet b2 are rebuilt, of any embed_dim"
        ) from error
    return encoder.eval()


def mrl_card(config: Mapping[str, Any], numbers: Mapping[str, int | float] | None = None) -> dict[str, Any]:
    """Return what a model card says of a checkpoint, from the configuration and the numbers that it holds.

    Nobody can say under which licence somebody's checkpoint stands; that of the network beneath it is known.
    """
    section = config.get("advanced")
    base, entry = "ReDimNet b2", find(_BASE)
    if isinstance(section, Mapping):
        said = [section.get(key) for key in ("model_name", "pretrained_dataset", "train_type")]
        named = "redimnet-" + "-".join(map(str, said))
        if (known := next((entry for entry in entries() if entry.name == named), None)) is not None:
            base, entry = named, known
    found = {name: value for name in _NUMBERS if (value := (numbers or {}).get(name)) is not None}
    told = ", ".join(f"{name} {value:g}" for name, value in found.items())
    return {
        **({"checkpoint": found} if found else {}),
        "base_model": base,
        "training_data": f"stages as in {base} ({entry.training_data}); the layer before the pooling and the pooling "
        f"were never trained, the last layers by redimnet-mrl{f' (its file says: {told})' if told else ''}",
        "licence": f"that of whoever trained it; of the network beneath, {base}: {entry.licence}",
    }


def read_mrl_checkpoint(path: str | Path) -> tuple[Encoder, tuple[int, ...], dict[str, Any]]:
    """Read a checkpoint (``best.pt``); no code in it is run, and nothing else is needed.

    Args:
        path: a ``.pt`` file with ``model_state_dict`` or ``state_dict``, or the bare state; whatever else it holds,
            such as the optimiser's state, is left alone.

    Returns:
        The network in evaluation mode; the prefix lengths that the file's configuration names, else those of the
        release, up to its size; and what a model card says of it.

    Raises:
        WeightsError: the file is of another network, damaged, or holds more than tensors and plain values.
    """
    return mrl_network(read_state(path), str(path))


def read_state(path: str | Path) -> Checkpoint:
    """Read the tensors under ``model_state_dict`` or ``state_dict``, or at the top, and what stands beside them.

    Raises:
        WeightsError: damaged, or more than tensors and plain values.
    """
    for key in _STATE_KEYS[:-1]:
        try:
            return read_checkpoint(path, state_key=key, config_key="config")
        except WeightsError:
            if not Path(path).is_file():
                raise
    return read_checkpoint(path, state_key=_STATE_KEYS[-1], config_key="config")


def mrl_network(checkpoint: Checkpoint, path: str) -> tuple[Encoder, tuple[int, ...], dict[str, Any]]:
    """Build what `read_mrl_checkpoint` returns, of the content of a file.

    Raises:
        WeightsError: it is of another network.
    """
    encoder = network_of(checkpoint.tensors, path)
    config = checkpoint.config or {}
    section = config.get("model")
    named = section.get("mrl_dims") if isinstance(section, dict) else None
    dims = RELEASED_DIMS if named is None else named
    if not isinstance(dims, list | tuple) or not all(type(d) is int and d > 0 for d in dims):
        raise WeightsError(f"{path}: its configuration has model.mrl_dims = {named!r}, which are no prefix lengths")
    kept = sorted({d for d in dims if d < encoder.embedding_dim} | {encoder.embedding_dim})
    return encoder, tuple(kept), mrl_card(config, checkpoint.numbers)
