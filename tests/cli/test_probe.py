"""`nestvox probe`: table, verdict, JSON and figures; what is wrong ends with 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nestvox.cli.main import main


def test_a_short_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    import soundfile

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = ["utt_id\tpath\tspeaker\tsplit"]
    for split, number in [(split, n) for split in ("train", "dev", "test") for n in range(4)]:
        hum = np.sin(2 * np.pi * rng.uniform(200, 3000) * np.arange(8_000) / 16_000)
        for clip in range(3):
            name = f"{split}{number}-{clip}"
            soundfile.write(f"{name}.wav", 0.1 * hum + 0.05 * rng.standard_normal(8_000), 16_000)
            rows.append(f"{name}\t{name}.wav\t{split}{number}\t{split}")
    Path("t.tsv").write_text("\n".join(rows) + "\n")
    names = [row.split("\t")[0] for row in rows if row.endswith("\ttest")]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    Path("t.txt").write_text("".join(f"{int(a[:5] == b[:5])} {a} {b}\n" for a, b in pairs))
    call = ["probe", "log-mel", "t.tsv", "--trials", "t.txt", "--out", "out", "--json", "found.json"]
    with pytest.raises(SystemExit) as end:
        main([*call, "--rungs", "mean+std,whitened,plda,linear", "--leaky"])
    shown = capsys.readouterr().out
    assert end.value.code == 0, shown
    assert "linear [leaky]" in shown
    assert "an adapter on these frames is" in shown
    assert "fitted on 4 speakers, 12 utterances; chosen on 4 speakers, 12 utterances" in shown
    found = json.loads(Path("found.json").read_text())
    assert [row["rung"] for row in found["rungs"]] == ["mean+std", "whitened", "plda", "linear", "linear"]
    assert found == json.loads(Path("out/probe.json").read_text())
    assert {row["positive_pairs"] for row in found["rungs"]} == {12}
    for name in ("ladder.svg", "det.svg"):
        assert Path("out", name).read_text().startswith("<svg")
    for wrong in (["--rungs", "nonesuch"], ["--layers", "nonesuch"], ["--fit-split", "nonesuch"]):
        with pytest.raises(SystemExit) as end:
            main([*call[:7], *wrong])
        assert (end.value.code, "nonesuch" in capsys.readouterr().err) == (2, True)
