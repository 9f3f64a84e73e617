"""Heads as layers: redimnet-mrl's projection, a rotation that gradients pass through, and the cut to prefixes.

Notation: B vectors, P input size, D the largest dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nestvox.errors import ModelError
from nestvox.heads.rotation import Rotation, check_dims


class MatryoshkaProjection(nn.Module):
    """Batch norm and a linear layer, whose output has prefixes; it begins at random.

    The head of `create_mrl_from_pretrained` is a `heads.linear.LinearHead`, which begins as the pretrained last layers.

    Args:
        input_dim: P, of the pooled vector.
        max_embed_dim: D.
        mrl_dims: prefix lengths; D is added if it is missing.

    Raises:
        ModelError: dims beyond D.
    """

    def __init__(self, input_dim: int, max_embed_dim: int, mrl_dims: Sequence[int]) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.max_embed_dim = max_embed_dim
        self.mrl_dims = check_dims(mrl_dims, max_embed_dim)
        self.bn = nn.BatchNorm1d(input_dim)
        self.linear = nn.Linear(input_dim, max_embed_dim)

    def forward(
        self, x: Tensor, return_all_dims: bool = False, target_dim: int | None = None
    ) -> Tensor | dict[int, Tensor]:
        """Map (B, P) to (B, target_dim), or to a dictionary of every length; see `ReDimNetMRL.forward`."""
        return prefixes(self.linear(self.bn(x)), self.mrl_dims, return_all_dims, target_dim)


def prefixes(
    full: Tensor, dims: tuple[int, ...], return_all_dims: bool, target_dim: int | None
) -> Tensor | dict[int, Tensor]:
    """Cut (B, D) to one length or to all.

    Args:
        full: the whole embedding.
        dims: prefix lengths, D last.
        return_all_dims: give every length of `dims`.
        target_dim: one length, 1 to D; None: D.

    Raises:
        ModelError: a length that the embedding does not have.
    """
    if return_all_dims:
        return {d: full[:, :d] for d in dims}
    if target_dim is None:
        return full
    if not 1 <= target_dim <= dims[-1]:
        raise ModelError(f"target_dim must be between 1 and {dims[-1]}, got {target_dim}")
    return full[:, :target_dim]


class RotationLayer(nn.Module):
    """nested = embedding @ matrix, or with the rotation's mean: embedding at unit length @ matrix - mean.

    Args:
        rotation: the head; a rotation is fitted and not trained, so the layer has no parameters.

    Attributes:
        rotation: the same.
        tap: of the encoder, which the layer takes.
        dims: prefix lengths.
        matrix: (D, D) float64, the rotation's.
        mean: (D,) float64, the rotation's; None: it has none.
    """

    tap: ClassVar[Literal["embedding"]] = "embedding"
    matrix: Tensor
    mean: Tensor | None

    def __init__(self, rotation: Rotation) -> None:
        super().__init__()
        self.rotation = rotation
        self.dims = rotation.dims
        self.register_buffer("matrix", torch.from_numpy(rotation.matrix.copy()))
        self.register_buffer("mean", None if rotation.mean is None else torch.from_numpy(rotation.mean.copy()))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (B, D) to (B, D), not normalised."""
        if self.mean is None:
            return vectors @ self.matrix.to(vectors.dtype)
        unit = nn.functional.normalize(vectors, dim=1, eps=0)
        return unit @ self.matrix.to(vectors.dtype) - self.mean.to(vectors.dtype)
