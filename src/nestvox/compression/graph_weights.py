"""The weights of an ONNX graph in fewer bits in its file; they are float32 again before anything runs.

Casts and products of constants are folded when ONNX Runtime opens a graph, so it runs as fast as before, and what
changes is the rounding of the weights. The front end stays in float32.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from nestvox.encoders.runtime.whole_graph import FRONT_END
from nestvox.errors import ModelError
from nestvox.extras import require

GraphStorage = Literal["float32", "float16", "int8"]

_LEAST = 1024  # numbers of a constant that is worth it
_LARGEST = 127


def store_graph(content: bytes, storage: GraphStorage) -> bytes:
    """Write the matrices and kernels of a graph in fewer bits.

    Args:
        content: of a graph that `model.export_onnx` or `encoder_to_onnx` wrote.
        storage: ``float16``; ``int8`` with a scale for every output; ``float32`` changes nothing.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: a weight beyond the numbers of 16 bits.
    """
    if storage == "float32":
        return content
    onnx = require("onnx", extra="onnx", purpose="writing a network as ONNX")
    model = onnx.load_from_string(content)
    graph = model.graph
    users: dict[str, Any] = {name: node for node in graph.node for name in node.input}
    kept, made = [], []
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        user = users.get(tensor.name)
        small = array.dtype != np.float32 or array.ndim < 2 or array.size < _LEAST
        if user is None or small or user.name.removeprefix("encoder/").startswith(FRONT_END):
            kept.append(tensor)
            continue
        constants, nodes = _stored(onnx, tensor.name, array, storage, user.op_type)
        kept += constants
        made += nodes
    del graph.initializer[:]
    graph.initializer.extend(kept)
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    written: bytes = model.SerializeToString()
    return written


def _stored(
    onnx: Any, name: str, array: np.ndarray[Any, np.dtype[np.float32]], storage: GraphStorage, user: str
) -> tuple[list[Any], list[Any]]:
    """Constants, and the operators that make the array of them again."""
    helper, from_array = onnx.helper, onnx.numpy_helper.from_array
    short = f"{name}/{storage}"
    if storage == "float16" or user not in {"Conv", "MatMul"}:
        if np.abs(array).max() > np.finfo(np.float16).max:
            raise ModelError(f"{name} holds numbers beyond those of 16 bits ({np.abs(array).max():.3g})")
        return [from_array(array.astype(np.float16), short)], [helper.make_node("Cast", [short], [name], to=1)]
    # Outputs are the rows of a kernel and the columns of a matrix that stands on the right.
    axes = tuple(range(1, array.ndim)) if user == "Conv" else tuple(range(array.ndim - 1))
    scales = np.maximum(np.abs(array).max(axis=axes, keepdims=True) / _LARGEST, np.finfo(np.float32).tiny)
    codes = np.rint(array / scales).astype(np.int8)
    constants = [from_array(codes, short), from_array(scales.astype(np.float32), f"{name}/scales")]
    nodes = [
        helper.make_node("Cast", [short], [f"{name}/codes"], to=1),
        helper.make_node("Mul", [f"{name}/codes", f"{name}/scales"], [name]),
    ]
    return constants, nodes
