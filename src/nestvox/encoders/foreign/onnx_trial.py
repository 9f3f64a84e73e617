"""An ONNX file tried in a process of its own, before the runtime opens it in ours. Knows no torch and no nestvox.

The runtime is a large program in C++: a file with lying numbers can crash it, fill the memory or never end. Run as
``python onnx_trial.py BANDS RATE MEMORY_BYTES`` with the file's bytes on standard input; it prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import numpy as np

_FRAMES = (98, 298)  # of one second and of three


def main() -> int:
    """Open the network, run it on noise of two lengths, and say what it takes and gives.

    Returns:
        0, also where the runtime refuses the file: then the object holds the runtime's words as ``error``.
    """
    bands, rate, memory = (int(word) for word in sys.argv[1:4])
    _limit(memory)
    content = sys.stdin.buffer.read()
    found: dict[str, Any] = {}
    try:
        _try(content, bands, rate, found)
    except Exception as error:  # noqa: BLE001  the runtime's exceptions have no common class
        found["error"] = str(error).strip()[:2000] or type(error).__name__
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def _limit(memory: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415  not on Windows

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 61))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _try(content: bytes, bands: int, rate: int, found: dict[str, Any]) -> None:
    import onnxruntime as runtime  # noqa: PLC0415

    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", "/nowhere/no external data"
    )
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found["opened"] = True
    inputs = session.get_inputs()
    if len(inputs) == 1 and len(inputs[0].shape) == 2:  # waveforms
        for seconds in (1, 3):
            noise = np.random.default_rng(seconds).standard_normal((1, seconds * rate)).astype(np.float32)
            session.run(None, {inputs[0].name: 0.1 * noise})
    if len(inputs) != 1 or len(inputs[0].shape) != 3:
        return
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    first, last = inputs[0].shape[1:]
    turned = first == bands and last != bands
    if inputs[0].type not in kinds or isinstance(last if turned else first, int):
        return
    for frames in _FRAMES:
        noise = np.random.default_rng(frames).standard_normal((1, frames, bands)).astype(kinds[inputs[0].type])
        results = session.run(None, {inputs[0].name: noise.transpose(0, 2, 1) if turned else noise})
        found.setdefault("shapes", []).append([list(np.shape(result)) for result in results])


if __name__ == "__main__":
    sys.exit(main())
