"""Voices that are known: people enrolled in a gallery, and who of them a recording is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.search.answers import Candidate, Enrolled, Identification
    from nestvox.search.gallery import Gallery
    from nestvox.search.profile import EnrolledRecording, Profile

__all__ = [
    "Candidate",
    "Enrolled",
    "EnrolledRecording",
    "Gallery",
    "Identification",
    "Profile",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "answers": "Candidate Enrolled Identification",
        "gallery": "Gallery",
        "profile": "EnrolledRecording Profile",
    },
)
