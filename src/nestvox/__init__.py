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
    from nestvox.evaluation import Comparison, Evaluation, compare_systems, evaluate_scores, evaluate_store
    from nestvox.extraction import EmbeddingStore, embed_table
    from nestvox.heads import NestedRotation
    from nestvox.model import SpeakerModel, Threshold, Verification, load
    from nestvox.training.train import train

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "EmbeddingStore",
    "Evaluation",
    "NestedRotation",
    "NestvoxError",
    "SpeakerModel",
    "Threshold",
    "Trials",
    "UtteranceTable",
    "Verification",
    "__version__",
    "compare_systems",
    "embed_table",
    "evaluate_scores",
    "evaluate_store",
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
        "Comparison": "evaluation.compare",
        "EmbeddingStore": "extraction.store.store",
        "Evaluation": "evaluation.results",
        "NestedRotation": "heads.estimator",
        "NestvoxError": "errors",
        "SpeakerModel": "model.speaker_model",
        "Threshold": "model.threshold",
        "Trials": "corpora.trials",
        "UtteranceTable": "corpora.utterances",
        "Verification": "model.threshold",
        "compare_systems": "evaluation.compare",
        "embed_table": "extraction.embed",
        "evaluate_scores": "evaluation.evaluate",
        "evaluate_store": "evaluation.evaluate",
        "load": "model.loading",
        "read_trials": "corpora.trials",
        "read_utterances": "corpora.utterances",
        "train": "training.train",
    },
    _need,
)
