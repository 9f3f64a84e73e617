"""Where a trained head begins: at the pretrained model, rotated. Knows no torch.

Notation: P pooled size, E size of the pretrained embedding e = A x + a, R the (E, E) rotation, D size of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from nestvox.errors import ModelError
from nestvox.heads.moments import Moments
from nestvox.heads.rotation import Rotation

# Of the largest residual direction; below it a direction is the rounding of others.
_NO_VARIANCE = 1e-9
_SEED = 11


class AffineMap(Protocol):
    """What `Encoder.projection` returns: x -> weight x + bias, with (E, P) and (E,) float64 arrays."""

    @property
    def weight(self) -> NDArray[np.float64]: ...  # noqa: D102  described above

    @property
    def bias(self) -> NDArray[np.float64]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Start:
    """An affine map x -> weight x + bias for a head to begin with, and the scale of its input.

    Attributes:
        weight: (D, P) float64.
        bias: (D,) float64.
        mean: (P,) float64, of the input; 0 where it is not known.
        variance: (P,) float64, of the input; 1 where it is not known.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def pretrained_start(
    affine: AffineMap,
    rotation: Rotation | None,
    size: int,
    *,
    moments: Moments | None = None,
    extra_share: float = 0.01,
) -> Start:
    """Return the map whose first E outputs are the rotated pretrained embedding, (A x + a) R.

    A mean that the rotation holds becomes part of the bias, times the root mean square length of e: of vectors at unit
    length that is exact, else nearly so.

    With `size` below E these are its first `size` outputs. With `size` above E the further outputs are what the
    embedding leaves out of `pooled`: of the standardised pooled vector z = (x - mean) / deviation the part that no
    linear function of e predicts, z - C A'(A C A')^-1 A z, along its principal directions, largest first (here A acts
    on z, and C is the covariance of z). They are uncorrelated with the embedding, have mean 0 and equal variances, and
    together `extra_share` of the mean squared length of e: prefixes up to E are the pretrained model exactly, and the
    full size is close to it. Directions that are used up (there are P - E at most) are followed by small random ones.

    Args:
        affine: A and a.
        rotation: R; None: no rotation.
        size: D.
        moments: of pooled vectors; needed for a `size` above E. None: the scale of the input is not known.
        extra_share: energy of the outputs beyond E, relative to the embedding.

    Raises:
        ModelError: sizes that do not fit, a `size` above E without moments, or a share that is not positive.
    """
    weight, bias = np.asarray(affine.weight, np.float64), np.asarray(affine.bias, np.float64)
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ModelError(f"an affine map has arrays (E, P) and (E,), got {weight.shape} and {bias.shape}")
    width, inputs = weight.shape
    if rotation is not None and rotation.input_dim != width:
        raise ModelError(f"the rotation takes {rotation.input_dim} dimensions, the pretrained embedding has {width}")
    if moments is not None and moments.size != inputs:
        raise ModelError(f"the moments are of {moments.size} dimensions, the head takes {inputs}")
    if size < 1 or not extra_share > 0:
        raise ModelError(f"size and extra_share must be positive, got {size} and {extra_share}")
    mean = np.zeros(inputs) if moments is None else moments.mean
    variance = np.ones(inputs) if moments is None else moments.variance
    extra, extra_bias = np.zeros((0, inputs)), np.zeros(0)
    if size > width:
        if moments is None:
            raise ModelError(
                f"{size} dimensions are more than the {width} of the pretrained embedding; what the others begin at is "
                "found in pooled vectors: give their moments"
            )
        extra, extra_bias = _left_out(weight, bias, mean, moments.covariance, size - width, extra_share)
    if rotation is not None:
        weight, bias = rotation.matrix.T @ weight, rotation.matrix.T @ bias
        if rotation.mean is not None:
            covariance = np.diag(variance) if moments is None else moments.covariance
            length = np.sqrt(np.sum((weight @ covariance) * weight) + np.sum((weight @ mean + bias) ** 2))
            bias = bias - length * rotation.mean
    return Start(np.vstack([weight, extra])[:size], np.concatenate([bias, extra_bias])[:size], mean, variance)


def _left_out(
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    mean: NDArray[np.float64],
    covariance: NDArray[np.float64],
    count: int,
    share: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (count, P) and bias (count,) of the outputs beyond the embedding."""
    deviation = np.sqrt(np.diagonal(covariance))
    deviation = np.where(deviation > 0, deviation, 1.0)
    C = covariance / np.outer(deviation, deviation)
    A = weight * deviation
    explained = A @ C  # covariance of e with z
    predict = np.linalg.pinv(explained @ A.T, hermitian=True) @ explained
    residual = C - explained.T @ predict
    energy = float(np.trace(explained @ A.T) + np.sum((weight @ mean + bias) ** 2))
    wanted = min(count, len(C))
    values, vectors = scipy.linalg.eigh(
        (residual + residual.T) / 2, subset_by_index=[len(C) - wanted, len(C) - 1], check_finite=False
    )
    values, vectors = values[::-1], vectors[:, ::-1]
    # C has ones on its diagonal, so its largest eigenvalue is at least 1.
    kept = vectors[:, values > _NO_VARIANCE].T
    largest = np.abs(kept).argmax(axis=1)
    kept = kept * np.sign(kept[np.arange(len(kept)), largest])[:, None]
    rows = kept - (kept @ predict.T) @ A  # in coordinates of z
    random = np.random.default_rng(_SEED).standard_normal((count - len(rows), len(C)))
    rows = np.vstack([rows, random])
    spread = np.sqrt(np.einsum("ij,jk,ik->i", rows, C, rows, optimize=True))
    rows *= (np.sqrt(share * energy / count) / np.where(spread > 0, spread, 1.0))[:, None]
    rows /= deviation
    return rows, -rows @ mean
