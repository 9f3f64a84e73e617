"""What a gallery answers."""

from __future__ import annotations

from dataclasses import dataclass

from nestvox.model.threshold import Threshold


@dataclass(frozen=True)
class Enrolled:
    """What became of the recordings that a person was to be enrolled with.

    Attributes:
        person: as the gallery has the name.
        added: names of the recordings that are new, or took the place of those of the same name.
        kept: names of those that were there already and stayed.
        n_recordings: that the person has now.
        warnings: what is wrong with recordings, in sentences.
    """

    person: str
    added: tuple[str, ...]
    kept: tuple[str, ...]
    n_recordings: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """An enrolled person that a recording may be of.

    Attributes:
        person: name.
        score: cosine with the person's profile, in [-1, 1].
        n_recordings: that the profile was made of.
        accepted: score >= threshold, or None: there is no verdict.
    """

    person: str
    score: float
    n_recordings: int
    accepted: bool | None = None


@dataclass(frozen=True)
class Identification:
    """The answer to "whose voice is this?".

    Attributes:
        candidates: the most similar people, best first.
        dim: prefix length.
        n_people: in the gallery.
        threshold: that decides about the best candidate; None: none does.
        reason: why there is no verdict; empty where there is one.
        warnings: what is wrong with the recording, and what the threshold cannot promise.
        model: name of the model.
        fingerprint: of the model.
        duration_s: of the recording; None: it was given as a vector.
        conditions: of the recording, codes of `audio.condition.CODES`.
    """

    candidates: tuple[Candidate, ...]
    dim: int
    n_people: int
    threshold: Threshold | None
    reason: str
    warnings: tuple[str, ...]
    model: str
    fingerprint: str
    duration_s: float | None = None
    conditions: tuple[str, ...] = ()

    @property
    def person(self) -> str | None:
        """Who it is; None: nobody who is enrolled, or there is no verdict."""
        best = self.candidates[0] if self.candidates else None
        return best.person if best is not None and best.accepted else None
