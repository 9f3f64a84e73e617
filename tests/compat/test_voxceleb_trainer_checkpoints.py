"""model000000NN.model of voxceleb_trainer: the networks of the write-up, held against a re-statement of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from nestvox.cli.models import app
from nestvox.compat.voxceleb_trainer.checkpoints import import_checkpoint, read_trainer_checkpoint
from nestvox.errors import WeightsError
from nestvox.model import load

Shapes = dict[str, tuple[int, ...]]

FRONT_END: Shapes = {"torchfb.spectrogram.window": (400,), "torchfb.mel_scale.fb": (257, 80)}


def norm(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def batch_norm(name: str, size: int) -> Shapes:
    return norm(name, size) | {
        f"{name}.running_mean": (size,),
        f"{name}.running_var": (size,),
        f"{name}.num_batches_tracked": (),
    }


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def student_shapes(d: int, blocks: int, e: int, g: int, out: int = 512) -> Shapes:
    """Names and shapes of the state of an MLPMixerSpeaker."""
    found = FRONT_END | layer("frontend.0", d, 80, 3, bias=False) | batch_norm("frontend.1", d)
    for number in range(blocks):
        block = f"mixer_blocks.{number}"
        found |= norm(f"{block}.norm1", d) | norm(f"{block}.norm2", d)
        found |= layer(f"{block}.id_conv.conv", d, 1, 3, bias=False) | batch_norm(f"{block}.id_conv.bn", d)
        found |= layer(f"{block}.token_mixing.fc1", e * d, d // g, 1)
        found |= layer(f"{block}.token_mixing.fc2", d, e * d // g, 1)
        found |= layer(f"{block}.channel_mixing.fc1", 2 * e * d, d) | layer(f"{block}.channel_mixing.fc2", d, e * d)
    found |= norm("encoder_norm", d) | layer("pooling.attention.0", d, d, 1) | layer("pooling.attention.2", d, d, 1)
    return found | layer("fc", out, 2 * d) | batch_norm("bn", out)


def teacher_shapes(latent: int = 128, hidden: int = 256, depth: int = 2, out: int = 512) -> Shapes:
    """Names and shapes of the state of an LSTMAutoencoder."""
    found = dict(FRONT_END)
    for part, sizes in (("encoder", (80, 256, 256, latent)), ("decoder", (latent, 256, 256, 80))):
        for number in range(3):
            found |= layer(f"autoencoder.{part}.{4 * number}", sizes[number + 1], sizes[number], 3)
            if part == "encoder" or number < 2:
                found |= batch_norm(f"autoencoder.{part}.{4 * number + 1}", sizes[number + 1])
    for number in range(depth):
        for way in ("", "_reverse"):
            end = f"l{number}{way}"
            entering = 2 * hidden if number else latent
            found |= {f"lstm_encoder.lstm.weight_ih_{end}": (4 * hidden, entering)}
            found |= {f"lstm_encoder.lstm.weight_hh_{end}": (4 * hidden, hidden)}
            found |= {f"lstm_encoder.lstm.bias_{kind}_{end}": (4 * hidden,) for kind in ("ih", "hh")}
    states = 2 * hidden
    found |= norm("lstm_encoder.layer_norm", states)
    found |= layer("pooling.attention.0", states, states) | layer("pooling.attention.2", 1, states)
    return found | layer("fc", out, 2 * states) | batch_norm("bn", out)


def mel_filters() -> Tensor:
    """(257, 80) triangles between points that are equally far apart in 2595 log10(1 + f / 700), up to 8000 Hz."""
    top = 2595 * torch.log10(torch.tensor(1 + 8000 / 700, dtype=torch.float64))
    points = 700 * (10 ** (torch.linspace(0, 1, 82, dtype=torch.float64) * top / 2595) - 1)
    hz = torch.arange(257, dtype=torch.float64)[:, None] * 16_000 / 512
    rising = (hz - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - hz) / (points[2:] - points[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def drawn(shapes: Shapes, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = values.abs() + 0.5
        elif name in FRONT_END:
            state[name] = mel_filters() if name.endswith("fb") else torch.hamming_window(400)
        else:
            fan_in = values[0].numel() if len(shape) > 1 else 30
            state[name] = values / fan_in**0.5 + (1.0 if len(shape) == 1 and name.endswith("weight") else 0.0)
    return state


# The two networks in the words of their description, on the names of their state.


def features(audio: Tensor) -> Tensor:
    spectrum = torch.stft(audio, 512, 160, 400, torch.hamming_window(400), center=True, return_complex=True)
    bands = (mel_filters().T @ spectrum.abs().square() + 1e-6).log()
    variance = bands.var(dim=2, unbiased=False, keepdim=True)
    return (bands - bands.mean(dim=2, keepdim=True)) / (variance + 1e-5).sqrt()


def batch_normed(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, variance, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)


def layer_normed(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Over the last axis."""
    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def affine(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Over the last axis, also where the matrix is a convolution of size 1."""
    return functional.linear(x, state[f"{name}.weight"].flatten(1), state[f"{name}.bias"])


def embedded(state: dict[str, Tensor], x: Tensor, weights: Tensor) -> Tensor:
    """Pool (B, T, C) under weights that sum to 1 over time, and map to the embedding."""
    mean = (weights * x).sum(dim=1)
    variance = (weights * x.square()).sum(dim=1) - mean.square()
    pooled = torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=1)
    return batch_normed(state, "bn", affine(state, "fc", pooled))


def attention(state: dict[str, Tensor], x: Tensor) -> Tensor:
    return affine(state, "pooling.attention.2", affine(state, "pooling.attention.0", x).tanh()).softmax(dim=1)


def student(state: dict[str, Tensor], audio: Tensor, blocks: int, groups: int) -> Tensor:
    x = functional.conv1d(features(audio), state["frontend.0.weight"], padding=1)
    x = batch_normed(state, "frontend.1", x).relu().transpose(1, 2)  # (B, T, C)
    for number in range(blocks):
        b = f"mixer_blocks.{number}"
        h = layer_normed(state, f"{b}.norm1", x).transpose(1, 2)
        heard = functional.conv1d(h, state[f"{b}.id_conv.conv.weight"], padding=1, groups=h.shape[1])
        h = (h + batch_normed(state, f"{b}.id_conv.bn", heard)).transpose(1, 2)
        for name in ("fc1", "fc2"):
            weight, bias = (state[f"{b}.token_mixing.{name}.{kind}"] for kind in ("weight", "bias"))
            shares = zip(h.chunk(groups, dim=2), weight.chunk(groups), strict=True)
            h = torch.cat([part @ rows[:, :, 0].T for part, rows in shares], dim=2) + bias
            h = functional.gelu(h) if name == "fc1" else h
        x = x + h
        wide = affine(state, f"{b}.channel_mixing.fc1", layer_normed(state, f"{b}.norm2", x))
        half = wide.shape[2] // 2
        x = x + affine(state, f"{b}.channel_mixing.fc2", functional.gelu(wide[..., :half].maximum(wide[..., half:])))
    x = layer_normed(state, "encoder_norm", x)
    return embedded(state, x, attention(state, x))


def teacher(state: dict[str, Tensor], audio: Tensor, hidden: int, depth: int) -> Tensor:
    x = features(audio)
    for number in (0, 4, 8):
        name = f"autoencoder.encoder.{number}"
        x = functional.conv1d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
        x = batch_normed(state, f"autoencoder.encoder.{number + 1}", x).relu()
    lstm = nn.LSTM(x.shape[1], hidden, depth, batch_first=True, bidirectional=True)
    names = "lstm_encoder.lstm."
    lstm.load_state_dict({k.removeprefix(names): v for k, v in state.items() if k.startswith(names)})
    x = layer_normed(state, "lstm_encoder.layer_norm", lstm(x.transpose(1, 2))[0])
    return embedded(state, x, attention(state, x))


AUDIO = 0.1 * torch.randn(2, 8_000, generator=torch.Generator().manual_seed(3))
SMALL = {"d": 16, "blocks": 2, "e": 3, "g": 4, "out": 24}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@torch.no_grad()
def test_the_student_of_the_write_up(tmp_path: Path) -> None:
    state = drawn(student_shapes(192, 6, 3, 4))
    loss = {"__L__.W": torch.randn(512, 140)}
    encoder, transfer = read_trainer_checkpoint(saved(tmp_path / "model000000095.model", under("__S__.", state) | loss))
    assert encoder.config() | {"width": 192, "depth": 6, "expansion": 3, "groups": 4} == encoder.config()
    assert transfer.parameters == 2_664_576  # and not the 2,663,296 that the write-up prints
    assert (transfer.network, transfer.form, transfer.epoch) == ("MLPMixerSpeaker", "a plain run", 95)
    assert (transfer.loaded, transfer.front_end) == (len(state) - 2, 2)
    assert transfer.left["the loss over training speakers"] == 1
    torch.testing.assert_close(encoder(AUDIO).embedding, student(state, AUDIO, 6, 4), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_teacher_of_the_write_up(tmp_path: Path) -> None:
    state = drawn(teacher_shapes())
    path = saved(tmp_path / "model_best.model", under("__S__.", state) | {"__L__.weight": torch.randn(140, 512)})
    encoder, transfer = read_trainer_checkpoint(path)
    assert transfer.parameters == 3_515_777
    assert transfer.left["the decoder, which no loss ever trained"] == 3 * 2 + 2 * 5
    assert (transfer.network, transfer.epoch) == ("LSTMAutoencoder", None)
    torch.testing.assert_close(encoder(AUDIO).embedding, teacher(state, AUDIO, 256, 2), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_of_a_distilled_student_the_student_is_read_and_not_the_teacher(tmp_path: Path) -> None:
    state, other = drawn(student_shapes(**SMALL)), drawn(teacher_shapes(latent=8, hidden=6, out=24))
    whole = under("__impl__.__S__.", state) | under("__impl__.__T__.model.", other)
    whole |= {"__impl__.__L__.W": torch.randn(24, 5)}
    encoder, transfer = read_trainer_checkpoint(saved(tmp_path / "model000000100.model", whole))
    assert (transfer.form, transfer.network) == ("a distilled student", "MLPMixerSpeaker")
    assert transfer.left["the teacher"] == len(other)
    assert f"{len(other)} of the teacher" in str(transfer)
    torch.testing.assert_close(encoder(AUDIO).embedding, student(state, AUDIO, 2, 4), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("form", ["parallel", "with the optimiser", "under model", "bare"])
def test_other_forms_of_a_file(tmp_path: Path, form: str) -> None:
    state = drawn(teacher_shapes(latent=8, hidden=6, depth=3, out=24))
    content: Any = {
        "parallel": under("module.__S__.", state),
        "with the optimiser": {
            "model_state_dict": under("__S__.", state),
            "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 0.001}]},
            "scheduler_state_dict": {"last_epoch": 30},
            "epoch": 30,
        },
        "under model": {"model": state},
        "bare": state,
    }[form]
    encoder, transfer = read_trainer_checkpoint(saved(tmp_path / "x.model", content))
    assert transfer.epoch == (30 if form == "with the optimiser" else None)
    torch.testing.assert_close(encoder(AUDIO).embedding, teacher(state, AUDIO, 6, 3), rtol=1e-4, atol=1e-4)


def test_the_command_makes_a_model_that_verifies(tmp_path: Path) -> None:
    path = saved(tmp_path / "model000000057.model", under("__S__.", drawn(student_shapes(**SMALL))))
    done = CliRunner().invoke(app, ["import-voxceleb-trainer", str(path), "--out", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    assert "none missing, none left over" in " ".join(done.output.split())
    model = load(tmp_path / "model")
    assert (model.name, model.embedding_dim) == ("model000000057", 24)
    assert model.card["checkpoint"] == {"epoch": 57}
    told = import_checkpoint(path)[0].embed(AUDIO[0].numpy())
    assert torch.allclose(torch.as_tensor(model.embed(AUDIO[0].numpy())), torch.as_tensor(told), atol=1e-6)


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


def test_what_is_refused(tmp_path: Path) -> None:
    state = drawn(student_shapes(**SMALL))

    def refused(content: Any, pattern: str) -> None:
        with pytest.raises(WeightsError, match=pattern):
            read_trainer_checkpoint(saved(tmp_path / "bad.model", content))

    refused(without(state, "encoder_norm.bias"), r"1 missing: last_norm\.bias")
    refused(without(state, "frontend.0.weight"), "do not say how large")
    refused(state | {"lstm.weight": torch.zeros(3)}, r"1 unexpected: lstm\.weight")
    refused(state | {"norm.weight": torch.zeros(24)}, "would both be")
    refused(under("__S__.", state) | {"stray": torch.zeros(3)}, "neither loss nor teacher: stray")
    refused(state | {"torchfb.mel_scale.fb": torch.zeros(257, 40)}, "80 log-mel bands")
    refused(state | {"torchfb.spectrogram.window": torch.hann_window(400)}, "80 log-mel bands")
    refused({"__S__.conv1.weight": torch.zeros(3), "__S__.layer1.0.conv1.weight": torch.zeros(3)}, "a ResNet")
    refused(state | {"sincnet.low_hz_": torch.zeros(80, 1)}, "RawWaveform")
    with pytest.raises(WeightsError, match="no such checkpoint"):
        read_trainer_checkpoint(tmp_path / "absent.model")
    spoilt = tmp_path / "spoilt.model"
    spoilt.write_bytes(re.sub(b"PK", b"PX", (tmp_path / "bad.model").read_bytes()))
    with pytest.raises(WeightsError, match=r"spoilt\.model"):
        read_trainer_checkpoint(spoilt)
