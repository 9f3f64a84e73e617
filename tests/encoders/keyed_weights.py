"""Weights drawn from the names of the tensors: the same network everywhere, without a file.

For golden numbers, which another implementation can reproduce from names and shapes alone, and for measuring speed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["draw", "keyed_weights"]


def draw(key: str, shape: tuple[int, ...], *, gain: float = 0.9) -> Tensor:
    """Draw one tensor from PCG64 seeded with the CRC-32 of its name.

    Variances lie between 0.5 and 1.5; means, biases and other vectors have deviation 0.05, scales are 1 with deviation
    0.1; matrices and kernels have deviation `gain` over the root of their fan-in; the logits of sums (a `w` of three or
    four dimensions, the first of them 1) have deviation 1.

    Args:
        key: name of the tensor in a state dictionary; what counts is the whole for the seed, and its last part for
            the scale.
        shape: of the tensor.
        gain: of matrices and kernels.

    Returns:
        float32, or int64 for a counter of batches, which is 0.
    """
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    size = math.prod(shape)
    if leaf == "running_var":
        values = 0.5 + generator.random(size)
    else:
        values = generator.standard_normal(size)
        if leaf == "running_mean":
            values *= 0.05
        elif leaf == "w" and len(shape) in {3, 4} and shape[0] == 1:
            pass
        elif len(shape) < 2:
            values = 1.0 + 0.1 * values if leaf == "weight" else 0.05 * values
        else:
            values *= gain / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


def keyed_weights(
    state: Mapping[str, Tensor], *, keep: tuple[str, ...] = ("spec.", "backbone.spec.")
) -> dict[str, Tensor]:
    """Draw every tensor of a state dictionary.

    Args:
        state: names and shapes, e.g. ``encoder.state_dict()``.
        keep: tensors whose names begin so keep their values: front ends are computed, not learnt.
    """
    return {key: tensor if key.startswith(keep) else draw(key, tuple(tensor.shape)) for key, tensor in state.items()}
