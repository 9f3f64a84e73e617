"""Settings that differ, named with both values."""

from __future__ import annotations

from typing import Any

import pytest

from nestvox.differences import differences, differences_in_words


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"seed": 0, "dims": (8, 24)}, {"seed": 0, "dims": [8, 24]}, ""),
        ({"seed": 0}, {"seed": 3}, "seed 0 there, 3 now"),
        (
            {"a": {"b": {"c": 1}}},
            {"a": {"b": {"c": 2, "d": "x"}}},
            "a.b.c 1 there, 2 now; a.b.d nothing there, 'x' now",
        ),
        ({"a": 1, "b": None}, {"b": 0.5}, "a 1 there, nothing now; b None there, 0.5 now"),
        ({"banks": {"noise": "f0"}}, {"banks": None}, "banks {'noise': 'f0'} there, None now"),
        (
            {"table_sha256": "ab" * 32},
            {"table_sha256": ""},
            f"the rows of the table (sha256 {'ab' * 6} there, none now)",
        ),
        ({"text": "y" * 100}, {"text": "z"}, f"text '{'y' * 59}... there, 'z' now"),
        (
            {"path": f"/{'long/' * 20}train"},
            {"path": f"/{'long/' * 20}elsewhere"},
            "path ...g/long/long/train' there, ...g/long/long/elsewhere' now",
        ),
        (dict.fromkeys("abcdefghijk", 0), {}, "; and 3 more"),
    ],
)
def test_every_setting_is_named_with_both_values(before: dict[str, Any], now: dict[str, Any], told: str) -> None:
    found = differences_in_words(differences(before, now))
    assert found.endswith(told) if told.startswith("; and") else found == told
