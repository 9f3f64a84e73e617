"""What frozen frames, of a codec or of any encoder, know about the speaker: ladders of probes on unseen speakers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.probing.ladder import Probing, probe
    from nestvox.probing.learning import Budget
    from nestvox.probing.outcome import Ladder, Rung

__all__ = ["Budget", "Ladder", "Probing", "Rung", "probe"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "outcome": "Ladder Rung",
    },
    torch={
        "ladder": "Probing probe",
        "learning": "Budget",
    },
    purpose="probing an encoder",
)
