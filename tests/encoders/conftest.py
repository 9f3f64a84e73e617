"""Fixtures of the encoder tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from nestvox.encoders import Encoder
from nestvox.errors import DownloadError
from nestvox.zoo import load_encoder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads that wait for each other at every step of an LSTM stand still on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pretrained() -> Callable[[str], Encoder | DownloadError]:
    """A catalogue encoder with its weights, from the user's own cache, or the error that says why not."""

    @cache
    def load(name: str) -> Encoder | DownloadError:
        try:
            return load_encoder(name)
        except DownloadError as error:
            return error

    return load


@pytest.fixture(scope="session")
def ge2e(pretrained: Callable[[str], Encoder | DownloadError]) -> Encoder:
    """The pretrained GE2E encoder; skips where its weights cannot be had."""
    loaded = pretrained("ge2e")
    if isinstance(loaded, DownloadError):
        pytest.skip(f"the weights of ge2e cannot be had here: {loaded}")
    return loaded
