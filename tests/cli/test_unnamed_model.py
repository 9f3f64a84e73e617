"""Commands that are given no model: which one answered stands in what they print and in their JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")

from nestvox.cli.main import main  # noqa: E402
from nestvox.encoders.ge2e import GE2E  # noqa: E402
from nestvox.model import loading  # noqa: E402
from nestvox.model.speaker_model import SpeakerModel  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unnamed")
    torch.manual_seed(0)
    SpeakerModel(GE2E(), name="strong").save(folder / "model")
    generator = np.random.default_rng(1)
    lines = ["utt_id\tpath\tspeaker"]
    for name in "ab":
        soundfile.write(folder / f"{name}.wav", 0.1 * generator.standard_normal(40_000), 16_000)
        lines.append(f"{name}\t{name}.wav\t{name}")
    (folder / "t.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("call", [["verify", "a.wav", "b.wav"], ["embed", "t.tsv"], ["cache", "t.tsv"]])
def test_the_model_that_answered_is_printed_and_written(
    call: list[str],
    named: bool,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[dict[str, Any]] = []

    def best(**given: Any) -> str:
        asked.append(given)
        return str(folder / "model")

    monkeypatch.setattr(loading, "best_encoder", best)
    monkeypatch.setattr(loading, "box_folder", lambda: None)
    monkeypatch.chdir(folder)
    given = ["--model", "model"] if named else []
    where = [] if call[0] == "verify" else ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main([*call, *given, *where, "--offline", "--json", str(tmp_path / "x.json")])
    printed = capsys.readouterr().out
    assert end.value.code == (3 if call[0] == "verify" else 0), printed
    assert [request["offline"] for request in asked] == ([] if named else [True])
    written = json.loads((tmp_path / "x.json").read_text())
    assert (written["model"], written["model_named"]) == ("strong", named)
    (line,) = [line.split() for line in printed.splitlines() if line.split()[:1] == ["model"]]
    assert ("strong, the best at hand," in " ".join(line)) is not named
    assert line[1].startswith("strong")
