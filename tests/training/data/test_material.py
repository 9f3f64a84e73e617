"""What training draws from besides the utterances themselves."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from nestvox.corpora.utterances import UtteranceTable
from nestvox.training.data.material import banks_of
from nestvox.training.recipe.recipe import load_recipe


def test_babble_is_made_of_the_stretches_that_the_table_names() -> None:
    # Two speakers of one recording: its beginning is the voice of the first only.
    rows = [("u0", "call.wav", "ann", 0.0, 2.0), ("u1", "call.wav", "ben", 30.0, 4.0)]
    columns = ["utt_id", "path", "speaker", "start_s", "duration_s"]
    table = UtteranceTable(pl.DataFrame(rows, schema=columns, orient="row"), "calls", Path("corpus"))
    voices = banks_of(load_recipe("unfreeze", []).data, table, 16_000).voices
    assert voices is not None
    found = [(voice.path, voice.speaker, voice.start_s, voice.duration_s) for voice in voices.voices]
    assert found == [(Path("corpus/call.wav"), "ann", 0.0, 2.0), (Path("corpus/call.wav"), "ben", 30.0, 4.0)]
