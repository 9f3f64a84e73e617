"""`nestvox cache` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nestvox.audio.read import read
from nestvox.corpora.utterances import write_utterances
from nestvox.errors import NestvoxError
from nestvox.extraction.cache.feature_cache import open_cache
from nestvox.testing import make_noises

RATE = 16_000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch = pytest.importorskip("torch")
    from nestvox.encoders.ge2e import GE2E
    from nestvox.model.speaker_model import SpeakerModel

    torch.manual_seed(0)
    SpeakerModel(GE2E(), name="untrained").save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    write_utterances(make_noises(tmp_path, [0.5] * 10, split=["train"] * 9 + ["dev"]), tmp_path / "t.tsv")
    for folder in ("noise/hiss", "noise/music", "rooms"):
        (tmp_path / folder).mkdir(parents=True)
        soundfile.write(tmp_path / folder / "x.wav", 0.1 * draw.standard_normal(RATE // 4), RATE)
    return tmp_path / "t.tsv"


def run(*arguments: object) -> str:
    from nestvox.cli.app import app

    result = CliRunner().invoke(app, ["cache", *map(str, arguments)])
    if result.exception is not None and isinstance(result.exception, NestvoxError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_table_becomes_a_cache(tmp_path: Path, model: Path, table: Path) -> None:
    common = (table, "--model", model, "--split", "train", "--noise", tmp_path / "noise", "--rir", tmp_path / "rooms")
    settings = ("--variants", 3, "--seed", 5, "--augment", "p_speed=0.5", "--augment", "snr_noise_db=[5, 9]")
    out = tmp_path / "cache"
    said = run(*common, *settings, "--batch-size", 2, "--threads", 1, "--out", out, "--json", tmp_path / "c.json")
    cache = open_cache(out, {"seed": 5, "variants": 3, "dtype": "float16"})
    assert (len(cache), cache.pooled_dim, cache.embedding_dim) == (9, 256, 256)
    assert cache.plan.augmentation["snr_noise_db"] == [5, 9]
    assert "9 utterances x 3 variants" in said
    assert "speed 50%, reverb 30%, noise 50%" in said
    assert cache.key in said
    report = json.loads((tmp_path / "c.json").read_text())
    assert (report["utterances"], report["variants"], report["key"]) == (9, 3, cache.key)
    assert report["plan"]["augmentation"] == cache.plan.augmentation
    from nestvox.model.loading import load

    clean = load(model).forward([read(tmp_path / "4.wav")[0]], tap="pooled")
    np.testing.assert_allclose(cache.gather([4]), clean, atol=1e-3)
    run(*common, *settings, "--out", out)
    with pytest.raises(NestvoxError, match="seed 5 there, 6 expected"):
        run(*common, *settings, "--seed", 6, "--out", out)


def test_without_banks_and_with_bad_settings(tmp_path: Path, model: Path, table: Path) -> None:
    common = (table, "--model", model, "--batch-size", 4, "--threads", 1)
    said = run(*common, "--variants", 2, "--augment", 'kinds={"babble": 1}', "--out", tmp_path / "a")
    assert "noise 50%" in said
    assert "reverb" not in said
    assert "augmented" not in run(*common, "--variants", 1, "--out", tmp_path / "b")
    for given, message in (
        ("p_reverb=0.5", "p_reverb asks for rooms"),
        ("p_reverb", "give NAME=VALUE"),
        ("channels=opus", "not JSON"),
        ("p_echo=1", "no setting 'p_echo'"),
    ):
        with pytest.raises(NestvoxError, match=message):
            run(*common, "--augment", given, "--out", tmp_path / "c")
    with pytest.raises(NestvoxError, match="no such folder"):
        run(*common, "--noise", tmp_path / "nowhere", "--out", tmp_path / "c")
    assert not (tmp_path / "c").exists()
