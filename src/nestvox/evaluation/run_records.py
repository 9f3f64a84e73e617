"""What a training run writes down, as its page reads it: lines of ``metrics.jsonl``, and ``result.json``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from nestvox.gate import ErrorMaker
from nestvox.schema import Count, Fraction, OpenModel, Size, Word, validated

Epoch = Annotated[float, Field(ge=0, le=1e9)]
Dim = Annotated[str, Field(pattern=r"^[0-9]{1,7}$")]


class _Seen(OpenModel):
    utterances: Count
    of_utterances: Count
    speakers: Count
    of_speakers: Count
    samples: Count


class _Row(OpenModel):
    dim: Size
    truncated: Fraction | None
    start: Fraction
    best: Fraction
    low: Fraction
    high: Fraction


class _Development(OpenModel):
    trials: Word
    n_target: Count
    n_nontarget: Count
    sha256: Word
    interval: Word = ""
    eer: list[_Row] = Field(default_factory=list)


class _Record(OpenModel):
    epoch: Epoch
    loss: float | None = None
    epoch_loss: float | None = None
    epoch_s: float | None = None
    dev_eer: dict[Dim, Fraction] = Field(default_factory=dict)
    best_epoch: Count = 0
    seen: _Seen | None = None
    repeated_clips: Count = 0
    epochs: Count = 0
    labels: list[Word] = Field(default_factory=list)
    warnings: list[Word] = Field(default_factory=list)
    development: _Development | None = None


class _Result(OpenModel):
    kind: Word
    kept: Word
    fingerprint: Word
    model: Word = ""
    epochs: Count = 0
    labels: list[Word] = Field(default_factory=list)
    warnings: list[Word] = Field(default_factory=list)
    development: _Development


def check_record(content: Any, where: str, error: ErrorMaker) -> None:
    """Refuse a line of the log that no run writes.

    Raises:
        NestvoxError: of `error`.
    """
    found = validated(_Record, content, where, error, what="none of a run's log")
    for name in ("loss", "epoch_loss", "epoch_s", "seen", "development"):
        if name in found.model_fields_set and getattr(found, name) is None:
            raise error(f"none of a run's log: {name} is null", where)
    if found.seen is not None and found.epoch_s is None:
        raise error("none of a run's log: lacks 'epoch_s'", where)


def check_result(content: Any, where: str, error: ErrorMaker) -> None:
    """Refuse a result that no run writes.

    Raises:
        NestvoxError: of `error`.
    """
    validated(_Result, content, where, error, what="none of a run's result")
