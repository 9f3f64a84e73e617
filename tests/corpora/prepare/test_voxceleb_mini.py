"""The small VoxCeleb of the distillation write-up, drawn from names alone."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from nestvox.cli.data import app
from nestvox.corpora import (
    Trials,
    UtteranceTable,
    prepare_voxceleb_mini,
    read_trials,
    read_utterances,
    write_trials,
    write_utterances,
)
from nestvox.errors import TableError, TrialsError

VIDEO = "Y8h_VOBuels"


def table(numbers: range, test: range = range(0), files: int = 2) -> UtteranceTable:
    rows = [
        {
            "utt_id": f"id{number:05}/{VIDEO}/{file:05}.wav",
            "path": f"wav/id{number:05}/{VIDEO}/{file:05}.wav",
            "speaker": f"id{number:05}",
            "split": "test" if number in test else "dev",
        }
        for number in numbers
        for file in range(files)
    ]
    return UtteranceTable(pl.DataFrame(rows), "vox.tsv", Path("vox"))


VOX1 = table(range(10_001, 11_252), test=range(10_270, 10_310))
VOX2 = table(range(1, 201), files=1)


def pairs(flat: bool = False) -> Trials:
    """Every speaker with itself, and with the next of the fifty that the publisher names, and with one that is not."""
    name = "id{}/{}_" + VIDEO + ".wav" if flat else "id{}/" + VIDEO + "/{}.wav"
    chosen = sorted(random.Random(42).sample([n for n in range(10_001, 11_252) if not 10_270 <= n <= 10_309], 50))
    rows = [(name.format(n, "00000"), name.format(n, "00001"), True) for n in range(10_001, 11_252)]
    rows += [(name.format(a, "00000"), name.format(b, "00001"), False) for a, b in itertools.pairwise(chosen)]
    rows += [(name.format(10_270, "00000"), name.format(a, "00001"), False) for a in chosen]
    return Trials(pl.DataFrame(rows, schema=["enrol", "test", "target"], orient="row"), "list_test_all2.txt")


def test_the_speakers_are_those_of_the_write_up() -> None:
    """Ten of the fifty stand in its README."""
    found = prepare_voxceleb_mini(VOX1, VOX2, pairs())
    speakers = sorted(found.dev.frame["speaker"].unique())
    assert len(speakers) == 50
    assert speakers[:5] == ["id10014", "id10052", "id10055", "id10062", "id10066"]
    assert speakers[-5:] == ["id11171", "id11190", "id11223", "id11247", "id11250"]
    assert found.train.frame["speaker"].n_unique() == 140
    assert len(found.dev) == 100  # all their utterances


@pytest.mark.parametrize("flat", [False, True])
def test_pairs_remain_whose_speakers_are_both_drawn(flat: bool) -> None:
    found = prepare_voxceleb_mini(VOX1, VOX2, pairs(flat))
    assert (found.trials.n_target, found.trials.n_nontarget) == (50, 49)
    names = set(found.trials.frame["enrol"]) | set(found.trials.frame["test"])
    assert names <= set(found.dev.frame["utt_id"])
    assert (found.balanced.n_target, found.balanced.n_nontarget) == (49, 49)
    assert set(found.balanced.frame.rows()) < set(found.trials.frame.rows())
    assert "50 target and 49 non-target pairs, there 12,094 and 465" in found.notes[2]
    assert "140 of 200 speakers, 140 utterances; there 140 of 5,991, 30,179" in found.notes[0]


def test_what_is_refused() -> None:
    with pytest.raises(TableError, match="140 speakers of VoxCeleb2 wanted, and 99"):
        prepare_voxceleb_mini(VOX1, table(range(1, 100), files=1), pairs())
    with pytest.raises(TableError, match="1 named speakers are not there: id99999"):
        prepare_voxceleb_mini(VOX1, VOX2, pairs(), speaker_list=["id00001", "id99999"])
    with pytest.raises(TrialsError, match="0 target and 0 non-target pairs: give list E"):
        prepare_voxceleb_mini(VOX1, VOX2, Trials(pairs().frame.tail(1), "veri_test.txt"))
    fewer = UtteranceTable(VOX1.frame.filter(~pl.col("utt_id").str.ends_with("00001.wav")), "v", Path("v"))
    with pytest.raises(TrialsError, match="50 utterances are not in v"):
        prepare_voxceleb_mini(fewer, VOX2, pairs())


def test_the_command(tmp_path: Path) -> None:
    write_utterances(VOX1, tmp_path / "vox1.tsv")
    write_utterances(VOX2, tmp_path / "vox2.tsv")
    write_trials(pairs(), tmp_path / "e.txt")
    (tmp_path / "speakers.txt").write_text("id00003\nid00007\n")
    words = ["prepare", "voxceleb-mini", "vox1.tsv", "vox2.tsv", "--trials", "e.txt", "--speaker-list", "speakers.txt"]
    given = [str(tmp_path / word) if "." in word else word for word in words]
    done = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "mini")], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    mini = tmp_path / "mini"
    assert sorted(read_utterances(mini / "train.tsv").frame["speaker"]) == ["id00003", "id00007"]
    table = read_utterances(mini / "dev.tsv")
    assert (table.root / table.frame["path"][0]).resolve() == (
        VOX1.root / "wav" / "id10014" / VIDEO / "00000.wav"
    ).absolute()
    assert len(read_trials(mini / "trials.txt")) == 99
    assert len(read_trials(mini / "trials_balanced.txt")) == 98
