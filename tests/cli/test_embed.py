"""`nestvox embed` and `nestvox export` as a user types them, with GE2E where its weights are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from nestvox.cli.embed import embed, export
from nestvox.errors import FingerprintError, StoreError
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.testing import make_store

app = typer.Typer()
app.command()(embed)
app.command()(export)


def run(*arguments: object, raises: type[Exception] | None = None) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if raises is not None:
        assert isinstance(result.exception, raises), result.output
        return str(result.exception)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


@pytest.fixture
def table(tmp_path: Path) -> Path:
    draw = np.random.default_rng(4)
    lines = ["utt_id\tpath\tspeaker\tsplit"]
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * draw.standard_normal(16_000 + 4_000 * number), 16_000)
        lines.append(f"u{number}\t{number}.wav\ts{number}\t{'train' if number else 'test'}")
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    path = tmp_path / "table.tsv"
    path.write_text("\n".join([*lines, "bad\tbad.wav\ts9\ttrain"]) + "\n")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """GE2E with random weights, saved: what the command does with it needs no download."""
    torch = pytest.importorskip("torch")
    from nestvox.encoders.ge2e import GE2E
    from nestvox.model.speaker_model import SpeakerModel

    torch.manual_seed(0)
    SpeakerModel(GE2E(), name="random").save(tmp_path / "model")
    return tmp_path / "model"


def test_embed_and_export(tmp_path: Path, table: Path, model: Path) -> None:
    import nestvox

    store, report, vectors = tmp_path / "store", tmp_path / "run.json", tmp_path / "v.npz"
    arguments = ("embed", table, "--model", model, "--out", store, "--offline", "--skip-bad")
    output = run(*arguments, "--split", "train", "--json", report)
    assert "rows         3 x 256 float32, tap nested" in output
    assert "skipped      1" in output
    assert "bad: " in output
    found = json.loads(report.read_text())
    assert (found["rows"], found["failed"], found["store_rows"], found["dim"]) == (3, 1, 3, 256)
    assert found["utterances_per_s"] == pytest.approx(3 / found["wall_s"])
    assert EmbeddingStore(store).utt_ids == ["u1", "u2", "u3"]

    assert "(3 were there already)" not in output
    assert "(4 were there already)" in run(*arguments, "--split", "train")
    assert "planned_rows 4 there, 5 now" in run(*arguments, raises=StoreError)

    assert "3 rows written" in run("export", store, "--out", vectors)
    with np.load(vectors) as arrays:
        assert arrays["ids"].tolist() == ["u1", "u2", "u3"]
        loaded = nestvox.load(model)
        for row in range(3):
            expected = loaded.embed(tmp_path / f"{row + 1}.wav", normalize=False)
            np.testing.assert_allclose(arrays["vectors"][row], expected, atol=1e-6)


def test_every_option(tmp_path: Path, table: Path, model: Path) -> None:
    options = ["--tap", "pooled", "--batch-size", 2, "--workers", 1, "--threads", 1, "--shard-rows", 2]
    options += ["--dtype", "float16", "--max-duration-s", 60, "--device", "cpu", "--skip-bad"]
    output = run("embed", table, "--model", model, "--out", tmp_path / "s", *options)
    assert "batches of 2, 1 stream of 1 thread, 1 for decoding" in output
    metadata = EmbeddingStore(tmp_path / "s").metadata
    assert (metadata.tap, metadata.dtype, metadata.shard_rows) == ("pooled", "float16", 2)
    assert metadata.plan == {"max_duration_s": 60.0}


def write_store(path: Path, fingerprint: str = "00000000000000aa") -> Path:
    metadata = {"fingerprint": fingerprint, "model": "toy", "dims": (2, 3)}
    make_store(path, [[3.0, 4.0, 1.0], [0.0, 2.0, 5.0]], ["a", "b"], **metadata)
    return path


def test_embedding_into_anothers_store(tmp_path: Path, table: Path, model: Path) -> None:
    message = run("embed", table, "--model", model, "--out", write_store(tmp_path / "s"), raises=FingerprintError)
    assert "holds vectors of the model toy (00000000000000aa)" in message


def test_export_of_a_prefix(tmp_path: Path) -> None:
    run("export", write_store(tmp_path / "s"), "--out", tmp_path / "v.npy", "--dim", 2)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), [[0.6, 0.8], [0.0, 1.0]], atol=1e-7)
    assert "no prefix of 1" in run("export", tmp_path / "s", "--out", tmp_path / "w.npy", "--dim", 1, raises=StoreError)
    assert not (tmp_path / "w.npy").exists()
