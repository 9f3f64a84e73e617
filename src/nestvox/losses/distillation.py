"""Every prefix taught by the full embedding of a pretrained model.

Teacher and student may differ in size: what is compared is how the utterances of a batch relate to each other, so no
projection between the two spaces has to be learnt or thrown away.

Notation: B utterances; t_i the teacher's unit embeddings, s_i the unit prefixes of the student;
T_ij = t_i . t_j and S_ij = s_i . s_j, both without their diagonals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional

from nestvox.errors import ModelError
from nestvox.losses.nested import NestedTerms, PrefixLoss
from nestvox.losses.precision import unit, working

_FEWEST = 3  # two rows have one cosine, which correlates with anything


class PrefixDistillation(PrefixLoss):
    """Distance between the cosines in a batch as the teacher has them and as each prefix of the student has them.

    The loss of a prefix is the sum of three terms, each times its factor:

    - similarity: mean over i != j of (S_ij - T_ij)^2 (the relations of W. Park et al., "Relational knowledge
      distillation", CVPR 2019, and of F. Tung & G. Mori, "Similarity-preserving knowledge distillation", ICCV 2019).
      It wants the same cosines, which few dimensions cannot give: theirs spread wider.
    - correlation: mean over i of 1 - r_i, where r_i is Pearson's correlation of row i of S with row i of T (T. Huang et
      al., "Knowledge distillation from a stronger teacher", NeurIPS 2022). It wants the same order and proportions, at
      any spread: the one to use for 16 and 32 dimensions.
    - neighbours: mean over i of KL(p_i || q_i), p_i and q_i being the softmax of row i of T and of S divided by the
      temperature (N. Passalis & A. Tefas, "Learning deep representations with probabilistic knowledge transfer", ECCV
      2018). It wants the same nearest neighbours.

    Args:
        dims: prefix lengths.
        weights: by prefix length; a length that is not named weighs 1.
        similarity: factor of the first term.
        correlation: factor of the second.
        neighbours: factor of the third.
        temperature: of the third, in units of the cosine.

    Raises:
        ModelError: see `PrefixLoss`; negative factors, none above 0, or a temperature that is not positive.
    """

    def __init__(
        self,
        dims: Sequence[int],
        weights: Mapping[int, float] | None = None,
        *,
        similarity: float = 1.0,
        correlation: float = 1.0,
        neighbours: float = 0.0,
        temperature: float = 0.1,
    ) -> None:
        super().__init__(dims, weights)
        factors = (similarity, correlation, neighbours)
        if min(factors) < 0 or max(factors) <= 0 or not temperature > 0:
            raise ModelError(
                f"distillation needs factors of which none is negative and one is positive, got {factors}, and a "
                f"positive temperature, got {temperature}"
            )
        self.similarity, self.correlation, self.neighbours = factors
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> NestedTerms:
        """Return the loss of a batch, at every active prefix.

        Args:
            student: (B, D) float of any precision and length; D at least the largest dim, B at least 3.
            teacher: (B, E) float; it gets no gradient.

        Raises:
            ModelError: another shape, or fewer than three utterances.
        """
        if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher) or len(student) < _FEWEST:
            raise ModelError(
                f"student (B, D) and teacher (B, E) must have the same B, at least {_FEWEST}, got "
                f"{tuple(student.shape)} and {tuple(teacher.shape)}"
            )
        target: Tensor | None = None

        def loss_at(_: int, prefix: Tensor) -> Tensor:
            nonlocal target
            if target is None:
                target = _relations(unit(working(teacher.detach()).to(prefix.dtype)))
            return self._loss(_relations(prefix), target)

        return self._terms(student, loss_at)

    def _loss(self, found: Tensor, target: Tensor) -> Tensor:
        """Both (B, B - 1)."""
        loss = found.new_zeros(())
        if self.similarity:
            loss = loss + self.similarity * functional.mse_loss(found, target)
        if self.correlation:
            r = (_centred(found) * _centred(target)).sum(dim=1)
            loss = loss + self.correlation * (1 - r).mean()
        if self.neighbours:
            p = (target / self.temperature).log_softmax(dim=1)
            q = (found / self.temperature).log_softmax(dim=1)
            loss = loss + self.neighbours * functional.kl_div(q, p, reduction="batchmean", log_target=True)
        return loss


def _relations(vectors: Tensor) -> Tensor:
    """(B, d) unit vectors to (B, B - 1): the cosines of each with all others, in order."""
    n = len(vectors)
    cosines = vectors @ vectors.T
    # Read with one element more a row, the diagonal becomes the first column.
    return cosines.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


def _centred(rows: Tensor) -> Tensor:
    return unit(rows - rows.mean(dim=1, keepdim=True))
