"""Fixtures of the encoder tests."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads that wait for each other at every step of an LSTM stand still on a busy machine."""
    torch.set_num_threads(1)
