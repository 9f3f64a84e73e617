"""A graph of ONNX operators, written node by node, and a session of ONNX Runtime that runs it. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nestvox.extras import require

WAVEFORM: Final = "waveform"
POOLED: Final = "pooled"
EMBEDDING: Final = "embedding"
"""Input and outputs of the graph of a whole encoder."""

_OPSET = 20  # the first with Gelu
_IR_VERSION = 10  # that runtimes since ONNX Runtime 1.18 read


Float32 = NDArray[np.float32]


class OnnxSession:
    """Runs one model with one thread: streams side by side keep the cores busy, each calling the same session.

    Args:
        content: serialised model.

    Attributes:
        inputs: their names.
        names: of the outputs.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, content: bytes) -> None:
        runtime = require("onnxruntime", extra="onnx", purpose="running a network with ONNX Runtime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Both keep memory for every length that ever came, and make nothing faster here.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.inputs = [str(node.name) for node in self._session.get_inputs()]
        self.names = [str(node.name) for node in self._session.get_outputs()]

    @property
    def metadata(self) -> dict[str, str]:
        """What the model says of itself; nothing where that is no text."""
        try:
            return dict(self._session.get_modelmeta().custom_metadata_map)
        except UnicodeDecodeError:
            return {}

    def __call__(self, array: Float32) -> Float32:
        """Give the one input, take the first output; threads may call at once."""
        return self.outputs(array)[0]

    def outputs(self, array: Float32) -> list[Float32]:
        """Give the one input, take every output, in the order of the graph."""
        found: list[Float32] = self._session.run(None, {self.inputs[0]: array})
        return found


class GraphWriter:
    """Operators and constants so far, each value by the name that it was given here.

    Attributes:
        section: stands before the names of the operators that follow, so that a part of a graph is found again.

    Raises:
        MissingExtraError: the package onnx is not installed.
    """

    def __init__(self) -> None:
        self._onnx = require("onnx", extra="onnx", purpose="writing a network as ONNX")
        self.section = ""
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, array: NDArray[Any]) -> str:
        """Store an array and return its name."""
        name = f"c{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(self, kind: str, *inputs: str | NDArray[Any], **attributes: Any) -> str:
        """Add an operator with one output and return that output's name.

        Args:
            kind: as ONNX names it, e.g. ``Conv``; ``domain="com.microsoft"`` for ONNX Runtime's own.
            inputs: names of values, or arrays that become constants; an empty name leaves an input out.
            attributes: of the operator.
        """
        return self.ops(kind, *inputs, outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str | NDArray[Any], outputs: int, **attributes: Any) -> list[str]:
        """Add an operator with several outputs and return their names."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        number = len(self._nodes)
        made = [f"v{number}_{place}" for place in range(outputs)]
        self._nodes.append(
            self._onnx.helper.make_node(kind, names, made, name=f"{self.section}n{number}_{kind}", **attributes)
        )
        return made

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape; 0 keeps the size at its place, -1 takes what is left."""
        return self.op("Reshape", value, np.array(shape, np.int64))

    def transpose(self, value: str, *axes: int) -> str:
        """Permute the axes."""
        return self.op("Transpose", value, perm=list(axes))

    def finish(
        self, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, tuple[str, Sequence[int | str]]]
    ) -> bytes:
        """Return the serialised model.

        Args:
            inputs: shapes of the float32 inputs by name; sizes that vary are names.
            outputs: by the name that the output gets: the value, and its shape.
        """
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        nodes = self._nodes + [
            helper.make_node("Identity", [value], [name], name=f"out_{name}") for name, (value, _) in outputs.items()
        ]
        graph = helper.make_graph(
            nodes,
            "network",
            [helper.make_tensor_value_info(name, float32, list(shape)) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, float32, list(shape)) for name, (_, shape) in outputs.items()],
            self._constants,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)],
            ir_version=_IR_VERSION,
            producer_name="nestvox",
        )
        content: bytes = model.SerializeToString()
        return content
