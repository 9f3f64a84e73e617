"""`nestvox compare` as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from nestvox.cli.compare import compare
from nestvox.errors import NestvoxError, ScoresError
from nestvox.extraction.store import ShardRows, StoreMetadata, StoreWriter

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(compare)

NAMES = [f"id{10000 + speaker}/v/{take}.wav" for speaker in range(20) for take in range(4)]
FEW = ["--bootstrap", "100", "--permutations", "100"]


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """trials.txt, good.txt and bad.txt, and two stores over twenty speakers."""
    generator = np.random.default_rng(2)
    centres = np.repeat(generator.normal(size=(20, 16)), 4, axis=0)
    pairs = [(a, b) for a in range(80) for b in range(a + 1, 80)]
    (tmp_path / "trials.txt").write_text("".join(f"{int(a // 4 == b // 4)} {NAMES[a]} {NAMES[b]}\n" for a, b in pairs))
    for name, noise, fingerprint in (("good", 0.7, "ab" * 8), ("bad", 2.5, "cd" * 8)):
        vectors = (centres + noise * generator.normal(size=(80, 16))).astype(np.float32)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        lines = [f"{unit[a] @ unit[b]:.9f} {NAMES[a]} {NAMES[b]}\n" for a, b in pairs]
        (tmp_path / f"{name}.txt").write_text("".join(lines))
        metadata = StoreMetadata(fingerprint, name, "nested", (4, 16), 16, "float32", 80, 80)
        writer = StoreWriter(tmp_path / f"{name}_store", metadata)
        writer.write_shard(0, ShardRows([f"u{row}" for row in range(80)], vectors, NAMES, [name[:7] for name in NAMES]))
        writer.finish()
    return tmp_path


def test_scores_and_stores_agree(files):
    common = ["--trials", files / "trials.txt", *FEW]
    scores = run(files / "good.txt", files / "bad.txt", *common, "--json", files / "a.json")
    stores = run(files / "good_store", files / "bad_store", *common, "--dims", "16", "--json", files / "b.json")
    assert (scores.exit_code, stores.exit_code) == (0, 0), scores.output + stores.output
    a, b = (json.loads((files / name).read_text()) for name in ("a.json", "b.json"))
    assert a["rows"][0]["paired"]["eer"] == pytest.approx(b["rows"][0]["paired"]["eer"], abs=1e-9)
    assert a["trials_sha256"] == b["trials_sha256"]
    for text in ("bad is worse than good by", "95 % interval", "120 target and 3040 non-target", a["trials_sha256"]):
        assert text in scores.output
    assert "bad_store is worse than good_store by" in stores.output
    assert "mean norm" in stores.output
    assert "McNemar" in stores.output


def test_every_common_dimension_and_a_third_system(files):
    result = run(files / "good_store", files / "bad_store", files / "bad.txt", "--trials", files / "trials.txt", *FEW)
    assert result.exit_code == 0, result.output
    for text in ("at 4 dimensions", "at 16 dimensions", "16 : -", "3 comparisons (Holm)", "other trials"):
        assert text in result.output


def test_files_of_one_name_keep_their_folders(files):
    (files / "other").mkdir()
    (files / "bad.txt").rename(files / "other" / "good.txt")
    result = run(files / "good.txt", files / "other" / "good.txt", "--trials", files / "trials.txt", *FEW)
    assert result.exit_code == 0, result.output
    assert str(files / "other" / "good.txt") in result.output.replace("\n", "")


def test_a_copy_is_refused(files):
    result = run(files / "good.txt", files / "good_store", "--trials", files / "trials.txt", "--dims", "16")
    assert isinstance(result.exception, NestvoxError)
    assert "--dims means nothing" in str(result.exception)
    (files / "copy.txt").write_text((files / "good.txt").read_text())
    result = run(files / "good.txt", files / "copy.txt", "--trials", files / "trials.txt")
    assert isinstance(result.exception, ScoresError)
    assert "copy" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["good.txt"], "two or more systems"),
        (["good.txt", "no-such-model"], "--table"),
        (["good_store", "bad_store", "--dims", "4;8"], "whole numbers"),
        (["good_store", "bad_store", "--dims", "4,99"], "1 to 16"),
        (["good.txt", "bad.txt", "--bootstrap", "5"], "40 or more"),
    ],
)
def test_calls_that_mean_nothing(files, monkeypatch, arguments, words):
    monkeypatch.chdir(files)
    result = run(*arguments, "--trials", "trials.txt")
    assert isinstance(result.exception, NestvoxError)
    assert words in str(result.exception)


def nestvox(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from nestvox.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "COLUMNS": "120"}, check=False
    )


def test_from_the_command_line_without_torch(files):
    done = nestvox("compare", "good_store", "bad_store", "--trials", "trials.txt", *FEW, cwd=files)
    assert done.returncode == 0, done.stderr
    assert "bad_store is worse than good_store" in done.stdout
    failed = nestvox("compare", "good.txt", "good.txt", "--trials", "trials.txt", cwd=files)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert "Traceback" not in failed.stderr


def test_models_are_embedded_from_the_table(files, monkeypatch):
    pytest.importorskip("torch")
    from nestvox.extraction.store import EmbeddingStore

    rows = [f"u{row}\t{name}\t{name[:7]}\n" for row, name in enumerate(NAMES)]
    (files / "table.tsv").write_text("utt_id\tpath\tspeaker\n" + "".join(rows))

    class Model:
        dims, training_speakers = (4, 16), ()

        def __init__(self, name: str, fingerprint: str) -> None:
            self.name, self.fingerprint = name, fingerprint

    models = {"good": Model("good", "ab" * 8), "bad": Model("bad", "cd" * 8)}

    def embed_table(model, table, out, *, progress):
        whole = EmbeddingStore(files / f"{model.name}_store")
        ids = table.frame["utt_id"].to_list()
        metadata = StoreMetadata(model.fingerprint, model.name, "nested", (4, 16), 16, "float32", len(ids), len(ids))
        writer = StoreWriter(out, metadata)
        writer.write_shard(0, ShardRows(ids, whole.take(whole.index_of(ids))))
        return writer.finish()

    monkeypatch.setattr("nestvox.model.load", lambda name, *, offline: models[name])
    monkeypatch.setattr("nestvox.extraction.embed.embed_table", embed_table)
    common = ["--trials", files / "trials.txt", "--table", files / "table.tsv", *FEW]
    by_model = run("good", "bad", *common, "--json", files / "a.json")
    by_store = run(files / "good_store", files / "bad_store", *common, "--json", files / "b.json")
    assert (by_model.exit_code, by_store.exit_code) == (0, 0), f"{by_model.exception} {by_store.exception}"
    a, b = (json.loads((files / name).read_text()) for name in ("a.json", "b.json"))
    assert [row["paired"] for row in a["rows"]] == [row["paired"] for row in b["rows"]]
