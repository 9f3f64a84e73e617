"""A small world of voices that are bands of noise, with splits and trials."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile

SPLITS = {"train": 8, "dev": 4, "test": 6}
CLIPS = 3


@pytest.fixture(scope="package")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with utterances.tsv and trials.txt; a speaker is a pair of resonances."""
    folder = tmp_path_factory.mktemp("voices")
    rng = np.random.default_rng(3)
    rows, names = ["utt_id\tpath\tspeaker\tsplit"], {split: [] for split in SPLITS}
    for split, count in SPLITS.items():
        for number in range(count):
            peaks = rng.uniform(300, 6000, 2)
            for clip in range(CLIPS):
                n = 16_000 + 1_111 * clip
                spectrum = np.fft.rfft(rng.standard_normal(n))
                hz = np.fft.rfftfreq(n, 1 / 16_000)
                shape = sum(np.exp(-(((hz - peak) / 250) ** 2)) for peak in peaks) + 0.02
                wave = np.fft.irfft(spectrum * shape, n)
                name = f"{split}{number}-{clip}"
                soundfile.write(folder / f"{name}.wav", 0.1 * wave / wave.std(), 16_000)
                rows.append(f"{name}\t{name}.wav\t{split}{number}\t{split}")
                names[split].append(name)
    (folder / "utterances.tsv").write_text("\n".join(rows) + "\n")
    for split in ("test", "dev"):
        pairs = itertools.combinations(names[split], 2)
        lines = [f"{int(a.split('-')[0] == b.split('-')[0])} {a} {b}" for a, b in pairs]
        (folder / f"trials_{split}.txt").write_text("\n".join(lines) + "\n")
    return folder
