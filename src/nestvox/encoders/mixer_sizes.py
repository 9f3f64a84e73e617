"""Sizes of the mixers by name. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MIXERS: Mapping[str, Mapping[str, Any]] = {
    "v2": {"variant": "pointwise", "width": 192, "depth": 6, "expansion": 3},
    "v2-large": {"variant": "pointwise", "width": 256, "depth": 8, "expansion": 4},
    "4x384": {"variant": "pointwise", "width": 384, "depth": 4, "expansion": 3},
    "6x256": {"variant": "pointwise", "width": 256, "depth": 6, "expansion": 3},
    "12x128": {"variant": "pointwise", "width": 128, "depth": 12, "expansion": 3},
    "lstm-before": {"variant": "pointwise", "lstm": 128, "lstm_place": "before"},
    "lstm-within": {"variant": "pointwise", "lstm": 128, "lstm_place": "within"},
    "temporal": {"variant": "temporal"},
    "temporal-large": {
        "variant": "temporal",
        "width": 256,
        "expansion": 2,
        "groups": 1,
        "dropout": 0.0,
        "aggregated": 256,
        "kernels": [3, 5, 9, 15],
        "chunk": 0,
        "planes": 16,
        "mfm": False,
    },
}
"""Arguments of `MLPMixer` by name; as `model` of a recipe and to `zoo.variant`, ``mixer-v2`` and so on.

``v2`` and ``v2-large`` are the published networks (2,664,576 and 7,844,864 parameters); of the planned ones 4x384 has
7,008,000, 6x256 4,617,216 and 12x128 2,291,968, or with an expansion of 4 9,076,992, 5,998,080 and 2,984,704.

``temporal-large`` is for students trained on a CPU: convolutions over bands and time before it, which cost a
sixth of a step; products over all channels in place of groups, whose many small ones are slow; no dropout, no maximum
and no MLP over chunks, which cost more time than products. 2,872,816 parameters.
"""
