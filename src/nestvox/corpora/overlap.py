"""Speakers of the training material must not stand in an evaluation."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Set

from nestvox.errors import OverlapError, first_of
from nestvox.names import name_key


def speaker_key(name: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a speaker's name, in the form in which names are compared.

    A model carries its training speakers as keys: enough to find an overlap, and no list of names.
    """
    return _hashed(name_key(name))


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def shared_speakers(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those of the others who stand among the names too, sorted; a name that became a number, 1001.0, is 1001."""
    there = {form for name in names for form in _forms(name)}
    return sorted({name for name in others if not there.isdisjoint(_forms(name))})


def _forms(name: str) -> set[str]:
    """The form in which a name is compared, and, of a whole number, that with .0 behind it."""
    key = name_key(name)
    whole = key.removesuffix(".0")
    return {whole, f"{whole}.0"} if whole.isdecimal() else {key}


def _known_as(name: str) -> Iterator[str]:
    """Yield the keys that a model may have of a speaker: today's, and those of names that were hashed as they came."""
    for form in {name, unicodedata.normalize("NFD", name_key(name))} | _forms(name):
        yield _hashed(form)


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
    both = sorted({name for name in evaluation_speakers if not training_keys.isdisjoint(_known_as(name))})
    if not both:
        return ()
    if allow:
        return ("leaky",)
    raise OverlapError(f"{len(both)} of the evaluated speakers {use}: {first_of(both)}; {advice}")
