"""`nestvox rotate` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nestvox.cli.main import main
from nestvox.extraction.formats.interchange import VectorWriter
from nestvox.extraction.store.store import EmbeddingStore, VectorBatch
from nestvox.heads.rotation import Rotation
from nestvox.testing import make_store

SIZE, SPEAKERS, TAKES = 32, 30, 5
ROWS = SPEAKERS * TAKES
NAMES = [f"u{row:03}" for row in range(ROWS)]
SPEAKER_OF = [f"s{row // TAKES}" for row in range(ROWS)]


@pytest.fixture
def vectors(tmp_path: Path) -> np.ndarray:
    """vectors.npy and labels.txt; speakers stand in the last coordinates."""
    generator = np.random.default_rng(1)
    rows = 0.3 * generator.standard_normal((ROWS, SIZE))
    rows[:, -6:] += generator.standard_normal((SPEAKERS, 6)).repeat(TAKES, axis=0)
    rows = rows.astype(np.float32)
    np.save(tmp_path / "vectors.npy", rows)
    (tmp_path / "labels.txt").write_text("\n".join(SPEAKER_OF) + "\n")
    return rows


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


def cosines(rows: np.ndarray) -> np.ndarray:
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit @ unit.T


def test_without_labels(tmp_path: Path, vectors: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    out, rotated, figures = tmp_path / "r.safetensors", tmp_path / "rotated.npy", tmp_path / "out.json"
    code, text, _ = run(
        capsys, "rotate", tmp_path / "vectors.npy", "--out", out, "--rotated", rotated, "--json", figures
    )
    assert code == 0
    assert "pca rotation of 150 vectors" in text
    assert "EER" not in text
    assert f"rotation  {out}" in text
    assert f"vectors   {rotated}" in text
    rotation = Rotation.load(out)
    assert rotation.dims == (16, 32)
    np.testing.assert_allclose(np.load(rotated), vectors @ rotation.matrix, atol=1e-6)
    found = json.loads(figures.read_text())
    assert (found["rows"], found["method"], found["dims"], found["speakers"]) == (ROWS, "pca", [16, 32], {})
    change = np.abs(cosines(np.load(rotated)) - cosines(vectors)).max()
    assert found["full_dimension_largest_cosine_change"] == pytest.approx(change, abs=1e-9)
    assert change <= 1e-6
    assert [row["eer_after"] for row in found["prefixes"]] == [None, None]
    assert found["prefixes"][0]["kept_after"] > found["prefixes"][0]["kept_before"]


def test_with_labels(
    tmp_path: Path, vectors: np.ndarray, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # narrower, the rows of the table stand one below the other
    arguments = ["rotate", tmp_path / "vectors.npy", "--labels", tmp_path / "labels.txt", "--dims", "4,8"]
    code, text, _ = run(capsys, *arguments, "--out", tmp_path / "a", "--json", tmp_path / "a.json")
    assert code == 0
    assert "EER % before" in text
    assert "EER % after" in text
    assert "report 4 speakers / 20 rows" in text
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["dims"] == [4, 8, SIZE]
    assert found["speakers"]["fit"] == {"speakers": 22, "rows": 110}
    assert set(found["criterion"]) == {"truncation", "pca", "discriminant", "refined"}
    shown = [line for line in text.splitlines() if line.strip("│ ").startswith("4 ")]
    assert len(shown) == 1
    for key in ("eer_before", "eer_after"):
        assert f"{100 * found['prefixes'][0][key]:.2f}" in shown[0]
    # The same seed is the same file; another method stops where it is told to.
    run(capsys, *arguments, "--out", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    run(capsys, *arguments, "--out", tmp_path / "c", "--method", "pca")
    assert Rotation.load(tmp_path / "c").method == "pca"
    run(capsys, *arguments, "--out", tmp_path / "d", "--seed", 1)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "d").read_bytes()


def test_names_choose_their_labels(tmp_path: Path, vectors: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    with VectorWriter(tmp_path / "v.parquet") as writer:
        writer.write(VectorBatch(NAMES, vectors))
    frame = pl.DataFrame({"utt_id": NAMES[::-1], "speaker": SPEAKER_OF[::-1], "path": NAMES[::-1]})
    frame.write_csv(tmp_path / "table.tsv", separator="\t")
    for source, labels, out in (("vectors.npy", "labels.txt", "a"), ("v.parquet", "table.tsv", "b")):
        code, _, _ = run(capsys, "rotate", tmp_path / source, "--labels", tmp_path / labels, "--out", tmp_path / out)
        assert code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_store_to_store(tmp_path: Path, vectors: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = {"fingerprint": "a" * 16, "tap": "embedding", "dims": ()}
    make_store(tmp_path / "store", vectors, NAMES, NAMES, SPEAKER_OF, **metadata)
    arguments = ["rotate", tmp_path / "store", "--out", tmp_path / "r.safetensors", "--rotated", tmp_path / "rotated"]
    assert run(capsys, *arguments)[0] == 0
    rotated = EmbeddingStore(tmp_path / "rotated")
    assert rotated.utt_ids == NAMES
    assert rotated.metadata.fingerprint != "a" * 16
    assert rotated.metadata.dims == (16, 32)
    assert run(capsys, *arguments)[0] == 0, "again, it finds the store finished"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["none.npy", "--out", "r"], "none.npy: no such file"),
        (["vectors.npy", "--out", "r", "--method", "lda"], "--method lda"),
        (["vectors.npy", "--out", "r", "--method", "refined"], "needs labels"),
        (["vectors.npy", "--out", "r", "--dims", "16;32"], "--dims 16;32"),
        (["vectors.npy", "--out", "r", "--dims", "64"], "between 1 and 32"),
        (["vectors.npy", "--out", "r", "--dims", ""], "--dims"),
        (["vectors.npy", "--out", "r", "--labels", "none.txt"], "none.txt: no such file"),
        (["vectors.npy", "--out", "r", "--labels", "short.txt"], "2 labels for the 150 rows"),
        (["vectors.npy", "--out", "r", "--labels", "vectors.npy"], "same path"),
        (["vectors.npy", "--out", "vectors.npy"], "--out vectors.npy is what EMBEDDINGS reads"),
        (["vectors.npy", "--out", "r", "--rotated", "vectors.npy"], "--rotated vectors.npy is what EMBEDDINGS reads"),
        (
            ["vectors.npy", "--out", "r", "--labels", "labels.txt", "--json", "labels.txt"],
            "--json labels.txt is what --labels reads",
        ),
        (["labels.txt", "--out", "r"], "unknown format"),
        (["vectors.npy", "--out", "r", "--rotated", "r.xyz"], "unknown suffix"),
        (["vectors.npy", "--out", "vectors.npy/r"], "vectors.npy"),
        (["vectors.npy"], "--out"),
    ],
)
def test_errors_are_one_line_and_exit_2(
    tmp_path: Path,
    vectors: np.ndarray,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    what: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("a\nb\n")
    before = Path("vectors.npy").read_bytes()
    code, _, error = run(capsys, "rotate", *arguments)
    assert code == 2
    assert what in error
    assert "Traceback" not in error
    assert Path("vectors.npy").read_bytes() == before


def test_a_log_file_gets_no_control_characters(tmp_path: Path, vectors: np.ndarray) -> None:
    command = [str(Path(sys.executable).with_name("nestvox")), "rotate", "vectors.npy", "--labels", "labels.txt"]
    child = subprocess.run(
        [*command, "--out", "r.safetensors"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "\x1b" not in child.stdout + child.stderr
    assert child.stderr == ""
    assert (tmp_path / "r.safetensors").is_file()


def test_it_says_where_it_does_not_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Speakers differ in the first coordinates, in falling order: truncation cannot be bettered there."""
    generator = np.random.default_rng(2)
    scale = np.where(np.arange(SIZE) < 8, 1.0, 0.02)
    voices = (generator.standard_normal((SPEAKERS, SIZE)) * scale).repeat(TAKES, axis=0)
    rows = voices + 0.5 * scale * generator.standard_normal((ROWS, SIZE))
    np.save(tmp_path / "vectors.npy", rows.astype(np.float32))
    (tmp_path / "labels.txt").write_text("\n".join(SPEAKER_OF) + "\n")
    call = ["rotate", tmp_path / "vectors.npy", "--out", tmp_path / "r.safetensors", "--json", tmp_path / "r.json"]
    code, text, error = run(capsys, *call, "--labels", tmp_path / "labels.txt", "--dims", "8,16,32")
    assert code == 0, error
    written = json.loads((tmp_path / "r.json").read_text())
    worse = [p["dim"] for p in written["prefixes"][:-1] if p["eer_after"] >= p["eer_before"] > 0]
    said = [note for note in written["notes"] if "does not help" in note]
    assert bool(said) is bool(worse)
    assert worse, "the world was made so"
    assert f"note: {said[0]}" in text
    code, text, error = run(
        capsys, *call, "--labels", tmp_path / "labels.txt", "--dims", "8,32", "--method", "discriminant"
    )
    n_speakers = json.loads((tmp_path / "r.json").read_text())["details"].get("n_speakers")
    judged = f"{n_speakers} speakers with two vectors judge {(n_speakers or 1) - 1} of {SIZE} directions at most"
    assert (judged in text) is (n_speakers is not None)
    code, text, _ = run(capsys, *call, "--dims", "8,32")
    assert code == 0
    lost = json.loads((tmp_path / "r.json").read_text())["prefixes"][0]
    assert ("does not help" in text) is (lost["kept_after"] <= lost["kept_before"])


def test_help_promises_nothing_that_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["rotate", "--help"]):
        assert "every prefix gets better" not in " ".join(run(capsys, *arguments)[1].split())
