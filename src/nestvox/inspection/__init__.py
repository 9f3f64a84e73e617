"""What a model is and what it costs.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.inspection.bench import Bench, bench_model
    from nestvox.inspection.inspect import Inspection, inspect_model

__all__ = ["Bench", "Inspection", "bench_model", "inspect_model"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Bench": "bench",
        "Inspection": "inspect",
        "bench_model": "bench",
        "inspect_model": "inspect",
    },
)
