"""Choosing one of several systems on development trials, so that the figure on other trials is not the best of many.

The lowest error rate of several is too low on the trials that it was chosen on: some of it is luck. On other trials it
is not, provided that nothing else was chosen there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nestvox.corpora.trials import Trials
from nestvox.errors import NestvoxError
from nestvox.metrics import eer, error_curve
from nestvox.metrics.estimate import TrialSet
from nestvox.scoring.refusals import check_system, check_trials, refuse_shared_trials
from nestvox.scoring.system import System


@dataclass(frozen=True)
class Candidate:
    """A system at one dimension and its equal error rate on the trials that the choice is made on."""

    name: str
    dim: int | None
    eer: float


@dataclass(frozen=True, kw_only=True)
class Selection(TrialSet):
    """What was chosen, from what, and on which trials.

    Attributes:
        name: of the chosen system.
        dim: at which it has the lowest equal error rate; None for a score file.
        candidates: every system and dimension, lowest equal error rate first.
        trials_source: where the trials of the choice are from.
    """

    name: str
    dim: int | None
    candidates: tuple[Candidate, ...]
    trials_source: str

    @property
    def sentence(self) -> str:
        """What was done, for a reader of the result."""
        at = "" if self.dim is None else f" at {self.dim} dimensions"
        return (
            f"{self.name}{at} was chosen of {len(self.candidates)} by its EER of "
            f"{100 * self.candidates[0].eer:.2f} % on {self.trials_source} ({self.n_target} target and "
            f"{self.n_nontarget} non-target trials, sha256 {self.trials_sha256[:12]}), none of which is reported here."
        )


def select_system(selection: Trials, systems: Sequence[System], *, reported: Trials) -> Selection:
    """Choose the system and dimension with the lowest equal error rate; of equal ones the smaller, then the first.

    Args:
        selection: labelled trials to choose on.
        systems: scored on these trials.
        reported: the trials whose figures will be told, which must be others.

    Raises:
        TrialsError: `selection` and `reported` share a trial, or `selection` cannot be measured.
        ScoresError: scores of other trials than `selection`.
        NestvoxError: no systems.
    """
    refuse_shared_trials(selection, reported)
    targets = check_trials(selection)
    if not systems:
        raise NestvoxError("there is no system to choose")
    for system in systems:
        check_system(system, selection)
    candidates = [
        Candidate(system.name, dim, eer(error_curve(values, targets)).rate)
        for system in systems
        for dim, values in system.scores.items()
    ]
    ranked = sorted(candidates, key=lambda found: (found.eer, found.dim or 0))
    return Selection(
        name=ranked[0].name,
        dim=ranked[0].dim,
        candidates=tuple(ranked),
        trials_source=selection.source,
        trials_sha256=selection.sha256,
        n_target=int(targets.sum()),
        n_nontarget=int((~targets).sum()),
    )
