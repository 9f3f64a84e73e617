"""The losses of redimnet-mrl under their names, with the calls of that project.

What goes wrong there does not here: every loss works at every prefix, gradients are finite at a cosine of 1, semi-hard
triplets are there, and weights stay with their lengths. `nestvox.mrl` has all of these names.

Notation: B utterances, d dimensions of a prefix, D of the largest, C speakers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nestvox.errors import ModelError
from nestvox.losses.margins import AamSoftmax, SubCenterAamSoftmax
from nestvox.losses.nested import PrefixLoss
from nestvox.losses.pairwise import Mining, Triplet


class AAMSoftmax(AamSoftmax):
    """`AamSoftmax` that takes prefixes directly, of which it sees the first columns of its weights.

    Args:
        embed_dim: D.
        num_classes: C.
        margin: in radians.
        scale: of the cosines.
        easy_margin: see `AamSoftmax`.
    """

    def __init__(
        self, embed_dim: int, num_classes: int, margin: float = 0.2, scale: float = 30.0, easy_margin: bool = False
    ) -> None:
        super().__init__(embed_dim, num_classes, margin, scale, easy_margin=easy_margin)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of (B, d) embeddings, d up to D, and (B,) int64 labels."""
        return self.at_prefix(embeddings, labels)


class SubCenterAAMSoftmax(SubCenterAamSoftmax):
    """`SubCenterAamSoftmax` that takes prefixes directly.

    Args:
        embed_dim: D.
        num_classes: C.
        num_subcenters: centres a speaker.
        margin: in radians.
        scale: of the cosines.
    """

    def __init__(
        self, embed_dim: int, num_classes: int, num_subcenters: int = 3, margin: float = 0.2, scale: float = 30.0
    ) -> None:
        super().__init__(embed_dim, num_classes, margin, scale, centers=num_subcenters)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of (B, d) embeddings, d up to D, and (B,) int64 labels."""
        return self.at_prefix(embeddings, labels)


class TripletLoss(Triplet):
    """`Triplet`; a batch needs speakers with two utterances.

    Args:
        margin: between distances of unit vectors.
        mining_strategy: ``hard``, ``semi-hard`` or ``all``.
    """

    def __init__(self, margin: float = 0.3, mining_strategy: Mining = "hard") -> None:
        super().__init__(margin=margin, mining=mining_strategy)


class MatryoshkaLoss(PrefixLoss):
    """Weighted mean of one criterion over the prefixes, called as in redimnet-mrl.

    Args:
        base_loss: criterion of (B, d) embeddings and (B,) labels; one with class weights, such as `AAMSoftmax`, is
            sliced to each length. Its parameters are this module's: give ``[*model.parameters(), *loss.parameters()]``
            to the optimiser.
        mrl_dims: prefix lengths.
        mrl_weights: one for each of `mrl_dims`, in their order.
        normalize_embeddings: hand prefixes of unit length to `base_loss`; losses on cosines normalise in any case.

    Raises:
        ModelError: another number of weights than of dims, or what `PrefixLoss` refuses.
    """

    def __init__(
        self,
        base_loss: nn.Module,
        mrl_dims: Sequence[int] = (64, 128, 192, 256),
        mrl_weights: Sequence[float] | None = None,
        normalize_embeddings: bool = True,
    ) -> None:
        if mrl_weights is not None and len(mrl_weights) != len(mrl_dims):
            raise ModelError(f"{len(mrl_dims)} dims need as many weights, got {len(mrl_weights)}")
        super().__init__(mrl_dims, None if mrl_weights is None else dict(zip(mrl_dims, mrl_weights, strict=True)))
        self.base_loss = base_loss
        self.normalize_embeddings = normalize_embeddings

    @property
    def mrl_dims(self) -> tuple[int, ...]:
        """Prefix lengths, ascending."""
        return self.dims

    def forward(self, embeddings: Tensor | Mapping[int, Tensor], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts.

        Args:
            embeddings: (B, D), or the dictionary that ``model(audio, return_all_dims=True)`` gives.
            labels: (B,) int64.

        Returns:
            The total, and ``loss_64d``, ``weight_64d``, ..., ``loss_total`` and ``total_weight``, as tensors: take
            ``.item()`` when you print them, not at each step.
        """
        full = embeddings if isinstance(embeddings, Tensor) else embeddings[max(embeddings)]
        criterion = getattr(self.base_loss, "at_prefix", self.base_loss)
        terms = self._terms(full, lambda d, unit: criterion(unit if self.normalize_embeddings else full[:, :d], labels))
        parts = {f"loss_{d}d": loss for d, loss in terms.per_dim.items()}
        parts |= {f"weight_{d}d": torch.tensor(self.weights[d]) for d in terms.per_dim}
        whole = torch.tensor(sum(self.weights[d] for d in terms.per_dim))
        return terms.total, parts | {"loss_total": terms.total.detach(), "total_weight": whole}
