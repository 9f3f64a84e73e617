"""Classification of speakers by cosine, with a margin that the right speaker must win by.

Notation: B embeddings, d dimensions, C speakers (classes), K centres a class; cos_j is the cosine between an embedding
and the weight vector of class j, y the right class, s the scale and m the margin. Each softmax loss is the mean of

    -log( exp(s phi(cos_y)) / (exp(s phi(cos_y)) + sum_{j != y} exp(s cos_j)) )

and differs from the others in phi alone. With m = 0 all of them are the softmax over s cos.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from nestvox.errors import ModelError
from nestvox.losses.precision import check_batch, full_precision, unit, working

# Of sin^2: reached only where rounding makes the cosine 1, and there the gradient of the root must stay finite.
_SMALLEST_SQUARE = 1e-12


class ClassifierLoss(nn.Module, ABC):
    """A loss on the cosines between embeddings and one or more trained weight vectors per class.

    Everything is computed in float32 (float64 if the embeddings are), also under autocast and for half-precision
    embeddings and weights.

    Args:
        dim: d.
        num_classes: C.
        margin: m; may be set at any time, for a warm-up or a large-margin stage.
        scale: s.
        centers: K.

    Attributes:
        weight: (C, K, d) parameter, a prototype per class and centre; only directions count. Rows begin with a length
            of about 1, so that one step of an optimiser turns them equally far at every d and C.

    Raises:
        ModelError: a size or a scale that is none.
    """

    def __init__(
        self, dim: int, num_classes: int, margin: float = 0.2, scale: float = 30.0, *, centers: int = 1
    ) -> None:
        super().__init__()
        if min(dim, num_classes, centers) < 1 or not scale > 0:
            raise ModelError(
                f"dim, num_classes, centers and scale are positive, got {dim}, {num_classes}, {centers} and {scale}"
            )
        self.dim = dim
        self.num_classes = num_classes
        self.margin = margin
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(num_classes, centers, dim) / math.sqrt(dim))

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            embedding: (B, d) float of any precision and length.
            labels: (B,) int64 in [0, C).

        Returns:
            A scalar.

        Raises:
            ModelError: another shape or type.
        """
        check_batch(embedding, labels, self.dim)
        return self._loss(embedding, labels, self.weight)

    def at_prefix(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Likewise for (B, d') with d' <= d, against the first d' columns of the weights, normalised again.

        Raises:
            ModelError: another shape or type, or more than d dimensions.
        """
        check_batch(embedding, labels)
        if embedding.shape[1] > self.dim:
            raise ModelError(f"the classifier has {self.dim} dimensions, got {embedding.shape[1]}")
        return self._loss(embedding, labels, self.weight[..., : embedding.shape[1]])

    @torch.no_grad()
    def set_prototypes(self, prototypes: Tensor) -> None:
        """Begin at known class directions, e.g. the mean embedding of each speaker, instead of at random ones.

        A pretrained head is then not pulled towards random directions first. Of several centres each begins beside the
        prototype, about a tenth of a radian off in a random direction of its own.

        Args:
            prototypes: (C, d) float; a row of zeros keeps the class's random directions.

        Raises:
            ModelError: another shape.
        """
        if prototypes.shape != (self.num_classes, self.dim):
            raise ModelError(f"prototypes are ({self.num_classes}, {self.dim}), got {tuple(prototypes.shape)}")
        known = prototypes.any(dim=1)
        start = unit(working(prototypes))[:, None].to(self.weight).expand_as(self.weight).clone()
        if self.weight.shape[1] > 1:
            start += 0.1 * torch.randn_like(start) / math.sqrt(self.dim)
        self.weight.copy_(torch.where(known[:, None, None].to(self.weight.device), start, self.weight))

    def cosines(self, embedding: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the cosine with the nearest centre of every class.

        Args:
            embedding: (B, d).
            weight: (C, K, d); None: the loss's own.

        Returns:
            (B, C), float32 or float64.
        """
        weight = self.weight if weight is None else weight
        vectors = unit(working(embedding))
        centers = unit(working(weight).to(vectors.dtype))
        cosine = vectors @ centers.flatten(0, 1).T  # (B, C K)
        return cosine if weight.shape[1] == 1 else cosine.view(len(cosine), *weight.shape[:2]).amax(dim=2)

    @abstractmethod
    def loss_of(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss from cosines (B, C) and labels (B,)."""

    def _loss(self, embedding: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        with full_precision(embedding):
            return self.loss_of(self.cosines(embedding, weight), labels)

    def extra_repr(self) -> str:
        """Sizes and settings, for printing."""
        classes, centers, dim = self.weight.shape
        return f"dim={dim}, num_classes={classes}, centers={centers}, margin={self.margin:g}, scale={self.scale:g}"


class _MarginCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy over s cos, of which the right class's is s phi(cos), with a gradient written out.

    With thousands of classes a training step from a cache is little else than tables of B x C. The graph of the formula
    goes over nine of them; here it is the cosines, the probabilities and the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, cosine: Tensor, labels: Tensor, scale: float, with_margin: Callable[[Tensor], Tensor]
    ) -> Tensor:
        right = labels[:, None]
        with torch.enable_grad():
            before = cosine.gather(1, right).requires_grad_()  # (B, 1)
            after = with_margin(before)
            (slope,) = torch.autograd.grad(after.sum(), before)
        logits = (scale * cosine).scatter_(1, right, scale * after.detach())
        log_likelihood = functional.log_softmax(logits, dim=1)
        of_right = log_likelihood.gather(1, right)
        if ctx.needs_input_grad[0]:
            by_cosine = log_likelihood.exp_().scatter_(1, right, of_right.expm1() * slope)
            ctx.save_for_backward(by_cosine)
            ctx.factor = scale / len(cosine)
        return -of_right.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (by_cosine,) = ctx.saved_tensors
        return by_cosine * (gradient * ctx.factor), None, None, None


class _MarginSoftmax(ClassifierLoss):
    def loss_of(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss from cosines (B, C) and labels (B,)."""
        loss: Tensor = _MarginCrossEntropy.apply(cosine, labels, self.scale, self.with_margin)  # type: ignore[no-untyped-call]
        return loss

    @abstractmethod
    def with_margin(self, cosine: Tensor) -> Tensor:
        """Phi."""


class AmSoftmax(_MarginSoftmax):
    """Additive margin on the cosine: phi = cos - m.

    Source: F. Wang et al., "Additive margin softmax for face verification", 2018; H. Wang et al., "CosFace", CVPR 2018.
    """

    def with_margin(self, cosine: Tensor) -> Tensor:
        """Subtract the margin."""
        return cosine - self.margin


class AamSoftmax(_MarginSoftmax):
    """Additive margin on the angle t: phi = cos(t + m) = cos t cos m - sin t sin m.

    Beyond t = pi - m that would rise again, so there phi = cos t - m sin m, which keeps falling.

    Source: J. Deng et al., "ArcFace: additive angular margin loss for deep face recognition", CVPR 2019.

    Args:
        dim: d.
        num_classes: C.
        margin: m, in radians, in [0, pi).
        scale: s.
        easy_margin: give a margin only to embeddings nearer than 90 degrees to their class; phi = cos t for the others.
        centers: K; see `SubCenterAamSoftmax`.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        margin: float = 0.2,
        scale: float = 30.0,
        *,
        easy_margin: bool = False,
        centers: int = 1,
    ) -> None:
        super().__init__(dim, num_classes, margin, scale, centers=centers)
        self.easy_margin = easy_margin

    def with_margin(self, cosine: Tensor) -> Tensor:
        """Cosine of the angle plus the margin."""
        m = self.margin
        sine = ((1 - cosine) * (1 + cosine)).clamp_min(_SMALLEST_SQUARE).sqrt()
        turned = cosine * math.cos(m) - sine * math.sin(m)
        if self.easy_margin:
            return torch.where(cosine > 0, turned, cosine)
        return torch.where(cosine > -math.cos(m), turned, cosine - m * math.sin(m))


class SubCenterAamSoftmax(AamSoftmax):
    """`AamSoftmax` with K centres a class, of which the nearest counts: mislabelled clips gather at the others.

    Source: J. Deng et al., "Sub-center ArcFace: boosting face recognition by large-scale noisy web faces", ECCV 2020.

    Args:
        dim: d.
        num_classes: C.
        margin: m, in radians.
        scale: s.
        centers: K.
        easy_margin: see `AamSoftmax`.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        margin: float = 0.2,
        scale: float = 30.0,
        *,
        centers: int = 3,
        easy_margin: bool = False,
    ) -> None:
        super().__init__(dim, num_classes, margin, scale, easy_margin=easy_margin, centers=centers)


class SphereFace2(ClassifierLoss):
    """One binary classifier per speaker, all sharing a bias b, with an additive margin:

        (l log(1 + exp(-s (g(cos_y) - m) - b)) + (1 - l) sum_{j != y} log(1 + exp(s (g(cos_j) + m) + b))) / s

    where g(z) = 2 ((z + 1) / 2)^t - 1. Classes do not compete, so noisy labels hurt less. b begins where the loss at
    right angles is least, given m, s, l and C.

    Source: Y. Wen et al., "SphereFace2: binary classification is all you need for deep face recognition", ICLR 2022.

    Args:
        dim: d.
        num_classes: C, at least 2.
        margin: m.
        scale: s.
        balance: l, in (0, 1): the weight of the right class.
        sharpness: t, at least 1.

    Raises:
        ModelError: a setting outside its range.
    """  # noqa: D415  ends in a colon, for the formula

    def __init__(
        self,
        dim: int,
        num_classes: int,
        margin: float = 0.2,
        scale: float = 30.0,
        *,
        balance: float = 0.7,
        sharpness: float = 3.0,
    ) -> None:
        super().__init__(dim, num_classes, margin, scale)
        if not 0 < balance < 1 or sharpness < 1 or num_classes < 2:
            raise ModelError(
                f"SphereFace2 needs balance in (0, 1), sharpness of at least 1 and two classes, got {balance}, "
                f"{sharpness} and {num_classes}"
            )
        self.balance = balance
        self.sharpness = sharpness
        self.bias = nn.Parameter(torch.tensor(self._start_bias()))

    def loss_of(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss from cosines (B, C) and labels (B,)."""
        right = labels[:, None]
        g = 2 * ((cosine + 1) / 2).clamp_min(0) ** self.sharpness - 1
        bias = working(self.bias).to(g.dtype)
        hit = functional.softplus(-self.scale * (g.gather(1, right) - self.margin) - bias)[:, 0]
        others = functional.softplus(self.scale * (g + self.margin) + bias).scatter(1, right, 0.0).sum(dim=1)
        return (self.balance * hit + (1 - self.balance) * others).mean() / self.scale

    def _start_bias(self) -> float:
        # Zero of the derivative by b where all cosines are 0; a quadratic in exp(b).
        odds = self.balance / ((1 - self.balance) * (self.num_classes - 1))
        wrong = self.scale * (2 * math.pow(0.5, self.sharpness) - 1 + self.margin)
        apart = 2 * self.scale * self.margin
        root = math.sqrt((1 - odds) ** 2 + 4 * odds * math.exp(-apart))
        if odds <= 1:
            return math.log(2 * odds) - wrong - math.log(1 - odds + root)
        # With two or three classes: the same, without the difference of numbers that are nearly equal.
        return math.log((root + odds - 1) / 2) + apart - wrong
