"""Losses on the speakers of one batch: no classes, no weight vectors; every batch needs speakers with two clips.

A speaker with one embedding in the batch has nothing to be compared with and serves as a wrong answer only. A batch in
which every speaker is such a one teaches nothing: it is an error where the labels are on the CPU; on a GPU, which would
have to be waited for, its loss is 0.

Notation: B embeddings x_i, d dimensions, y_i the speaker of x_i.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestvox.errors import ModelError
from nestvox.losses.precision import check_batch, full_precision, unit, working

Queries = Literal["one", "every"]
Mining = Literal["hard", "semi-hard", "all"]

# Low enough for exp() to give 0, and finite, so that a row without an answer has a gradient of 0 and not NaN.
_NEVER = -1e9


class _PrototypeLoss(nn.Module, ABC):
    def __init__(self, queries: Queries) -> None:
        super().__init__()
        if queries not in get_args(Queries):
            raise ModelError(f"unknown queries {queries!r}; known: {', '.join(get_args(Queries))}")
        self.queries = queries

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of the queries of a batch.

        Args:
            embedding: (B, d) float.
            labels: (B,) int64, any numbers.

        Returns:
            A scalar.

        Raises:
            ModelError: another shape or type; no speaker has two embeddings (CPU only).
        """
        check_batch(embedding, labels)
        same = labels[:, None] == labels
        _require_pairs(same)
        with full_precision(embedding):
            x = self.prepared(working(embedding))
            counts = same.sum(dim=1)
            often = counts >= 2
            # Each speaker's first row stands for the speaker, so that shapes do not depend on how many there are.
            first = ~(same & torch.ones_like(same).tril(-1)).any(dim=1)
            sums = same.to(x.dtype) @ x
            others = (sums - x) / (counts - 1).clamp_min(1)[:, None]  # mean of the speaker without this row
            if self.queries == "one":
                queries, answers = first & often, first & often
                logits = self.similarity(x, others)  # (B, B)
                right = torch.arange(len(x), device=x.device)
            else:
                queries, answers = often, first
                right = same.to(torch.uint8).argmax(dim=1)
                own = self.similarity(x[:, None], others[:, None])[:, :, 0]  # (B, 1)
                logits = self.similarity(x, sums / counts[:, None]).scatter(1, right[:, None], own)
            losses = functional.cross_entropy(logits.masked_fill(~answers, _NEVER), right, reduction="none")
            return torch.where(queries, losses, 0.0).sum() / queries.sum().clamp_min(1)

    @abstractmethod
    def prepared(self, vectors: Tensor) -> Tensor:
        """Return the vectors that prototypes are means of."""

    @abstractmethod
    def similarity(self, queries: Tensor, prototypes: Tensor) -> Tensor:
        """Map (..., B, d) and (..., S, d) to logits (..., B, S)."""


class Prototypical(_PrototypeLoss):
    """Cross-entropy over the squared distances of a query to the prototypes of the speakers in the batch.

    A prototype is the mean of a speaker's embeddings. The embeddings are taken as they come; `NestedLoss` hands over
    prefixes of unit length.

    Source: J. Snell et al., "Prototypical networks for few-shot learning", NIPS 2017.

    Args:
        queries: ``one``: the first embedding of each speaker, against the means of the others; ``every``: each
            embedding in turn, left out of its own speaker's mean.
    """

    def __init__(self, *, queries: Queries = "one") -> None:
        super().__init__(queries)

    def prepared(self, vectors: Tensor) -> Tensor:
        """As they are."""
        return vectors

    def similarity(self, queries: Tensor, prototypes: Tensor) -> Tensor:
        """Minus the squared distance."""
        squares = queries.square().sum(dim=-1)[..., None] + prototypes.square().sum(dim=-1)[..., None, :]
        return 2 * queries @ prototypes.mT - squares


class AngularPrototypical(_PrototypeLoss):
    """Cross-entropy over w cos + b of a query and the prototypes of the speakers in the batch; w and b are trained.

    Source: J. S. Chung et al., "In defence of metric learning for speaker recognition", Interspeech 2020. With
    ``queries="every"`` it is the softmax form of L. Wan et al., "Generalized end-to-end loss for speaker verification",
    ICASSP 2018, as a mean. Prototypes are means of unit vectors in both.

    Args:
        queries: see `Prototypical`.
        scale: w at the beginning; it stays positive.
        offset: b at the beginning.
    """

    def __init__(self, *, queries: Queries = "one", scale: float = 10.0, offset: float = -5.0) -> None:
        super().__init__(queries)
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.offset = nn.Parameter(torch.tensor(float(offset)))

    def prepared(self, vectors: Tensor) -> Tensor:
        """At unit length."""
        return unit(vectors)

    def similarity(self, queries: Tensor, prototypes: Tensor) -> Tensor:
        """W cos + b."""
        cosine = queries @ unit(prototypes).mT
        return working(self.scale).to(cosine.dtype).clamp_min(1e-6) * cosine + working(self.offset).to(cosine.dtype)


class Triplet(nn.Module):
    """Mean of max(0, |a - p| - |a - n| + m) over triplets: a and p of one speaker, n of another, all of unit length.

    Source: F. Schroff et al., "FaceNet", CVPR 2015; A. Hermans et al., "In defense of the triplet loss for person
    re-identification", 2017. Memory grows with B squared in every mode.

    Args:
        margin: m, in units of the distance between unit vectors (0 to 2); may be set at any time.
        mining: ``hard``: for each a the farthest p and the nearest n; ``semi-hard``: for each pair (a, p) the nearest n
            that is farther than p, where it is so by less than the margin; ``all``: every triplet with a loss above 0.
    """

    def __init__(self, *, margin: float = 0.3, mining: Mining = "hard") -> None:
        super().__init__()
        if mining not in get_args(Mining):
            raise ModelError(f"unknown mining {mining!r}; known: {', '.join(get_args(Mining))}")
        self.margin = margin
        self.mining = mining

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of the chosen triplets; 0 where there are none.

        Args:
            embedding: (B, d) float of any precision and length.
            labels: (B,) int64, any numbers.

        Returns:
            A scalar.

        Raises:
            ModelError: another shape or type; no speaker has two embeddings (CPU only).
        """
        check_batch(embedding, labels)
        same = labels[:, None] == labels
        _require_pairs(same)
        with full_precision(embedding):
            distance = _distances(unit(working(embedding)))
            positive = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
            if self.mining == "hard":
                return self._hard(distance, positive, ~same)
            # Row a: its wrong speakers by distance, and behind them, infinitely far, its own.
            key, order = distance.detach().masked_fill(same, torch.inf).sort(dim=1)
            sorted_distance = distance.gather(1, order)
            if self.mining == "semi-hard":
                return self._semi_hard(distance, positive, key, sorted_distance)
            return self._all(distance, positive, key, sorted_distance)

    def _hard(self, distance: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        farthest = distance.masked_fill(~positive, 0.0).amax(dim=1)
        nearest = distance.masked_fill(~negative, torch.inf).amin(dim=1)
        anchors = positive.any(dim=1) & negative.any(dim=1)
        losses = functional.relu(farthest - torch.where(anchors, nearest, 0.0) + self.margin)
        return torch.where(anchors, losses, 0.0).sum() / anchors.sum().clamp_min(1)

    def _semi_hard(self, distance: Tensor, positive: Tensor, key: Tensor, sorted_distance: Tensor) -> Tensor:
        place = torch.searchsorted(key, distance.detach(), right=True)
        place = place.clamp_max(len(key) - 1)
        chosen = key.gather(1, place)
        # Beyond the margin a triplet has no loss and is none of the semi-hard ones.
        pairs = positive & (chosen > distance.detach()) & (chosen < distance.detach() + self.margin)
        losses = distance - sorted_distance.gather(1, place) + self.margin
        return torch.where(pairs, losses, 0.0).sum() / pairs.sum().clamp_min(1)

    def _all(self, distance: Tensor, positive: Tensor, key: Tensor, sorted_distance: Tensor) -> Tensor:
        # For a pair (a, p) the violating n are the first k in row a; their distances are one difference of sums.
        reach = distance + self.margin
        k = torch.searchsorted(key, reach.detach())
        sums = functional.pad(torch.where(key.isinf(), 0.0, sorted_distance).cumsum(dim=1), (1, 0))
        losses = k * reach - sums.gather(1, k)
        total = torch.where(positive, losses, 0.0).sum()
        return total / torch.where(positive, k, 0).sum().clamp_min(1)

    def extra_repr(self) -> str:
        """Settings, for printing."""
        return f"margin={self.margin:g}, mining={self.mining}"


def _distances(vectors: Tensor) -> Tensor:
    """(B, B) Euclidean distances of unit vectors; where two are equal the distance is 0 and so is its gradient."""
    squares = 2 - 2 * vectors @ vectors.T
    # Rounding of the product is about 1e-7: below it there is no telling equal vectors from others.
    apart = squares > (1e-14 if squares.dtype == torch.float64 else 1e-6)
    return torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)


def _require_pairs(same: Tensor) -> None:
    if same.device.type == "cpu" and int(same.sum()) == len(same):
        raise ModelError(
            f"none of the {len(same)} embeddings of this batch shares its speaker with another; this loss needs "
            "batches with several clips per speaker"
        )
