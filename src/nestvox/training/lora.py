"""Low-rank additions to frozen matrices: a domain's own encoder in a few hundred kilobytes.

Source: E. Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022: W + (alpha / rank) B A, where B
begins at 0, so that nothing is changed before the first step. A 1x1 convolution is such a matrix too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nestvox.atomic import atomic_path
from nestvox.errors import ModelError, first_of
from nestvox.gate import parse_json
from nestvox.schema import StrictModel, Word, validated
from nestvox.training.checkpoint import read_tensors
from nestvox.training.recipe.sections import Lora

_FORMAT = "nestvox-adapter-1"


class _About(StrictModel):
    """What an adapter's file says of itself."""

    format: Word
    fingerprint: Word
    scale: float


class LowRank(nn.Module):
    """Adds a matrix of low rank to a weight, as a parametrization of it.

    Args:
        weight: (out, in) or a 1x1 kernel (out, in, 1...).
        rank: of the addition.
        scale: of it.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        out, entering = weight.shape[:2]
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, entering))
        self.b = nn.Parameter(torch.zeros(out, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with the addition."""
        return weight + (self.scale * self.b @ self.a).view_as(weight)


def add_low_rank(encoder: nn.Module, section: Lora) -> list[str]:
    """Give every matrix that the section names an addition, and freeze all else.

    Args:
        encoder: changed in place.
        section: rank, scale and targets.

    Returns:
        Names of the modules that have one now, in the order of the network.

    Raises:
        ModelError: the encoder has no such matrix.
    """
    encoder.requires_grad_(requires_grad=False)
    names = _targets(encoder, section.targets)
    if not names:
        raise ModelError(
            f"encoder.lora.targets: {type(encoder).__name__} has no {' and no '.join(section.targets)} to add to; "
            "there are attention, pointwise and linear"
        )
    for name in names:
        _add(encoder.get_submodule(name), section.rank, section.alpha / section.rank)
    return names


def merge_low_rank(encoder: nn.Module) -> None:
    """Add every addition to its weight for good; the result has the names and costs of the original."""
    for module in list(encoder.modules()):
        if _additions(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def save_adapter(encoder: nn.Module, path: str | Path, *, fingerprint: str, section: Lora) -> None:
    """Write the additions alone: small, and of use only with the encoder that they were trained on.

    Args:
        encoder: with additions that are not merged.
        path: of the safetensors file.
        fingerprint: of the encoder without them.
        section: how they were made.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in encoder.named_modules():
        for addition in _additions(module):
            tensors |= {f"{name}.a": addition.a.detach().cpu(), f"{name}.b": addition.b.detach().cpu()}
    about = {"format": _FORMAT, "fingerprint": fingerprint, "scale": section.alpha / section.rank}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"adapter": json.dumps(about, sort_keys=True)})


def apply_adapter(encoder: nn.Module, path: str | Path, *, fingerprint: str) -> None:
    """Add the additions of a file to the weights of an encoder, in place.

    Args:
        encoder: the one that they were trained on.
        path: what `save_adapter` wrote.
        fingerprint: of the encoder.

    Raises:
        ModelError: no adapter file, or one for another encoder.
    """
    tensors, metadata = read_tensors(path, _refusal)
    about = parse_json(metadata.get("adapter", "{}"), str(path), _refusal)
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        found = about.get("format") if isinstance(about, dict) else None
        raise ModelError(f"{path}: format {str(found)[:80]!r}, expected {_FORMAT!r}")
    checked = validated(_About, about, str(path), _refusal)
    if checked.fingerprint != fingerprint:
        raise ModelError(f"{path} was trained on the encoder {checked.fingerprint}, this one is {fingerprint}")
    additions = [(name, *_addition(encoder, tensors, name, path)) for name in _names(tensors, path)]
    with torch.no_grad():
        for name, a, b in additions:
            weight = cast("Tensor", encoder.get_submodule(name).weight)
            weight += (checked.scale * b @ a).view_as(weight).to(weight)


def _names(tensors: Mapping[str, Tensor], path: str | Path) -> list[str]:
    """Modules that a file has additions for."""
    names = sorted({key.rpartition(".")[0] for key in tensors})
    if set(tensors) != {f"{name}.{kind}" for name in names for kind in "ab"}:
        raise ModelError(
            f"{path}: an addition is two matrices, a and b, for each module; found {first_of(list(tensors))}"
        )
    return names


def _addition(encoder: nn.Module, tensors: Mapping[str, Tensor], name: str, path: str | Path) -> tuple[Tensor, Tensor]:
    """The two matrices for a module, of whose weight they must have the size."""
    a, b = tensors[f"{name}.a"], tensors[f"{name}.b"]
    try:
        weight = encoder.get_submodule(name).weight
    except AttributeError:
        weight = None
    if not isinstance(weight, Tensor):
        raise ModelError(f"{path}: the encoder has no matrix {name[:80]!r} to add to")
    fits = a.ndim == b.ndim == 2 and b.shape[1] == a.shape[0] and (b.shape[0], a.shape[1]) == weight.shape[:2]
    if not fits or b.shape[0] * a.shape[1] != weight.numel():
        raise ModelError(
            f"{path}: {name[:80]}: {tuple(b.shape)} times {tuple(a.shape)} does not fit {tuple(weight.shape)}"
        )
    if not (a.is_floating_point() and b.is_floating_point() and a.isfinite().all() and b.isfinite().all()):
        raise ModelError(f"{path}: {name[:80]}: holds what are no finite numbers")
    return a.float(), b.float()


def _refusal(problem: str, source: str) -> ModelError:
    return ModelError(f"{source}: not a readable adapter: {problem}")


def _add(module: nn.Module, rank: int, scale: float) -> None:
    weight = cast("Tensor", module.weight)
    parametrize.register_parametrization(module, "weight", LowRank(weight, rank, scale).to(weight.device))


def _targets(encoder: nn.Module, wanted: Sequence[str]) -> list[str]:
    names = []
    for name, module in encoder.named_modules():
        kinds = set()
        if isinstance(module, nn.Linear):
            kinds = {"linear", "attention"} if "attention" in name.split(".") else {"linear"}
        elif isinstance(module, nn.Conv1d | nn.Conv2d) and set(module.kernel_size) == {1} and module.groups == 1:
            kinds = {"pointwise"}
        if kinds & set(wanted):
            names.append(name)
    return names


def _additions(module: nn.Module) -> list[LowRank]:
    if not parametrize.is_parametrized(module, "weight"):
        return []
    found = cast("nn.ModuleDict", module.parametrizations)["weight"]
    return [part for part in cast("nn.ModuleList", found) if isinstance(part, LowRank)]
