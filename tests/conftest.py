"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A deadline says something about the machine's other work, not about the code; tests that measure time do so openly.
settings.register_profile("nestvox", deadline=None)
settings.load_profile("nestvox")

ROOT = Path(__file__).resolve().parents[1]


def _material(variable: str, folder: str) -> Path:
    path = Path(os.environ.get(variable, ROOT.parent / "shared" / folder))
    if not path.is_dir():
        pytest.skip(f"no folder {path}; set {variable} to run this test")
    return path


@pytest.fixture(scope="session")
def speech_dir() -> Path:
    """Folder with utterances.tsv, trials_dev.txt, trials_test.txt and the audio they name."""
    return _material("NESTVOX_SPEECH", "speech")


@pytest.fixture(scope="session")
def lists_dir() -> Path:
    """Folder with the public VoxCeleb and VoxSRC lists and scores."""
    return _material("NESTVOX_LISTS", "lists")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Folder with golden vectors of other implementations."""
    return _material("NESTVOX_REFERENCE", "reference")
