"""Text that comes from outside, made fit for a line of a terminal, a log or a page: nothing in it acts or hides."""

from __future__ import annotations

import unicodedata

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Joiners change how neighbours are drawn and are part of words in several scripts.
_JOINERS = "\u200c\u200d"
# Control characters, format characters (bidi overrides, invisible marks, tags), halves of surrogate pairs, line ends.
_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def shown(text: object, *, keep: str = "") -> str:
    r"""Return `text` with every character that a terminal would obey, or nobody would see, as its escape.

    These are the control characters (escape sequences, line ends and tabs too), direction overrides and other invisible
    format characters, and the halves of surrogates as which Python keeps bytes of file names that are no UTF-8.

    Args:
        text: anything; what is no text is shown as `str` shows it.
        keep: characters that stay, e.g. line ends of a message that has several lines.

    Returns:
        Text of one line, which can be written in any encoding of Unicode: ``a\nb`` for a name with a line end in it.
    """
    plain = str(text)
    if plain.isprintable():  # true of nothing that is escaped here
        return plain
    return "".join(c if c in keep else _escaped(c) for c in plain)


def _escaped(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _ACTING:
        return character
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name, as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
