"""What a step of a student costs by itself, and with a teacher that hears each clip for its layers.

    python benchmarks/live_teacher.py --rounds 5 lstm-encoder campplus

A teacher whose embeddings are taught is heard once before the training and costs a step nothing. One whose layers are
taught (`layers` of a term) hears every clip. Student and teachers are timed by turns in one process, on one thread, in
processor time, and of each the fastest round counts; a step is forward and backward of `mixer-v2` on 8 clips of 2 s.
Weights are drawn: they change no time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial

import torch

from nestvox.encoders import Encoder
from nestvox.model.loading import load
from nestvox.training.data.live import LiveTeachers
from nestvox.training.tasks.encoder import drawn_encoder
from nestvox.zoo.variants import variants

CLIPS, SECONDS, RATE = 8, 2, 16_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("names", nargs="*", default=["lstm-encoder", "campplus"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clips = 0.1 * torch.randn(CLIPS, SECONDS * RATE)
    student = drawn_encoder("mixer-v2", 0).train()

    def step() -> None:
        student.zero_grad()
        taps = student(clips, layers=["block2", "block4", "block6"])
        (taps.embedding.square().mean() + sum(one.values.square().mean() for one in taps.layers.values())).backward()

    calls: dict[str, Callable[[], object]] = {"student": step}
    for name in options.names:
        teacher = _encoder(name)
        last = list(teacher.layer_rates_hz)[-1]
        live = LiveTeachers({None: teacher}, {None: [last]}, RATE, torch.device("cpu"))
        calls[name] = partial(live, clips)
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(options.rounds + 1):  # the first round warms up, and is never the fastest
        for name, call in calls.items():
            began = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - began)
    alone = best["student"]
    print(f"processor {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds by turns")
    print(f"{'teacher':16} {'clips a second':>15} {'ratio':>6}")
    for name in ("student", *options.names):
        whole = alone + (best[name] if name != "student" else 0)
        print(f"{'cached' if name == 'student' else name:16} {CLIPS / whole:15.1f} {alone / whole:6.2f}")
    return 0


def _encoder(name: str) -> Encoder:
    if name in {entry.name for entry in variants()}:
        return drawn_encoder(name, 0)
    return load(name, device="cpu", backend="eager").encoder


if __name__ == "__main__":
    raise SystemExit(main())
