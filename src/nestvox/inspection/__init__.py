"""What a model is and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.inspection.bench import Bench, bench_model
    from nestvox.inspection.checks import Check
    from nestvox.inspection.inspect import Inspection, inspect_model
    from nestvox.inspection.sample_clips import Clip, read_clips

__all__ = ["Bench", "Check", "Clip", "Inspection", "bench_model", "inspect_model", "read_clips"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "bench": "Bench bench_model",
        "checks": "Check",
        "inspect": "Inspection inspect_model",
        "sample_clips": "Clip read_clips",
    },
)
