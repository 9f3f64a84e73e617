"""What every encoder promises: its taps, masks, and results that padding never changes.

    audio -> layers -> frames -> pool(frames, mask) -> embed(pooled) -> embedding

Notation: B utterances, M masks, S samples, T frames, C frame channels, P pooled size, D embedding size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nestvox.encoders.file_encoder import Tap
from nestvox.encoders.pooling import Pooling
from nestvox.errors import ModelError
from nestvox.schema import StrictModel


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine map x -> weight x + bias.

    Attributes:
        weight: (D, P) float64.
        bias: (D,) float64.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    @classmethod
    def identity(cls, size: int) -> Self:
        """Return the map that changes nothing."""
        return cls(np.eye(size), np.zeros(size))

    @classmethod
    def of(cls, *layers: nn.Module) -> Self:
        """Fold layers, first one first, into one map, as they act in evaluation mode.

        Args:
            layers: `nn.Linear`, `nn.BatchNorm1d` with running statistics, `nn.Identity`.

        Raises:
            ModelError: another layer, or no layer that has a size.
        """
        sized = [layer for layer in layers if isinstance(layer, nn.Linear | nn.BatchNorm1d)]
        if not sized or any(not isinstance(layer, nn.Identity) for layer in layers if layer not in sized):
            raise ModelError(f"cannot fold {', '.join(type(layer).__name__ for layer in layers) or 'no layers'}")
        # Last one first: a wide batch norm before a linear layer then scales columns and is never a matrix.
        last = sized[-1]
        whole = cls.identity(last.out_features if isinstance(last, nn.Linear) else last.num_features)
        for layer in reversed(sized):
            whole = cls(*_before(whole, layer))
        return whole


@dataclass(frozen=True)
class Layer:
    """What one layer within a network says over time.

    Attributes:
        values: (B, C, T) float, zero where `mask` is false.
        mask: (B, T) bool, true where a frame belongs to the utterance.
        frame_rate_hz: frames per second.
    """

    values: Tensor
    mask: Tensor
    frame_rate_hz: float


@dataclass(frozen=True)
class Taps:
    """The outputs of one forward pass.

    Attributes:
        frames: (B, C, T) float, zero where `frame_mask` is false.
        frame_mask: (B, T) bool, true where a frame belongs to the utterance.
        pooled: (B, P) float, a function of the real frames only.
        embedding: (B, D) float, as the network gives it (scoring normalises).
        layers: by name, those that were asked for.
    """

    frames: Tensor
    frame_mask: Tensor
    pooled: Tensor
    embedding: Tensor
    layers: Mapping[str, Layer] = field(default_factory=dict)


@dataclass(frozen=True)
class Translation:
    """The tensors of a checkpoint under the names of the network that they are for.

    Attributes:
        tensors: by the names of the network's state.
        layout: of the checkpoint's names: ``current``, or the name of an older or foreign one.
        recomputed: names that the checkpoint lacks and the configuration determines.
        left_out: names that the checkpoint has and an encoder does not need.
    """

    tensors: Mapping[str, Tensor]
    layout: str = "current"
    recomputed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class Encoder(nn.Module, ABC):
    """A network from waveforms to frames, pooled vector and embedding.

    A class sets the attributes, the first of them and those with a default for all its instances; `docs/guide/encoders`
    says how a new one comes about.

    Attributes:
        architecture: the name under which `registry.build` finds the class, e.g. ``ge2e``.
        sample_rate: of the input, in Hz.
        frame_rate_hz: frames per second at the `frames` tap.
        frames_dim: C.
        pooled_dim: P.
        embedding_dim: D.
        min_samples: shortest input, in samples, whose output is finite and meaningful; shorter is an error.
        layer_rates_hz: names of the layers that `forward` hands out, from input to output, and their frames per second.
        pool: from frames to `pooled` under any masks: ``pool(frames, frame_mask)`` is exactly `pooled`, and one forward
            pass is pooled under many masks, (B, M, T) to (B, M, P).
        taps: those that the network has; of one that is a closed box only the embedding, and the others are empty.
        arguments: of the constructor, as files may state them; None: it checks them itself.
        forms: faster forms for inference, by backend: a function, as ``module:name``, that turns a copy of the encoder
            in evaluation mode into that form, in place. It gives the same taps to rounding, and hands out no layers.
        half_precision: whether what is behind the front end may run in sixteen bits.
    """

    architecture: str
    sample_rate: int
    frame_rate_hz: float
    frames_dim: int
    pooled_dim: int
    embedding_dim: int
    min_samples: int
    layer_rates_hz: Mapping[str, float] = {}
    pool: Pooling
    taps: tuple[Tap, ...] = ("frames", "pooled", "embedding")
    arguments: type[StrictModel] | None = None
    forms: Mapping[str, str] = {}
    half_precision: bool = False

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the JSON-serialisable constructor arguments; ``registry.build`` rebuilds from them."""

    @abstractmethod
    def forward(self, audio: Tensor, lengths: Tensor | None = None, *, layers: Collection[str] = ()) -> Taps:
        """Run the network once.

        Args:
            audio: (B, S) float32 in [-1, 1], mono, at `sample_rate`; padding after `lengths` is ignored.
            lengths: (B,) int64, samples of each utterance; None means that all S are real.
            layers: names in `layer_rates_hz` that are to be among the taps.

        Raises:
            ModelError: no utterance, wrong shape or dtype, an utterance shorter than `min_samples`, or a layer that
                the network has not.
        """

    def embed(self, pooled: Tensor) -> Tensor:  # noqa: ARG002  for subclasses
        """Map pooled vectors (..., P) to embeddings (..., D): the layers behind the pooling.

        Raises:
            ModelError: the network cannot be entered there.
        """
        raise ModelError(f"{self.architecture} is a closed box: no embedding is made of a pooled vector")

    def projection(self) -> Affine | None:
        """Return the affine map from `pooled` to `embedding` in evaluation mode, so that a head can begin as it.

        It holds up to a positive factor per utterance, which no cosine sees: an encoder that ends by normalising has
        one too. None: the embedding is no such function of `pooled`.
        """
        return None

    @classmethod
    def fitted(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:  # noqa: ARG003
        """Change a configuration to what the shapes of a checkpoint's tensors say, where they were published so.

        Args:
            config: constructor arguments, of the catalogue or of the checkpoint.
            tensors: as the checkpoint has them.
        """
        return config

    def translate(self, tensors: Mapping[str, Tensor], source: str) -> Translation:  # noqa: ARG002  for subclasses
        """Rename the tensors of a checkpoint to the names of this network, where they were published under others.

        Args:
            tensors: as the checkpoint has them.
            source: name of the checkpoint, for messages.

        Raises:
            WeightsError: the checkpoint is of another network.
        """
        return Translation(tensors)

    def check_input(self, audio: Tensor, lengths: Tensor | None, layers: Collection[str] = ()) -> Tensor:
        """Validate a batch and return `lengths` as (B,) int64 on the CPU; every `forward` begins with it.

        Raises:
            ModelError: another shape or type, an empty batch, lengths beyond the audio, an utterance that is too
                short, or a layer that the network has not.
        """
        if strange := [name for name in layers if name not in self.layer_rates_hz]:
            known = ", ".join(self.layer_rates_hz) or "none: it is a closed box, or arranged for inference"
            raise ModelError(f"{self.architecture} hands out no layer {strange[0]!r}; there is {known}")
        if audio.ndim != 2 or not torch.is_floating_point(audio):
            raise ModelError(f"audio must be a float tensor (batch, samples), got {audio.dtype} {tuple(audio.shape)}")
        if audio.shape[0] == 0:
            raise ModelError("audio must hold at least one utterance, got an empty batch")
        if lengths is None:
            checked = torch.full((audio.shape[0],), audio.shape[1], dtype=torch.int64)
        else:
            checked = lengths.detach().to("cpu", torch.int64)
            if checked.shape != (audio.shape[0],) or (checked > audio.shape[1]).any():
                raise ModelError(
                    f"lengths must be ({audio.shape[0]},) and at most {audio.shape[1]}, got {checked.tolist()}"
                )
        shortest = int(checked.min())
        if shortest < self.min_samples:
            raise ModelError(
                f"{self.architecture} needs at least {self.min_samples / self.sample_rate:.3f} s of audio "
                f"({self.min_samples} samples), got {shortest / self.sample_rate:.3f} s ({shortest})"
            )
        return checked


def _before(after: Affine, layer: nn.Linear | nn.BatchNorm1d) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight and bias of `layer` and `after` as one."""
    if isinstance(layer, nn.Linear):
        own = getattr(layer, "bias", None)  # torch's types say that a linear layer always has one
        bias = after.bias if own is None else after.weight @ _float64(own) + after.bias
        return after.weight @ _float64(layer.weight), bias
    gain = 1 / np.sqrt(_float64(layer.running_var) + layer.eps)
    shift = np.zeros_like(gain)
    if layer.affine:
        gain = gain * _float64(layer.weight)
        shift = _float64(layer.bias)
    return after.weight * gain, after.weight @ (shift - gain * _float64(layer.running_mean)) + after.bias


def _float64(tensor: Tensor | None) -> NDArray[np.float64]:
    if tensor is None:
        raise ModelError("a batch norm without running statistics cannot be folded")
    array: NDArray[np.float64] = tensor.detach().to("cpu", torch.float64).numpy()
    return array
