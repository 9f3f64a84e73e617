"""A whole ladder on a small world: unseen speakers, resumed where it stopped, leaky where it was asked to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from nestvox.corpora.utterances import read_utterances
from nestvox.encoders import build
from nestvox.errors import ModelError, NestvoxError, OverlapError, TableError
from nestvox.model import SpeakerModel
from nestvox.probing import Budget, Ladder, Probing, probe
from nestvox.probing.latents import cache_layers
from nestvox.probing.networks import Adapter
from nestvox.report.ladder_figure import write_ladder

RUNGS = ("mean", "linear", "weighted", "nested", "distilled")
QUICK = Budget(epochs=1, batch_size=20, crop_s=0.5)


def bands(name: str = "bands", n_mels: int = 16) -> SpeakerModel:
    return SpeakerModel(build({"architecture": "log_mel", "n_mels": n_mels}), name=name)


@pytest.fixture(scope="module")
def whole(voices: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ladder, Path]:
    out = tmp_path_factory.mktemp("ladder")
    found = probe(
        bands(),
        voices / "utterances.tsv",
        voices / "trials_test.txt",
        out,
        probing=Probing(layers=["bands", "frames"], adapt=["bands"], rungs=RUNGS, leaky=True, budget=QUICK),
        teacher=bands("teacher", 12),
    )
    return found, out


def test_every_step_is_measured_with_its_interval(whole: tuple[Ladder, Path]) -> None:
    found = whole[0]
    assert [(r.layer, r.title, r.dim) for r in found.rungs if r.source == "bands"] == [
        *(("bands", title, dim) for title, dim in (("mean", 16), ("linear", 8), ("linear [leaky]", 6))),
        *(("frames", title, dim) for title, dim in (("mean", 16), ("linear", 8), ("linear [leaky]", 6))),
        ("bands+frames", "weighted", 128),
        *(("bands", "nested", dim) for dim in (8, 16, 32, 64, 128)),
        ("bands", "distilled", 24),
    ]
    for rung in found.rungs:
        assert rung.eer.trials.n_target == 18
        assert rung.eer.trials.n_nontarget == 135
        assert rung.eer.ends[0] <= rung.eer.value <= rung.eer.ends[1]
        assert rung.score_low <= rung.mean_nontarget < rung.mean_target <= rung.score_high
    teacher, *others = found.rungs
    assert (teacher.source, teacher.rung, teacher.fit_speakers) == ("teacher", "as it is", 0)
    assert {rung.fit_speakers for rung in others if not rung.leaky} == {8}
    assert found.best.source == "bands"
    assert "8 speakers, 24 utterances" in found.fit_on


def test_networks_are_of_about_one_size_whatever_the_frames() -> None:
    def size(trunk: str, channels: int, rate: float) -> int:
        network = Adapter(trunk, torch.zeros(1, channels), torch.ones(1, channels), dim=128, frame_rate_hz=rate)
        assert network.eval()(torch.randn(2, 1, channels, 30)).shape == (2, 128)
        return sum(p.numel() for p in network.parameters())

    assert size("transformer", 64, 50) == size("transformer", 64, 100)
    assert size("transformer", 64, 50) == pytest.approx(600_000, rel=0.15)
    assert size("ecapa", 64, 50) == pytest.approx(600_000, rel=0.3)
    assert size("attentive", 64, 50) < 70_000


def test_the_mean_is_that_of_the_encoder_itself(whole: tuple[Ladder, Path], voices: Path) -> None:
    """Cosines of mean frames by hand, without any of the code that makes the ladder."""
    means = {}
    for file in sorted(voices.glob("test*.wav")):
        wave, _ = soundfile.read(file, dtype="float32")
        means[file.stem] = bands().encoder(torch.from_numpy(wave)[None]).frames[0].mean(dim=1).double().numpy()
    scores = {0: [], 1: []}
    for line in (voices / "trials_test.txt").read_text().splitlines():
        target, a, b = line.split()
        u, v = means[a], means[b]
        scores[int(target)].append(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
    rung = next(r for r in whole[0].rungs if (r.source, r.layer, r.rung) == ("bands", "bands", "mean"))
    assert rung.mean_target == pytest.approx(np.mean(scores[1]), abs=2e-4)  # frames are kept in sixteen bits
    assert rung.mean_nontarget == pytest.approx(np.mean(scores[0]), abs=2e-4)


def test_what_is_leaky_says_so_everywhere(whole: tuple[Ladder, Path], tmp_path: Path) -> None:
    found = whole[0]
    leaky = [rung for rung in found.rungs if rung.leaky]
    assert {(rung.source, rung.rung) for rung in leaky} == {("bands", "linear")}
    assert all(rung.eer.trials.labels == ("leaky",) and rung.title == "linear [leaky]" for rung in leaky)
    assert all(rung.fit_speakers == 6 and rung.accuracy for rung in leaky)
    assert not found.best.leaky
    write_ladder(found, tmp_path)
    rows = json.loads((tmp_path / "probe.json").read_text())["rungs"]
    assert sum(row["leaky"] for row in rows) == len(leaky)
    assert all(row["eer"]["trials"]["labels"] == (["leaky"] if row["leaky"] else []) for row in rows)
    assert "[leaky]" in (tmp_path / "ladder.svg").read_text()
    assert "[leaky]" in (tmp_path / "det.svg").read_text()


def test_a_second_run_computes_nothing(
    whole: tuple[Ladder, Path], voices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("made again")

    for name in ("pooled_rungs", "leaky_rungs", "trained_rung"):
        monkeypatch.setattr(f"nestvox.probing.ladder.{name}", never)
    monkeypatch.setattr("nestvox.encoders.bands.LogMelBands.run", lambda self, audio, layers: never())
    monkeypatch.setattr("nestvox.probing.latents.LayersAsFrames._each", _sizes_only)
    again = probe(
        bands(),
        voices / "utterances.tsv",
        voices / "trials_test.txt",
        whole[1],
        probing=Probing(layers=["bands", "frames"], adapt=["bands"], rungs=RUNGS, leaky=True, budget=QUICK),
        teacher=bands("teacher", 12),
    )
    assert again.rungs == whole[0].rungs


def _sizes_only(self: Any, audio: torch.Tensor, lengths: Any) -> dict[str, Any]:
    assert audio.shape == (1, 16_000), "more than the trial that tells the sizes"
    return {name: (torch.zeros(1, self.encoder.frames_dim, 3), None) for name in self.names}


def test_the_kept_frames_are_those_of_the_layers(voices: Path, tmp_path: Path) -> None:
    table = read_utterances(voices / "utterances.tsv").where(split="dev")
    model = SpeakerModel(build({"architecture": "ge2e"}), name="drawn")
    kept = cache_layers(model, table, tmp_path, ["mel", "lstm0", "frames"])
    wave, _ = soundfile.read(voices / "dev1-2.wav", dtype="float32")
    row = table.frame["utt_id"].to_list().index("dev1-2")
    expected = model.layers([wave], ["mel", "lstm0"])
    for name in ("mel", "lstm0"):
        assert kept[name].frame_rate_hz == model.encoder.layer_rates_hz[name]
        np.testing.assert_allclose(kept[name].utterances[row], expected[name][0], rtol=2e-3, atol=1e-3)
    assert len(list(tmp_path.iterdir())) == 2  # one for each frame rate


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"fit_split": "test", "choice_split": "dev"}, TableError, "split 'test' has no two speakers to fit on"),
        ({"fit_split": "nowhere"}, TableError, "split 'nowhere'"),
        ({"rungs": ["distilled"]}, NestvoxError, "needs a teacher"),
        ({"layers": ["nose"]}, ModelError, "no layer 'nose'; there is bands, frames"),
        ({"adapt": ["nose"]}, ModelError, "trained on nose, which is not among the layers of bands"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    voices: Path, tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        probe(
            bands(),
            voices / "utterances.tsv",
            voices / "trials_test.txt",
            tmp_path,
            probing=Probing(budget=QUICK, **change),
        )


def test_a_step_that_there_is_not_is_refused() -> None:
    with pytest.raises(NestvoxError, match="no rung 'ladder'; there is mean"):
        Probing(rungs=["ladder"])


def test_speakers_on_both_sides_are_refused_by_name(voices: Path, tmp_path: Path) -> None:
    """Half of the clips of one speaker of the trials stand in the training split."""
    text = (voices / "utterances.tsv").read_text()
    lines = text.replace("test0-2\ttest0-2.wav\ttest0\ttest", "test0-2\ttest0-2.wav\ttest0\ttrain").splitlines()
    table = voices / "overlapping.tsv"
    table.write_text("\n".join(lines) + "\n")
    trials = tmp_path / "trials.txt"
    trials.write_text("1 test0-0 test0-1\n0 test0-0 test1-0\n1 test1-0 test1-1\n0 test1-0 test2-0\n")
    with pytest.raises(OverlapError, match="test0"):
        probe(bands(), table, trials, tmp_path / "out", probing=Probing(budget=QUICK))
    assert not (tmp_path / "out").exists()
