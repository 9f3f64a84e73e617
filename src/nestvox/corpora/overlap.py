"""Speakers of the training material must not stand in an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Set

from nestvox.errors import OverlapError, first_of

__all__ = ["refuse_overlap", "speaker_key"]


def speaker_key(name: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a speaker's name.

    A model carries its training speakers as keys: enough to find an overlap, and no list of names.
    """
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def refuse_overlap(
    training_keys: Set[str],
    evaluation_speakers: Iterable[str],
    *,
    allow: bool = False,
    use: str = "were trained on",
    advice: str = "leave them out of one side, or allow the overlap and have every number labelled leaky",
) -> tuple[str, ...]:
    """Refuse an evaluation on speakers that were trained on.

    Args:
        training_keys: `speaker_key` of every training speaker.
        evaluation_speakers: names.
        allow: go on all the same; every number then carries the label that is returned.
        use: what was done with the speakers, for the message.
        advice: what to do, for the message.

    Returns:
        Labels for the results: ``("leaky",)`` where an overlap was allowed, else none.

    Raises:
        OverlapError: speakers stand on both sides; the message names them.
    """
    both = sorted({name for name in evaluation_speakers if speaker_key(name) in training_keys})
    if not both:
        return ()
    if allow:
        return ("leaky",)
    raise OverlapError(f"{len(both)} of the evaluated speakers {use}: {first_of(both)}; {advice}")
