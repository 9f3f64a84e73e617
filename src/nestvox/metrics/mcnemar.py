"""McNemar's test of two systems' decisions on the same trials, and Holm's correction of several tests.

Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", Psychometrika
12(2), 1947; the exact and the mid-p form: M. W. Fagerland, S. Lydersen and P. Laake, BMC Medical Research Methodology
13:91, 2013. S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics
6(2), 1979.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

from nestvox.arrays import as_booleans, as_numbers
from nestvox.errors import NestvoxError, ScoresError


class McNemar(NamedTuple):
    """Trials that one system decided rightly and the other wrongly.

    Attributes:
        only_a: trials that only the first decided rightly.
        only_b: trials that only the second decided rightly.
        p_exact: two-sided exact binomial p value: never too small for independent trials, often too large.
        p_mid: the same with half the probability of what was seen: closer to its nominal size.
    """

    only_a: int
    only_b: int
    p_exact: float
    p_mid: float


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Compare decisions, (N,) bool each: was the trial decided rightly?

    The test takes trials as independent. Trials that share speakers are not, and then its p values are too small: it
    says how many trials changed, and `metrics.compare` says whether that would hold for other speakers.

    Raises:
        ScoresError: not two lists of booleans of one length.
    """
    a, b = (as_booleans(side, "decisions", error=ScoresError) for side in (correct_a, correct_b))
    if a.shape != b.shape:
        raise ScoresError(f"decisions must be two lists of booleans of one length, got {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, fewer = only_a + only_b, min(only_a, only_b)
    upto, below = bdtr(fewer, n, 0.5), bdtr(fewer - 1, n, 0.5) if fewer else 0.0
    p_mid = 1.0 if only_a == only_b else float(upto + below)
    return McNemar(only_a, only_b, min(1.0, float(2 * upto)), p_mid)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p values (M,) so that rejecting those below a level errs in any of them at most that often.

    Raises:
        NestvoxError: a p value outside 0 to 1.
    """
    p = as_numbers(p_values, "p values", error=NestvoxError)
    if not ((p >= 0) & (p <= 1)).all():
        raise NestvoxError("p values lie between 0 and 1")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
