"""The table: types, names, places of errors, and what is written is what is read."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvox.audio.segment import Segment
from nestvox.corpora import UtteranceTable, read_trials, read_utterances, write_utterances
from nestvox.corpora.utterances import _relative_to
from nestvox.errors import TableError


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_types_and_missing_values(tmp_path: Path) -> None:
    table = read_utterances(
        write(
            tmp_path / "t.tsv",
            "utt_id\tpath\tspeaker\tstart_s\tduration_s\tsession\tsynthetic\tmicrophone\n"
            "a\tx/a.wav\ts1\t\t2.5\tm1\ttrue\tnear\n"
            "b\t/abs/b.wav\ts2\t1\t0.75\t\t0\t\n",
        )
    )
    assert len(table) == 2
    assert table.frame.to_dicts() == [
        {"utt_id": "a", "path": "x/a.wav", "speaker": "s1", "start_s": None, "duration_s": 2.5, "session": "m1"}
        | {"synthetic": True, "microphone": "near"},
        {"utt_id": "b", "path": "/abs/b.wav", "speaker": "s2", "start_s": 1.0, "duration_s": 0.75, "session": None}
        | {"synthetic": False, "microphone": None},
    ]
    assert table.audio_paths == [tmp_path / "x/a.wav", Path("/abs/b.wav")]
    assert table.audio_path(1) == Path("/abs/b.wav")
    assert table.labels == ("synthetic",)
    assert table.where(speaker="s2").labels == ()


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_csv_quoting_byte_order_mark_and_line_ends(tmp_path: Path, ends: str) -> None:
    text = '\ufeffutt_id, path ,speaker\na,"x, y.wav","the ""one"""\n\nb,b.wav,s\n'.replace("\n", ends)
    frame = read_utterances(write(tmp_path / "t.csv", text)).frame
    assert frame.rows() == [("a", "x, y.wav", 'the "one"'), ("b", "b.wav", "s")]


def test_tsv_knows_no_quotes(tmp_path: Path) -> None:
    frame = read_utterances(write(tmp_path / "t.tsv", 'utt_id\tpath\tspeaker\na\t"x.wav\ts\nb\ty".wav\ts\n')).frame
    assert frame["path"].to_list() == ['"x.wav', 'y".wav']


HEADER = "utt_id\tpath\tspeaker\tstart_s\tduration_s\tsynthetic\n"
GOOD = "a\ta.wav\ts\t0\t1.0\t\n"


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, None, "no header line"),
        ("utt_id\tpath\n", 1, "speaker", "column speaker is missing; the table has utt_id, path"),
        ("utt_id\tpath\tspeaker\tpath\n", 1, "path", "stands twice"),
        ("utt_id\tpath\t\tspeaker\n", 1, None, "column 3 of the header has no name"),
        (HEADER + GOOD + "b\tb.wav\ts\t0\t1\n", 3, None, "5 fields, the header has 6"),
        (HEADER + GOOD + "b\tb.wav\ts\t0\t1\t\t\n", 3, None, "7 fields, the header has 6"),
        (HEADER + GOOD + "\n" + " \tb.wav\ts\t0\t1\t\n", 4, "utt_id", "utt_id is empty"),
        (HEADER + GOOD + "b\t\ts\t0\t1\t\n", 3, "path", "path is empty"),
        (HEADER + GOOD + "b\tb.wav\t\t0\t1\t\n", 3, "speaker", "speaker is empty"),
        (HEADER + GOOD + "b\tb.wav\ts\t0\t1\t\n\n" + GOOD, 5, "utt_id", "'a' stands already on line 2"),
        (HEADER + GOOD + "b\tb.wav\ts\t0\t1,5\t\n", 3, "duration_s", "'1,5' is not a number of seconds"),
        (HEADER + GOOD + "b\tb.wav\ts\tnan\t1\t\n", 3, "start_s", "'nan' is not a number"),
        (HEADER + GOOD + "b\tb.wav\ts\t0\tinf\t\n", 3, "duration_s", "'inf' is not a number"),
        (HEADER + GOOD + "b\tb.wav\ts\t0\t-1\t\n", 3, "duration_s", "must be above 0 seconds, got -1"),
        (HEADER + GOOD + "b\tb.wav\ts\t-0.5\t1\t\n", 3, "start_s", "must be 0 or more seconds, got -0.5"),
        (HEADER + GOOD + "b\tb.wav\ts\t0\t1\tmaybe\n", 3, "synthetic", "'maybe' is neither true nor false"),
    ],
)
def test_errors_have_file_line_and_column(tmp_path: Path, text: str, line: int, column: str | None, words: str) -> None:
    path = write(tmp_path / "t.tsv", text)
    with pytest.raises(TableError) as caught:
        read_utterances(path)
    assert (caught.value.source, caught.value.line, caught.value.column) == (str(path), line, column)
    assert str(caught.value).startswith(f"{path}:{line}")
    assert words in str(caught.value)


def test_line_after_a_quoted_line_break(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'utt_id,path,speaker\na,"two\nlines.wav",s\nb,,s\n')
    with pytest.raises(TableError, match="path is empty") as caught:
        read_utterances(path)
    assert caught.value.line == 4


def test_text_that_is_not_utf8_and_quotes_that_never_end(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"utt_id,path,speaker\na,a.wav,s\nb,\xff.wav,s\n")
    with pytest.raises(TableError, match="not UTF-8") as caught:
        read_utterances(path)
    assert caught.value.line == 3
    with pytest.raises(TableError, match="end of data"):
        read_utterances(write(path, 'utt_id,path,speaker\na,"a.wav,s\n'))


def test_parquet_errors_name_the_row(tmp_path: Path) -> None:
    pl.DataFrame({"utt_id": ["a", "a"], "path": ["x", "y"], "speaker": [1, 2]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(TableError, match=r"\[utt_id\]: row 2: utt_id 'a' stands already on row 1"):
        read_utterances(tmp_path / "t.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(TableError, match="not a Parquet file"):
        read_utterances(tmp_path / "broken.parquet")
    with pytest.raises(TableError, match=r"tables are \.tsv, \.csv or \.parquet, not \.xlsx"):
        read_utterances(tmp_path / "t.xlsx")


def table_of(rows: list[tuple[str, str, str]], root: Path = Path()) -> UtteranceTable:
    return UtteranceTable(pl.DataFrame(rows, schema=["utt_id", "path", "speaker"], orient="row"), "made", root)


def test_names_resolve_by_id_then_by_path() -> None:
    table = table_of([("a", "x.wav", "s"), ("b", "y.wav", "s"), ("x.wav", "z.wav", "s")])
    assert table.resolve(["b", "x.wav", "y.wav", "z.wav", "b"]).tolist() == [1, 2, 1, 2, 1]
    assert table.resolve(pl.Series(["a"])).dtype == np.int64
    assert table.resolve([]).tolist() == []
    with pytest.raises(TableError, match=r"6 names \('n0', 'n1', 'n2', 'n3', 'n4' and 1 more\) not among the 3"):
        table.resolve(["a", *(f"n{i}" for i in range(6)), "n0"])


def test_a_path_that_two_utterances_share_names_neither() -> None:
    table = table_of([("a", "x.wav", "s"), ("b", "x.wav", "s")])
    assert table.resolve(["b", "a"]).tolist() == [1, 0]
    with pytest.raises(TableError, match=r"1 name \('x.wav'\) shared by several utterances"):
        table.resolve(["x.wav"])


def test_where(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.tsv", "utt_id\tpath\tspeaker\tsplit\na\tno.wav\ts\ttrain\nb\tnot.wav\ts\tdev\nc\tc\ts\t\n"
    )
    table = read_utterances(path)
    dev = table.where(split="dev", speaker="s")
    assert dev.frame["utt_id"].to_list() == ["b"]
    with pytest.raises(TableError, match=r"\[language\]: no such column; the table has utt_id, path, speaker, split"):
        table.where(language="en")
    for wanted, why in (
        ({"split": "tset"}, "no row has the split 'tset'; there are "),
        ({"speaker": "nobody"}, "no row has the speaker 'nobody'; there "),
    ):
        none = table.where(**wanted)
        assert len(none) == 0
        assert why in none.source


# Without what nobody sees (Cf, Mn): tests/test_names.py has it.
_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cn", "Cs", "Mn", "Zl", "Zp"]), min_size=1).filter(
    str.strip
)


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".parquet"])
@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(_TEXT, _TEXT, _TEXT, st.none() | st.floats(1e-3, 1e6), st.none() | _TEXT, st.booleans()),
        max_size=8,
        unique_by=lambda row: unicodedata.normalize("NFC", row[0]).strip(),
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list) -> None:
    schema = {"utt_id": pl.String, "path": pl.String, "speaker": pl.String, "duration_s": pl.Float64}
    schema |= {"session": pl.String, "synthetic": pl.Boolean}
    folder = tmp_path_factory.getbasetemp()
    table = UtteranceTable(pl.DataFrame(rows, schema=schema, orient="row"), "made", folder)
    write_utterances(table, folder / f"round{suffix}")
    again = read_utterances(folder / f"round{suffix}")
    assert again.frame.equals(table.frame)
    assert again.root == folder


def test_paths_still_find_the_audio_from_another_folder(tmp_path: Path) -> None:
    table = table_of([("a", "audio/a.wav", "s"), ("b", "/abs/b.wav", "s")], root=tmp_path / "one")
    write_utterances(table, tmp_path / "two" / "t.csv")
    again = read_utterances(tmp_path / "two" / "t.csv")
    assert again.frame["path"].to_list() == ["../one/audio/a.wav", "/abs/b.wav"]
    assert again.audio_path(0).resolve() == tmp_path / "one/audio/a.wav"


def test_a_tab_does_not_fit_into_a_tsv(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"\[path\]: 'a\\tb.wav' does not fit into a TSV"):
        write_utterances(table_of([("a", "a\tb.wav", "s")], root=tmp_path), tmp_path / "t.tsv")
    assert list(tmp_path.iterdir()) == []


def test_the_speech_corpus_reads_and_every_trial_resolves(speech_dir: Path) -> None:
    """Counts as its SOURCES.md states them."""
    table = read_utterances(speech_dir / "utterances.tsv")
    assert len(table) == 6988
    assert table.frame["speaker"].n_unique() == 2868
    assert {split: len(table.where(split=split)) for split in ("train", "dev", "test")} == {
        "train": 4907,
        "dev": 1043,
        "test": 1038,
    }
    assert all(path.is_file() for path in table.audio_paths)
    for split, trials, targets in (("dev", 14120, 3724), ("test", 13772, 3571)):
        listed = read_trials(speech_dir / f"trials_{split}.txt")
        assert (len(listed), listed.n_target) == (trials, targets)
        speakers = table.frame["speaker"].to_numpy()
        enrol, test = (table.resolve(listed.frame[side]) for side in ("enrol", "test"))
        np.testing.assert_array_equal(speakers[enrol] == speakers[test], listed.frame["target"].to_numpy())
        assert set(table.frame["split"][np.unique(enrol).tolist()]) == {split}


@settings(max_examples=200)
@given(
    st.sampled_from(["/corpus", "/corpus/tables", "/corpus/tables/deep", "/", "/elsewhere", "/corp"]),
    st.lists(
        st.lists(
            st.sampled_from(["a b", "tables", "deep", ".", "..", "", "x.wav", "c:", "é\\"]), min_size=1, max_size=4
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_paths_of_a_table_that_is_moved(folder: str, parts: list[list[str]]) -> None:
    paths = [path for part in parts if (path := "/".join(part))]
    if not paths:
        return
    rows = [(str(number), path, "s") for number, path in enumerate(paths)]
    moved = _relative_to(table_of(rows, root=Path("/corpus")), Path(folder))["path"].to_list()
    for before, after in zip(paths, moved, strict=True):
        assert os.path.normpath(Path(folder, after)) == os.path.normpath(Path("/corpus", before))


@pytest.mark.parametrize("suffix", ["tsv", "csv", "parquet"])
def test_a_full_disk_is_told_with_the_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pl.DataFrame({"utt_id": ["a"], "path": ["a.wav"], "speaker": ["s"]})
    table = UtteranceTable(frame, "here", tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device (os error 28)")  # as polars says it

    monkeypatch.setattr(pl.DataFrame, "write_parquet" if suffix == "parquet" else "write_csv", full)
    with pytest.raises(TableError, match=rf"t\.{suffix}: cannot be written: No space left on device"):
        write_utterances(table, tmp_path / f"t.{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("column", "text", "problem"),
    [
        ("duration_s", "5e14", r"must be at most 10,000,000 seconds \(116 days\), got 5e\+14"),
        ("start_s", "1e8", "must be at most"),
        ("duration_s", "1e400", "is not a number of seconds"),
        ("duration_s", "-1", "above 0"),
        ("start_s", "-0.5", "0 or more"),
        ("start_s", "nan", "is not a number of seconds"),
        ("channel", "-1", "is not the number of a channel"),
        ("channel", "left", "is not the number of a channel"),
        ("channel", "0.5", "is not the number of a channel"),
        ("channel", "1e3", "is not the number of a channel"),
        ("channel", "99999", "is not the number of a channel"),
    ],
)
def test_numbers_that_no_recording_has(tmp_path: Path, column: str, text: str, problem: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"utt_id,path,speaker,{column}\nu1,a.wav,s,1\nu2,b.wav,s,{text}\n")
    with pytest.raises(TableError, match=problem) as raised:
        read_utterances(file)
    assert (raised.value.line, raised.value.column) == (3, column)


def test_what_a_row_is_as_audio(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(
        "utt_id,path,speaker,start_s,duration_s,channel\nu1,a.wav,s,1.5,2,1\nu2,b.wav,s,,,\nu3,b.wav,s,,3,0.0\n"
    )
    table = read_utterances(file)
    expected = [
        Segment(tmp_path / "a.wav", 1.5, 2.0, 1),
        Segment(tmp_path / "b.wav"),
        Segment(tmp_path / "b.wav", None, 3.0, 0),
    ]
    assert table.segments() == [table.segment(row) for row in range(3)] == expected
    assert table.with_channel(2).frame["channel"].to_list() == [1, 2, 0]


def test_codecs_of_older_augmented_tables_are_no_channels(tmp_path: Path) -> None:
    file = tmp_path / "t.tsv"
    file.write_text(
        "utt_id\tpath\tspeaker\tnoise\tsnr_db\treverb\tchannel\taugmented\n"
        "u1\ta.flac\ts\tnone\t\tfalse\tmp3\ttrue\nu2\tb.flac\ts\tnone\t\tfalse\tnone\ttrue\n"
    )
    table = read_utterances(file)
    assert table.frame["codec"].to_list() == ["mp3", "none"]
    assert [segment.channel for segment in table.segments()] == [None, None]


def test_its_repr_is_one_line() -> None:
    frame = pl.DataFrame({"utt_id": ["a", "b"], "path": ["a", "b"], "speaker": ["x", "x"], "synthetic": [True, False]})
    table = UtteranceTable(frame, "far/away.tsv", Path())
    assert repr(table) == "UtteranceTable('away.tsv', 2 utterances of 1 speakers, synthetic)"
