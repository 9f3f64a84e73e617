"""What an EER means, in the four words of the criteria and the one between them."""

from __future__ import annotations

import pytest

from nestvox.metrics.estimate import Estimate, TrialSet
from nestvox.probing.outcome import outcome


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0.047, "straightforward"),
        (0.1499, "straightforward"),
        (0.15, "viable"),
        (0.1999, "viable"),
        (0.20, "undecided"),
        (0.30, "undecided"),
        (0.3501, "dedicated speaker encoder"),
        (0.48, "hardly know"),
    ],
)
def test_outcomes(rate: float, words: str) -> None:
    trials = TrialSet(trials_sha256="0", n_target=10, n_nontarget=10)
    assert words in outcome(Estimate(name="EER", dim=None, value=rate, trials=trials))
