"""A network that fails on one recording, or gives no embedding of it: that utterance's failure, not the run's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nestvox.corpora.utterances import UtteranceTable
from nestvox.encoders.foreign.adapters import from_callable
from nestvox.errors import AudioError, ModelError
from nestvox.extraction.embed import embed_table
from nestvox.testing import make_noises

RATE = 16_000
ODD = 12_000  # samples of the recording that the network does not like


@pytest.fixture(params=[0, 4], ids=["the first", "the fifth"])
def odd(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def table(tmp_path: Path, odd: int) -> UtteranceTable:
    samples = [ODD if number == odd else 8_000 + 100 * number for number in range(8)]
    return make_noises(tmp_path, [count / RATE for count in samples])


def fails(audio: np.ndarray) -> object:
    raise ZeroDivisionError("no frames \x1b[31mleft")


WRONG: dict[str, tuple[Callable[[np.ndarray], object], str]] = {
    "an exception": (fails, r"ZeroDivisionError: no frames \\x1b\[31mleft"),
    "another size": (lambda audio: np.ones(5), r"shape \(5,\), expected \(3,\)"),
    "NaN": (lambda audio: np.array([1.0, np.nan, 0.0]), "not finite"),
    "infinity": (lambda audio: np.array([1.0, np.inf, 0.0]), "not finite"),
    "zeros": (lambda audio: np.zeros(3), "nothing but zeros"),
    "words": (lambda audio: "no", "no array of numbers"),
    "nothing": (lambda audio: None, "network odd"),
    "a scalar": (lambda audio: 1.0, r"shape \(\)"),
}


def network(wrong: Callable[[np.ndarray], object]) -> object:
    def embed(audio: np.ndarray) -> object:
        return wrong(audio) if len(audio) == ODD else np.array([audio.std(), 1.0, len(audio) / RATE])

    return from_callable(embed, sample_rate=RATE, name="odd", embedding_dim=3)


@pytest.mark.parametrize(("wrong", "words"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("batch_size", [1, 8])
def test_it_is_left_out_and_named(
    tmp_path: Path, table: UtteranceTable, odd: int, wrong: Callable[[np.ndarray], object], words: str, batch_size: int
) -> None:
    store = embed_table(network(wrong), table, tmp_path / "s", skip_bad=True, batch_size=batch_size, streams=1)
    assert sorted(store.utt_ids) == [f"u{number}" for number in range(8) if number != odd]
    assert [failure.utt_id for failure in store.metadata.failed] == [f"u{odd}"]
    import re

    assert re.search(words, store.metadata.failed[0].reason), store.metadata.failed[0].reason
    assert np.isfinite(store.vectors()).all()


@pytest.mark.parametrize("name", ["an exception", "NaN", "zeros"])
def test_without_leaving_out_the_utterance_is_named(tmp_path: Path, table: UtteranceTable, odd: int, name: str) -> None:
    with pytest.raises(AudioError, match=rf"{odd}\.wav: the network odd .*\(utterance u{odd}\).*--skip-bad"):
        embed_table(network(WRONG[name][0]), table, tmp_path / "s", batch_size=1, streams=1)


def test_a_network_that_takes_none_is_told_once(tmp_path: Path, table: UtteranceTable) -> None:
    none = from_callable(fails, sample_rate=RATE, name="odd", embedding_dim=3)
    with pytest.raises(AudioError, match=r"ZeroDivisionError.*nor does it take any other"):
        embed_table(none, table, tmp_path / "s", skip_bad=True)
    with pytest.raises(ModelError, match="no tap 'pooled'"):
        embed_table(network(fails), table, tmp_path / "t", tap="pooled", skip_bad=True)
