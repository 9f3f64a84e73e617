"""Calibration and thresholds that a model folder keeps, and `nestvox verify` with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

import nestvox
from nestvox.cli.main import main
from nestvox.encoders.ge2e import GE2E
from nestvox.heads.rotation import Rotation
from nestvox.model.calibration import read_calibration
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.threshold import DurationClass
from nestvox.testing import make_store

RATE = 16_000
FEW = ["--bootstrap", "60"]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a store that says it is of that model, trials and a table by duration, and three recordings."""
    folder = tmp_path_factory.mktemp("calibrated")
    torch.manual_seed(0)
    matrix = np.linalg.qr(np.random.default_rng(0).standard_normal((256, 256)))[0]
    model = SpeakerModel(GE2E(), Rotation(matrix, (16, 64), "pca"), "tiny")
    model.save(folder / "model")
    generator = np.random.default_rng(1)
    vectors = np.repeat(generator.normal(size=(12, 64)), 6, axis=0) + generator.normal(size=(72, 64))
    names = [f"u{row:02}" for row in range(72)]
    for name, fingerprint in (("store", model.fingerprint), ("foreign", "0" * 16)):
        speakers = [f"s{row // 6}" for row in range(72)]
        make_store(folder / name, vectors, names, names, speakers, fingerprint=fingerprint, dims=(16, 64))
    rows = [f"u{row:02}\tu{row:02}\ts{row // 6}\t{1.0 if row % 6 < 3 else 3.0}\n" for row in range(72)]
    (folder / "table.tsv").write_text("utt_id\tpath\tspeaker\tduration_s\n" + "".join(rows))
    pairs = [(a, b) for a in range(72) for b in range(a + 1, 72)]
    (folder / "dev.txt").write_text("".join(f"{int(a // 6 == b // 6)} u{a:02} u{b:02}\n" for a, b in pairs))
    for name, duration_s in (("a", 3.5), ("b", 3.5), ("short", 1.0)):
        soundfile.write(folder / f"{name}.wav", 0.1 * generator.standard_normal(round(duration_s * RATE)), RATE)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def folder(material: Path, tmp_path: Path) -> Path:
    """A copy of the model whose calibration may be changed."""
    import shutil

    shutil.copytree(material / "model", tmp_path / "model")
    return tmp_path / "model"


def dev(material: Path, folder: Path, store: str = "store") -> list[object]:
    return [
        *("--trials", material / "dev.txt", "--store", material / store, "--table", material / "table.tsv"),
        *("--model", folder),
    ]


def test_verify_shows_the_ratio_and_uses_the_threshold_for_the_duration(material: Path, folder: Path, capsys) -> None:
    before = (folder / "model.safetensors").read_bytes()
    assert run(capsys, "calibrate", *dev(material, folder), "--quality", "duration", "--quality", "norm")[0] == 0
    arguments = ["--far", 0.05, "--by-duration", "--domain", "phone", *FEW]
    code, text, error = run(capsys, "threshold", *dev(material, folder), *arguments)
    assert code == 0, error
    assert f"Stored in {folder}" in text
    assert (folder / "model.safetensors").read_bytes() == before
    assert "far 0.05 for phone" in (folder / "README.md").read_text()
    stored = {(t.dim, str(t.duration_class or "")): t for t in read_calibration(folder).thresholds}
    assert {name for _, name in stored} == {"", "0 to 2 s", "2 to 4 s"}

    model = nestvox.load(folder)
    assert model.llr == read_calibration(folder).llr
    for other, name in (("b", "2 to 4 s"), ("short", "0 to 2 s")):
        code, text, error = run(
            capsys,
            *("verify", material / "a.wav", material / f"{other}.wav", "--model", folder, "--dim", 64),
            *("--json", folder.parent / "v.json"),
        )
        assert code in (0, 1), error
        answer = json.loads((folder.parent / "v.json").read_text())
        threshold = stored[64, name]
        assert answer["threshold"]["value"] == threshold.value
        assert answer["same"] is (answer["score"] >= threshold.value)
        assert f"for phone and recordings of {name}" in text
        assert f"LLR        {answer['llr']:+.3f} nats, affine map of the cosine with duration, norm" in text
        seconds = {"a": 3.5, "b": 3.5, "short": 1.0}
        vectors = model.embed([material / "a.wav", material / f"{other}.wav"], dim=64, normalize=False)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        expected = model.llr.llr(
            64,
            [answer["score"]],
            {"duration": ([seconds["a"]], [seconds[other]]), "norm": ([lengths[0]], [lengths[1]])},
        )
        assert answer["llr"] == pytest.approx(expected[0], abs=1e-5)
    longer = DurationClass(4, 8)
    assert all(t.duration_class != longer for t in stored.values())


def test_domain_and_operating_point_of_verify(material: Path, folder: Path, capsys) -> None:
    pair = ["verify", material / "a.wav", material / "b.wav", "--model", folder, "--dim", 16]
    for domain, rate in (("phone", 0.05), ("studio", 0.1)):
        assert run(capsys, "threshold", *dev(material, folder), "--far", rate, "--domain", domain, *FEW)[0] == 0
    code, text, error = run(capsys, *pair, "--domain", "studio")
    assert code in (0, 1), error
    assert "set at far 0.1 for studio" in text
    code, text, _ = run(capsys, *pair, "--operating-point", "eer")
    assert code == 3
    assert "none for 16 dimensions at 'eer'; the model has some for 16, 64 at far, for phone, studio" in text
    for point in ([], ["--operating-point", "far"]):
        code, _, error = run(capsys, *pair, *point)
        assert code == 2
        assert "name the domain" in error
    assert run(capsys, "threshold", *dev(material, folder), "--eer", *FEW)[0] == 0
    assert "set at eer on" in run(capsys, *pair, "--operating-point", "eer")[1]


def test_the_owner_names_the_point_that_decides(material: Path, folder: Path, capsys) -> None:
    pair = ["verify", material / "a.wav", material / "b.wav", "--model", folder, "--dim", 16]
    for arguments in (["--eer"], ["--far", 0.05], ["--far", 0.1, "--default"]):
        assert run(capsys, "threshold", *dev(material, folder), *arguments, "--domain", "phone", *FEW)[0] == 0
    assert "set at far 0.1 for phone" in run(capsys, *pair)[1]
    assert {t.operating_point for t in nestvox.load(folder).thresholds if t.default} == {"far 0.1"}
    # Set again it stays the default; another that is named takes its place.
    assert run(capsys, "threshold", *dev(material, folder), "--far", 0.1, "--domain", "phone", *FEW)[0] == 0
    assert "set at far 0.1 for phone" in run(capsys, *pair)[1]
    assert run(capsys, "threshold", *dev(material, folder), "--eer", "--domain", "phone", "--default", *FEW)[0] == 0
    assert {t.operating_point for t in nestvox.load(folder).thresholds if t.default} == {"eer"}
    assert "set at eer for phone" in run(capsys, *pair)[1]
    # A stricter one without a domain, as training sets it, does not come between.
    assert run(capsys, "threshold", *dev(material, folder), "--far", 0.02, *FEW)[0] == 0
    assert "set at eer for phone" in run(capsys, *pair)[1]


def test_the_file_of_a_model_is_changed_with_its_card(material: Path, folder: Path, capsys) -> None:
    own = [argument for argument in dev(material, folder) if argument not in ("--model", folder)]
    assert run(capsys, "threshold", *own, "--far", 0.05, *FEW, "--out", folder / "calibration.json")[0] == 0
    assert {t.operating_point for t in nestvox.load(folder).thresholds} == {"far 0.05"}
    assert "far 0.05" in (folder / "README.md").read_text()


def test_a_file_of_its_own_is_held_against_the_model(material: Path, folder: Path, tmp_path: Path, capsys) -> None:
    own = [argument for argument in dev(material, folder) if argument not in ("--model", folder)]
    assert run(capsys, "threshold", *own, "--far", 0.05, *FEW, "--out", tmp_path / "t.json")[0] == 0
    pair = ["verify", material / "a.wav", material / "b.wav", "--model", folder, "--dim", 16]
    assert "no verdict" in run(capsys, *pair)[1]
    assert "set at far 0.05" in run(capsys, *pair, "--calibration", tmp_path / "t.json")[1]
    content = json.loads((tmp_path / "t.json").read_text())
    content["fingerprint"] = "0" * 16
    for threshold in content["thresholds"]:
        threshold["fingerprint"] = "0" * 16
    (tmp_path / "t.json").write_text(json.dumps(content))
    code, _, error = run(capsys, *pair, "--calibration", tmp_path / "t.json")
    assert code == 2
    assert "is for scores of the model 0000000000000000" in error


def test_embeddings_of_another_model_are_not_stored(material: Path, folder: Path, capsys) -> None:
    before = (folder / "calibration.json").read_bytes()
    for command in (["calibrate"], ["threshold", "--eer", *FEW]):
        code, _, error = run(capsys, *command, *dev(material, folder, "foreign"))
        assert code == 2
        assert "holds embeddings of the model 0000000000000000" in error
    code, _, error = run(capsys, "calibrate", *dev(material, Path("ge2e")), "--out", folder.parent / "c.json")
    assert code == 2
    assert "no model folder" in error
    assert (folder / "calibration.json").read_bytes() == before


def test_a_calibration_that_verify_cannot_feed_says_so(material: Path, folder: Path, capsys) -> None:
    table = (material / "table.tsv").read_text().splitlines()
    aged = [f"{table[0]}\tage"] + [f"{line}\t{30 + number % 7}" for number, line in enumerate(table[1:])]
    (folder.parent / "aged.tsv").write_text("\n".join(aged) + "\n")
    arguments = dev(material, folder)
    arguments[arguments.index(material / "table.tsv")] = folder.parent / "aged.tsv"
    assert run(capsys, "calibrate", *arguments, "--quality", "age")[0] == 0
    code, text, error = run(capsys, "verify", material / "a.wav", material / "b.wav", "--model", folder, "--dim", 16)
    assert code == 3, error
    assert "LLR        none: the calibration needs the column age of a table" in text
    assert (
        "none: the calibration holds no map for 32"
        in run(capsys, "verify", material / "a.wav", material / "b.wav", "--model", folder, "--dim", 32)[1]
    )
