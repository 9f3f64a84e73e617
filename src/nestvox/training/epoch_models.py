"""The model of every so many epochs as a folder of its own, so that two epochs of one run can be compared."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from nestvox.model.folder import CONFIG_FILE
from nestvox.model.speaker_model import SpeakerModel

EPOCHS_FOLDER = "checkpoints"
LATEST = "latest"
_EPOCH = re.compile(r"epoch_(\d+)")


class EpochModels:
    """Writes ``checkpoints/epoch_14`` and ``checkpoints/latest`` into the folder of a run.

    Each is a model folder: `nestvox.load`, `mrl.load_trained_mrl` and every command take it. It holds the weights that
    the epoch was validated with (their average, where the recipe asks for one), and no thresholds.

    Args:
        folder: of the run.
        every: epochs between two of them.
        keep_last: the newest that are kept; None: all.
        build: makes the model of the epoch with this number from the weights as they are.
    """

    def __init__(self, folder: Path, every: int, keep_last: int | None, build: Callable[[int], SpeakerModel]) -> None:
        self.folder = folder / EPOCHS_FOLDER
        self.every = every
        self.keep_last = keep_last
        self.build = build

    def __call__(self, epoch: int) -> None:
        """Write the model of an epoch that is done, where it is its turn, and remove those that are too old."""
        if epoch % self.every:
            return
        model = self.build(epoch)
        for name in (f"epoch_{epoch}", LATEST):
            model.save(self.folder / name)
        for old in self._older(epoch):
            (old / CONFIG_FILE).unlink(missing_ok=True)  # first: what is left of a killed removal is no model
            shutil.rmtree(old, ignore_errors=True)

    def _older(self, epoch: int) -> list[Path]:
        if self.keep_last is None:
            return []
        found = [(int(match[1]), path) for path in self.folder.iterdir() if (match := _EPOCH.fullmatch(path.name))]
        return [path for _, path in sorted(entry for entry in found if entry[0] <= epoch)[: -self.keep_last]]
