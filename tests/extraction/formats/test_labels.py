"""Labels of vectors in the forms that people have them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nestvox.errors import TableError
from nestvox.extraction.formats.labels import read_labels

NFC, NFD = "Jos\u00e9", "Jose\u0301"


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    np.savez(tmp_path / "v.npz", vectors=np.eye(4, dtype=np.float32), ids=np.array(["u1", "u2", NFD, "u4"]))
    np.save(tmp_path / "v.npy", np.eye(4, dtype=np.float32))
    return tmp_path / "v.npz"


@pytest.mark.parametrize("name", ["utt2spk", "utt2spk.txt"])
def test_utt2spk_is_no_list_of_speakers(tmp_path: Path, vectors: Path, name: str) -> None:
    (tmp_path / name).write_text(f"u4 ann\nu2\tben\n\n{NFC} ann \nelsewhere cat\n", encoding="utf-8")
    assert read_labels(tmp_path / name, vectors).to_list() == [None, "ben", "ann", "ann"]


def test_utt2spk_of_other_rows_is_refused(tmp_path: Path, vectors: Path) -> None:
    (tmp_path / "utt2spk").write_text("a ann\nb ann\nc ben\nd ben\n")
    with pytest.raises(TableError, match=r"as in Kaldi's utt2spk, and the rows of .* have other names, e\.g\. 'u1'"):
        read_labels(tmp_path / "utt2spk", vectors)
    with pytest.raises(TableError, match=r"as in Kaldi's utt2spk, and the rows of .* have no names"):
        read_labels(tmp_path / "utt2spk", vectors.with_suffix(".npy"))


def test_speakers_with_blanks_stay_speakers(tmp_path: Path, vectors: Path) -> None:
    (tmp_path / "labels.txt").write_text("Ann Lee\nBen Roe\nAnn Lee\nBen Roe\n")
    assert read_labels(tmp_path / "labels.txt", vectors).to_list() == ["Ann Lee", "Ben Roe"] * 2


def test_one_speaker_in_two_spellings(tmp_path: Path, vectors: Path) -> None:
    (tmp_path / "labels.txt").write_text(f"{NFC}\n{NFD} \n\u00a0{NFC}\nann\u2028lee\n", encoding="utf-8")
    assert read_labels(tmp_path / "labels.txt", vectors).to_list() == [NFC, NFC, NFC, "ann\u2028lee"]
    frame = pl.DataFrame({"utt_id": ["u1", NFC], "speaker": [NFD, f"{NFC} "]})
    frame.write_parquet(tmp_path / "l[1].parquet")
    frame.with_columns(speaker=pl.lit("wrong")).write_parquet(tmp_path / "l1.parquet")
    assert read_labels(tmp_path / "l[1].parquet", vectors).to_list() == [NFC, None, NFC, None]


def test_names_that_are_numbers_with_a_fraction(tmp_path: Path, vectors: Path) -> None:
    pl.DataFrame({"utt_id": ["u1", "u2"], "speaker": [1001.0, 1002.0]}).write_parquet(tmp_path / "l.parquet")
    with pytest.raises(TableError, match=r"\[speaker\]: names are stored as numbers with a fraction"):
        read_labels(tmp_path / "l.parquet", vectors)
    (tmp_path / "l.csv").write_text("utt_id,speaker\nu1,1001.0\nu2,1002.0\n")
    with pytest.raises(TableError, match="every name is a number with a fraction"):
        read_labels(tmp_path / "l.csv", vectors)
