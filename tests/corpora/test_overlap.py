from __future__ import annotations

import hashlib

import pytest

from nestvox.corpora import refuse_overlap, speaker_key
from nestvox.errors import OverlapError


def test_a_key_is_the_start_of_the_sha256_of_the_name() -> None:
    assert speaker_key("id10270") == hashlib.sha256(b"id10270").hexdigest()[:16]
    assert speaker_key("Zoë") == hashlib.sha256("Zoë".encode()).hexdigest()[:16]


def test_overlap_is_refused_by_name_or_labelled() -> None:
    trained = {speaker_key(name) for name in ("a", "b", "c")}
    assert refuse_overlap(trained, ["d", "e"], allow=False) == ()
    assert refuse_overlap(set(), ["a"]) == ()
    with pytest.raises(OverlapError, match=r"^2 of the evaluated speakers were trained on: b, c; leave them out"):
        refuse_overlap(trained, ["c", "b", "d", "c"], allow=False)
    assert refuse_overlap(trained, ["c", "d"], allow=True) == ("leaky",)
    assert refuse_overlap(trained, ["d"], allow=True) == ()


def test_a_long_list_is_cut() -> None:
    names = [f"s{i:02}" for i in range(30)]
    with pytest.raises(OverlapError, match=r"^30 of .* s00, .*, s07 and 22 more; "):
        refuse_overlap({speaker_key(name) for name in names}, names)
