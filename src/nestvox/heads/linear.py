"""A linear head: standardisation and one linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from nestvox.heads.contract import FloatArray
from nestvox.heads.trained import HeadTap, Norm, TrainedHead


class LinearHead(TrainedHead):
    """Batch norm and a linear layer, as redimnet-mrl has them; `from_pretrained` begins at a pretrained model.

    Built directly it begins at random, as a network of its own.

    Args:
        input_dim: P.
        dims: prefix lengths; the largest is D.
        tap: which encoder output it takes.
        norm: see `TrainedHead`.
    """

    kind: ClassVar[Literal["linear"]] = "linear"

    def __init__(self, input_dim: int, dims: Sequence[int], *, tap: HeadTap = "pooled", norm: Norm = "batch") -> None:
        super().__init__(input_dim, dims, tap=tap, norm=norm)
        self.linear = nn.Linear(input_dim, self.dims[-1])

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (B, P) to (B, D), not normalised."""
        nested: Tensor = self.linear(self.norm(vectors))
        return nested

    def evaluate(self, vectors: FloatArray, weights: Mapping[str, FloatArray]) -> FloatArray:
        """Map (N, P) to (N, D) in numpy."""
        nested: FloatArray = self.standardised(vectors, weights) @ weights["linear.weight"].T + weights["linear.bias"]
        return nested

    def linear_path(self) -> nn.Linear:
        """Return its layer."""
        return self.linear
