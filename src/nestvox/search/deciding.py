"""Which threshold decides about a profile of so many recordings.

A threshold belongs to the number of recordings, too: with CAM++ what lets in one impostor in a thousand pairs of
recordings lets in two where one side is the mean of five. So one that was set on profiles of just so many recordings
decides; else that of the next larger number, which is stricter; else that of the next smaller number of profiles, with
a warning. One that was set on pairs decides about nobody who has several recordings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nestvox.model.threshold import Choice, Threshold, choose_threshold

OF_GALLERY, OF_MODEL = "the gallery's", "the model's"


def threshold_for(
    holders: Mapping[str, Sequence[Threshold]], n_recordings: int, *, dim: int, **asked: Any
) -> tuple[Choice, str]:
    """Choose the threshold that decides about a profile and a recording.

    Args:
        holders: thresholds by whose they are; the first that has one that fits decides.
        n_recordings: of the profile.
        dim: prefix length.
        asked: as `choose_threshold` takes it.

    Returns:
        The choice, and a sentence on what it cannot promise; empty where it can.
    """
    for thresholds in holders.values():
        for clips in _order({one.enrol_clips for one in thresholds if one.dim == dim}, n_recordings):
            choice = choose_threshold(thresholds, dim=dim, enrol_clips=clips, **asked)
            if choice.threshold is not None:
                return choice, _promise(clips, n_recordings)
    return Choice(None, _why_none(holders, n_recordings, dim, asked)), ""


def _order(there: set[int], wanted: int) -> list[int]:
    above = sorted(clips for clips in there if clips >= wanted)
    return above + sorted((clips for clips in there if 1 < clips < wanted), reverse=True)


def _promise(clips: int, n_recordings: int) -> str:
    if clips == n_recordings:
        return ""
    more = "fewer false alarms and more misses" if clips > n_recordings else "more false alarms"
    has = f"{n_recordings} recording{'s' if n_recordings > 1 else ''}"
    return f"the threshold was set on profiles of {clips} recordings and this one has {has}: {more} than it says"


def _why_none(holders: Mapping[str, Sequence[Threshold]], n_recordings: int, dim: int, asked: Mapping[str, Any]) -> str:
    everything = [one for thresholds in holders.values() for one in thresholds]
    advice = "set one with `nestvox threshold` on trials that `nestvox data trials --profiles` made"
    if not everything:
        return f"none: neither the gallery nor its model holds a threshold; {advice}"
    for whose, thresholds in holders.items():
        for clips in _order({one.enrol_clips for one in thresholds if one.dim == dim}, n_recordings):
            reason = choose_threshold(thresholds, dim=dim, enrol_clips=clips, **asked).reason
            return reason.replace("the model holds", f"{whose} are").replace("the model has", f"{whose} are")
    if any(one.dim == dim and one.enrol_clips == 1 for one in everything):
        return (
            f"none for profiles of {n_recordings} recordings: those there are were set on pairs of recordings, which "
            f"let in more impostors here than they say; {advice}"
        )
    dims = ", ".join(map(str, sorted({one.dim for one in everything if one.dim is not None})))
    return f"none for {dim} dimensions; there are some for {dims}"
