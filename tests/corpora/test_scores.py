"""Score files as toolkits write them."""

from pathlib import Path

import polars as pl
import pytest

from nestvox.corpora import Trials, read_scores
from nestvox.corpora.scores import write_scores
from nestvox.errors import ScoresError
from nestvox.scoring.refusals import align_scores

WANTED = [("a", "b", 0.61234, True), ("c", "d", -0.01, False)]


@pytest.mark.parametrize(
    "text",
    [
        # wespeaker: '{} {} {:.5f} {}', and after score normalisation four more numbers.
        "a b 0.61234 target\nc d -0.01000 nontarget\n",
        "a b 0.61234 target 17.1 16.2 0.1 0.2\nc d -0.01000 nontarget 17.1 16.2 0.1 0.2\n",
        # 3D-Speaker: the line of the trials, then ' %.5f'; its trials have words or numbers.
        "a b target 0.61234\nc d nontarget -0.01000\n",
        "a b 1 0.61234\nc d 0 -0.01000\n",
        "1 a b 0.61234\n0 c d -0.01\n",
        "a b 0.61234 1\r\nc d -0.01 0\r\n",
        "\na\tb\t0.61234\t1.0\nc d -0.01  0.0\n",
    ],
)
def test_scores_with_labels(tmp_path: Path, text: str) -> None:
    (tmp_path / "trials.score").write_bytes(text.encode())
    found = read_scores(tmp_path / "trials.score")
    assert found.select("enrol", "test", "score", "target").rows() == WANTED


def test_names_that_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("17 4 1 0.5\n0 1 0 -2\n")
    assert read_scores(file).rows() == [("17", "4", 0.5, True), ("0", "1", -2.0, False)]
    file.write_text("12 b 0.5\n13 d 1\n14 7 2\n")  # only the last column is numbers throughout
    assert read_scores(file).rows() == [("12", "b", 0.5), ("13", "d", 1.0), ("14", "7", 2.0)]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("1 0 1 0.5\n0 1 0 -2\n", 1, "each of two fields can be the label"),
        ("\na b 0 1\nc d 1 0\n", 2, "each of two fields can be the label"),
        ("a b c d\n", 1, "no field can be the label"),
        ("a b 0.5 target\nc d 0.5 yes\n", 2, "the label is 'yes'"),
        ("a b 0.5 target\n\nc d x nontarget\n", 3, "the score is 'x'"),
        ("a b 0.5 target\nc d 0.5\n", 2, "3 fields, a line of scores has 4"),
        ("a b 0.5 target 1 2\n", 1, "is neither"),
    ],
)
def test_lines_that_do_not_fit(tmp_path: Path, text: str, line: int, words: str) -> None:
    (tmp_path / "s").write_text(text)
    with pytest.raises(ScoresError) as caught:
        read_scores(tmp_path / "s")
    assert caught.value.line == line
    assert words in str(caught.value)


def test_labels_of_scores_must_be_those_of_the_trials(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a b 0.6 target\nc d 0.1 nontarget\n")
    scores = read_scores(tmp_path / "s")
    frame = pl.DataFrame({"enrol": ["c", "a"], "test": ["d", "b"], "target": [False, True]})
    assert align_scores(Trials(frame, "t"), scores)[0].tolist() == [0.1, 0.6]
    turned = frame.with_columns(~pl.col("target"))
    with pytest.raises(ScoresError, match=r"2 of 2 labels .* differ from those of t: .*c d"):
        align_scores(Trials(turned, "t"), scores, source="s")


def test_a_header_with_labels(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("enroll,test,label,score\na,b,1.0,0.61234\nc,d,0.0,-0.01\n")
    assert read_scores(tmp_path / "s.csv").select("enrol", "test", "score", "target").rows() == WANTED


def test_written_scores_are_read_again(tmp_path: Path) -> None:
    frame = pl.DataFrame({"enrol": ["id1/a.wav", "c"], "test": ["b", "d"], "score": [0.1 + 0.2, -1e-9]})
    write_scores(frame, tmp_path / "scores.txt")
    assert (tmp_path / "scores.txt").read_text() == "0.30000000000000004 id1/a.wav b\n-1e-09 c d\n"
    assert read_scores(tmp_path / "scores.txt").equals(frame)
    with pytest.raises(ScoresError, match="'a b' has a blank"):
        write_scores(frame.with_columns(enrol=pl.lit("a b")), tmp_path / "other.txt")
    assert not (tmp_path / "other.txt").exists()
