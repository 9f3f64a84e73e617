"""A model whose vector of a recording can be written down: eight levels, each held for an eighth of the recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nestvox.model.threshold import Threshold
from nestvox.search import Gallery

DIM = 8
EIGHTH = 5000


@dataclass
class LevelModel:
    fingerprint: str = "0123456789abcdef"
    name: str = "levels"
    sample_rate: int = 16_000
    min_duration_s: float = 0.1
    dims: tuple[int, ...] = (4, DIM)
    training_speakers: tuple[str, ...] = ()
    thresholds: tuple[Threshold, ...] = ()

    def forward(self, waveforms: Sequence[NDArray[np.float32]], *, tap: str) -> NDArray[np.float32]:
        return np.stack([wave.reshape(DIM, -1).mean(axis=1) for wave in waveforms])


def sound(levels: Sequence[float]) -> NDArray[np.float32]:
    """2.5 s of which `LevelModel` makes these eight numbers."""
    return np.repeat(np.asarray(levels, np.float32), EIGHTH)


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def set_at(value: float, **changes: object) -> Threshold:
    told = {
        "dim": DIM,
        "operating_point": "far 0.01",
        "p_fa": 0.01,
        "p_miss": 0.02,
        "n_target": 100,
        "n_nontarget": 1000,
        "trials_sha256": "ab" * 32,
        "trials_source": "pairs",
        "fingerprint": "0123456789abcdef",
    }
    return Threshold(value=value, **{**told, **changes})  # type: ignore[arg-type]


@pytest.fixture
def levels() -> NDArray[np.float64]:
    """(6, 8): three recordings of ann, three of bob, each about a direction of the person's own."""
    generator = np.random.default_rng(3)
    centres = np.repeat(generator.normal(size=(2, DIM)), 3, axis=0)
    rows = centres + 0.4 * generator.normal(size=(6, DIM))
    return rows / np.abs(rows).max() * 0.5


@pytest.fixture
def gallery(tmp_path: Path, levels: NDArray[np.float64]) -> Gallery:
    made = Gallery.create(tmp_path / "people", LevelModel())
    for person, rows in (("ann", levels[:3]), ("bob", levels[3:])):
        made.enrol(person, [sound(row) for row in rows], names=["one", "two", "three"])
    return made
