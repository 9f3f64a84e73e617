"""A rotation as a layer of a network, which gradients pass through and which stays as it is."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nestvox.heads.rotation import Rotation

__all__ = ["RotationLayer"]


class RotationLayer(nn.Module):
    """nested = embedding @ matrix.

    Args:
        rotation: the head; a rotation is fitted and not trained, so the layer has no parameters.

    Attributes:
        rotation: the same.
        tap: of the encoder, which the layer takes.
        dims: prefix lengths.
        matrix: (D, D) float64, the rotation's.
    """

    tap: ClassVar[Literal["embedding"]] = "embedding"
    matrix: Tensor

    def __init__(self, rotation: Rotation) -> None:
        super().__init__()
        self.rotation = rotation
        self.dims = rotation.dims
        self.register_buffer("matrix", torch.from_numpy(rotation.matrix.copy()))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (B, D) to (B, D), not normalised."""
        rotated: Tensor = vectors @ self.matrix.to(vectors.dtype)
        return rotated
