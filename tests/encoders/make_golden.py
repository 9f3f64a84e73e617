"""Write golden/ge2e_resemblyzer.npz: what Resemblyzer itself gives for generated signals.

Run it where that package can be imported, in a Python of its own (nothing of nestvox is used):

    python -m venv golden && golden/bin/pip install resemblyzer==0.1.4 'setuptools<81'
    golden/bin/python tests/encoders/make_golden.py

The tests take `signals` from here, so that both sides hear the same samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

RATE = 16_000
GOLDEN = Path(__file__).parent / "golden" / "ge2e_resemblyzer.npz"

# name: seed, duration in seconds, RMS level in dBFS
SIGNALS = {
    "short_quiet": (1, 1.0, -46.0),
    "middle_loud": (2, 1.7, -14.0),
    "long_quiet": (3, 6.3, -38.0),
    "long_loud": (4, 4.83, -20.0),
}
# From the shortest clip to 20 s, in steps that meet every phase of hop and window step.
LENGTHS = np.arange(1_600, 320_000, 997)


def signals() -> dict[str, np.ndarray]:
    """Voice-like signals, (T,) float32 on the 16-bit grid: a gliding harmonic series with syllables, over noise."""
    made = {}
    for name, (seed, duration_s, level_dbfs) in SIGNALS.items():
        rng = np.random.default_rng(seed)
        time = np.arange(round(duration_s * RATE)) / RATE
        pitch = rng.uniform(90, 230) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.3, 0.9) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        wave = np.zeros_like(time)
        formants = rng.uniform((400, 1100, 2300), (800, 1900, 3300))
        for order in range(1, 30):
            height = np.exp(-((order * pitch.mean() - formants[:, None]) ** 2) / 2e5).sum()
            wave += (height + 0.05) / np.sqrt(order) * np.sin(order * phase + rng.uniform(0, 2 * np.pi))
        syllables = 0.15 + np.abs(np.sin(2 * np.pi * rng.uniform(1.5, 2.5) * time)) ** 2
        wave = wave * syllables + 0.05 * rng.standard_normal(len(time))
        wave *= 10 ** (level_dbfs / 20) / np.sqrt(np.mean(wave**2))
        made[name] = (np.round(wave * 32768).clip(-32768, 32767) / 32768).astype(np.float32)
    return made


def main() -> None:
    """Embed every signal as that package does, and count its partial utterances for many lengths."""
    from resemblyzer import VoiceEncoder
    from resemblyzer.audio import normalize_volume

    encoder = VoiceEncoder("cpu", verbose=False)
    arrays: dict[str, np.ndarray] = {"lengths": LENGTHS}
    arrays["counts"] = np.array([len(encoder.compute_partial_slices(int(n), 1.3, 0.75)[0]) for n in LENGTHS])
    for name, wave in signals().items():
        raised = normalize_volume(wave, -30, increase_only=True)
        embedding, partials, _ = encoder.embed_utterance(raised, return_partials=True, rate=1.3, min_coverage=0.75)
        arrays[f"{name}.int16"] = np.round(wave * 32768).astype(np.int16)[:: len(wave) // 97]
        arrays[f"{name}.embedding"] = embedding
        arrays[f"{name}.partials"] = partials
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **arrays)
    print(f"wrote {GOLDEN}")


if __name__ == "__main__":
    main()
