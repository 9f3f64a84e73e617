"""A linear head with a correction: two or three layers beside the linear path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from nestvox.errors import ModelError
from nestvox.heads.contract import FloatArray
from nestvox.heads.trained import HeadTap, Norm, TrainedHead


class MlpHead(TrainedHead):
    """Linear layer plus perceptron, of the same standardised input: W z + b + V h_n, h_i = relu(U_i h_{i-1} + c_i).

    V begins at 0, so the head begins as its linear path: at random, or, by `from_pretrained`, at a pretrained model.

    Args:
        input_dim: P.
        dims: prefix lengths; the largest is D.
        tap: which encoder output it takes.
        norm: see `TrainedHead`.
        hidden: size of the hidden layers.
        layers: of the perceptron, 2 or 3, the last one (V) included.
        dropout: share of hidden units that are left out in training.

    Raises:
        ModelError: a setting outside its range.
    """

    kind: ClassVar[Literal["mlp"]] = "mlp"

    def __init__(
        self,
        input_dim: int,
        dims: Sequence[int],
        *,
        tap: HeadTap = "pooled",
        norm: Norm = "batch",
        hidden: int = 512,
        layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(input_dim, dims, tap=tap, norm=norm)
        if layers not in (2, 3) or hidden < 1 or not 0 <= dropout < 1:
            raise ModelError(
                f"an mlp head has 2 or 3 layers, hidden units and dropout in [0, 1), got {layers}, {hidden} and "
                f"{dropout}"
            )
        self.hidden = hidden
        self.layers = layers
        self.dropout = dropout
        self.linear = nn.Linear(input_dim, self.dims[-1])
        self.inner = nn.ModuleList(nn.Linear(input_dim if i == 0 else hidden, hidden) for i in range(layers - 1))
        self.last = nn.Linear(hidden, self.dims[-1], bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (B, P) to (B, D), not normalised."""
        z = self.norm(vectors)
        h = z
        for layer in self.inner:
            h = functional.dropout(functional.relu(layer(h)), self.dropout, self.training)
        nested: Tensor = self.linear(z) + self.last(h)
        return nested

    def evaluate(self, vectors: FloatArray, weights: Mapping[str, FloatArray]) -> FloatArray:
        """Map (N, P) to (N, D) in numpy."""
        z = self.standardised(vectors, weights)
        h = z
        for i in range(self.layers - 1):
            h = np.maximum(h @ weights[f"inner.{i}.weight"].T + weights[f"inner.{i}.bias"], 0)
        nested: FloatArray = z @ weights["linear.weight"].T + weights["linear.bias"] + h @ weights["last.weight"].T
        return nested

    def linear_path(self) -> nn.Linear:
        """Return the layer beside the perceptron."""
        return self.linear

    def settings(self) -> dict[str, Any]:
        """Arguments that a linear head has not."""
        return {"hidden": self.hidden, "layers": self.layers, "dropout": self.dropout}
