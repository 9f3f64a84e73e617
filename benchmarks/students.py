"""What candidates for a student cost on one thread: to run on a clip of 3 s, and to train.

    python benchmarks/students.py --rounds 5

All networks are timed by turns in one process, in processor time, and of each the fastest round counts: what else the
machine does changes the figures, and the ratios to the first network less. A training step is forward, backward and
Adam on 32 crops of 2 s, in float32 and under autocast to bfloat16 (`training.precision: bfloat16`), the front end
inside. MMAC are products of one clip behind the front end, as torch counts them, and those of LSTMs by their formula.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nestvox.encoders import Encoder, build
from nestvox.zoo.variants import variant, variants

BATCH, CROP_S, CLIP_S = 32, 2.015, 3


def main() -> int:
    known = [entry.name for entry in variants() if not entry.name.startswith("redimnet")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("names", nargs="*", default=["mixer-temporal", *known, "redimnet2-b0", "redimnet-b0"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = list(dict.fromkeys(options.names))
    rows = {name: _Candidate(name) for name in names}
    for _ in range(options.rounds):
        for row in rows.values():
            row.round()
    print(f"processor {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds by turns")
    print(
        f"{'network':22} {'parameters':>11} {'MMAC':>7} {'ms a clip':>10} {'float32/s':>10} {'bfloat16/s':>10}  ratios"
    )
    first = rows[names[0]].best
    for name, row in rows.items():
        clip, full, half = row.best
        ratios = "  ".join(f"{one / other:5.2f}" for one, other in zip(row.best, first, strict=True))
        speeds = f"{1000 * clip:10.1f} {BATCH / full:10.1f} {BATCH / half:10.1f}"
        print(f"{name:22} {row.parameters:11,} {row.macs / 1e6:7.0f} {speeds}  {ratios}")
    return 0


class _Candidate:
    """One network, and the fastest of its rounds: seconds for a clip, a step in float32, and one in bfloat16."""

    def __init__(self, name: str) -> None:
        size = variant(name)
        torch.manual_seed(0)
        self.encoder: Encoder = build({"architecture": size.architecture, **size.config})
        self.parameters = sum(parameter.numel() for parameter in self.encoder.parameters())
        rate = self.encoder.sample_rate
        self.crops = 0.1 * torch.randn(BATCH, int(CROP_S * rate))
        self.clip = 0.1 * torch.randn(1, CLIP_S * rate)
        self.macs = _macs(self.encoder.eval(), self.clip)
        self.optimiser = torch.optim.Adam(self.encoder.parameters(), lr=1e-5)
        self.best = (float("inf"),) * 3

    def round(self) -> None:
        """Time everything once more."""
        self.encoder.eval()
        found = (
            min(_seconds(self._run) for _ in range(5)),
            _seconds(lambda: self._step(half=False)),
            _seconds(lambda: self._step(half=True)),
        )
        self.best = tuple(min(pair) for pair in zip(self.best, found, strict=True))  # type: ignore[assignment]

    @torch.inference_mode()
    def _run(self) -> None:
        self.encoder(self.clip)

    def _step(self, *, half: bool) -> None:
        self.encoder.train()
        self.optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            embedding: Tensor = self.encoder(self.crops).embedding
        embedding.float().square().mean().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()


def _seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _macs(encoder: Encoder, clip: Tensor) -> int:
    recurrent = 0

    def count(lstm: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        nonlocal recurrent
        assert isinstance(lstm, nn.LSTM)
        directions = 2 if lstm.bidirectional else 1
        steps = inputs[0].shape[1]
        for layer in range(lstm.num_layers):
            entering = directions * lstm.hidden_size if layer else lstm.input_size
            recurrent += steps * directions * 4 * lstm.hidden_size * (entering + lstm.hidden_size)

    hooks = [module.register_forward_hook(count) for module in encoder.modules() if isinstance(module, nn.LSTM)]
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        encoder(clip)
    for hook in hooks:
        hook.remove()
    front = encoder.get_submodule("features") if hasattr(encoder, "features") else None
    before = 0
    if front is not None:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            front(clip)
        before = counter.get_total_flops()
    products: int = (whole.get_total_flops() - before) // 2 + recurrent
    return products


if __name__ == "__main__":
    raise SystemExit(main())
