"""GE2E against Resemblyzer 0.1.4: stored output of that package, and the package itself where it imports."""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from nestvox.encoders.contract import Encoder
from nestvox.encoders.ge2e import GE2E

HERE = Path(__file__).parent
GOLDEN = dict(np.load(HERE / "golden" / "ge2e_resemblyzer.npz"))
SIGNALS = runpy.run_path(str(HERE / "make_golden.py"))["signals"]()
TOLERANCE = 1e-5


def test_the_number_of_windows_is_that_of_the_package_for_320_lengths() -> None:
    counts = GE2E().n_windows(torch.from_numpy(GOLDEN["lengths"]))
    assert counts.tolist() == GOLDEN["counts"].tolist()
    assert counts.min() == 1
    assert counts.max() > 20


@pytest.mark.parametrize("name", SIGNALS)
def test_the_signals_are_those_the_package_heard(name: str) -> None:
    wave = SIGNALS[name]
    assert np.array_equal(np.round(wave * 32768).astype(np.int16)[:: len(wave) // 97], GOLDEN[f"{name}.int16"])


@pytest.mark.network
@pytest.mark.parametrize("name", SIGNALS)
def test_golden_embeddings(ge2e: Encoder, name: str) -> None:
    with torch.inference_mode():
        taps = ge2e(torch.from_numpy(SIGNALS[name])[None])
    partials = GOLDEN[f"{name}.partials"]
    np.testing.assert_allclose(taps.frames[0].T.numpy(), partials, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(taps.pooled[0].numpy(), partials.mean(axis=0), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(taps.embedding[0].numpy(), GOLDEN[f"{name}.embedding"], rtol=0, atol=TOLERANCE)


@pytest.mark.network
def test_golden_embeddings_in_one_padded_batch(ge2e: Encoder) -> None:
    lengths = torch.tensor([len(wave) for wave in SIGNALS.values()])
    audio = torch.full((len(SIGNALS), int(lengths.max()) + 999), 0.7)
    for row, wave in zip(audio, SIGNALS.values(), strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    with torch.inference_mode():
        embeddings = ge2e(audio, lengths).embedding.numpy()
    expected = np.stack([GOLDEN[f"{name}.embedding"] for name in SIGNALS])
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.network
def test_the_package_itself_on_three_files_of_the_corpus(ge2e: Encoder, speech_dir: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package imports deprecated modules
        resemblyzer = pytest.importorskip("resemblyzer", exc_type=ImportError)  # it needs setuptools < 81
        theirs = resemblyzer.VoiceEncoder("cpu", verbose=False)
        soundfile = pytest.importorskip("soundfile")
        files = sorted((speech_dir / "audio").rglob("*.opus"))
        for path in (files[0], files[len(files) // 2], files[-1]):
            wave, _ = soundfile.read(path, dtype="float32")
            raised = resemblyzer.audio.normalize_volume(wave, -30, increase_only=True)
            expected = theirs.embed_utterance(raised, rate=1.3, min_coverage=0.75)
            with torch.inference_mode():
                embedding = ge2e(torch.from_numpy(wave)[None]).embedding[0].numpy()
            np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)
