"""Trial lists and scores in every format: counts, places of errors, round trips, the hash of the content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.corpora import Trials, read_scores, read_trials, write_trials
from nestvox.corpora.trials import FORMATS
from nestvox.errors import ScoresError, TrialsError

ROWS = [("a", "b", True), ("c/1.wav", "d", False), ("a", "d", False)]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def trials_of(rows: list) -> Trials:
    schema = {"enrol": pl.String, "test": pl.String, "target": pl.Boolean}
    return Trials(pl.DataFrame(rows, schema=schema, orient="row"), "made")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.txt", "1 a b\n0 c/1.wav d\n0 a d\n"),
        ("t.txt", "1 a b\r\n0 c/1.wav d\r\n0 a d\r\n"),
        ("t.txt", "\ufeff1 a b\n0 c/1.wav d\n0 a d"),
        ("t.txt", "1\ta\tb\n\n0  c/1.wav  d \n0 a d\n\n"),
        ("t", "a b target\nc/1.wav d nontarget\na d nontarget\n"),
        ("t.csv", "enrol,test,target\na,b,1\nc/1.wav,d,0\na,d,0\n"),
        ("t.csv", "score,target,enroll,test\r\n0.5,true,a,b\r\n0,False,c/1.wav,d\r\n0,nontarget,a,d\r\n"),
        ("t.tsv", "enrol\ttest\ttarget\na\tb\ttarget\nc/1.wav\td\t0\na\td\t0\n"),
    ],
)
def test_formats_are_found_out(tmp_path: Path, name: str, text: str) -> None:
    trials = read_trials(write(tmp_path / name, text))
    assert trials.frame.rows() == ROWS
    assert (len(trials), trials.n_target, trials.n_nontarget, trials.n_unknown) == (3, 1, 2, 0)


def test_lists_without_labels(tmp_path: Path) -> None:
    for name, text in (("t.txt", "a b\nc d\n"), ("t.csv", "enrol,test\na,b\nc,d\n")):
        trials = read_trials(write(tmp_path / name, text))
        assert trials.frame.rows() == [("a", "b", None), ("c", "d", None)]
        assert (trials.n_target, trials.n_nontarget, trials.n_unknown) == (0, 0, 2)
    some = read_trials(write(tmp_path / "t.csv", "enrol,test,target\na,b,\nc,d,1\n"))
    assert some.frame["target"].to_list() == [None, True]


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("t.txt", "", None, "no trials"),
        ("t.txt", "\n \n", None, "no trials"),
        ("t.csv", "enrol,test,target\n", None, "no trials"),
        ("t.txt", "1 a b\n0 a\n", 2, "2 fields, voxceleb has 3: '0 a'"),
        ("t.txt", "1 a b\n\n0 a b c\n", 3, "4 fields, voxceleb has 3"),
        ("t.txt", "1 a b\n0 a c\n2 a b\n", 3, "the label is '2', voxceleb has 1 or 0"),
        ("t.txt", "1 a b\n\na b target\n", 3, "the label is 'a', voxceleb has 1 or 0"),
        ("t.txt", "a b target\nc d nontarget\n1 a b\n", 3, "the label is 'b', kaldi has target or nontarget"),
        ("t.txt", "a b\n1 a b\n", 2, "3 fields, voxsrc has 2"),
        ("t.txt", "1 a b\na b\n", 2, "2 fields, voxceleb has 3"),
        ("t.txt", "\na b c\n", 2, "'a b c' is none of"),
        ("t.txt", "a\n", 1, "'a' is none of"),
        ("t.txt", "1 a target\n", 1, "fits both voxceleb and kaldi; name the format"),
        ("t.csv", "enrol,test,target\na,b,1\na,c\n", 3, "2 fields, the header has 3"),
        ("t.csv", "enrol,test,target\na,b,1\na,c,x\n", 3, "'x' is no label"),
        ("t.csv", "enrol,target\na,1\n", None, "column test is missing; there is enrol, target"),
        ("t.csv", "enrol,test\na,b\na,\n", None, "trial 2"),
    ],
)
def test_malformed_and_mixed_lists_are_refused_with_the_line(
    tmp_path: Path, name: str, text: str, line: int | None, words: str
) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(TrialsError) as caught:
        read_trials(path)
    assert (caught.value.source, caught.value.line) == (str(path), line)
    assert words in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"1 a b\n0 \xff b\n")
    with pytest.raises(TrialsError, match="not UTF-8") as caught:
        read_trials(path)
    assert caught.value.line == 2


def test_a_named_format_is_insisted_on(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "1 a target\n")
    assert read_trials(path, "voxceleb").frame.rows() == [("a", "target", True)]
    assert read_trials(path, "kaldi").frame.rows() == [("1", "a", True)]
    assert read_trials(path, "voxsrc").frame.rows() == [("a", "target", True)]
    with pytest.raises(TrialsError, match="known are csv, kaldi, parquet, voxceleb, voxsrc"):
        read_trials(path, "nist")


_NAME = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cn", "Cs", "Mn", "Zs", "Zl", "Zp"]), min_size=1).filter(
    lambda text: len(text.split()) == 1 and text.split()[0] == text and "\ufeff" not in text
)


@pytest.mark.parametrize("fmt", FORMATS)
@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(_NAME, _NAME, st.booleans()), min_size=1, max_size=10))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, fmt: str, rows: list) -> None:
    path = tmp_path_factory.getbasetemp() / f"round_{fmt}"
    trials = trials_of(rows)
    write_trials(trials, path, fmt)
    again = read_trials(path, fmt)
    assert again.frame.rows() == rows
    assert again.sha256 == trials.sha256


# Names that begin alike sort by what the tab behind them does, not by their ends.
_HASHED = st.sampled_from(["a", "ab", "a\x01", "a b", "é", '"'])


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(_HASHED, _HASHED, st.sampled_from([True, False, None]))),
    draw=st.randoms(use_true_random=False),
)
def test_the_hash_is_of_the_sorted_lines_and_knows_no_order(rows: list, draw) -> None:
    label = {True: "1", False: "0", None: "?"}
    lines = sorted(f"{enrol}\t{test}\t{label[target]}\n".encode() for enrol, test, target in rows)
    expected = hashlib.sha256(b"".join(lines)).hexdigest()
    with mock.patch("nestvox.corpora.trials._LINES_AT_ONCE", 3):
        assert trials_of(rows).sha256 == expected
    shuffled = list(rows)
    draw.shuffle(shuffled)
    assert trials_of(shuffled).sha256 == expected


def test_the_hash_tells_sides_labels_and_doubles_apart() -> None:
    variants = [[("a", "b", True)], [("b", "a", True)], [("a", "b", False)], [("a", "b", None)], [("a", "b", True)] * 2]
    assert len({trials_of(rows).sha256 for rows in variants}) == 5


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "T.CSV", "t.parquet", "t.txt", "t", "t.lst"])
def test_a_list_is_written_as_its_name_is_read(tmp_path: Path, name: str) -> None:
    trials = trials_of(ROWS)
    write_trials(trials, tmp_path / name)
    assert read_trials(tmp_path / name).sha256 == trials.sha256


@pytest.mark.parametrize(
    ("name", "fmt"), [("t.csv", "voxceleb"), ("t.parquet", "csv"), ("t.tsv", "kaldi"), ("t.tsv", "parquet")]
)
def test_a_list_that_would_be_read_as_another_is_not_written(tmp_path: Path, name: str, fmt: str) -> None:
    with pytest.raises(TrialsError, match="is read as"):
        write_trials(trials_of(ROWS), tmp_path / name, fmt)
    assert not (tmp_path / name).exists()


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    with pytest.raises(TrialsError, match="'a b' has a blank in it; write csv or parquet"):
        write_trials(trials_of([("a b", "c", True)]), path)
    with pytest.raises(TrialsError, match="1 of 2 trials have no label; write csv or parquet"):
        write_trials(trials_of([("a", "b", None), ("a", "c", True)]), path, "voxsrc")
    with pytest.raises(TrialsError, match="1 of 1 trials have no label; write voxsrc, csv or parquet"):
        write_trials(trials_of([("a", "b", None)]), path, "kaldi")
    with pytest.raises(TrialsError, match="unknown format 'txt'"):
        write_trials(trials_of(ROWS), path, "txt")
    assert not path.exists()
    write_trials(trials_of([("a", "b", None)]), path, "voxsrc")
    assert path.read_bytes() == b"a b\n"
    write_trials(trials_of(ROWS), path, "kaldi")
    assert path.read_bytes() == b"a b target\nc/1.wav d nontarget\na d nontarget\n"
    write_trials(trials_of(ROWS), path)
    assert path.read_bytes() == b"1 a b\n0 c/1.wav d\n0 a d\n"


@pytest.mark.parametrize("name", ["", " ", "a\tb", "a\nb"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(TrialsError, match=r"trial 2: .* is not a name"):
        trials_of([("a", "b", True), ("a", name, True)])


def test_the_public_lists_have_their_published_counts(lists_dir: Path) -> None:
    for name, trials, targets in (
        ("veri_test.txt", 37720, 18860),
        ("veri_test2.txt", 37611, 18802),
        ("voxsrc2021_val_trials.txt", 60000, 29969),
    ):
        listed = read_trials(lists_dir / name)
        assert (len(listed), listed.n_target, listed.n_nontarget) == (trials, targets, trials - targets)
    scores = read_scores(lists_dir / "voxsrc2021_val_scores.txt")
    assert scores.select("enrol", "test").equals(listed.frame.select("enrol", "test"))
    assert scores["score"].n_unique() == 451


def test_a_list_of_the_size_of_voxceleb1_h_is_read_whole(tmp_path: Path) -> None:
    lines = [
        f"{i % 2} id{i % 1251:05}/x6uYqmx31kE/{i:05}.wav id{i % 977:05}/8jEAjG6SegY/00008.wav\n" for i in range(580_000)
    ]
    path = write(tmp_path / "t.txt", "".join(lines))
    trials = read_trials(path)
    assert (len(trials), trials.n_target) == (580_000, 290_000)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.txt", "0.5 a b\n-1 c d\n"),
        ("s.txt", "a b 0.5\r\nc d -1\r\n"),
        ("s.txt", "a  b\t5e-1\n\nc d -1.0\n"),
        ("s.csv", "score,test,enrol\n0.5,b,a\n-1,d,c\n"),
    ],
)
def test_scores_in_either_order(tmp_path: Path, name: str, text: str) -> None:
    frame = read_scores(write(tmp_path / name, text))
    assert frame.select("enrol", "test", "score").rows() == [("a", "b", 0.5), ("c", "d", -1.0)]


def test_scores_between_names_that_are_numbers(tmp_path: Path) -> None:
    assert read_scores(write(tmp_path / "s", "12 0 0.5\n1 2 1\n")).rows() == [("12", "0", 0.5), ("1", "2", 1.0)]
    assert read_scores(write(tmp_path / "s", "0.5 12 0\n1 1 2\n")).rows() == [("12", "0", 0.5), ("1", "2", 1.0)]
    with pytest.raises(ScoresError, match="both ends of the lines are numbers"):
        read_scores(write(tmp_path / "s", "1 2 3\n"))


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("s.txt", "", None, "no scores"),
        ("s.txt", "a b c\n", 1, "neither 'score enrol test' nor 'enrol test score'"),
        ("s.txt", "0.5 a b\n\n0.5 a\n", 3, "2 fields"),
        ("s.txt", "0.5 a b\n\nx a b\n", 3, "the score is 'x', no finite number"),
        ("s.txt", "a b 0.5\na b nan\n", 2, "the score is 'nan', no finite number"),
        ("s.csv", "enrol,test,score\na,b,1\na,b,inf\n", 3, "the score is 'inf', no finite number"),
        ("s.csv", "enrol,test\na,b\n", None, "column score is missing"),
        ("s.csv", "enrol,test,score\na,,1\n", 2, "a name is empty"),
    ],
)
def test_malformed_scores(tmp_path: Path, name: str, text: str, line: int | None, words: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(ScoresError) as caught:
        read_scores(path)
    assert (caught.value.source, caught.value.line) == (str(path), line)
    assert words in str(caught.value)


def test_its_repr_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("1 a b\n0 a c\n0 b c\n")
    trials = read_trials(tmp_path / "t.txt")
    assert repr(trials) == f"Trials('t.txt', 1 target + 2 nontarget, sha256 {trials.sha256[:16]})"


@pytest.mark.parametrize("name", ["l.csv", "l.tsv"])
@pytest.mark.parametrize("mark", ["\t", ",", ";", "|"])
def test_columns_that_something_else_divides_are_told(tmp_path: Path, name: str, mark: str) -> None:
    path = tmp_path / name
    path.write_text(f"enrol{mark}test{mark}target\na{mark}b{mark}1\n")
    if {"l.csv": ",", "l.tsv": "\t"}[name] == mark:
        assert len(read_trials(path)) == 1
        return
    words = {"\t": "has tabs .* called .tsv", ",": "has commas .* called .csv", ";": "has semicolons", "|": "has bars"}
    with pytest.raises(TrialsError, match=words[mark]):
        read_trials(path)
