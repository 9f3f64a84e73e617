"""Whatever can be refused is refused before anything is embedded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

import nestvox.extraction.embed
from nestvox.cli.main import main
from nestvox.corpora.overlap import speaker_key
from nestvox.encoders.ge2e import GE2E
from nestvox.heads.rotation import truncation
from nestvox.model.speaker_model import SpeakerModel

SPEAKERS, TAKES, RATE = 6, 4, 16_000


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, trials of few and of enough pairs, two models (one was trained on a speaker), no audio worth hearing."""
    folder = tmp_path_factory.mktemp("order")
    lines, names = ["utt_id\tpath\tspeaker\tduration_s"], []
    for speaker in range(SPEAKERS):
        for take in range(TAKES):
            name = f"s{speaker}-{take}"
            soundfile.write(folder / f"{name}.wav", 0.1 * np.random.default_rng(speaker).normal(size=RATE), RATE)
            lines.append(f"{name}\t{name}.wav\ts{speaker}\t1.0")
            names.append((name, speaker))
    (folder / "table.tsv").write_text("\n".join(lines) + "\n")
    (folder / "table.tsv.json").write_text("no calibration")
    pairs = [
        (int(p == q), a, b) for i, (a, p) in enumerate(names) for b, q in names[i + 1 :] if p == q or (p + q) % 3 == 0
    ]
    (folder / "trials.txt").write_text("".join(f"{label} {a} {b}\n" for label, a, b in pairs))
    few = [pair for pair in pairs if pair[0]][:4] + [pair for pair in pairs if not pair[0]][:4]
    (folder / "few.txt").write_text("".join(f"{label} {a} {b}\n" for label, a, b in few))
    for seed, (name, speakers) in enumerate((("a", ()), ("b", (speaker_key("s2"),)))):
        torch.manual_seed(seed)
        SpeakerModel(GE2E(), truncation(256), name, training_speakers=speakers).save(folder / name)
    return folder


CALLS = {
    "compare: training speakers": ("compare {0}/a {0}/b --trials {0}/trials.txt --table {0}/table.tsv", "s2"),
    "compare: dims": ("compare {0}/a {0}/b --trials {0}/trials.txt --table {0}/table.tsv --dims 300", "1 and 256"),
    "compare: permutations": (
        "compare {0}/a {0}/b --trials {0}/trials.txt --table {0}/table.tsv --permutations 0",
        "permutation",
    ),
    "compare: one twice": ("compare {0}/a {0}/a --trials {0}/trials.txt --table {0}/table.tsv", "different names"),
    "compare: a broken one last": ("compare {0}/a {0}/no.txt --trials {0}/trials.txt --table {0}/table.tsv", "no.txt"),
    "evaluate: training speakers": ("evaluate --model {0}/b --trials {0}/trials.txt --table {0}/table.tsv", "s2"),
    "evaluate: dims": (
        "evaluate --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --dims 8,999",
        "1 and 256",
    ),
    "evaluate: baseline": (
        "evaluate --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --baseline x={0}/nothing",
        "nothing",
    ),
    "evaluate: no calibration there": (
        "evaluate --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --calibration {0}/a",
        "holds no calibration",
    ),
    "evaluate: condition": (
        "evaluate --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --condition mood",
        "no column 'mood'",
    ),
    "calibrate: no calibration file at --out": (
        "calibrate --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --out {0}/table.tsv.json",
        "not JSON",
    ),
    "threshold: no calibration file at --out": (
        "threshold --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --eer --out {0}/table.tsv.json",
        "not JSON",
    ),
    "calibrate: training speakers": ("calibrate --model {0}/b --trials {0}/trials.txt --table {0}/table.tsv", "s2"),
    "calibrate: too few": ("calibrate --model {0}/a --trials {0}/few.txt --table {0}/table.tsv", "cannot carry"),
    "calibrate: prior": ("calibrate --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --prior 2", "p_target"),
    "calibrate: costs": ("calibrate --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --c-fa -1", "c_fa"),
    "calibrate: column": (
        "calibrate --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --quality mood",
        "no column 'mood'",
    ),
    "threshold: training speakers": (
        "threshold --model {0}/b --trials {0}/trials.txt --table {0}/table.tsv --eer",
        "s2",
    ),
    "threshold: too few": (
        "threshold --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --far 0.001",
        "takes more than 3,000",
    ),
    "threshold: replicates": (
        "threshold --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --eer --bootstrap 3",
        "cannot bound",
    ),
    "threshold: seed": (
        "threshold --model {0}/a --trials {0}/trials.txt --table {0}/table.tsv --eer --seed -1",
        "seed",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_is_refused_before_anything_is_embedded(
    name: str, material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("it began to embed")

    monkeypatch.setattr(nestvox.extraction.embed, "embed_table", never)
    monkeypatch.setattr(SpeakerModel, "forward", never)
    call, words = CALLS[name]
    with pytest.raises(SystemExit) as stopped:
        main(call.format(material).split())
    printed = capsys.readouterr()
    assert stopped.value.code == 2, printed
    assert words in printed.err
