"""Nested speaker embeddings: one model, one forward, every prefix an embedding by itself.

`import nestvox` is light: names are resolved when they are first used, and torch is imported only by what runs a
network.
"""

from __future__ import annotations

from nestvox.lazy import lazily

# Not from typing, which takes longer to import than all else here: until the command has begun, Ctrl-C is a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from nestvox.ablation import ablate
    from nestvox.corpora import Trials, UtteranceTable, read_trials, read_utterances
    from nestvox.errors import NestvoxError
    from nestvox.evaluation import Comparison, Evaluation, compare, evaluate
    from nestvox.extraction import centre, embed_table
    from nestvox.extraction.store.store import Store
    from nestvox.heads import NestedRotation
    from nestvox.metrics import Estimate
    from nestvox.model import SpeakerModel, Threshold, Verification, load
    from nestvox.training.train import train

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Estimate",
    "Evaluation",
    "NestedRotation",
    "NestvoxError",
    "SpeakerModel",
    "Store",
    "Threshold",
    "Trials",
    "UtteranceTable",
    "Verification",
    "__version__",
    "ablate",
    "centre",
    "compare",
    "embed_table",
    "evaluate",
    "load",
    "read_trials",
    "read_utterances",
    "train",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "corpora.trials": "Trials read_trials",
        "corpora.utterances": "UtteranceTable read_utterances",
        "errors": "NestvoxError",
        "evaluation.comparing": "compare",
        "evaluation.comparison": "Comparison",
        "evaluation.measure": "evaluate",
        "evaluation.results": "Evaluation",
        "extraction.domain_mean": "centre",
        "extraction.embed": "embed_table",
        "extraction.store.store": "Store",
        "heads.estimator": "NestedRotation",
        "metrics.estimate": "Estimate",
        "model.loading": "load",
        "model.speaker_model": "SpeakerModel",
        "model.threshold": "Threshold Verification",
    },
    torch={
        "ablation.ablating": "ablate",
        "training.train": "train",
    },
    purpose="training",
)
