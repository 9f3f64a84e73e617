"""`nestvox embed` against a plain loop over the files and against the floor, with the same networks on the same files.

    python benchmarks/extraction.py --table utterances.tsv --models ge2e redimnet-b2 --limit 600

The loop is what one writes first: soundfile.read, resampling where the rate differs, one forward pass of the network as
it is, next file. Each measurement is a process of its own, so that its peak memory is its own, and the two take turns.
Time is from the first file to the finished store (or array), without the imports and the loading of the model; the
trial that chooses batch size and threads, the plan, and writing and hashing the store count as work of `nestvox embed`.

Beside it stands what one clip takes with one thread, by each of the ways to run the network that are installed.

The sizes of ReDimNet have weights drawn at random, which run as long as others. The floor is the operations of the
network at the clips' mean length over what as many matrix products (1024 x 1024, float32) as there are cores reach side
by side on the same machine; with decoding, what reading the files takes is added. Large networks get fewer utterances,
so that the loop takes about `--seconds`.

Of `campplus`, where the package speakerlab-slim is importable, its network runs beside, with the same weights and
features.

On a machine with other work the loop's threads wait for each other, and its rate says little. What then can still be
compared is the processor's time for a clip, with `--loop-threads 1`, where nobody waits.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from nestvox.corpora.utterances import UtteranceTable, read_utterances
from nestvox.encoders.runtime.backends import Backend, onnx_is_installed
from nestvox.extraction.embed import run_embedding
from nestvox.extraction.settings import EmbeddingSettings
from nestvox.model.loading import load
from nestvox.model.speaker_model import SpeakerModel
from nestvox.zoo.variants import variant, variants

MODELS = ("ge2e", "redimnet-b0", "redimnet-b2", "redimnet-b6", "redimnet2-b0", "redimnet2-b3")
PARTS_OF = "redimnet-b2"
SHORT_TABLE = 128
FEWEST = 24


def main() -> int:
    options = _options()
    if options.worker is not None:
        _work(options)
        return 0
    if options.clip_s is not None:
        _one_clip(options)
        return 0
    if not options.table.exists():
        print(f"skipped: no table {options.table}; name one with --table, or set NESTVOX_SPEECH")
        return 0
    # Threads of a network that others crowd out wait for each other: without the load a figure says little.
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    report: dict[str, Any] = {"load_before": load_before, "cores": os.cpu_count(), "turns": options.turns, "models": {}}
    for name in options.models:
        report["models"][name] = _measure_model(name, options)
        if options.json is not None:
            options.json.write_text(json.dumps(report, indent=2) + "\n")
    _print(report)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    speech = Path(os.environ.get("NESTVOX_SPEECH", Path(__file__).resolve().parents[2] / "shared" / "speech"))
    parser.add_argument("--table", type=Path, default=speech / "utterances.tsv")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="of the catalogue, or sizes of ReDimNet")
    parser.add_argument("--limit", type=int, default=600, help="most utterances, spread over the table")
    parser.add_argument("--seconds", type=float, default=20.0, help="that a loop over a large network may take")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--loop-threads", type=int, default=0, help="of the plain loop; 0: torch's own number")
    parser.add_argument("--clip-s", type=float, help="measure nothing but one clip of this length, in processor time")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=["loop", "embed", "floor"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _one_clip(options: argparse.Namespace) -> None:
    """Processor time of one thread for one clip, of every way by turns, beside that of the operations alone."""
    import torch

    torch.set_num_threads(1)
    clip = 0.1 * np.random.default_rng(0).standard_normal(int(options.clip_s * 16_000)).astype(np.float32)
    factor = torch.randn(1024, 1024)
    print("| network | GFLOP | operations alone, ms | eager | fused | onnx | speakerlab-slim |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in options.models:
        ways: dict[str, Callable[[], object]] = {"product": lambda: factor @ factor}
        for backend in ("eager", "fused", "onnx"):
            if backend != "onnx" or onnx_is_installed():
                ways[backend] = partial(_model(name, backend).forward, [clip])
        if (other := _speakerlab(_model(name, "eager"))) is not None:
            ways["speakerlab"] = partial(other, clip)
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(15):
            for way, run in ways.items():
                began = time.process_time()
                run()
                found[way].append(time.process_time() - began)
        flops = _operations(_model(name, "eager"), clip)
        least = {way: 1e3 * min(times) for way, times in found.items()}
        alone = least["product"] * flops / (2.0 * 1024**3)
        cells = [f"{least[way]:.1f}" if way in least else "-" for way in ("eager", "fused", "onnx", "speakerlab")]
        print(f"| {name} | {flops / 1e9:.2f} | {alone:.1f} | {' | '.join(cells)} |")


def _measure_model(name: str, options: argparse.Namespace) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {"loop": [], "embed": []}
    with tempfile.TemporaryDirectory(prefix="nestvox-extraction-") as folder:
        floor = _measure("floor", name, options.limit, options, Path(folder) / "floor")
        limit = max(FEWEST, min(options.limit, int(options.seconds / floor["clip_s"])))
        for turn in range(options.turns):
            # Whoever goes first in one turn goes second in the next.
            for way in ("loop", "embed") if turn % 2 == 0 else ("embed", "loop"):
                runs[way].append(_measure(way, name, limit, options, Path(folder) / f"{way}-{turn}"))
        differences = _compare(Path(folder), options.turns)
    return _summary(runs, differences, floor)


def _measure(way: str, name: str, limit: int, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", way, "--out", str(out), "--table", str(options.table)]
    command += ["--models", name, "--limit", str(limit), "--loop-threads", str(options.loop_threads)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    print(f"{name} {way}: {found['seconds']:.1f} s", file=sys.stderr)
    return found


def _model(name: str, backend: Backend) -> SpeakerModel:
    if name not in {described.name for described in variants()}:
        return load(name, offline=True, device="cpu", backend=backend)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "encoders"))
    from keyed_weights import keyed_weights
    from nestvox.encoders.registry import build

    described = variant(name)
    encoder = build({"architecture": described.architecture, **described.config})
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    return SpeakerModel(encoder, name=name, backend=backend)


def _rows(options: argparse.Namespace) -> UtteranceTable:
    table = read_utterances(options.table)
    rows = np.unique(np.linspace(0, len(table) - 1, min(options.limit, len(table))).astype(int))
    return replace(table, frame=table.frame[rows], _lines=None)


def _work(options: argparse.Namespace) -> None:
    table = _rows(options)
    (name,) = options.models
    if options.worker == "floor":
        print(json.dumps(_floor(name, table)))
        return
    model = _model(name, "eager" if options.worker == "loop" else "auto")
    before_mib = _peak_mib()
    began, began_cpu = time.perf_counter(), time.process_time()
    if options.worker == "loop":
        _set_threads(options.loop_threads)
        vectors, audio_s = _loop(model, table)
        seconds = time.perf_counter() - began
        choice = {}
    else:
        # A short table is not worth the trial; a stream for each core is what the trial mostly ends with.
        streams = (os.cpu_count() or 1) if len(table) < SHORT_TABLE else None
        store, run = run_embedding(model, table, options.out, EmbeddingSettings(streams=streams))
        seconds = time.perf_counter() - began
        vectors, audio_s = store.vectors(), run.audio_s
        choice = {
            "batch_size": run.batch_size,
            "streams": run.streams,
            "threads": run.threads,
            "workers": run.workers,
            "trial_s": run.trial_s,
        }
    cpu_s = time.process_time() - began_cpu
    np.save(options.out.with_suffix(".npy"), vectors)
    found = {
        "utterances": len(table),
        "audio_s": audio_s,
        "seconds": seconds,
        "cpu_s": cpu_s,
        "peak_mib": _peak_mib(),
        "before_mib": before_mib,
        **choice,
    }
    print(json.dumps(found))


def _floor(name: str, table: UtteranceTable) -> dict[str, Any]:
    """Operations of a clip of mean length, the rate of matrix products, and what the parts of a clip take."""
    import torch

    torch.set_num_threads(1)
    began = time.perf_counter()
    paths = table.audio_paths[:: max(1, len(table) // 32)]
    clips = [_read(path, 16_000) for path in paths]
    decode_s = _fastest(lambda: [_read(path, 16_000) for path in paths], repeats=2) / len(clips)
    mean_s = float(np.mean([len(clip) for clip in clips])) / 16_000
    clip = np.resize(clips[0], int(mean_s * 16_000))
    model = _model(name, "eager")
    flops = _operations(model, clip)
    rate = _matrix_rate(os.cpu_count() or 1)
    found = {"mean_s": mean_s, "gflop": flops / 1e9, "gflop_per_s": rate / 1e9, "decode_s": decode_s}
    for backend in ("eager", "fused", "onnx", "auto"):
        if backend != "onnx" or onnx_is_installed():
            model.backend = backend
            found[f"{backend}_s"] = _fastest(lambda: model.forward([clip]))
    if (other := _speakerlab(model)) is not None:
        found["speakerlab_s"] = _fastest(lambda: other(clip))
    front_end = getattr(model.encoder, "spec", None)
    if front_end is not None:
        audio = torch.from_numpy(clip)[None]
        with torch.inference_mode():
            found["front_end_s"] = _fastest(lambda: front_end(audio))
    return {**found, "clip_s": found["eager_s"], "seconds": time.perf_counter() - began}


def _speakerlab(model: SpeakerModel) -> Callable[[np.ndarray[Any, Any]], object] | None:
    """CAM++ as its makers wrote it, with the weights and the features of `model`; None: no such model or package."""
    import torch

    encoder: Any = model.encoder
    if encoder.architecture != "campplus" or importlib.util.find_spec("speakerlab") is None:
        return None
    network = importlib.import_module("speakerlab.models.campplus.DTDNN").CAMPPlus(embedding_size=encoder.embedding_dim)
    state = dict(encoder.state_dict())
    state["xvector.dense.linear.weight"] = state["xvector.dense.linear.weight"][:, :, None]
    network.load_state_dict(state)
    network.eval()

    @torch.inference_mode()
    def run(clip: np.ndarray[Any, Any]) -> object:
        return network(encoder.features(torch.from_numpy(clip)[None]).transpose(1, 2))

    return run


def _operations(model: SpeakerModel, clip: np.ndarray[Any, Any]) -> float:
    """Multiplications and additions of one forward pass, as the network is written."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    recurrent = [0.0]

    def count(module: torch.nn.Module, inputs: tuple[Any, ...], _: object) -> None:
        # The counter does not know LSTMs: per step four gates, each a product with the input and one with the state.
        assert isinstance(module, torch.nn.LSTM)
        n_windows, steps, _size = inputs[0].shape
        for layer in range(module.num_layers):
            entering = module.input_size if layer == 0 else module.hidden_size
            recurrent[0] += 2.0 * n_windows * steps * 4 * module.hidden_size * (entering + module.hidden_size)

    hooks = [m.register_forward_hook(count) for m in model.encoder.modules() if isinstance(m, torch.nn.LSTM)]
    with FlopCounterMode(display=False) as counter:
        model.forward([clip])
    for hook in hooks:
        hook.remove()
    return float(counter.get_total_flops()) + recurrent[0]


def _matrix_rate(streams: int) -> float:
    """Operations per second of as many matrix products side by side, one thread each."""
    import torch

    factors = [torch.randn(1024, 1024) for _ in range(streams)]
    repeats = 8

    def work(factor: torch.Tensor) -> None:
        torch.set_num_threads(1)
        for _ in range(repeats):
            factor @ factor

    with ThreadPoolExecutor(streams) as pool:
        seconds = _fastest(lambda: list(pool.map(work, factors)))
    return 2.0 * 1024**3 * repeats * streams / seconds


def _fastest(function: Callable[[], object], repeats: int = 8, budget_s: float = 3.0) -> float:
    function()
    found: list[float] = []
    while len(found) < repeats and (len(found) < 2 or sum(found) < budget_s):
        began = time.perf_counter()
        function()
        found.append(time.perf_counter() - began)
    return min(found)


def _set_threads(count: int) -> None:
    import torch

    if count:
        torch.set_num_threads(count)


def _loop(model: SpeakerModel, table: UtteranceTable) -> tuple[np.ndarray[Any, Any], float]:
    vectors, audio_s = [], 0.0
    for path in table.audio_paths:
        samples = _read(path, model.sample_rate)
        audio_s += len(samples) / model.sample_rate
        vectors.append(model.forward([samples])[0])
    return np.stack(vectors), audio_s


def _read(path: Path, sample_rate: int) -> np.ndarray[Any, Any]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono: np.ndarray[Any, Any] = samples.mean(axis=1)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    return mono


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _compare(folder: Path, turns: int) -> float:
    """Largest difference between the two ways' unit vectors."""
    largest = 0.0
    for turn in range(turns):
        loop, embed = (np.load(folder / f"{way}-{turn}.npy").astype(np.float64) for way in ("loop", "embed"))
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (loop, embed)]
        largest = max(largest, float(np.abs(unit[0] - unit[1]).max()))
    return largest


def _summary(runs: dict[str, list[dict[str, Any]]], difference: float, floor: dict[str, Any]) -> dict[str, Any]:
    report: dict[str, Any] = {"largest_difference": difference, "floor": floor, "runs": runs}
    for way, found in runs.items():
        # The fastest run is the one that others disturbed least; the slowest says how much they can.
        seconds = min(run["seconds"] for run in found)
        report[way] = {
            "seconds": seconds,
            "slowest_s": max(run["seconds"] for run in found),
            "utterances_per_s": found[0]["utterances"] / seconds,
            "real_time_factor": seconds / found[0]["audio_s"],
            "cpu_ms": 1e3 * min(run["cpu_s"] for run in found) / found[0]["utterances"],
            "peak_mib": max(run["peak_mib"] for run in found),
            "added_mib": max(run["peak_mib"] - run["before_mib"] for run in found),
        }
    report["floor"]["utterances_per_s"] = floor["gflop_per_s"] / floor["gflop"]
    return report


def _with_decoding(floor: dict[str, Any], cores: int) -> float:
    """Clips per second that all cores together decode and run through the network at the rate of matrix products."""
    return float(1.0 / (floor["decode_s"] / cores + floor["gflop"] / floor["gflop_per_s"]))


def _after_trial(found: dict[str, Any]) -> float:
    """Clips per second once batch size and streams are chosen and the network is set up."""
    return float(max(run["utterances"] / (run["seconds"] - run["trial_s"]) for run in found["runs"]["embed"]))


def _print(report: dict[str, Any]) -> None:
    first = next(iter(report["models"].values()))
    print(
        f"clips of {first['floor']['mean_s']:.1f} s on average, {report['cores']} cores with a load of "
        f"{report['load_before']:.1f} before, {report['turns']} runs each; rates are of the fastest\n"
    )
    print(
        "| network | clips | loop, clips/s | embed, clips/s | after its trial | gain | real-time factor "
        "| slowest runs, s: loop, embed | processor, ms a clip: loop, embed |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, found in report["models"].items():
        loop, embed = found["loop"], found["embed"]
        print(
            f"| {name} | {found['runs']['loop'][0]['utterances']} | {loop['utterances_per_s']:.1f} | "
            f"{embed['utterances_per_s']:.1f} | {_after_trial(found):.1f} | "
            f"{embed['utterances_per_s'] / loop['utterances_per_s']:.2f} | "
            f"{embed['real_time_factor']:.4f} | {loop['slowest_s']:.1f}, {embed['slowest_s']:.1f} | "
            f"{loop['cpu_ms']:.0f}, {embed['cpu_ms']:.0f} |"
        )
    print(
        "\n| network | GFLOP a clip | GFLOP/s of products | floor, clips/s | with decoding | floor over embed "
        "| peak MiB: loop, embed |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, found in report["models"].items():
        floor, embed = found["floor"], found["embed"]
        print(
            f"| {name} | {floor['gflop']:.2f} | {floor['gflop_per_s']:.0f} | {floor['utterances_per_s']:.1f} | "
            f"{_with_decoding(floor, report['cores']):.1f} | "
            f"{floor['utterances_per_s'] / embed['utterances_per_s']:.2f} | "
            f"{found['loop']['peak_mib']:.0f}, {embed['peak_mib']:.0f} |"
        )
    print("\n| network | ms a clip, one thread: eager | fused | onnx | speakerlab-slim |")
    print("|---|---:|---:|---:|---:|")
    for name, found in report["models"].items():
        times = (found["floor"].get(f"{way}_s") for way in ("eager", "fused", "onnx", "speakerlab"))
        print(f"| {name} | {' | '.join('-' if time is None else f'{1e3 * time:.0f}' for time in times)} |")
    if PARTS_OF in report["models"]:
        floor = report["models"][PARTS_OF]["floor"]
        network_s = floor["auto_s"] - floor["front_end_s"]
        print(
            f"\n{PARTS_OF}, ms a clip with one thread: decode {1e3 * floor['decode_s']:.1f}, front end "
            f"{1e3 * floor['front_end_s']:.1f}, network {1e3 * network_s:.1f} (as it is written "
            f"{1e3 * (floor['eager_s'] - floor['front_end_s']):.1f})"
        )
    print("\nchosen by nestvox embed (for fewer than 128 clips, a stream for each core was asked for):")
    keys = ("batch_size", "streams", "threads", "workers")
    for name, found in report["models"].items():
        choices = {", ".join(f"{key} {run[key]}" for key in keys) for run in found["runs"]["embed"]}
        print(f"- {name}: {'; '.join(sorted(choices))}; vectors differ by {found['largest_difference']:.1e} at most")


if __name__ == "__main__":
    sys.exit(main())
