"""What trained heads share: standardised input, numpy at the edges, saving.

Notation: B vectors, P input size, D output size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from nestvox.errors import ModelError
from nestvox.gate import naming
from nestvox.heads.contract import FloatArray, in_working_precision
from nestvox.heads.moments import Moments
from nestvox.heads.rotation import Rotation, check_dims
from nestvox.heads.start import AffineMap, Start, pretrained_start
from nestvox.schema import Fraction, Size, StrictModel, Word, validated

Norm = Literal["batch", "fixed", "none"]
HeadTap = Literal["pooled", "embedding"]

# Counts training steps, and no output depends on it.
_NOT_SAVED = "norm.num_batches_tracked"


class _Saved(StrictModel):
    """What stands beside the tensors; each class says which of the settings it takes."""

    kind: Word = ""
    method: Word
    tap: HeadTap = "pooled"
    input_dim: Size
    dims: Annotated[list[Size], Field(min_length=1)]
    norm: Norm = "batch"
    details: dict[str, Any] = Field(default_factory=dict)
    hidden: Size = 1
    layers: int = 2
    dropout: Fraction = 0.0


class TrainedHead(nn.Module, ABC):
    """A network from `tap` vectors to a nested embedding that is a `Head` as well: numpy in, numpy out.

    `forward` follows the mode of the module; `transform` is always the head in evaluation mode.

    Args:
        input_dim: P.
        dims: prefix lengths; the largest is D.
        tap: which encoder output it takes.
        norm: how the input is standardised. ``fixed``: by a mean and a variance that training does not change, so that
            a clip's output never depends on its batch, on its share of it under accumulation, or on the number of
            processes. ``batch``: batch normalisation with trained gain and shift, by the batch in training and by
            running statistics afterwards. ``none``: not at all.

    Attributes:
        method: how it came to be, for the model card.
        details: what training chose and saw, JSON-serialisable.

    Raises:
        ModelError: a size that is none, repeated dims, or another tap or norm.
    """

    kind: ClassVar[str]
    norm: nn.Module

    def __init__(self, input_dim: int, dims: Sequence[int], *, tap: HeadTap = "pooled", norm: Norm = "batch") -> None:
        super().__init__()
        if input_dim < 1:
            raise ModelError(f"input_dim must be positive, got {input_dim}")
        if tap not in get_args(HeadTap) or norm not in get_args(Norm):
            raise ModelError(
                f"unknown tap {tap!r} or norm {norm!r}; known: {', '.join(get_args(HeadTap))}; "
                f"{', '.join(get_args(Norm))}"
            )
        self.input_dim = input_dim
        self.dims = check_dims(dims, max(dims, default=0))
        self.tap: HeadTap = tap
        self.norm_kind: Norm = norm
        self.method = "random start"
        self.details: dict[str, Any] = {}
        self.norm = nn.Identity() if norm == "none" else nn.BatchNorm1d(input_dim, affine=norm == "batch")
        self.train()  # so is every new module; statistics that are fixed are not

    @classmethod
    def from_pretrained(
        cls,
        affine: AffineMap | None,
        rotation: Rotation | None,
        dims: Sequence[int],
        *,
        moments: Moments | None = None,
        norm: Norm = "fixed",
        extra_share: float = 0.01,
        **settings: Any,
    ) -> Self:
        """Return a head that is the pretrained model before its first step.

        Its first outputs are the pretrained embedding, rotated: scores at the pretrained size equal the pretrained
        model's, prefixes equal the rotated model's. Outputs beyond it begin small, at what the embedding leaves out of
        `pooled`; see `heads.start.pretrained_start`.

        Args:
            affine: from `pooled` to the pretrained embedding, as `Encoder.projection` gives it; None: the head takes
                the embedding itself.
            rotation: of the pretrained embedding; None: none (one of the two is needed).
            dims: prefix lengths; the largest is D and may exceed the pretrained size.
            moments: of the vectors that it will be trained on, at its tap, which standardise the input and are needed
                for dims beyond the pretrained size; None: nothing is standardised.
            norm: see the class.
            extra_share: energy of the dims beyond the pretrained size, relative to the embedding's.
            settings: further arguments of the class.

        Raises:
            ModelError: sizes that do not fit.
        """
        tap: HeadTap = "pooled"
        if affine is None:
            if rotation is None:
                raise ModelError("a pretrained start needs the encoder's projection, a rotation, or both")
            affine, tap = _Identity(rotation.input_dim), "embedding"
        head = cls(affine.weight.shape[1], dims, tap=tap, norm=norm, **settings)
        head._begin(pretrained_start(affine, rotation, head.dims[-1], moments=moments, extra_share=extra_share))
        head.method = f"pretrained start, {'no' if rotation is None else rotation.method} rotation"
        return head

    @abstractmethod
    def forward(self, vectors: Tensor) -> Tensor:
        """Map (B, P) to (B, D), not normalised."""

    @abstractmethod
    def evaluate(self, vectors: FloatArray, weights: Mapping[str, FloatArray]) -> FloatArray:
        """Map (N, P) to (N, D), given the tensors of the head in the dtype of `vectors`."""

    @abstractmethod
    def linear_path(self) -> nn.Linear:
        """Return the layer that a pretrained start is put into."""

    def train(self, mode: bool = True) -> Self:
        """Set the mode; statistics that are fixed stay in evaluation."""
        super().train(mode)
        if self.norm_kind == "fixed":
            self.norm.eval()
        return self

    def transform(self, vectors: FloatArray, /) -> FloatArray:
        """Map floating-point (N, P) to (N, D), unnormalised, in the dtype given, whatever the mode of the module.

        Half precision is computed in single precision and rounded once.

        Raises:
            ModelError: another shape, or whole numbers.
        """
        working = in_working_precision(vectors, self.input_dim, "head")
        weights = {name: array.astype(working.dtype, copy=False) for name, array in self.tensors().items()}
        nested = self.evaluate(working, weights)
        return nested.astype(vectors.dtype, copy=False)

    def standardised(self, vectors: FloatArray, weights: Mapping[str, FloatArray]) -> FloatArray:
        """Standardise (N, P) as `norm` does in evaluation mode."""
        if not isinstance(self.norm, nn.BatchNorm1d):
            return vectors
        gain = 1 / np.sqrt(weights["norm.running_var"] + vectors.dtype.type(self.norm.eps))
        if "norm.weight" in weights:
            gain = gain * weights["norm.weight"]
        # The mean first: far from zero, a product would lose what distinguishes the vectors.
        out: FloatArray = (vectors - weights["norm.running_mean"]) * gain
        return out + weights["norm.bias"] if "norm.bias" in weights else out

    def config(self) -> dict[str, Any]:
        """What stands beside the tensors in a saved model."""
        return {
            "kind": self.kind,
            "method": self.method,
            "tap": self.tap,
            "input_dim": self.input_dim,
            "dims": list(self.dims),
            "norm": self.norm_kind,
            **self.settings(),
            "details": self.details,
        }

    def settings(self) -> dict[str, Any]:
        """Further arguments of the class."""
        return {}

    def tensors(self) -> dict[str, FloatArray]:
        """Its weights and statistics, float32, by the names of its state."""
        state = self.state_dict()
        return {name: tensor.float().cpu().numpy() for name, tensor in state.items() if name != _NOT_SAVED}

    @classmethod
    def from_saved(cls, config: dict[str, Any], tensors: dict[str, FloatArray]) -> Self:
        """Rebuild from `config()` and `tensors()`, in evaluation mode.

        Raises:
            ModelError: a key or a tensor is missing, unexpected, of another shape, or not finite.
        """
        saved = validated(_Saved, config, "the saved head", naming(ModelError))
        settings = saved.model_dump(include=saved.model_fields_set - {"kind", "method", "details"})

        # A sketch without memory: what its configuration asks for must be in the file before it is allocated.
        try:
            with torch.device("meta"):
                sketch = cls(**settings).state_dict()
        except TypeError as error:
            raise ModelError(f"the saved head is malformed: {error}") from error
        expected = {name: tuple(tensor.shape) for name, tensor in sketch.items() if name != _NOT_SAVED}
        found = {name: array.shape for name, array in tensors.items()}
        if expected != found:
            wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
            raise ModelError(
                "the saved head has other tensors than its configuration says: "
                + ", ".join(f"{n} {found.get(n, 'missing')} for {expected.get(n, 'none')}" for n in wrong)
            )
        if odd := sorted(name for name, array in tensors.items() if not np.issubdtype(array.dtype, np.floating)):
            raise ModelError(f"the saved head holds no floating-point numbers in {', '.join(odd)}")
        if broken := sorted(name for name, array in tensors.items() if not np.isfinite(array).all()):
            raise ModelError(f"the saved head holds values that are not finite: {', '.join(broken)}")
        head = cls(**settings)
        state = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in tensors.items()}
        head.load_state_dict(state, strict=False)
        head.method, head.details = saved.method, dict(saved.details)
        return head.eval()

    @torch.no_grad()
    def _begin(self, start: Start) -> None:
        """Put `start` into the linear path, behind a standardisation by the statistics of its input."""
        weight, bias = start.weight, start.bias
        if isinstance(self.norm, nn.BatchNorm1d):
            mean, variance = (torch.from_numpy(part).float() for part in (start.mean, start.variance))
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            self.norm.running_mean.copy_(mean)
            self.norm.running_var.copy_(variance)
            # Undone with the rounded statistics, since those are what the head will apply.
            deviation = np.sqrt(variance.double().numpy() + self.norm.eps)
            bias = bias + weight @ mean.double().numpy()
            weight = weight * deviation
        layer = self.linear_path()
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))


class _Identity:
    """An `AffineMap` that changes nothing."""

    def __init__(self, size: int) -> None:
        self.weight: NDArray[np.float64] = np.eye(size)
        self.bias: NDArray[np.float64] = np.zeros(size)
