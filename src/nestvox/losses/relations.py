"""What a student can be asked to have in common with a teacher of another size: how utterances relate to each other.

Notation: B utterances; t_i the teacher's unit embeddings, s_i the student's; T_ij = t_i . t_j and S_ij = s_i . s_j.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from nestvox.errors import ModelError
from nestvox.losses.precision import full_precision, unit, working
from nestvox.losses.terms import DistillationTerm, positive_temperature

_FEWEST = 3  # two rows have one cosine, which correlates with anything


class RelationalTerm(DistillationTerm):
    """A distance between the relations in a batch: (B, D) against (B, E), B at least 3."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare (B, D) with (B, E)."""
        check_relations(student, teacher)
        with full_precision(student):
            s = working(student)
            return self.of_unit(unit(s), unit(working(teacher.detach()).to(s.dtype)))

    @abstractmethod
    def of_unit(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare unit vectors of working precision."""


class CosineTerm(RelationalTerm):
    """A distance between the cosines of each utterance with all others."""

    def of_unit(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare unit vectors."""
        return self.of_cosines(other_cosines(student), other_cosines(teacher))

    @abstractmethod
    def of_cosines(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare what `other_cosines` gives."""


class Similarity(CosineTerm):
    """Mean over i != j of (S_ij - T_ij)^2: the Gram matrices. Maximum 4.

    It wants the same cosines, which few dimensions cannot give: theirs spread wider.
    """

    known_maximum = 4.0

    def of_cosines(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare rows of cosines."""
        return functional.mse_loss(student, teacher)


class Gram(RelationalTerm):
    """Mean over i of |row i of S - row i of T|^2, both rows at unit length and with their diagonal. Maximum 4.

    B times the loss of F. Tung & G. Mori, "Similarity-preserving knowledge distillation", ICCV 2019, which divides by
    B^2 and so shrinks as a batch grows.
    """

    known_maximum = 4.0

    def of_unit(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare unit vectors."""
        return (unit(student @ student.T) - unit(teacher @ teacher.T)).square().sum(dim=1).mean()


class Correlation(CosineTerm):
    """Mean over i of 1 - r_i, with Pearson's correlation r_i of row i of S with row i of T. Maximum 2.

    It wants the same order and proportions, at any spread: the one to use for 16 and 32 dimensions.

    Source: T. Huang et al., "Knowledge distillation from a stronger teacher", NeurIPS 2022.
    """

    known_maximum = 2.0

    def of_cosines(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare rows of cosines."""
        r = (_centred(student) * _centred(teacher)).sum(dim=1)
        return (1 - r).mean()


class Neighbours(CosineTerm):
    """Mean over i of KL(p_i || q_i), p_i and q_i the softmax over j != i of T_ij and of S_ij divided by a temperature.

    It wants the same nearest neighbours.

    Source: N. Passalis & A. Tefas, "Learning deep representations with probabilistic knowledge transfer", ECCV 2018.

    Args:
        temperature: in units of the cosine.

    Raises:
        ModelError: it is not positive and finite.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = positive_temperature(temperature)

    def of_cosines(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare rows of cosines."""
        p = (teacher / self.temperature).log_softmax(dim=1)
        q = (student / self.temperature).log_softmax(dim=1)
        return functional.kl_div(q, p, reduction="batchmean", log_target=True)


class Distances(RelationalTerm):
    """Mean over i != j of the Huber loss of |s_i - s_j| and |t_i - t_j|, each over its mean in the batch.

    Source: W. Park et al., "Relational knowledge distillation", CVPR 2019, whose mean counts the diagonal too: theirs
    is (B - 1) / B of this. They weigh it 1 and `Angles` 2.
    """

    def of_unit(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare unit vectors."""
        return functional.huber_loss(_relative_distances(student), _relative_distances(teacher))


class Angles(RelationalTerm):
    """Mean over triplets of different i, j, k of the Huber loss of the cosines of the angles at j. Maximum 1.5.

    Memory grows with B^3. Source: as for `Distances`; they average over all B^3, where those with equal members are 0.
    """

    known_maximum = 1.5

    def of_unit(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare unit vectors."""
        n = len(student)
        different = ~torch.eye(n, dtype=torch.bool, device=student.device)
        found, wanted = _angles(student)[:, different], _angles(teacher)[:, different]
        # Where i or k is j both are 0.
        return functional.huber_loss(found, wanted, reduction="sum") / (n * (n - 1) * (n - 2))


def check_relations(student: Tensor, teacher: Tensor) -> None:
    """Refuse what has no relations to compare.

    Raises:
        ModelError: other shapes, or fewer than three utterances.
    """
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher) or len(student) < _FEWEST:
        raise ModelError(
            f"student (B, D) and teacher (B, E) must have the same B, at least {_FEWEST}, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def other_cosines(vectors: Tensor) -> Tensor:
    """(B, d) unit vectors to (B, B - 1): the cosines of each with all others, in order."""
    n = len(vectors)
    cosines = vectors @ vectors.T
    # Read with one element more a row, the diagonal becomes the first column.
    return cosines.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


def _centred(rows: Tensor) -> Tensor:
    return unit(rows - rows.mean(dim=1, keepdim=True))


def _relative_distances(vectors: Tensor) -> Tensor:
    """(B, d) to the B (B - 1) / 2 distances over their mean; all 0 where all vectors are the same."""
    distances = torch.pdist(vectors)
    return distances / distances.mean().clamp_min(torch.finfo(distances.dtype).eps)


def _angles(vectors: Tensor) -> Tensor:
    """(B, d) to (B, B, B): at [j, i, k] the cosine of the angle at j between the ways to i and to k."""
    ways = unit(vectors[None] - vectors[:, None])
    return torch.bmm(ways, ways.transpose(1, 2))
