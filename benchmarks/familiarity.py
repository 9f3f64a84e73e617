"""How often the warning of `nestvox verify` about unfamiliar recordings is right, and what level or noise alone say.

    python benchmarks/familiarity.py ../shared/speech

Everything is fitted on the train split and set on the dev split at 1 % of its clips, which are then made worse. Clips
shorter than 2 s are left out: of them `verify` says that they are short, and no more.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nestvox.audio.channel import change_gain, through_channel
from nestvox.audio.condition import SHORT_S, condition
from nestvox.audio.mixing import fit_length, mix_at_snr
from nestvox.audio.read import read
from nestvox.audio.snr import estimate_snr_db
from nestvox.corpora.utterances import read_utterances
from nestvox.model.familiarity import fit_familiarity, measured

RATE = 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with utterances.tsv and noise/noise.tsv")
    parser.add_argument("--training", type=int, default=2000, help="clips of training that are measured")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    table = read_utterances(options.data / "utterances.tsv")
    train, dev = (table.where(split=split) for split in ("train", "dev"))
    taken = rng.permutation(len(train))[: options.training]
    rows = [measured(train.segment(int(row)).read(sample_rate=RATE).samples, RATE) for row in taken]
    noises: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    for row in pl.read_csv(options.data / "noise" / "noise.tsv", separator="\t").iter_rows(named=True):
        kind = "music" if row["category"] == "music" else "noise"
        noises[kind].append(read(options.data / "noise" / row["path"], sample_rate=RATE)[0])
    heard = [dev.segment(row).read(sample_rate=RATE).samples for row in range(len(dev))]
    long = [row for row, clip in enumerate(heard) if len(clip) >= SHORT_S * RATE]
    clips = [heard[row] for row in long]
    found = _conditions(clips, noises, rng)
    clean = [_measures(clip) for clip in clips]
    kept = [measures for measures in clean if measures is not None]
    familiar = fit_familiarity([row for row in rows if row is not None], [one[0] for one in kept], "dev")
    score: dict[str, Callable[[Any], float]] = {
        "distance": lambda one: float(familiar.distances(one[0][None])[0]),
        "snr": lambda one: -float(one[1]),
        "level": lambda one: -float(one[2]),
    }
    limit = {name: _limit([of(one) for one in kept]) for name, of in score.items()}

    def rates(waves: list[NDArray[np.float32]]) -> dict[str, float]:
        every = [_measures(wave) for wave in waves]
        said = {
            name: float(np.mean([one is not None and of(one) > limit[name] for one in every]))
            for name, of in score.items()
        }
        said["narrow-band"] = float(np.mean(["narrow-band" in condition(wave, RATE).codes() for wave in waves]))
        return said | {"clips": len(waves)}

    corpora, speakers = (dev.frame[name].gather(long).to_list() for name in ("corpus", "speaker"))
    parts = {f"dev, {name}": [c for c, its in zip(clips, corpora, strict=True) if its == name]
             for name in sorted(set(corpora))}  # fmt: skip
    table_of = {name: rates(waves) for name, waves in {"dev": clips, **parts, **found}.items()}
    table_of["held out"] = {"distance": _held_out(familiar, speakers, clean, rng)}
    for name, row in table_of.items():
        print(f"{name:20}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps({"familiarity": familiar.to_dict(), "rates": table_of}, indent=1))


def _measures(wave: NDArray[np.float32]) -> tuple[Any, float, float] | None:
    row = measured(wave, RATE)
    if row is None:
        return None
    return row, estimate_snr_db(wave, RATE), 10 * math.log10(float(np.mean(np.square(wave, dtype=np.float64))))


def _limit(scores: list[float]) -> float:
    return float(np.sort(scores)[math.ceil(0.99 * len(scores)) - 1])


def _held_out(familiar: Any, speakers: list[str], clean: list[Any], rng: np.random.Generator) -> float:
    """Share of false alarms at a limit that was set on the clips of the other half of the speakers."""
    both = [(speaker, one) for speaker, one in zip(speakers, clean, strict=True) if one is not None]
    distances = familiar.distances([one[0] for _, one in both])
    names, rates = np.array([speaker for speaker, _ in both]), []
    for _ in range(200):
        known = rng.permutation(sorted(set(names)))[: len(set(names)) // 2]
        inside = np.isin(names, known)
        rates.append(np.mean(distances[~inside] > _limit(list(distances[inside]))))
    return float(np.mean(rates))


def _conditions(
    clips: list[NDArray[np.float32]], noises: dict[str, list[NDArray[np.float32]]], rng: np.random.Generator
) -> dict[str, list[NDArray[np.float32]]]:
    """The dev clips made worse, every second one, and what is no speech."""
    half = clips[::2]
    found: dict[str, list[NDArray[np.float32]]] = {"noise alone": noises["noise"], "music alone": noises["music"]}
    for kind in ("noise", "music"):
        drawn = [fit_length(noises[kind][int(rng.integers(len(noises[kind])))], len(clip), rng) for clip in half]
        for snr_db in (0, 5, 10, 15):
            found[f"{kind} at {snr_db} dB"] = [
                mix_at_snr(clip, noise, snr_db, RATE) for clip, noise in zip(half, drawn, strict=True)
            ]
    found["white at 5 dB"] = [
        mix_at_snr(clip, rng.standard_normal(len(clip)).astype(np.float32), 5, RATE) for clip in half
    ]
    for name in ("telephone-mulaw", "telephone-gsm"):
        found[name] = [through_channel(clip, name, RATE) for clip in half]
    found["20 dB quieter"] = [change_gain(clip, -20) for clip in half]
    found["first 2.0 s"] = [clip[: 2 * RATE] for clip in half if len(clip) > 3 * RATE]
    return found


if __name__ == "__main__":
    main()
