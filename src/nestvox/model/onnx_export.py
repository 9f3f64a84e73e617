"""A model as one ONNX file: front end, network, head and prefix in one graph, from waveforms to vectors of length 1.

Notation: B utterances of equal length, S samples, d a prefix length.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nestvox.atomic import atomic_path
from nestvox.encoders.graph import GraphEncoder
from nestvox.encoders.runtime.onnx_graph import EMBEDDING, POOLED, GraphWriter
from nestvox.errors import ModelError
from nestvox.extras import require

if TYPE_CHECKING:
    from nestvox.heads.contract import Head
    from nestvox.model.speaker_model import SpeakerModel


def export_onnx(model: SpeakerModel, path: str | Path, *, dim: int | None = None) -> int:
    """Write a model as one graph; batch and length may be any, the utterances of a batch are of one length.

    The graph takes ``waveform`` (B, S) float32 in [-1, 1] at the model's rate, S at least its shortest clip, and gives
    ``embedding`` (B, d) of length 1. Rate, shortest clip, size, fingerprint and
    the keys of the training speakers stand in the file's metadata, so that `load` makes a model of the file again.

    Args:
        model: with CAM++, a ReDimNet, a mixer, an LSTM-autoencoder, or a graph that compression made of one.
        path: of the file, ``.onnx``.
        dim: d; None: the model's `truncate_dim`, else its full size.

    Returns:
        Bytes of the file.

    Raises:
        MissingExtraError: the extra ``onnx`` is not installed.
        ModelError: the encoder or the head has no such form, `dim` is out of range, or another suffix.
        OSError: it cannot be written.
    """
    size = model.check_dim(dim)
    if Path(path).suffix != ".onnx":
        raise ModelError(f"{path}: an ONNX file ends in .onnx")
    onnx = require("onnx", extra="onnx", purpose="writing a network as ONNX")
    network = onnx.load_from_string(_graph(model.encoder, model.head, size))
    about = {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "sample_rate": str(model.sample_rate),
        "min_samples": str(model.encoder.min_samples),
        "dim": str(size),
        "dims": ",".join(map(str, model.dims)),
        "encoder": model.encoder.architecture,
        "training_speakers": ",".join(model.training_speakers),
    }
    network.producer_name = "nestvox"  # merging writes another
    onnx.helper.set_model_props(network, about)
    content: bytes = network.SerializeToString()
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(content)
    return len(content)


def _graph(encoder: Any, head: Head | None, size: int) -> bytes:
    if not isinstance(encoder, GraphEncoder):
        from nestvox.encoders.runtime.whole_graph import encoder_to_onnx  # noqa: PLC0415  imports torch

        def finish(graph: GraphWriter, pooled: str, embedding: Callable[[], str]) -> dict[str, tuple[str, int]]:
            return {EMBEDDING: (_nested(graph, pooled if _takes_pooled(head) else embedding(), head, size), size)}

        return encoder_to_onnx(encoder, finish)
    onnx = require("onnx", extra="onnx", purpose="writing a network as ONNX")
    tap, width = (POOLED, encoder.pooled_dim) if _takes_pooled(head) else (EMBEDDING, encoder.embedding_dim)
    graph = GraphWriter()
    nested = _nested(graph, "tap", head, size)
    ending = graph.finish({"tap": ("batch", width)}, {EMBEDDING: (nested, ("batch", size))})
    network = onnx.load_from_string(encoder.network.tobytes())
    named_apart = onnx.compose.add_prefix(network, "encoder/", rename_inputs=False)
    merged = onnx.compose.merge_models(
        named_apart, onnx.load_from_string(ending), io_map=[(f"encoder/{tap}", "tap")], outputs=[EMBEDDING]
    )
    content: bytes = merged.SerializeToString()
    return content


def _takes_pooled(head: Head | None) -> bool:
    return head is not None and head.tap == "pooled"


def _nested(graph: GraphWriter, x: str, head: Head | None, size: int) -> str:
    """What the head makes of its tap, as a prefix of length 1."""
    if head is None:
        prefix = graph.op("Slice", x, *(np.array([number], np.int64) for number in (0, size, 1)))
    elif head.kind in _HEADS:
        tensors = {name: np.asarray(array, np.float32) for name, array in head.tensors().items()}
        for name, axis in _LAST.items():  # what makes the numbers behind the prefix is not written
            if name in tensors:
                tensors[name] = tensors[name].take(range(size), axis)
        prefix = _HEADS[head.kind](graph, x, head, tensors)
    else:
        raise ModelError(f"a head of the kind {head.kind} has no ONNX form; these have: {', '.join(_HEADS)}")
    return graph.op("LpNormalization", prefix, axis=1, p=2)


def _rotation(graph: GraphWriter, x: str, _: Any, tensors: dict[str, Any]) -> str:
    if "mean" not in tensors:
        return graph.op("MatMul", x, tensors["matrix"])
    unit = graph.op("LpNormalization", x, axis=1, p=2)
    return graph.op("Sub", graph.op("MatMul", unit, tensors["matrix"]), tensors["mean"])


def _standardised(graph: GraphWriter, x: str, head: Any, tensors: dict[str, Any]) -> str:
    if "norm.running_var" not in tensors:
        return x
    gain = 1 / np.sqrt(tensors["norm.running_var"] + np.float32(head.norm.eps)) * tensors.get("norm.weight", 1)
    y = graph.op("Mul", graph.op("Sub", x, tensors["norm.running_mean"]), gain.astype(np.float32))
    return graph.op("Add", y, tensors["norm.bias"]) if "norm.bias" in tensors else y


def _layer(graph: GraphWriter, x: str, tensors: dict[str, Any], name: str) -> str:
    y = graph.op("MatMul", x, tensors[f"{name}.weight"].T)
    return graph.op("Add", y, tensors[f"{name}.bias"]) if f"{name}.bias" in tensors else y


def _linear(graph: GraphWriter, x: str, head: Any, tensors: dict[str, Any]) -> str:
    return _layer(graph, _standardised(graph, x, head, tensors), tensors, "linear")


def _mlp(graph: GraphWriter, x: str, head: Any, tensors: dict[str, Any]) -> str:
    z = hidden = _standardised(graph, x, head, tensors)
    for number in range(head.layers - 1):
        hidden = graph.op("Relu", _layer(graph, hidden, tensors, f"inner.{number}"))
    return graph.op("Add", _layer(graph, z, tensors, "linear"), _layer(graph, hidden, tensors, "last"))


_LAST = {"linear.weight": 0, "linear.bias": 0, "last.weight": 0, "matrix": 1, "mean": 0}
_HEADS = {"linear": _linear, "mlp": _mlp, "rotation": _rotation}
