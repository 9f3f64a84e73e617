"""Text from outside on one line: what acts on a terminal or hides is an escape, all else is as it was."""

from __future__ import annotations

import pytest

from nestvox.shown import shown


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("plain name.wav", "plain name.wav"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b2J", "\\x9b2J"),  # the C1 form of the same
        ("a\nerror: b\r\tc", "a\\nerror: b\\r\\tc"),
        ("\x00\x07\x7f", "\\x00\\x07\\x7f"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("\u2066x\u2069\u200b\ufeff", "\\u2066x\\u2069\\u200b\\ufeff"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("lone \udcff byte, half \ud800", "lone \\xff byte, half \\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("Zoë 東京 नमस्\u200dते مرحبا 🎙", "Zoë 東京 नमस्\u200dते مرحبا 🎙"),
        ("[bold]net[v2] [/x]", "[bold]net[v2] [/x]"),
    ],
)
def test_what_acts_or_hides_is_an_escape(raw: str, expected: str) -> None:
    assert shown(raw) == expected
    shown(raw).encode()  # can be written


def test_what_is_kept_on_request() -> None:
    assert shown("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert shown(7) == "7"
