"""What every loss does before its formula: check weights and batch, leave half precision, normalise vectors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

from nestvox.errors import ModelError

_Name = TypeVar("_Name", str, int)

# Below it a vector has no direction: its gradient would be this many times larger than that of a unit vector.
_SHORTEST = 1e-12


def check_batch(embedding: Tensor, labels: Tensor, dim: int | None = None) -> None:
    """Refuse what is no batch, from shapes and types alone, so that a GPU is never waited for.

    Args:
        embedding: (B, d) float.
        labels: (B,) int64.
        dim: the d that is expected; None: any.

    Raises:
        ModelError: another shape or type, or no row.
    """
    if embedding.ndim != 2 or not embedding.is_floating_point() or not embedding.numel():
        raise ModelError(f"embeddings are a float tensor (B, d), got {embedding.dtype} {tuple(embedding.shape)}")
    if labels.shape != embedding.shape[:1] or labels.dtype != torch.int64:
        raise ModelError(
            f"labels are an int64 tensor ({embedding.shape[0]},), one speaker per embedding, got {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    if dim is not None and embedding.shape[1] != dim:
        raise ModelError(f"this loss was made for {dim} dimensions, got {embedding.shape[1]}")


def weights_by_name(
    what: str, names: Iterable[_Name], given: Mapping[_Name, float] | None, instead: str = ""
) -> dict[_Name, float]:
    """Return a weight for each name; one that is not given is 1.

    Args:
        what: the names are called in an error.
        names: of all.
        given: weights of some.
        instead: of a weight that is refused, e.g. of 0.

    Raises:
        ModelError: a weight for another name, or one that is not positive and finite.
    """
    given = given or {}
    weights = {name: float(given.get(name, 1.0)) for name in names}
    if unknown := sorted(given.keys() - weights):
        raise ModelError(f"weights name {what} {unknown}, which are not among {sorted(weights)}")
    if wrong := {name: weight for name, weight in weights.items() if not 0 < weight < math.inf}:
        raise ModelError(f"weights must be positive and finite, got {wrong}{instead and f'; {instead}'}")
    return weights


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off on the device of `tensor`; `working` widens what comes in."""
    return torch.autocast(tensor.device.type, enabled=False)


def unit(vectors: Tensor) -> Tensor:
    """Scale the last axis to unit length.

    A vector shorter than 1e-12 has no direction and stays as it is, with a gradient as if its length were 1.
    """
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(lengths > _SHORTEST, lengths, torch.ones_like(lengths))


def working(tensor: Tensor) -> Tensor:
    """Widen to float32; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
