"""Pooling under masks."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.encoders.pooling import length_mask, masked_mean


def test_length_mask() -> None:
    assert length_mask(torch.tensor([0, 2, 3]), 3).int().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_masked_mean_is_the_mean_of_the_real_frames_whatever_stands_beside_them(lengths: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((len(lengths), 3, 9)).astype(np.float32)
    frames = torch.from_numpy(values.copy())
    mask = length_mask(torch.tensor(lengths), 9)
    for row, length in enumerate(lengths):
        frames[row, :, length:] = torch.nan
    expected = np.stack([values[row, :, :length].mean(axis=1) for row, length in enumerate(lengths)])
    np.testing.assert_allclose(masked_mean(frames, mask).numpy(), expected, atol=1e-6)
