"""What the examples use where no checkpoint and no recordings are given: an untrained network, and tones.

Its embeddings mean nothing; shapes, calls and times are those of the real thing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from nestvox.encoders import build
from nestvox.mrl import ReDimNetMRL, load_trained_mrl
from nestvox.zoo import variant


def arguments(about: str | None) -> argparse.Namespace:
    """Options that every example has."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--checkpoint", type=Path, help="best.pt of redimnet-mrl, or a model folder of nestvox")
    parser.add_argument("audio", nargs="*", type=Path, help="recordings")
    return parser.parse_args()


def model_of(options: argparse.Namespace) -> ReDimNetMRL:
    """Load the checkpoint, or make an untrained network of the same shape."""
    if options.checkpoint is not None:
        return load_trained_mrl(options.checkpoint)
    print("no --checkpoint: the network is untrained, its embeddings mean nothing")
    torch.manual_seed(0)
    shape = variant("redimnet-b2-mrl")
    encoder = build({**shape.config, "architecture": shape.architecture})
    return ReDimNetMRL(encoder, None, (64, 128, 192, 256)).freeze_backbone().eval()


def recordings_of(options: argparse.Namespace, count: int = 1) -> list[Path]:
    """Return the recordings that were given, at least `count`, or write some of 3 s."""
    if options.audio:
        if len(options.audio) < count:
            raise SystemExit(f"this example needs {count} recordings, got {len(options.audio)}")
        return list(options.audio)
    folder = Path(tempfile.mkdtemp(prefix="nestvox-example-"))
    t = np.arange(48_000) / 16_000
    paths = []
    for number in range(count):
        tone = sum(np.sin(2 * np.pi * k * (110 + 40 * number) * t) / k for k in range(1, 9))
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], 0.05 * tone, 16_000)
    return paths
