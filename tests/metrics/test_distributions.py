"""Distributions against another implementation and against values of tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nestvox.metrics.distributions import bdtr, chdtrc, ndtr, ndtri, stdtr, stdtrit

special = pytest.importorskip("scipy.special", reason="the group test is not installed")
CLOSE = {"rtol": 1e-11, "atol": 1e-300}


def test_values_of_tables() -> None:
    assert float(ndtri(0.975)) == pytest.approx(1.959963984540054, rel=1e-14)
    assert stdtrit(1, 0.975) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-12)
    assert bdtr(2, 5, 0.5) == pytest.approx(0.5, rel=1e-14)
    assert chdtrc(2, 2 * np.log(20)) == pytest.approx(0.05, rel=1e-13)


def test_the_normal() -> None:
    x = np.linspace(-9, 6, 61)
    np.testing.assert_allclose(ndtr(x), special.ndtr(x), **CLOSE)
    p = np.concatenate([[0, 1, 1e-12], np.linspace(1e-6, 1 - 1e-6, 99)])
    np.testing.assert_allclose(ndtri(p), special.ndtri(p), **CLOSE)
    assert np.isnan(ndtri(1.5))


@pytest.mark.parametrize("df", [0.7, 1, 2, 5.5, 30, 119, 5000.0])
def test_student(df: float) -> None:
    t = np.array([-60, -6, -2, -0.3, 0, 0.1, 1.9, 7])
    np.testing.assert_allclose(stdtr(df, t), special.stdtr(df, t), **CLOSE)
    for p in (1e-6, 0.025, 0.3, 0.5, 0.75, 0.975):
        assert stdtrit(df, p) == pytest.approx(special.stdtrit(df, p), rel=1e-9, abs=1e-12)


def test_binomial_and_chi_square() -> None:
    for n in (1, 7, 60, 2_000, 100_000):
        for k in sorted({-1, 0, n // 3, n // 2, n - 1, n}):
            assert bdtr(k, n, 0.5) == pytest.approx(0.0 if k < 0 else special.bdtr(k, n, 0.5), rel=1e-9, abs=1e-300)
    for df in (1, 2, 11, 120, 900):
        for x in (0.0, 0.01, 1, df / 2, df, 2.0 * df, 5.0 * df):
            assert chdtrc(df, x) == pytest.approx(special.chdtrc(df, x), rel=1e-9, abs=1e-300)
