import polars as pl
import pytest

from nestvox.names import key_column, name_key, split_fields, split_first, split_lines

# Written out: an é composed and decomposed, Hangul composed and as jamo, an Å as letter and as the unit Ångström.
ALIKE = [
    ("Jos\u00e9", "Jose\u0301"),
    ("\uae40", "\u1100\u1175\u11b7"),
    ("\u00c5sa", "\u212bsa"),
    ("\ufeffid1", "id1"),
    ("id\u200b1", "id1"),
    ("\u0639\u0644\u06cc\u200c\u0631\u0636\u0627", "\u0639\u0644\u06cc\u0631\u0636\u0627"),
    ("id1 ", "id1"),
    ("\u3000id1\u00a0", "id1"),
    ("id1\t", "id1"),
    # Fillers of Hangul syllables, full and half width; a mark of music; what fills up names of a fixed length.
    ("\u115f\u1175", "\u1175"),
    ("\u3164id1", "id1"),
    ("id\uffa01", "id1"),
    ("\U0001d173id1", "id1"),
    ("id\u20651", "id1"),
    ("id1\x00\x00", "id1"),
    ("id\x7f1\x1b", "id1"),
    ("I\u0307", "\u0130"),
]
TWO = [("id1", "ID1"), ("a b", "ab"), ("1001", "1001.0"), ("\uff21", "A"), ("\u00e9", "e"), ("\uff76", "\u30ab")]
NEVER_SPLIT = "\u00a0\u3000\u0085\u2028\u2029\u2003\x1c\x1d\x1e\x1f\x0b\x0c"


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_that_look_alike_are_one(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)
    assert key_column(pl.Series([one, "x", None])).to_list() == key_column(pl.Series([other, "x", None])).to_list()


@pytest.mark.parametrize(("one", "other"), TWO)
def test_names_that_differ_stay_two(one: str, other: str) -> None:
    assert name_key(one) != name_key(other)


def test_plain_names_are_their_own_keys() -> None:
    names = pl.Series(["id10270/x6uYqmx31kE/00001.wav", "Jos\u00e9", "a b", "\u9648"])
    assert [name_key(name) for name in names] == names.to_list()
    assert key_column(names).to_list() == names.to_list()


def test_a_column_is_left_as_it_was() -> None:
    names = pl.Series(["a ", "b"])
    assert key_column(names).to_list() == ["a", "b"]
    assert names.to_list() == ["a ", "b"]


@pytest.mark.parametrize("letter", NEVER_SPLIT)
def test_only_blanks_tabs_and_line_feeds_divide(letter: str) -> None:
    assert split_fields(f" a{letter}b \t c\r\n") == [f"a{letter}b", "c"]
    assert split_lines(f"a{letter}b\r\nc\n\nd") == [f"a{letter}b", "c", "", "d"]


def test_marks_before_lines_are_dropped() -> None:
    assert split_lines("\ufeffa b\n\ufeffc d\n") == ["a b", "c d"]


def test_the_rest_of_a_line_may_hold_blanks() -> None:
    assert split_first(" utt\t a b.wav \r\n") == ("utt", "a b.wav")
    assert split_first("utt\u00a01 x\n") == ("utt\u00a01", "x")
    assert split_first("utt\n") == ("utt", "")
    assert split_first(" \t\n") == ("", "")
