"""Models, weights and what a training run keeps: how a whole file of each format is made, spoilt and read."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import _mutated_formats as spoil
from _fuzzed_tables import Format, lines, text

__all__ = ["FORMATS"]

_ENTRY = "redimnet-b0-vox2-ptn"  # whose checkpoints say what network they are of
_NETWORK: dict[str, Any] = {
    "F": 24,
    "C": 4,
    "block_1d_type": "conv+att",
    "stages_setup": [[1, 1, 1, [[3, 3]], 2], [2, 1, 2, [[3, 3]], None]],
    "group_divisor": 2,
    "embed_dim": 16,
}


@cache
def _model() -> Any:
    import torch

    from nestvox.encoders.redimnet.redimnet import ReDimNet
    from nestvox.heads.linear import LinearHead
    from nestvox.metrics.calibration import Calibration
    from nestvox.model.calibration import LlrCalibration
    from nestvox.model.speaker_model import SpeakerModel
    from nestvox.model.threshold import COSINE, DurationClass, Threshold

    torch.manual_seed(1)
    torch.set_num_threads(1)
    encoder = ReDimNet(**_NETWORK).eval()
    head = LinearHead(encoder.pooled_dim, [4, 8]).eval()
    model = SpeakerModel(encoder, head, "tiny", card={"licence": "MIT", "language": ["en"], "chosen_on": ["a" * 64]})
    made: dict[str, Any] = {"trials_sha256": "ab" * 32, "trials_source": "dev.txt", "fingerprint": model.fingerprint}
    limits = (0.1, 0.2)
    model.thresholds = tuple(
        Threshold(
            dim, 0.25, "eer", 0.1, 0.1, 10, 20, duration_class=DurationClass(2.0, None), value_interval=limits, **made
        )
        for dim in (4, 8)
    )
    maps: dict[int | None, Calibration] = {
        8: Calibration(
            10.0, -5.0, (("log duration, mean", 0.1), ("log duration, difference", 0.2)), 0.5, 1e-4, 100, 200
        )
    }
    model.llr = LlrCalibration(maps=maps, measures=("duration",), space=COSINE, speakers=("anna",), **made)
    return model


def _make_model(folder: Path) -> None:
    _model().save(folder / "model")


def _read_model(folder: Path) -> object:
    from nestvox.model.speaker_model import SpeakerModel

    model = SpeakerModel.from_folder(folder / "model")
    return model.model_card(), repr(model), model.chosen_on, [threshold.describe() for threshold in model.thresholds]


def _make_calibration(folder: Path) -> None:
    from nestvox.model.calibration import ModelCalibration, write_calibration

    model = _model()
    write_calibration(ModelCalibration(model.fingerprint, model.thresholds, model.llr), folder / "calibration.json")


def _read_calibration(folder: Path) -> object:
    from nestvox.model.calibration import read_calibration

    found = read_calibration(folder / "calibration.json")
    return [threshold.describe() for threshold in found.thresholds], found.llr and found.llr.describe(), found.to_dict()


def _read_routing(folder: Path) -> object:
    from nestvox.model.router import load_router

    return load_router(folder / "routes.yaml", device="cpu", offline=True)


def _make_routing(folder: Path) -> None:
    _make_model(folder)
    routes = [
        {"name": "a", "model": "model", "up_to_dim": 4, "when": {"snr_below_db": 10.0}},
        {"name": "b", "model": "model"},
    ]
    (folder / "routes.yaml").write_text(json.dumps({"routes": routes}))


def _make_rotation(folder: Path) -> None:
    import numpy as np

    from nestvox.heads.rotation import Rotation

    Rotation(np.eye(8), (4, 8), "pca", {"n_vectors": 9}).save(folder / "r.safetensors")


def _read_rotation(folder: Path) -> object:
    from nestvox.heads.rotation import Rotation

    return Rotation.load(folder / "r.safetensors").config()


def _make_checkpoint(folder: Path) -> None:
    import torch

    from nestvox.training.checkpoint import Checkpoint, Progressed

    progressed = Progressed("a" * 16, epoch=1, eers={"1": {"4": 0.1}}, best_criterion=0.1)
    Checkpoint(progressed, {"network.w": torch.ones(3, 4), "optimizer.0.step": torch.ones(())}).write(
        folder / "c.safetensors"
    )


def _read_checkpoint(folder: Path) -> object:
    from nestvox.training.checkpoint import read_checkpoint

    return read_checkpoint(folder / "c.safetensors").section("network")


def _adapter_encoder() -> Any:
    from nestvox.encoders.redimnet.redimnet import ReDimNet

    return ReDimNet(**_NETWORK).eval()


def _make_adapter(folder: Path) -> None:
    from nestvox.training.lora import add_low_rank, save_adapter
    from nestvox.training.recipe.sections import Lora

    encoder, section = _adapter_encoder(), Lora(rank=2, alpha=4.0)
    add_low_rank(encoder, section)
    save_adapter(encoder, folder / "a.safetensors", fingerprint="f" * 16, section=section)


def _read_adapter(folder: Path) -> object:
    from nestvox.training.lora import apply_adapter

    encoder = _adapter_encoder()
    apply_adapter(encoder, folder / "a.safetensors", fingerprint="f" * 16)
    return encoder


def _make_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    encoder = _model().encoder
    state = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(state, folder / "w.safetensors", metadata={"config": json.dumps(_NETWORK)})


def _read_weights(file: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from nestvox.zoo.weights import load_encoder

        return load_encoder(_ENTRY, weights=folder / file, offline=True, announce=lambda _: None)

    return read


def _saved_checkpoint(state: Any) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save({"state_dict": state, "model_config": _NETWORK, "epoch": 3}, out)
    return out.getvalue()


def _make_pt(folder: Path) -> None:
    (folder / "w.pt").write_bytes(_saved_checkpoint(_model().encoder.state_dict()))


def _odd_tensors(content: bytes, draw: random.Random) -> bytes:
    """A checkpoint in which one tensor is of another kind: sparse, quantised, complex, meta, of 8 bits, or none."""
    import torch

    state = dict(torch.load(io.BytesIO(content), weights_only=True)["state_dict"])
    name = draw.choice(list(state))
    size = tuple(state[name].shape)
    other: tuple[Callable[[], Any], ...] = (
        lambda: torch.zeros(size).to_sparse() if size else torch.zeros(2).to_sparse(),
        lambda: torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (10**12,)),
        lambda: torch.quantize_per_tensor(torch.zeros(size), 0.1, 0, torch.quint8),
        lambda: torch.zeros(size, dtype=torch.complex64),
        lambda: torch.zeros(size, device="meta"),
        lambda: torch.zeros((10**6, 10**6), device="meta"),
        lambda: torch.zeros(size).to(torch.float8_e4m3fn),
        lambda: torch.zeros(size, dtype=torch.bfloat16),
        lambda: torch.zeros(size, dtype=torch.float64) * float("nan"),
        lambda: torch.zeros(size, dtype=torch.bool),
        lambda: torch.zeros(1).expand(10**9),
        lambda: torch.zeros(1).expand(size or (3,)),
        lambda: torch.zeros(0),
        lambda: torch.nn.Parameter(torch.zeros(size)),
        lambda: [1.0, 2.0],
        lambda: {"a": {"b": torch.zeros(2)}},
        lambda: "text",
        lambda: None,
    )
    state[name] = draw.choice(other)()
    return _saved_checkpoint(state)


def _make_onnx(folder: Path) -> None:
    import numpy as np
    import onnx

    helper = onnx.helper
    nodes = [
        helper.make_node("MatMul", ["feats", "weight"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["active"]),
        helper.make_node("ReduceMean", ["active"], ["embs"], axes=[1], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("feats", onnx.TensorProto.FLOAT, ("B", "T", 80))]
    outputs = [helper.make_tensor_value_info("embs", onnx.TensorProto.FLOAT, None)]
    weight = np.random.default_rng(5).standard_normal((80, 12)).astype(np.float32)
    graph = helper.make_graph(nodes, "g", inputs, outputs, [onnx.numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"framework": "wespeaker", "sample_rate": "16000", "output_dim": "12"})
    onnx.save(model, folder / "net.onnx")
    (folder / "net.nestvox.json").write_text(
        json.dumps({"front_end": {"n_mels": 80, "scale": 32768.0}, "licence": "MIT"})
    )


def _read_onnx(folder: Path) -> object:
    import numpy as np

    from nestvox.encoders.foreign.onnx_encoder import OnnxEncoder
    from nestvox.encoders.foreign.onnx_model import read_onnx

    file = read_onnx(folder / "net.onnx")
    encoder = OnnxEncoder.from_file(file)
    return encoder.run([0.1 * np.random.default_rng(1).standard_normal(8000).astype(np.float32)])


def _make_wheel(folder: Path) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "p.whl", "w") as archive:
        archive.writestr("p/weights.pt", bytes(range(256)) * 8)
        archive.writestr("p/__init__.py", "")


def _read_wheel(folder: Path) -> object:
    from nestvox.zoo.catalogue import WheelSource
    from nestvox.zoo.wheel import member_of_wheel

    source = WheelSource(distribution="p", version="1", member="p/weights.pt", download_bytes=0)
    return len(member_of_wheel(source, 2048, folder / "p.whl"))


def _read_recipe(folder: Path) -> object:
    from nestvox.training.recipe.recipe import load_recipe

    return load_recipe(str(folder / "r.yaml")).hash


_RECIPE = """\
kind: linear
start: ge2e
seed: 3
head: {dims: [16, 32, 64], norm: fixed}
data: {train: {cache: cache}, dev: {cache: dev-cache}, dev_trials: trials.txt}
training: {epochs: 10, batch_size: 256, learning_rate: 1.0e-4, warmup_epochs: 1, max_grad_norm: 5.0}
loss: {kind: aam, margin: 0.1, scale: 20.0}
"""
_MRL_CONFIG = """\
model: {name: b2, embed_dim: 256, mrl_dims: [64, 128, 192, 256], mrl_weights: [1.0, 1.0, 1.0, 1.0], F: 72}
loss: {type: AAMSoftmax, margin: 0.2, scale: 30.0}
training: {num_epochs: 30, batch_size: 64, accumulation_steps: 1, learning_rate: 0.0001, lr_scheduler: cosine}
data: {train_dataset: vox2/dev, val_dataset: vox1/dev, test_dataset: vox1/test, sample_rate: 16000, chunk_duration: 3.0}
evaluation: {test_datasets: {voxceleb1: vox1/test}, num_val_pairs_per_dataset: 500}
seed: 42
advanced: {use_pretrained: true, model_name: b2, train_type: ptn, pretrained_dataset: vox2}
"""


def _read_mrl_config(folder: Path) -> object:
    from nestvox.compat.redimnet_mrl.config import read_configuration
    from nestvox.compat.redimnet_mrl.config_data import recipe_of

    plan = read_configuration(str(folder / "config.yaml"))
    return plan and recipe_of(plan, folder)


_SEEN = {"epoch_s": 9.5, "seen": {"utterances": 9, "of_utterances": 10, "speakers": 3, "of_speakers": 3, "samples": 12}}
_LOG = lines(
    [
        {"step": 1, "time": 2.0, "epoch": 0.5, "loss": 3.5, "lr": 1e-4},
        {"step": 2, "time": 3.0, "epoch": 1, "loss": 3.0, "lr": 1e-4},
        {"step": 2, "time": 3.5, "epoch": 1, "dev_eer": {"4": 0.1, "8": 0.05}, "best_epoch": 1, **_SEEN},
        {"step": 4, "time": 4.5, "epoch": 2, "dev_eer": {"4": 0.2, "8": 0.04}, "best_epoch": 1, **_SEEN},
    ]
)


def _read_run_page(folder: Path) -> object:
    from nestvox.report.run_page import write_run_page

    return write_run_page(folder)


def _read_run_log(folder: Path) -> object:
    from nestvox.training.run_log import METRICS_FILE, RunLog

    with RunLog(folder, (folder / METRICS_FILE).stat().st_size) as log:
        return log.n_bytes


def _read_first_use(folder: Path) -> object:
    from nestvox.zoo.cache import expected_sha256
    from nestvox.zoo.catalogue import find

    os.environ["NESTVOX_CACHE"] = str(folder)
    return expected_sha256(replace(find("ge2e"), sha256=""))


def _make_first_use(folder: Path) -> None:
    (folder / "weights").mkdir()
    (folder / "weights" / "ge2e-first-use.sha256").write_text(f"{'0' * 64}  pretrained.pt\n")


_TENSORS = spoil.safetensors
_ODD = spoil.chosen(spoil.binary, spoil.zipped(spoil.binary), _odd_tensors, _odd_tensors)

FORMATS = (
    Format("rotation", "r.safetensors", _make_rotation, _TENSORS, _read_rotation),
    Format("first-use record", "weights/ge2e-first-use.sha256", _make_first_use, spoil.words, _read_first_use),
    Format("run page", "metrics.jsonl", text("metrics.jsonl", _LOG), spoil.json_lines, _read_run_page),
    Format("run log", "metrics.jsonl", text("metrics.jsonl", _LOG), spoil.json_lines, _read_run_log, torch=True),
    Format("recipe", "r.yaml", text("r.yaml", _RECIPE), spoil.yaml_text, _read_recipe, torch=True),
    Format(
        "redimnet-mrl config",
        "config.yaml",
        text("config.yaml", _MRL_CONFIG),
        spoil.yaml_text,
        _read_mrl_config,
        torch=True,
    ),
    Format("model config.json", "model/config.json", _make_model, spoil.json_text, _read_model, torch=True),
    Format("model calibration", "model/calibration.json", _make_model, spoil.json_text, _read_model, torch=True),
    Format("model.safetensors", "model/model.safetensors", _make_model, _TENSORS, _read_model, torch=True),
    Format("calibration.json", "calibration.json", _make_calibration, spoil.json_text, _read_calibration, torch=True),
    Format("routing", "routes.yaml", _make_routing, spoil.yaml_text, _read_routing, torch=True),
    Format("training checkpoint", "c.safetensors", _make_checkpoint, _TENSORS, _read_checkpoint, torch=True),
    Format("adapter", "a.safetensors", _make_adapter, _TENSORS, _read_adapter, torch=True),
    Format("weights safetensors", "w.safetensors", _make_weights, _TENSORS, _read_weights("w.safetensors"), torch=True),
    Format("weights pt", "w.pt", _make_pt, _ODD, _read_weights("w.pt"), torch=True),
    Format("onnx", "net.onnx", _make_onnx, spoil.protobuf, _read_onnx, torch=True, needs="onnxruntime"),
    Format(
        "onnx description", "net.nestvox.json", _make_onnx, spoil.json_text, _read_onnx, torch=True, needs="onnxruntime"
    ),
    Format("wheel", "p.whl", _make_wheel, spoil.zipped(spoil.binary), _read_wheel, torch=True),
)
