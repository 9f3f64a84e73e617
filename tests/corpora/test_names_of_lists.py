"""Names in tables, trial lists, scores, stores and models: one name in two spellings, numbers, patterns, marks."""

import hashlib
import unicodedata
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nestvox.corpora import (
    Trials,
    check_corpus,
    read_scores,
    read_trials,
    read_utterances,
    refuse_overlap,
    speaker_key,
    write_trials,
    write_utterances,
)
from nestvox.corpora.overlap import shared_speakers
from nestvox.corpora.prepare.folder import unique_ids
from nestvox.errors import OverlapError, TableError, TrialsError
from nestvox.scoring.refusals import align_scores, check_trials, refuse_shared_trials
from nestvox.scoring.sources import without_missing
from nestvox.scoring.speakers import given_speakers, guess_speakers
from nestvox.training.data.development import keep_apart

NFC, NFD = "Jos\u00e9", "Jose\u0301"  # as most systems write it, and as macOS does
NEVER_BLANK = "\u00a0\u3000\u0085\u2028\x1c\x0b"


def table(tmp_path: Path, rows: list[str], name: str = "t.tsv") -> Path:
    separator = "," if name.endswith("csv") else "\t"
    lines = [separator.join(["utt_id", "path", "speaker"]), *(row.replace("|", separator) for row in rows)]
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / name


def listed(rows: list) -> Trials:
    return Trials(pl.DataFrame(rows, schema=["enrol", "test", "target"], orient="row"), "made")


def test_a_speaker_in_two_spellings_is_one(tmp_path: Path) -> None:
    trained = read_utterances(table(tmp_path, [f"a|a.wav|{NFD}", f"b|b.wav|{NFC} ", f"c|c.wav|{NFC}\u200b"]))
    assert trained.frame["speaker"].to_list() == [NFC] * 3
    with pytest.raises(OverlapError, match="1 of the evaluated speakers were trained on"):
        refuse_overlap({speaker_key(NFC)}, [NFD])


@pytest.mark.parametrize(
    ("hashed", "evaluated"),
    [
        (NFD, NFC),
        (NFD, NFD),
        (NFC, NFD),
        (NFC, NFC),
        ("1001.0", "1001"),
        ("id1\u200d", "id1\u200d"),
        ("id1", "\ufeffid1"),
    ],
)
def test_models_that_hashed_names_as_they_came_still_know_them(hashed: str, evaluated: str) -> None:
    key = hashlib.sha256(hashed.encode()).hexdigest()[:16]
    with pytest.raises(OverlapError):
        refuse_overlap({key}, [evaluated])
    assert refuse_overlap({key}, ["another"]) == ()


def test_keys_of_plain_names_are_as_ever() -> None:
    assert speaker_key("id10270") == hashlib.sha256(b"id10270").hexdigest()[:16]
    assert speaker_key(NFC) == hashlib.sha256(NFC.encode()).hexdigest()[:16]


def test_one_utterance_in_two_spellings_is_doubled(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="stands already on line 2, spelt"):
        read_utterances(table(tmp_path, [f"{NFC}|a.wav|s", f"{NFD}|b.wav|s"]))


def test_trials_find_utterances_in_either_spelling(tmp_path: Path) -> None:
    found = read_utterances(table(tmp_path, [f"{NFD}|x/{NFD}.wav|s", "b|b.wav|t", "c|y.wav|t", "d|y.wav|t"]))
    assert found.resolve([NFC, NFD, f"x/{NFC}.wav", "\ufeffb", "b.wav "]).tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(TableError, match=r"1 name .*shared by several"):
        found.resolve(["y.wav"])
    with pytest.raises(TableError, match=r"1 name .*not among the 4"):
        found.resolve(["B"])


def test_paths_as_they_are_written_come_first(tmp_path: Path) -> None:
    found = read_utterances(table(tmp_path, [f"a|{NFD}.wav|s", f"b|{NFC}.wav|s"]))
    assert found.frame["path"].to_list() == [f"{NFD}.wav", f"{NFC}.wav"]  # a file system knows them apart
    assert found.resolve([f"{NFC}.wav", f"{NFD}.wav"]).tolist() == [1, 0]


def test_scores_and_lists_meet_in_either_spelling() -> None:
    trials = listed([(NFC, "b", True), ("a", "b", False)])
    scores = pl.DataFrame({"enrol": [NFD, "a\u200b"], "test": ["b ", "b"], "score": [1.0, 2.0]})
    assert align_scores(trials, scores)[0].tolist() == [1.0, 2.0]
    with pytest.raises(TrialsError, match=r"1 trials are listed more than once|2 trials are listed more than once"):
        check_trials(listed([(NFC, "b", True), (NFD, "b", True), ("a", "b", False)]))
    with pytest.raises(TrialsError, match="1 of 1 trials of made stand in made too"):
        refuse_shared_trials(trials, listed([("b", NFD, True)]))
    assert without_missing(trials, {NFD, "a", "b"}) == (trials, ())
    assert given_speakers(trials, [NFC, "t"], [NFD, "u"]).names == (NFC, "t", "u")
    assert len(np.unique(guess_speakers(listed([(NFC, "b", True), (NFD, "c", False)])).enrol)) == 1


@pytest.mark.parametrize("letter", NEVER_BLANK)
def test_letters_that_python_takes_for_blanks(tmp_path: Path, letter: str) -> None:
    name = f"a{letter}b"
    for text, file in ((f"1 {name} c\n0 d {name}\n", "t"), (f"{name}  c\ttarget\nd {name} nontarget\r\n", "u")):
        (tmp_path / file).write_text(text, encoding="utf-8", newline="")
        assert read_trials(tmp_path / file).frame.rows() == [(name, "c", True), ("d", name, False)]
    (tmp_path / "s").write_text(f"0.5 {name} c\n", encoding="utf-8", newline="")
    assert read_scores(tmp_path / "s").rows() == [(name, "c", 0.5)]
    rows = read_utterances(table(tmp_path, [f"{name}|{name}.wav|s"]))
    assert rows.frame.row(0)[:2] == (name, f"{name}.wav")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    texts = {
        "t.csv": f"utt_id,path,speaker\n{NFC},a.wav,s\n",
        "t.txt": f"1 {NFC} b\n0 c d\n",
        "s.txt": f"{NFC} b 0.5\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes((mark + text).encode(encoding))
    assert read_utterances(tmp_path / "t.csv").frame.row(0) == (NFC, "a.wav", "s")
    assert read_trials(tmp_path / "t.txt").frame.rows() == [(NFC, "b", True), ("c", "d", False)]
    assert read_scores(tmp_path / "s.txt").rows() == [(NFC, "b", 0.5)]


def test_marks_where_lists_were_put_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("\ufeff1 a b\n\ufeff0 c d\n", encoding="utf-8")
    assert read_trials(tmp_path / "t").frame.rows() == [("a", "b", True), ("c", "d", False)]


@pytest.mark.parametrize("names", [["1001.0", "1002.0"], ["1e3", "2e3"], ["1.23457E+11", "2e+16"]])
def test_names_that_a_program_took_for_numbers(tmp_path: Path, names: list[str]) -> None:
    for row in ("{}|a.wav|s", "{0}x|{0}.wav|{0}"):
        path = table(tmp_path, [row.format(name) for name in names], "t.csv")
        with pytest.raises(TableError, match="every name is a number with a fraction"):
            read_utterances(path)
    assert len(read_utterances(table(tmp_path, ["1.5|a.wav|1001", "2.0|b.wav|v1.0"]))) == 2


def test_number_columns_of_parquet(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    whole = pl.DataFrame({"utt_id": [1, 2], "path": ["a", "b"], "speaker": [1001, 1002]})
    whole.write_parquet(file)
    assert read_utterances(file).frame["speaker"].to_list() == ["1001", "1002"]
    whole.with_columns(pl.col("speaker").cast(pl.Float64)).write_parquet(file)
    with pytest.raises(TableError, match=r"\[speaker\]: names are stored as numbers with a fraction, e.g. 1001.0"):
        read_utterances(file)
    whole.with_columns(speaker=pl.Series([[1], [2]])).write_parquet(file)
    with pytest.raises(TableError, match=r"\[speaker\]: is a column of List"):
        read_utterances(file)
    pl.DataFrame({"enrol": [1, 2], "test": [2.5, 3.0], "target": [1.0, 0.0]}).write_parquet(file)
    with pytest.raises(TrialsError, match=r"\[test\]: names are stored as numbers"):
        read_trials(file)


def test_nulls_in_parquet_are_named(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pl.DataFrame({"enrol": ["a", None], "test": ["b", "c"], "target": [True, False]}).write_parquet(file)
    with pytest.raises(TrialsError, match=r"trial 2: the name is missing"):
        read_trials(file)
    pl.DataFrame({"utt_id": ["a", None], "path": ["b", "c"], "speaker": ["s", "s"]}).write_parquet(file)
    with pytest.raises(TableError, match=r"\[utt_id\]: row 2: utt_id is empty"):
        read_utterances(file)


def test_no_path_is_a_pattern(tmp_path: Path) -> None:
    for number, name in enumerate(["a1", "a[1]", "a*", "a?", "a{1,2}"]):
        frame = pl.DataFrame({"utt_id": [f"u{number}"], "path": ["x"], "speaker": ["s"]})
        frame.write_parquet(tmp_path / f"{name}.parquet")
        pairs = pl.DataFrame({"enrol": [f"u{number}"], "test": ["v"], "target": [True], "score": [0.5]})
        (tmp_path / name).mkdir()
        pairs.write_parquet(tmp_path / name / "t.parquet")
    for number, name in enumerate(["a1", "a[1]", "a*", "a?", "a{1,2}"]):
        assert read_utterances(tmp_path / f"{name}.parquet").frame["utt_id"].to_list() == [f"u{number}"]
        assert read_trials(tmp_path / name / "t.parquet").frame["enrol"].to_list() == [f"u{number}"]
        assert read_scores(tmp_path / name / "t.parquet")["enrol"].to_list() == [f"u{number}"]


@pytest.mark.parametrize("name", ["s3://b/t.parquet", "hf://x/t.parquet", "~/t.parquet", "folder.parquet"])
def test_no_path_is_an_address_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(TableError, match=r"no such file|a folder, not a regular file"):
        read_utterances(name)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1 b target\n7 c nontarget\n", [("1", "b", True), ("7", "c", False)]),
        ("0 b nontarget\n1 c target\n1001 c target\n", [("0", "b", False), ("1", "c", True), ("1001", "c", True)]),
        ("1001 b 1\n7 c 0\n", [("1001", "b", True), ("7", "c", False)]),
        ("1 b 1\n7 c 0\n", [("1", "b", True), ("7", "c", False)]),
        (
            "id1-enroll test/id1.wav 1\nid1-enroll x 0\n",
            [("id1-enroll", "test/id1.wav", True), ("id1-enroll", "x", False)],
        ),
        ("1 17 1\n0 17 5\n", [("17", "1", True), ("17", "5", False)]),
        ("1.0 a b\n0.0 a c\n", [("a", "b", True), ("a", "c", False)]),
        ("1 2\n3 4\n", [("1", "2", None), ("3", "4", None)]),
    ],
)
def test_lists_whose_names_are_numbers(tmp_path: Path, text: str, rows: list) -> None:
    (tmp_path / "t").write_text(text)
    assert read_trials(tmp_path / "t").frame.rows() == rows


def test_lists_that_could_be_either_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("1 a 0\n0 b 1\n")
    with pytest.raises(
        TrialsError, match="fits both voxceleb and kaldi; name the format, or write csv with the columns"
    ):
        read_trials(tmp_path / "t")


@pytest.mark.parametrize(
    "text",
    [
        "enrol,test,label\na,b,1\nc,d,0\n",
        "Enroll,Test,Label\na,b,1.0\nc,d,0.0\n",
        "enrol,test,labels\na,b,target\nc,d,nontarget\n",
        "test,enrollment,is_target\nb,a,true\nd,c,False\n",
        "\ufeffenrol,test,target,label\na,b,1,x\nc,d,0.0,y\n",
    ],
)
def test_headers_that_others_write(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    assert read_trials(tmp_path / "t.csv").frame.rows() == [("a", "b", True), ("c", "d", False)]


def test_float_labels_of_parquet(tmp_path: Path) -> None:
    frame = pl.DataFrame({"enrol": ["a", "c", "e"], "test": ["b", "d", "f"], "label": [1.0, 0.0, float("nan")]})
    frame.write_parquet(tmp_path / "t.parquet")
    assert read_trials(tmp_path / "t.parquet").frame["target"].to_list() == [True, False, None]
    frame.with_columns(label=pl.lit(0.5)).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(TrialsError, match=r"'0.5' is no label|0.5 is no label"):
        read_trials(tmp_path / "t.parquet")


def test_known_hashes_of_lists(lists_dir: Path) -> None:
    # Taken before names were compared in another form than they are written.
    for name, known in (
        ("veri_test.txt", "c91872eaf1df05a44d85e7766a3651a715d00041941c96c7b4f1d93c0a146109"),
        ("veri_test2.txt", "9c810cad91aefef749535e560d54d12bf51964e0359a5e7ffc83a20d30ff9876"),
        ("voxsrc2021_val_trials.txt", "e21d32b49b7e63a502ae0561f6c6eb00ded65cf7c95027649643495771cacd02"),
    ):
        assert read_trials(lists_dir / name).sha256 == known


def test_marks_as_numbers(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("utt_id,path,speaker,synthetic\na,a.wav,s,1.0\nb,b.wav,s,0.0\n")
    assert read_utterances(file).frame["synthetic"].to_list() == [True, False]


@pytest.mark.parametrize("folder", ["~", "a[1]", "s3:", "x*"])
def test_what_is_written_goes_where_the_path_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("home", folder):
        (tmp_path / name).mkdir()
    found = read_utterances(table(tmp_path, ["a|a.wav|s"]))
    trials = listed([("a", "b", True), ("a", "c", False)])
    for suffix in (".tsv", ".csv", ".parquet"):
        write_utterances(found, Path(folder) / f"t{suffix}")
        assert read_utterances(Path(folder) / f"t{suffix}").frame["utt_id"].to_list() == ["a"]
    for fmt in ("csv", "parquet", "kaldi"):
        write_trials(trials, Path(folder) / f"l.{fmt}", fmt)
        assert read_trials(Path(folder) / f"l.{fmt}", fmt).sha256 == trials.sha256
    assert not list((tmp_path / "home").iterdir())


def test_files_that_are_called_like_numbers_keep_their_names(tmp_path: Path) -> None:
    assert len(read_utterances(table(tmp_path, ["0.0|0.0.wav|s", "5.0|x/5.0.flac|s"]))) == 2


def test_a_name_that_became_a_number_on_one_side_is_told(tmp_path: Path) -> None:
    found = read_utterances(table(tmp_path, ["1001|a.wav|s", "b|b.wav|s"]))
    with pytest.raises(TableError, match=r"not among the 2 utterances; '1001\.0' was taken for a number"):
        found.resolve(["1001.0"])


def test_the_check_of_a_corpus_knows_names_in_either_spelling(tmp_path: Path) -> None:
    one = read_utterances(table(tmp_path, [f"{NFC}|x/{NFD}.wav|ann", "b|b.wav|ben"], "a.tsv"))
    other = read_utterances(table(tmp_path, [f"{NFD}|y.wav|ann"], "b.tsv"))
    trials = listed([(NFD, "b", False), (f"x/{NFC}.wav", "\ufeffb", False)])
    report = check_corpus([one], [trials], audio=False)
    assert {found.kind for found in report.findings} >= {"missing-file"}
    assert not {found.kind for found in report.findings} & {"trial-name-unknown", "trial-label-wrong"}
    twice = check_corpus([one, other], audio=False)
    assert "utterance-in-two-tables" in {found.kind for found in twice.findings}


@pytest.mark.parametrize(
    ("names", "others", "shared"),
    [
        ([NFD], [NFC, "a"], [NFC]),
        (["1001.0", "x"], ["1001"], ["1001"]),
        (["1001"], ["1001.0", "v1.0"], ["1001.0"]),
        (["a "], ["\ufeffa", "A"], ["\ufeffa"]),
        (["1001"], ["1001.5", "10010", "ann"], []),
    ],
)
def test_speakers_on_both_sides(names: list[str], others: list[str], shared: list[str]) -> None:
    assert shared_speakers(names, others) == shared
    with pytest.raises(OverlapError) if shared else nullcontext():
        keep_apart(names, others)
    keys = {speaker_key(name) for name in names}
    with pytest.raises(OverlapError) if shared else nullcontext():
        refuse_overlap(keys, others)


def test_files_in_two_spellings_get_two_names() -> None:
    ids = unique_ids([f"x/{NFC}.wav", f"x/{NFD}.wav", "x/a.wav"])
    assert len({unicodedata.normalize("NFC", name) for name in ids}) == 3


def test_headers_where_none_belongs(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("enrol test target\na b 1\nc d 0\n")
    with pytest.raises(TrialsError, match="the first line is a header") as caught:
        read_trials(tmp_path / "t.txt")
    assert caught.value.line == 1
    (tmp_path / "t.txt").write_text("a,b,1\n")
    with pytest.raises(TrialsError, match=r"a list with commas is called \.csv"):
        read_trials(tmp_path / "t.txt")


@pytest.mark.parametrize("spelt", [NFC, NFD, f"{NFC} ", f"\ufeff{NFC}"])
def test_the_check_names_speakers_of_other_utterances_that_are_trained_on(tmp_path: Path, spelt: str) -> None:
    trained = read_utterances(table(tmp_path, [f"a|a.wav|{spelt}", "b|b.wav|ben"], "train.tsv"))
    tested = read_utterances(table(tmp_path, [f"c|c.wav|{NFC}", "d|d.wav|cat"], "test.tsv"))
    report = check_corpus([tested], [listed([("c", "d", False)])], training=[trained], audio=False)
    assert [one.examples for one in report.findings if one.kind == "speaker-trained-and-tested"] == [(NFC,)]


def test_damaged_parquet_says_so_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.parquet"
    frame = pl.DataFrame({"utt_id": ["a", "b"], "path": ["x", "y"], "speaker": ["s", "t"]})
    arrow = frame.to_arrow()
    pq.write_table(arrow.replace_schema_metadata({b"\xff": b"\xfe"}), file)  # notes of other programs are not read
    assert read_utterances(file).frame.rows() == frame.rows()
    raw = file.read_bytes()
    refused = 0
    for place in range(4, len(raw) - 8, 7):
        file.write_bytes(raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :])
        try:
            read_utterances(file)
        except TableError as error:
            refused += "\n" not in str(error)
    assert refused > 20
    assert capfd.readouterr() == ("", "")  # no panic of a library either


def test_rows_that_are_only_promised(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"utt_id": pa.nulls(3_000_000, pa.string())}), file, compression="zstd")
    assert file.stat().st_size < 30_000
    with pytest.raises(TableError, match=r"promises 3,000,000 rows in [0-9,]+ bytes"):
        read_utterances(file)
