"""Model folders, calibrations, rotations and what runs keep, with lies in them: refused by name, in little memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nestvox.encoders.ge2e import GE2E
from nestvox.encoders.redimnet.redimnet import ReDimNet
from nestvox.errors import DownloadError, ModelError, NestvoxError, TrainingError, WeightsError
from nestvox.heads.linear import LinearHead
from nestvox.heads.rotation import Rotation
from nestvox.metrics.calibration import Calibration
from nestvox.model.calibration import LlrCalibration, read_calibration
from nestvox.model.router import load_router
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.threshold import COSINE, Threshold
from nestvox.training.checkpoint import Checkpoint, Progressed, read_checkpoint
from nestvox.training.lora import apply_adapter
from nestvox.training.run_log import METRICS_FILE, RunLog
from nestvox.zoo.cache import expected_sha256
from nestvox.zoo.catalogue import find

Change = Callable[[dict[str, Any]], Any]
NETWORK: dict[str, Any] = {
    "F": 24,
    "C": 4,
    "block_1d_type": "conv+att",
    "stages_setup": [[1, 1, 1, [[3, 3]], 2], [2, 1, 2, [[3, 3]], None]],
    "group_divisor": 2,
    "embed_dim": 16,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = ReDimNet(**NETWORK).eval()
    model = SpeakerModel(encoder, LinearHead(encoder.pooled_dim, [4, 8]).eval(), "tiny", card={"licence": "MIT"})
    print_ = model.fingerprint
    model.thresholds = (Threshold(8, 0.25, "eer", 0.1, 0.1, 10, 20, "ab" * 32, "dev.txt", fingerprint=print_),)
    maps: dict[int | None, Calibration] = {8: Calibration(10.0, -5.0, (), 0.5, 1e-4, 100, 200)}
    model.llr = LlrCalibration(maps, print_, (), COSINE, "ab" * 32, "dev.txt", ("anna",))
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    model.save(folder)
    return folder


def spoilt(saved: Path, to: Path, name: str, change: Change) -> Path:
    folder = Path(shutil.copytree(saved, to / "copy"))
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    return folder


ONNX = {"min_samples": 1600, "front_end": {"sample_rate": 16_000}}
STAGE = [1, 1, 1, [[3, 3]], 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["encoder"].update(C=10**9),
        lambda c: c["encoder"].update(C=4096, F=4096),
        lambda c: c["encoder"].update(embed_dim=10**9),
        lambda c: c["encoder"].update(out_channels=65536, C=1024),
        lambda c: c["encoder"].update(F=24.0),
        lambda c: c["encoder"].update(F="24"),
        lambda c: c["encoder"].update(hop_length=0),
        lambda c: c["encoder"].update(hop_length=True),
        lambda c: c["encoder"].update(stages_setup=[[1, 10**9, 1, [[3, 3]], 2]]),
        lambda c: c["encoder"].update(stages_setup=[STAGE] * 5_000),
        lambda c: c["encoder"].update(stages_setup=[[1, 1, 1e300, [[3, 3]], 2]]),
        lambda c: c["encoder"].update(stages_setup=[[1, 1, "1", [[3, 3]], 2]]),
        lambda c: c["encoder"].update(stages_setup=[[1, True, 1, [[3, 3]], 2]]),
        lambda c: c["encoder"].update(stages_setup={"a": 1}),
        lambda c: c["encoder"].update(spec_params=[1]),
        lambda c: c["encoder"].update(spec_params={"pool_freqs": [10**9, 1]}),
        lambda c: c["encoder"].update(block_1d_type=["att"]),
        lambda c: c["encoder"].update(architecture=["redimnet"]),
        lambda c: c.update(
            encoder={"architecture": "onnx", "size_bytes": 10**12, "embedding_dim": 4, "min_samples": 9}
        ),
        lambda c: c.update(encoder={"architecture": "ge2e", "partials_per_s": "1"}),
        lambda c: c.update(encoder={"architecture": "ge2e", "partials_per_s": 1e-320}),
        lambda c: c.update(encoder=[1]),
        lambda c: c["head"].update(input_dim=10**9),
        lambda c: c["head"].update(dims=[4, 10**9]),
        lambda c: c["head"].update(dims="48"),
        lambda c: c["head"].update(dims=[True]),
        lambda c: c["head"].update(dims=[]),
        lambda c: c["head"].update(kind="mlp", hidden=10**9),
        lambda c: c["head"].update(kind=["linear"]),
        lambda c: c["head"].update(details=[1]),
        lambda c: c.update(head="linear"),
        lambda c: c.update(name=5),
        lambda c: c.update(truncate_dim="4"),
        lambda c: c.update(truncate_dim=True),
        lambda c: c.update(training_speakers="anna"),
        lambda c: c.update(training_speakers=[1]),
        lambda c: c.update(card="MIT"),
        lambda c: c["card"].update(chosen_on=5),
        lambda c: c["card"].update(results=[{"dim": 4}]),
        lambda c: c.update(fingerprint=None),
    ],
)
def test_configurations_that_no_model_has(saved: Path, tmp_path: Path, change: Change) -> None:
    folder = spoilt(saved, tmp_path, "config.json", change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ModelError, WeightsError), match="copy"):
        SpeakerModel.from_folder(folder)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 200


@pytest.mark.parametrize("name", ["config.json", "calibration.json"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"dim": ' + "1" * 6000 + "}", '{"format": NaN}', '{"a": 1, "a": 1}']
)
def test_texts_that_are_no_json(saved: Path, tmp_path: Path, name: str, text: str) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match=rf"{name}"):
        SpeakerModel.from_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "calibration.json", "model.safetensors"])
def test_a_fifo_is_not_waited_for(saved: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=rf"{name}: a FIFO"):
        SpeakerModel.from_folder(folder)


@pytest.mark.parametrize(
    "change",
    [
        *(
            lambda c, v=value: c["thresholds"][0].update(value=v)
            for value in (float("nan"), True, "0.25", None, [0.25])
        ),
        lambda c: c["thresholds"][0].update(value=float("inf")),
        lambda c: c["thresholds"][0].update(labels="synthetic"),
        lambda c: c["thresholds"][0].update(labels=[1]),
        lambda c: c["thresholds"][0].update(labels={"a": 1}),
        lambda c: c["thresholds"][0].update(dim="8"),
        lambda c: c["thresholds"][0].update(dim=8.0),
        lambda c: c["thresholds"][0].update(dim=True),
        lambda c: c["thresholds"][0].update(dim=0),
        lambda c: c["thresholds"][0].update(domain=5),
        lambda c: c["thresholds"][0].update(domain=["phone"]),
        lambda c: c["thresholds"][0].update(space="cosine"),
        lambda c: c["thresholds"][0].update(space={"kind": "cosinus", "made_by": ""}),
        lambda c: c["thresholds"][0].update(space={"kind": "cosine", "made_by": 5}),
        lambda c: c["thresholds"][0].update(operating_point=""),
        lambda c: c["thresholds"][0].update(operating_point=["eer"]),
        lambda c: c["thresholds"][0].update(p_fa="0.1"),
        lambda c: c["thresholds"][0].update(p_fa=1.5),
        lambda c: c["thresholds"][0].update(n_target=True),
        lambda c: c["thresholds"][0].update(n_target=-1),
        lambda c: c["thresholds"][0].update(trials_sha256=None),
        lambda c: c["thresholds"][0].update(duration_class={"low_s": "2", "high_s": None}),
        lambda c: c["thresholds"][0].update(duration_class=2),
        lambda c: c["thresholds"][0].update(value_interval=["0.1", "0.2"]),
        lambda c: c["thresholds"][0].update(fingerprint=5),
        lambda c: c.update(thresholds={}),
        lambda c: c.update(thresholds=["eer"]),
        lambda c: c.update(fingerprint=5),
        lambda c: c.update(llr=[1]),
        lambda c: c["llr"].update(speakers="anna"),
        lambda c: c["llr"].update(measures=[5]),
        lambda c: c["llr"].update(labels="leaky"),
        lambda c: c["llr"].update(space="cosine"),
        lambda c: c["llr"].update(maps=[1]),
        lambda c: c["llr"].update(maps={"9" * 6000: c["llr"]["maps"]["8"]}),
        lambda c: c["llr"]["maps"]["8"].update(scale=True),
        lambda c: c["llr"]["maps"]["8"].update(offset="1"),
        lambda c: c["llr"]["maps"]["8"].update(quality=[["a"]]),
        lambda c: c["llr"]["maps"]["8"].update(n_target="100"),
    ],
)
def test_what_no_threshold_and_no_map_is(saved: Path, tmp_path: Path, change: Change) -> None:
    folder = spoilt(saved, tmp_path, "calibration.json", change)
    with pytest.raises(ModelError, match=r"calibration\.json: "):
        read_calibration(folder)


def tensors_file(path: Path, header: Any, body: bytes = bytes(64), length: int | None = None) -> Path:
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


def one(**changes: Any) -> dict[str, Any]:
    return {"matrix": {"dtype": "F64", "shape": [2, 4], "data_offsets": [0, 64], **changes}}


@pytest.mark.parametrize(
    "header",
    [
        one(dtype="C64"),
        one(dtype="F8_E4M3"),
        one(dtype="BF16", shape=[32]),
        one(shape=[10**13, 4]),
        one(shape=[-2, -4]),
        one(shape=[2.0, 4]),
        one(shape=[True, 8]),
        one(data_offsets=[0, 1 << 40]),
        one(data_offsets=[8, 72]),
        one(data_offsets=["0", "64"]),
        one(data_offsets=[0]),
        {**one(), "other": one()["matrix"]},
        {**one(), "__metadata__": {"rotation": 5}},
        "[" * 100_000,
        '{"matrix": ' + "1" * 6000 + "}",
        "[]",
        "null",
        "\xff",
    ],
)
def test_tensors_that_are_not_where_they_are_said_to_be(tmp_path: Path, header: Any) -> None:
    with pytest.raises(ModelError, match=r"r\.safetensors: not a rotation file"):
        Rotation.load(tensors_file(tmp_path / "r.safetensors", header))


def test_rotations_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "r.safetensors"
    for length in (0, 1, 10**12, 2**64 - 1):
        with pytest.raises(ModelError, match=r"r\.safetensors"):
            Rotation.load(tensors_file(path, one(), length=length))
    Rotation(np.eye(4), (2, 4), "pca").save(path)
    raw = path.read_bytes()
    for old, new in ((rb"\"dims\": [2, 4]", rb"\"dims\": \"24\""), (rb"\"method\": \"pca\"", rb"\"method\": 12345")):
        assert raw.count(old) == 1
        path.write_bytes(raw.replace(old, new.ljust(len(old))))
        with pytest.raises(ModelError, match=r"r\.safetensors: not a rotation file"):
            Rotation.load(path)


def test_checkpoints_with_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    Checkpoint(Progressed("a" * 16), {"network.w": torch.ones(2)}).write(path)
    assert read_checkpoint(path).progressed.best_criterion == float("inf")
    raw = path.read_bytes()
    for old, new in (
        (rb"\"epoch\": 0", rb"\"epoch\": []"),
        (rb"\"world\": 1", rb"\"world\": 0"),
        (rb"\"eers\": {}", rb"\"eers\": 12"),
        (rb"\"stopped\": false", rb"\"stopped\": \"no\""),
    ):
        assert raw.count(old) == 1
        # The header may end in blanks, which make room.
        length = struct.unpack("<Q", raw[:8])[0]
        header = raw[8 : 8 + length].replace(old, new)
        path.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + length :])
        with pytest.raises(TrainingError, match=r"c\.safetensors: not a readable checkpoint"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("tensors", "about", "words"),
    [
        ({"linear.a": torch.ones(2, 99), "linear.b": torch.ones(16, 2)}, {}, "does not fit"),
        ({"linear.a": torch.ones(2), "linear.b": torch.ones(2)}, {}, "does not fit"),
        ({"nowhere.a": torch.ones(2, 2), "nowhere.b": torch.ones(2, 2)}, {}, "no matrix .nowhere"),
        ({"linear.a": torch.ones(2, 2)}, {}, "two matrices"),
        ({"linear.c": torch.ones(2, 2)}, {}, "two matrices"),
        ({"linear.a": torch.ones(2, 2), "linear.b": torch.ones(2, 2)}, {"scale": "2"}, "scale"),
        ({"linear.a": torch.ones(2, 2), "linear.b": torch.ones(2, 2)}, {"fingerprint": 5}, "fingerprint"),
    ],
)
def test_adapters_that_fit_nothing(tmp_path: Path, tensors: dict[str, Any], about: dict[str, Any], words: str) -> None:
    path = tmp_path / "a.safetensors"
    said = {"format": "nestvox-adapter-1", "fingerprint": "f" * 16, "scale": 2.0, **about}
    save_file(tensors, path, metadata={"adapter": json.dumps(said)})
    with pytest.raises(ModelError, match=rf"a\.safetensors: .*{words}"):
        apply_adapter(GE2E(), path, fingerprint="f" * 16)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "routes: &a [*a]",
        "routes: []",
        "routes: [{name: 5, model: ge2e}]",
        "routes: [{name: a, model: [ge2e]}]",
        "routes: [{name: a, model: ''}]",
        f"routes: [{{name: a, model: {'x' * 5000}}}]",
        "routes: [{name: a, model: ge2e, up_to_dim: '4'}]",
        "routes: [{name: a, model: ge2e, when: {snr_below_db: .nan}}]",
        "routes: [{name: a, model: ge2e, when: {snr_below_db: null}}]",
        "routes: [{name: a, model: ge2e, name: b}]",
    ],
)
def test_routes_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(NestvoxError):
        load_router(path, device="cpu", offline=True)


@pytest.mark.parametrize(
    "line", ["[" * 5000, "[]", '{"step": "1", "time": 2.0}', '{"step": 1e30, "time": 2}', "\xff", "{"]
)
def test_logs_that_no_run_wrote(tmp_path: Path, line: str) -> None:
    path = tmp_path / METRICS_FILE
    path.write_text(line + "\n", encoding="latin-1")
    with pytest.raises(TrainingError, match="metrics"):
        RunLog(tmp_path, path.stat().st_size)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0123", b"z" * 64 + b"  pretrained.pt\n"])
def test_records_of_no_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    from dataclasses import replace

    monkeypatch.setenv("NESTVOX_CACHE", str(tmp_path))
    entry = replace(find("ge2e"), sha256="")
    assert expected_sha256(entry) == ""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "ge2e-first-use.sha256").write_bytes(content)
    with pytest.raises(DownloadError, match=r"ge2e-first-use\.sha256"):
        expected_sha256(entry)
