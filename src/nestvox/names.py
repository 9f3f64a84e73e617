"""Names of speakers, utterances and files: how they are compared, and how lines are split into them.

Python's own `str.split`, `str.strip` and `str.splitlines` know two dozen characters that end a word or a line: the
no-break space, the ideographic space of Chinese and Japanese texts, separators that only Unicode has. In a name they
are letters like any other. Kaldi's tables, trial lists and score files are divided by blanks and tabs, lines by line
feeds, and nothing else.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

BYTE_ORDER_MARK = "\ufeff"
"""What some programs put before a text to say that it is Unicode."""

NO_TEXT = "its name holds bytes that are no text, which no table can name: give it another name"
"""Why a file is left out of a table."""

_FIELD = re.compile(r"[^ \t]+")
# Characters that no screen shows: control characters that are no blanks (a NUL fills up names of fixed length), and
# those that Unicode calls Default_Ignorable_Code_Point: joiners, direction marks, variation selectors, fillers of
# Hangul syllables, the byte order mark.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Whatever may have another key than itself: not ASCII, a control character, or a blank at an end.
_MAY_DIFFER = r"[^\x20-\x7e]|^ | $"


def name_key(text: str) -> str:
    """Return what stands for a name where names are compared.

    Two names are one where they look alike: letters with marks are composed (Unicode NFC: macOS writes file names
    decomposed), characters that cannot be seen are dropped, and so are blanks at either end. Upper and lower case stay
    two names, and so do half and full width: `nestvox data check` names such pairs. What is shown or written is the
    name itself, never its key.
    """
    if text.isascii() and text.isprintable():
        return text.strip(" ")
    # Composed again at the end: what a joiner kept apart may compose without it.
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).strip()


def is_text(name: str) -> bool:
    """Whether a name can be written: Linux lets file names hold any bytes, which Python carries as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def key_column(names: pl.Series) -> pl.Series:
    """Return the `name_key` of every name of a text column (N,); nulls stay null."""
    odd = names.str.contains(_MAY_DIFFER).fill_null(value=False).arg_true()
    if not len(odd):
        return names
    keys = names.clone()  # `scatter` writes into what it is called on
    return keys.scatter(odd, [name_key(name) for name in names.gather(odd)])


def split_fields(line: str) -> list[str]:
    """Split a line at blanks and tabs, and nowhere else; a carriage return before its end is no part of it."""
    return _FIELD.findall(line.removesuffix("\n").removesuffix("\r"))


def split_first(line: str) -> tuple[str, str]:
    """Split a line into its first field and the rest, as Kaldi's tables have it; blanks at both ends are dropped.

    The rest may hold blanks, as paths do. Either is empty where it is not there.
    """
    text = line.removesuffix("\n").removesuffix("\r").strip(" \t")
    first = _FIELD.match(text)
    return (first[0], text[first.end() :].lstrip(" \t")) if first else ("", "")


def split_lines(text: str) -> list[str]:
    r"""Split a text at ``\n`` and ``\r\n``, and nowhere else; a byte order mark before a line is dropped.

    Such a mark stands within a text where files that begin with one were put end to end. The last line may end
    without a line feed.
    """
    lines = text.removesuffix("\n").split("\n")
    return [line.removeprefix(BYTE_ORDER_MARK).removesuffix("\r") for line in lines]
