"""Nested speaker embeddings: one model, one forward, every prefix an embedding by itself.

`import nestvox` is light: names are resolved when they are first used, and torch is imported only by what runs a
network.
"""

from __future__ import annotations

from nestvox.lazy import lazily

# Not from typing, which takes longer to import than all else here: until the command has begun, Ctrl-C is a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
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
    "centre",
    "compare",
    "embed_table",
    "evaluate",
    "load",
    "read_trials",
    "read_utterances",
    "train",
]


def _need(name: str) -> None:
    if name == "train":
        from nestvox.extras import require  # noqa: PLC0415  see above

        require("torch", extra="torch", purpose="training")


__getattr__, __dir__ = lazily(
    __name__,
    {
        "Comparison": "evaluation.comparison",
        "Estimate": "metrics.estimate",
        "Evaluation": "evaluation.results",
        "NestedRotation": "heads.estimator",
        "NestvoxError": "errors",
        "SpeakerModel": "model.speaker_model",
        "Store": "extraction.store.store",
        "Threshold": "model.threshold",
        "Trials": "corpora.trials",
        "UtteranceTable": "corpora.utterances",
        "Verification": "model.threshold",
        "centre": "extraction.domain_mean",
        "compare": "evaluation.comparing",
        "embed_table": "extraction.embed",
        "evaluate": "evaluation.measure",
        "load": "model.loading",
        "read_trials": "corpora.trials",
        "read_utterances": "corpora.utterances",
        "train": "training.train",
    },
    _need,
)
