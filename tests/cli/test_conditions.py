"""Whoever makes numbers of recordings says which of them are doubtful, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from typer.testing import CliRunner

RATE = 16_000
SAID = "5 of 20 recordings are doubtful: 2 dc-offset, 1 short, 1 partial, 1 channels-differ."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    from nestvox.encoders.ge2e import GE2E
    from nestvox.model.speaker_model import SpeakerModel

    made = tmp_path_factory.mktemp("conditions")
    torch.manual_seed(0)
    SpeakerModel(GE2E(), name="untrained").save(made / "model")
    draw = np.random.default_rng(0)
    rows = []
    for number in range(20):
        samples = 0.1 * draw.standard_normal((3 * RATE, 1))
        row = {"utt_id": f"u{number}", "path": f"{number}.wav", "speaker": f"s{number // 2}", "session": f"{number}"}
        if number in (1, 4):
            samples += 0.05
        elif number == 2:
            samples = samples[: int(1.9 * RATE)]
        elif number == 3:
            row |= {"start_s": 0.5, "duration_s": 9.0}
        elif number == 6:
            samples = np.hstack([samples, 0.1 * draw.standard_normal(samples.shape)])
        soundfile.write(made / f"{number}.wav", samples, RATE, subtype="FLOAT")
        rows.append(row)
    pl.DataFrame(rows, infer_schema_length=None).write_csv(made / "t.tsv", separator="\t")
    pairs = [(first, second) for first in range(20) for second in range(first)]
    lines = [f"{int(first // 2 == second // 2)} u{first} u{second}\n" for first, second in pairs]
    (made / "trials.txt").write_text("".join(lines))
    run(made, "embed t.tsv --model model --out store")
    return made


def run(folder: Path, line: str) -> str:
    from nestvox.cli.app import app

    paths = {path.name: path for path in folder.iterdir()}
    words = [str(paths.get(word, word)) for word in line.split()]
    for option in ("--out", "--json", "--rotated"):
        if option in words:
            place = words.index(option) + 1
            words[place] = str(folder / words[place])
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    "line",
    [
        "embed t.tsv --model model --out again",
        "cache t.tsv --model model --out cached --variants 2",
        "evaluate --store store --trials trials.txt --bootstrap 50",
        "evaluate --model model --table t.tsv --trials trials.txt --bootstrap 50",
        "compare store.csv model --table t.tsv --trials trials.txt --bootstrap 50 --permutations 50",
        "calibrate --store store --trials trials.txt --out llr.json",
        "threshold --store store --trials trials.txt --eer --out far.json",
        "plan enrol --table t.tsv --store store --clips 1",
        "plan enrol --table t.tsv --model model --clips 1",
        "rotate store --out rotation --dims 16,64",
        "export store --out x.npy",
        "export store --out x.parquet",
    ],
)
def test_every_command_says_it(folder: Path, line: str) -> None:
    if "store.csv" in line and not (folder / "store.csv").exists():
        draw = np.random.default_rng(1)
        frame = pl.read_csv(folder / "trials.txt", separator=" ", has_header=False, new_columns=["target", "a", "b"])
        scores = pl.DataFrame({"enrol": frame["a"], "test": frame["b"], "score": draw.standard_normal(len(frame))})
        scores.write_csv(folder / "store.csv")
    assert SAID in run(folder, line)


def test_systems_that_heard_the_same_say_it_once(folder: Path) -> None:
    from nestvox.encoders.ge2e import GE2E
    from nestvox.model.speaker_model import SpeakerModel

    SpeakerModel(GE2E(), name="another").save(folder / "second")
    shown = run(folder, "compare second model --table t.tsv --trials trials.txt --bootstrap 50 --json both.json")
    assert shown.count(SAID) == 1
    assert SAID in json.loads((folder / "both.json").read_text())["notes"]
