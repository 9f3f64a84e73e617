"""The model that comes with the package: where it lies, and what it says of itself. Knows no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nestvox.errors import ModelError
from nestvox.gate import naming, read_json
from nestvox.schema import Fraction, OpenModel, Word, validated

BOX = "box"
"""Its name, where a model is asked for by name."""

ABOUT_FILE = "box.json"
GOLDEN_FILE = "golden.npy"
TORCH_FOLDER = "torch"

_FOLDER = Path(__file__).parents[1] / BOX


class BoxAbout(OpenModel):
    """What stands beside the model.

    Attributes:
        form: of the weights in the graph.
        dev_eer: at each dimension, of the trials of `dev_source`.
        better_eer: by the name of another model, its error rate at full size on the same trials.
        dev_source: name of the trials.
        dev_sha256: of the trials.
    """

    form: Word
    dev_eer: dict[str, Fraction]
    better_eer: dict[str, Fraction] = Field(default_factory=dict)
    dev_source: Word
    dev_sha256: Word

    @property
    def full_eer(self) -> float:
        """At the largest dimension."""
        return self.dev_eer[max(self.dev_eer, key=int)]


def golden_signal(sample_rate: int = 16_000, seconds: float = 3.0) -> NDArray[np.float32]:
    """What the golden embeddings are of (S,): a rising and falling buzz of 120 Hz and its harmonics, in noise."""
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    order = np.arange(1, 33)[:, None]
    buzz = (np.sin(2 * np.pi * order * 120.0 * time_s + order**2) / order).sum(axis=0)
    level = 0.6 + 0.4 * np.sin(2 * np.pi * 4.0 * time_s)
    noise = np.random.default_rng(0).standard_normal(len(time_s))
    signal: NDArray[np.float32] = (0.1 * level * buzz + 0.003 * noise).astype(np.float32)
    return signal


def box_folder() -> Path | None:
    """Return the folder of the model in the box; None: this nestvox comes without one."""
    return _FOLDER if (_FOLDER / ABOUT_FILE).is_file() else None


def about_box(folder: Path) -> BoxAbout:
    """Read what the box says of itself.

    Raises:
        ModelError: it is damaged.
    """
    path = folder / ABOUT_FILE
    return validated(BoxAbout, read_json(path, naming(ModelError)), str(path), naming(ModelError))


def box_in_words(folder: Path) -> str:
    """What a call that names no model is told."""
    about = about_box(folder)
    better = [
        f"--model {name} is better ({eer:.2%}) and has to be fetched"
        for name, eer in about.better_eer.items()
        if eer < about.full_eer
    ]
    told = f"no model is named: the one in the box is taken (EER {about.full_eer:.2%} on its development trials)"
    return "; ".join([told, *better])
