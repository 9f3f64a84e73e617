"""An encoder's graph with weights of eight bits, by the quantisation tools of ONNX Runtime.

The front end stays in float32: what quantised energies lose below the loudest band, no network brings back. `dynamic`
finds the range of every activation anew, for products of matrices and LSTMs; convolutions stay as they are, for those
of ONNX Runtime with dynamic ranges are slower than in float32 (CAM++: four times). `static` has ranges from recordings,
for convolutions and products.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nestvox.encoders.contract import Encoder
from nestvox.encoders.graph import GraphEncoder
from nestvox.encoders.runtime.onnx_graph import WAVEFORM
from nestvox.encoders.runtime.whole_graph import FRONT_END, encoder_to_onnx
from nestvox.errors import ModelError, NestvoxError
from nestvox.extras import require

Waveform = NDArray[np.float32]


def quantised(
    encoder: Encoder, ranges: Literal["dynamic", "static"], recordings: Sequence[Waveform] = ()
) -> GraphEncoder:
    """Write an encoder as a graph of 8-bit weights.

    Args:
        encoder: in evaluation mode, in float32.
        ranges: of the activations: found at every call, or from recordings.
        recordings: (S_i,) each, at the encoder's rate; of ``static`` only.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        ModelError: the encoder has no such form, or the tools do not know a part of it.
        NestvoxError: ``static`` without recordings.
    """
    onnx = require("onnx", extra="onnx", purpose="writing a network as ONNX")
    tools = require("onnxruntime.quantization", extra="onnx", purpose="quantising a network")
    model = onnx.load_from_string(encoder_to_onnx(encoder))
    common = {
        "nodes_to_exclude": [node.name for node in model.graph.node if node.name.startswith(FRONT_END)],
        "per_channel": True,
        "weight_type": tools.QuantType.QInt8,
        # Of what stands behind operators that onnx itself does not know.
        "extra_options": {"DefaultTensorType": onnx.TensorProto.FLOAT},
    }
    if ranges == "static" and not recordings:
        raise NestvoxError("int8-static takes its ranges from recordings: give utterances to calibrate on")
    with tempfile.TemporaryDirectory() as folder, _quietly():
        written = Path(folder) / "quantised.onnx"
        try:
            if ranges == "dynamic":
                tools.quantize_dynamic(model, written, op_types_to_quantize=["MatMul", "LSTM"], **common)
            else:
                reader = _reader(tools.CalibrationDataReader, recordings)
                tools.quantize_static(model, written, reader, op_types_to_quantize=["Conv", "MatMul"], **common)
        except Exception as error:  # the tools' exceptions have no common class
            words = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise ModelError(f"ONNX Runtime cannot write {encoder.architecture} as int8-{ranges}: {words}") from error
        content = written.read_bytes()
    return GraphEncoder.of(content, encoder, f"int8 {ranges}")


def _reader(base: Any, recordings: Sequence[Waveform]) -> Any:
    """What the tools ask for recordings one by one."""
    left = iter(recordings)

    class Reader(base):  # type: ignore[misc]  # a class of the extra
        def get_next(self) -> dict[str, Waveform] | None:
            found = next(left, None)
            return None if found is None else {WAVEFORM: np.ascontiguousarray(found[None], np.float32)}

    return Reader()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the tools' advice to the root logger, which is not for whoever calls us."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
