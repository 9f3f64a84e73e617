"""Normal, Student, binomial and chi-square distributions, to about twelve digits, without a library of 140 MB.

Incomplete gamma and beta functions by their series and continued fractions (modified Lentz), as in W. Press et al.,
Numerical Recipes, 3rd ed., sections 6.2 and 6.4; names as in Cephes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_NORMAL = NormalDist()
_EPS = np.finfo(np.float64).eps
_TINY = 1e-300
_MOST_STEPS = 100_000

Floats = NDArray[np.float64]


def ndtr(x: ArrayLike) -> Floats:
    """Distribution function of the standard normal."""
    return _each(lambda value: 0.5 * math.erfc(-value / math.sqrt(2)), x)


def ndtri(p: ArrayLike) -> Floats:
    """Quantiles of the standard normal; infinite at 0 and 1, NaN outside."""
    return _each(_normal_quantile, p)


def stdtr(df: ArrayLike, t: ArrayLike) -> Floats:
    """Distribution function of Student's t with `df` degrees of freedom, a positive real number."""
    return _each(_student, df, t)


@lru_cache(maxsize=1024)
def stdtrit(df: float, p: float) -> float:
    """Quantile of Student's t, for p in (0, 1)."""
    if not (0 < p < 1 and df > 0):
        return math.nan
    if p == 0.5:
        return 0.0
    if p > 0.5:
        return -stdtrit(df, 1 - p)
    low, high = -1.0, 0.0
    while _student(df, low) > p:
        low, high = 2 * low, low
    for _ in range(200):  # as near as numbers lie
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if _student(df, middle) < p else (low, middle)
    return high


def bdtr(k: float, n: float, p: float) -> float:
    """Probability of at most `k` successes in `n` trials."""
    if k < 0:
        return 0.0
    return 1.0 if k >= n else _betainc(n - math.floor(k), math.floor(k) + 1.0, 1 - p)


def chdtrc(df: float, x: float) -> float:
    """Probability that a chi-square of `df` degrees of freedom is above `x`."""
    a, z = df / 2, x / 2
    if z <= 0:
        return 1.0
    front = math.exp(a * math.log(z) - z - math.lgamma(a))
    if z < a + 1:
        term = total = 1 / a
        for n in range(1, _MOST_STEPS):
            term *= z / (a + n)
            total += term
            if term < total * _EPS:
                break
        return 1 - front * total
    b = z + 1 - a
    c, d = 1 / _TINY, 1 / b
    result = d
    for n in range(1, _MOST_STEPS):
        b += 2
        c, d = _lentz(-n * (n - a), b, c, d)
        result *= c * d
        if abs(c * d - 1) < _EPS:
            break
    return front * result


def _each(function: Any, *values: ArrayLike) -> Floats:
    """One value for every number of the arrays, broadcast."""
    arrays = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in values))
    found = [function(*map(float, numbers)) for numbers in zip(*(array.ravel() for array in arrays), strict=True)]
    return np.array(found, np.float64).reshape(arrays[0].shape)


def _normal_quantile(p: float) -> float:
    if 0 < p < 1:
        return _NORMAL.inv_cdf(p)
    return {0.0: -math.inf, 1.0: math.inf}.get(p, math.nan)


def _student(df: float, t: float) -> float:
    if not math.isfinite(t):
        return math.nan if math.isnan(t) else float(t > 0)
    tail = 0.5 * _betainc(0.5 * df, 0.5, df / (df + t * t))
    return tail if t < 0 else 1 - tail


def _betainc(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function."""
    if math.isnan(x):
        return math.nan
    if x <= 0 or x >= 1:
        return float(x >= 1)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x > (a + 1) / (a + b + 2):
        return 1 - math.exp(log_front) * _beta_fraction(b, a, 1 - x) / b
    return math.exp(log_front) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, _MOST_STEPS):
        c, d = _lentz(m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), 1.0, c, d)
        result *= c * d
        c, d = _lentz(-(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)), 1.0, c, d)
        result *= c * d
        if abs(c * d - 1) < _EPS:
            break
    return result


def _lentz(numerator: float, denominator: float, c: float, d: float) -> tuple[float, float]:
    """One step of a continued fraction: its next factors."""
    d = numerator * d + denominator
    c = denominator + numerator / c
    return c or _TINY, 1 / (d or _TINY)
