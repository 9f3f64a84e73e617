"""ONNX files of other shapes than expected, with a choice to make, or that lie: told by name before they harm."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")
onnx = pytest.importorskip("onnx", reason="the group test is not installed")
pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

from typer.testing import CliRunner  # noqa: E402

from nestvox.cli.app import app  # noqa: E402
from nestvox.encoders.foreign import onnx_check as room  # noqa: E402
from nestvox.encoders.foreign.onnx_model import FRONT_ENDS, OnnxModel  # noqa: E402
from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank  # noqa: E402
from nestvox.errors import ModelError  # noqa: E402
from nestvox.model.loading import load  # noqa: E402

RATE = 16_000
FLOAT = onnx.TensorProto.FLOAT
WEIGHT = np.random.default_rng(5).standard_normal((80, 12)).astype(np.float32) / 9
CLASSES = np.random.default_rng(6).standard_normal((12, 30)).astype(np.float32)
node = onnx.helper.make_node


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def by_hand(audio: np.ndarray, front_end: KaldiFbank) -> np.ndarray:
    return np.tanh(front_end(audio) @ WEIGHT).mean(axis=0)


def write(
    path: Path,
    nodes: Sequence[Any],
    *,
    shape: Sequence[Any] = ("B", "T", 80),
    kind: int = FLOAT,
    outputs: Sequence[tuple[str, Any]] = (("embs", None),),
    constants: Sequence[Any] = (),
    framework: str = "wespeaker",
) -> Path:
    graph = onnx.helper.make_graph(
        list(nodes),
        "speaker",
        [onnx.helper.make_tensor_value_info("feats", kind, shape)],
        [onnx.helper.make_tensor_value_info(name, FLOAT, size) for name, size in outputs],
        [onnx.numpy_helper.from_array(WEIGHT, "weight"), onnx.numpy_helper.from_array(CLASSES, "classes"), *constants],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.helper.set_model_props(model, {"framework": framework})
    path.write_bytes(model.SerializeToString())
    return path


def network(given: str = "feats", out: str = "embs") -> list[Any]:
    return [
        node("MatMul", [given, "weight"], ["hidden"]),
        node("Tanh", ["hidden"], ["active"]),
        node("ReduceMean", ["active"], [out], axes=[1], keepdims=0),
    ]


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        (("B", "S"), FLOAT, "which is a waveform"),
        (("B", "T", 80), onnx.TensorProto.INT64, "of int64"),
        ((4, "T", 80), FLOAT, "always 4 utterances"),
        (("B", 1, "T", 80), FLOAT, "expected one input"),
    ],
)
def test_what_takes_no_filter_banks_is_told_so_before_it_is_asked_for_them(
    tmp_path: Path, shape: tuple[Any, ...], kind: int, words: str
) -> None:
    cast = [node("Cast", ["feats"], ["cast"], to=FLOAT), *network("cast")]
    path = write(tmp_path / "n.onnx", cast, shape=shape, kind=kind, framework="none")
    with pytest.raises(ModelError, match=words):
        load(path)


# Several outputs


@pytest.fixture
def both(tmp_path: Path) -> Path:
    nodes = [*network(out="embedding"), node("MatMul", ["embedding", "classes"], ["logits"])]
    return write(tmp_path / "net.onnx", nodes, outputs=(("logits", ("B", 30)), ("embedding", ("B", 12))))


def test_a_choice_is_demanded_by_name(both: Path) -> None:
    for make in (load, OnnxModel):
        with pytest.raises(
            ModelError, match=r"gives logits \(B, 30\) of float, embedding \(B, 12\) of float; .*output="
        ):
            make(both)
    with pytest.raises(ModelError, match=r"has no output 'embs'; it gives logits"):
        load(both, output="embs")


def test_the_choice_is_kept_with_the_model(tmp_path: Path, both: Path) -> None:
    model = load(both, output="embedding")
    wave = noise(RATE)
    expected = by_hand(wave, FRONT_ENDS["wespeaker"])
    np.testing.assert_allclose(model.forward([wave])[0], expected, atol=1e-5)
    assert model.fingerprint == OnnxModel(both, output="embedding").fingerprint
    assert model.fingerprint != load(both, output="logits").fingerprint
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.fingerprint == model.fingerprint
    np.testing.assert_array_equal(again.forward([wave])[0], model.forward([wave])[0])


def test_a_description_and_the_command_can_choose(tmp_path: Path, both: Path) -> None:
    arguments = ["models", "import-onnx", str(both), "--out", str(tmp_path / "model"), "--output", "embedding"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert load(tmp_path / "model").embedding_dim == 12
    (tmp_path / "net.nestvox.json").write_text('{"output": "embedding"}')
    assert load(both).fingerprint == load(tmp_path / "model").fingerprint
    (tmp_path / "net.nestvox.json").write_text('{"output": 1}')
    with pytest.raises(ModelError, match="output is text"):
        load(both)
    with pytest.raises(ModelError, match="only an ONNX file is told its output"):
        load(tmp_path / "model", output="embedding")


def test_one_output_needs_no_choice_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", network())
    assert load(path).fingerprint == load(path, output="embs").fingerprint
    assert "output" not in load(path).encoder.config()


# What goes in


@pytest.mark.parametrize(("kind", "name"), [(onnx.TensorProto.FLOAT16, "float16"), (onnx.TensorProto.DOUBLE, "double")])
def test_other_precisions_get_what_they_take(tmp_path: Path, kind: int, name: str) -> None:
    cast = node("Cast", ["feats"], ["wide"], to=FLOAT)
    model = load(write(tmp_path / "net.onnx", [cast, *network("wide")], kind=kind))
    expected = by_hand(noise(RATE), FRONT_ENDS["wespeaker"])
    np.testing.assert_allclose(model.forward([noise(RATE)])[0], expected, atol=3e-3 if name == "float16" else 1e-5)


def test_bands_before_frames_are_turned(tmp_path: Path) -> None:
    turn = node("Transpose", ["feats"], ["rows"], perm=[0, 2, 1])
    model = load(write(tmp_path / "net.onnx", [turn, *network("rows")], shape=("B", 80, "T")))
    expected = by_hand(noise(RATE), FRONT_ENDS["wespeaker"])
    np.testing.assert_allclose(model.forward([noise(RATE)])[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        ((1, 200, 80), FLOAT, r"always 200 frames \(2\.02 s\).*dynamic_axes"),
        (("B", 80, 200), FLOAT, r"always 200 frames"),
        ((4, "T", 80), FLOAT, r"always 4 utterances at once.*dynamic_axes"),
        (("B", "S"), FLOAT, r"feats \(B, S\) of float, which is a waveform"),
        (("B", "T", 80), onnx.TensorProto.INT64, r"feats \(B, T, 80\) of int64, expected one input"),
        (("B", "T", 64), FLOAT, r"feats \(B, T, 64\) of float, expected one input \(batch, frames, 80\)"),
    ],
)
def test_what_else_a_network_takes_is_told(tmp_path: Path, shape: Sequence[Any], kind: int, words: str) -> None:
    cast = node("Cast", ["feats"], ["wide"], to=FLOAT)
    flat = node("ReduceMean", ["wide"], ["embs"], axes=[1], keepdims=0)
    path = write(tmp_path / "net.onnx", [cast, flat], shape=shape, kind=kind)
    with pytest.raises(ModelError, match=words):
        load(path)


def test_a_vector_whose_size_grows_with_the_audio_is_no_embedding(tmp_path: Path) -> None:
    flat = node("Flatten", ["feats"], ["embs"], axis=1)
    with pytest.raises(ModelError, match=r"7840 numbers for 1 s of audio and 23840 for 3 s"):
        load(write(tmp_path / "net.onnx", [flat]))


# Files that lie


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    model = onnx.load_from_string(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def dims(*sizes: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(sizes)

    return change


def outside(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    for key, value in (("location", "../../../../etc/passwd"), ("offset", "0"), ("length", "3840")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def hidden_outside(model: Any) -> None:
    inner = model.graph.node.add()
    inner.op_type = "Constant"
    inner.output.append("unused")
    attribute = inner.attribute.add()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(model.graph.initializer[0])
    attribute.t.data_location = onnx.TensorProto.EXTERNAL


def no_nodes(model: Any) -> None:
    del model.graph.node[:]


def typed(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dims(10**13), "a size that is none"),
        (dims(-80, 12), "a size that is none"),
        (dims(10**6, 12), "12,000,000 numbers of 4 bytes, and 3,840 bytes are there"),
        (dims(1, 1), "1 numbers of 4 bytes, and 3,840 bytes are there"),
        (typed, "960 numbers, and 10 are there"),
        (outside, "keeps weights in a file beside it"),
        (hidden_outside, "keeps weights in a file beside it"),
        (no_nodes, "it has no operators"),
    ],
)
def test_tensors_that_lie(tmp_path: Path, change: Callable[[Any], None], words: str) -> None:
    path = changed(write(tmp_path / "net.onnx", network()), change)
    with pytest.raises(ModelError, match=rf"net\.onnx: .*{words}"):
        load(path)


def test_a_network_that_wants_all_memory_is_not_opened_here(tmp_path: Path) -> None:
    size = onnx.numpy_helper.from_array(np.array([200_000_000_000], np.int64), "size")
    nodes = [*network(out="mean"), node("ConstantOfShape", ["size"], ["huge"]), node("ReduceMax", ["huge"], ["most"])]
    path = write(tmp_path / "net.onnx", [*nodes, node("Add", ["mean", "most"], ["embs"])], constants=[size])
    with pytest.raises(ModelError, match=r"net\.onnx: (brings ONNX Runtime down|fails on noise|not an ONNX network)"):
        load(path)


def test_a_network_that_does_not_end_is_not_opened_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_TRIAL_S", 1.5)
    body = onnx.helper.make_graph(
        [node("Identity", ["go"], ["again"]), node("Tanh", ["kept"], ["next"])],
        "body",
        [
            onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, ()),
            onnx.helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, ()),
            onnx.helper.make_tensor_value_info("kept", FLOAT, None),
        ],
        [
            onnx.helper.make_tensor_value_info("again", onnx.TensorProto.BOOL, ()),
            onnx.helper.make_tensor_value_info("next", FLOAT, None),
        ],
    )
    constants = [
        onnx.numpy_helper.from_array(np.array(10**12, np.int64), "times"),
        onnx.numpy_helper.from_array(np.array(True), "yes"),
    ]
    nodes = [*network(out="mean"), node("Loop", ["times", "yes", "mean"], ["embs"], body=body)]
    with pytest.raises(ModelError, match="does not end within"):
        load(write(tmp_path / "net.onnx", nodes, constants=constants))


def test_a_crash_of_the_runtime_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "trial.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(room, "onnx_trial", types.SimpleNamespace(__file__=str(script)))
    path = write(tmp_path / "net.onnx", [*network(out="x"), node("Neg", ["x"], ["embs"])])
    with pytest.raises(ModelError, match=r"brings ONNX Runtime down \(signal 11"):
        load(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "git lfs pull"),
        (b"<!doctype html><title>x</title>", "a web page"),
        (b"\x1f\x8b\x08\x00" + b"x" * 40, "gunzip"),
        (b"\x0a\x80" * 500, "not an ONNX network"),
        (b"\x3a\x04" * 100_000, "not an ONNX network"),
    ],
)
def test_contents_that_are_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=rf"net\.onnx: .*{words}"):
        load(tmp_path / "net.onnx", front_end="wespeaker")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="a FIFO, not a regular file"):
        load(tmp_path / "net.onnx")
    write(tmp_path / "fine.onnx", network())
    os.mkfifo(tmp_path / "fine.nestvox.json")
    if (tmp_path / "fine.nestvox.json").is_file():
        with pytest.raises(ModelError, match="a FIFO"):
            load(tmp_path / "fine.onnx")
    (tmp_path / "deep.nestvox.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"no description.*nested"):
        load(write(tmp_path / "deep.onnx", network()))
