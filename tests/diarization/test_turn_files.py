"""Turns and scored stretches in files: what is read, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestvox.diarization import Turn, read_turns, read_uem, write_turns, write_uem
from nestvox.errors import NestvoxError, TableError

TURNS = (Turn("a", 0.0, 1.5, "ann"), Turn("a", 1.25, 2.0, "bob"), Turn("b", 10.125, 0.25, "ann"))


@pytest.mark.parametrize("suffix", [".rttm", ".json"])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str) -> None:
    write_turns(tmp_path / f"x{suffix}", reversed(TURNS))
    assert read_turns(tmp_path / f"x{suffix}") == TURNS


def test_labels_of_audacity(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0.5\t2\tann lee\n\\\t100.0\t200.0\n3.0\t3.0\tpoint\n")
    assert read_turns(tmp_path / "a.txt") == (Turn("a", 0.5, 1.5, "ann lee"),)
    assert read_turns(tmp_path / "a.txt", file="talk")[0].file == "talk"
    write_turns(tmp_path / "b.txt", TURNS[:2])
    assert (tmp_path / "b.txt").read_text() == "0.000000\t1.500000\tann\n1.250000\t3.250000\tbob\n"
    with pytest.raises(NestvoxError, match="of one recording, got 2"):
        write_turns(tmp_path / "c.txt", TURNS)
    assert not (tmp_path / "c.txt").exists()


def test_lines_of_rttm_as_others_write_them(tmp_path: Path) -> None:
    (tmp_path / "x.rttm").write_text(
        ";; a comment\r\n\nSPKR-INFO a 1 <NA> <NA> <NA> unknown ann <NA>\n"
        "SPEAKER a 1   3.0   0.00 <NA> <NA> ann <NA> <NA>\n"
        "SPEAKER  a 1  1.0  2.5  <NA> <NA> ann 0.9\n"
    )
    assert read_turns(tmp_path / "x.rttm") == (Turn("a", 1.0, 2.5, "ann"),)
    (tmp_path / "y.rttm").write_text("SPEAKER b 1 0 1 <NA> <NA> bob <NA> <NA>\n")
    assert [turn.speaker for turn in read_turns(tmp_path)] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SPEAKER a 1 1.0 2.0 <NA> <NA>", "has 10 fields"),
        ("SPEAKER a 1 1.0 2.0 <NA> <NA> ann lee is here", "has 10 fields"),
        ("SPEAKER a 1 x 2.0 <NA> <NA> ann <NA> <NA>", "the begin must be a number of seconds from 0 on, got 'x'"),
        ("SPEAKER a 1 1.0 -2.0 <NA> <NA> ann <NA> <NA>", "the duration must be"),
        ("SPEAKER a 1 nan 2.0 <NA> <NA> ann <NA> <NA>", "the begin must be"),
        ("SPEAKER a 1 inf 2.0 <NA> <NA> ann <NA> <NA>", "the begin must be"),
        ("SPEAKER a 1 1_0 2.0 <NA> <NA> ann <NA> <NA>", "the begin must be"),
        ("SPEAKER a 1 1.0 2.0 <NA> <NA> <NA> <NA> <NA>", "no name"),
        ("speaker a 1 1.0 2.0 <NA> <NA> ann <NA> <NA>", "begins with SPEAKER"),
    ],
)
def test_malformed_rttm_is_refused_with_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "x.rttm"
    path.write_text(f"SPEAKER a 1 0 1 <NA> <NA> ann <NA> <NA>\n{line}\n")
    with pytest.raises(TableError, match=said) as refused:
        read_turns(path)
    assert str(refused.value).startswith(f"{path}:2: ")


def test_names_that_rttm_cannot_hold(tmp_path: Path) -> None:
    for turn in (Turn("a b", 0.0, 1.0, "ann"), Turn("a", 0.0, 1.0, "ann lee")):
        with pytest.raises(NestvoxError, match="rename it"):
            write_turns(tmp_path / "x.rttm", [turn])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    ['{"turns": [{"file": "a", "start_s": -1, "duration_s": 1, "speaker": "ann"}]}', '{"turns": 1}', "[]", "{"],
)
def test_malformed_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(TableError, match=r"x\.json"):
        read_turns(tmp_path / "x.json")


def test_other_suffixes_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"\.rttm, \.json, \.txt"):
        read_turns(tmp_path / "x.csv")
    with pytest.raises(TableError, match=r"no \.rttm file"):
        read_turns(tmp_path)


def test_uem(tmp_path: Path) -> None:
    (tmp_path / "x.uem").write_text("b 1 5.0 7.0\n;; comment\na NA 0 10\nb 1 6.5 8\n")
    assert read_uem(tmp_path / "x.uem") == {"a": [(0.0, 10.0)], "b": [(5.0, 8.0)]}
    write_uem(tmp_path / "y.uem", {"c": [(1.0, 2.0)]})
    assert read_uem(tmp_path) == {"a": [(0.0, 10.0)], "b": [(5.0, 8.0)], "c": [(1.0, 2.0)]}
    for line, said in (("a 1 5", "4 fields"), ("a 1 5 5", "before it begins"), ("a 1 x 5", "the begin")):
        (tmp_path / "z.uem").write_text(f"a 1 0 1\n{line}\n")
        with pytest.raises(TableError, match=said) as refused:
            read_uem(tmp_path / "z.uem")
        assert "z.uem:2:" in str(refused.value)


def test_a_turn_is_a_stretch_of_time() -> None:
    for start, duration in ((-1.0, 1.0), (0.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(NestvoxError, match="a turn must"):
            Turn("a", start, duration, "ann")
    with pytest.raises(NestvoxError, match="must have a name"):
        Turn("a", 0.0, 1.0, " ")
