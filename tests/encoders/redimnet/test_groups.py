"""Groups of ReDimNet's 3x3 convolutions, where `group_divisor` divides the channels and where it does not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from nestvox.encoders.redimnet.blocks import groups_of
from nestvox.errors import ModelError
from nestvox.zoo.variants import variant


@pytest.mark.parametrize(
    ("channels", "group_divisor", "groups"),
    [
        (16, 4, 4),  # the divisor is the number of channels in a group
        (16, 1, 16),  # one each: depthwise
        (16, None, 1),  # dense
        (12, 8, 1),  # 8 does not divide 12: as many whole groups as go in, here one of 12
        (20, 9, 2),
    ],
)
def test_groups(channels: int, group_divisor: int | None, groups: int) -> None:
    assert groups_of(channels, group_divisor) == groups


@pytest.mark.parametrize(
    ("channels", "group_divisor", "entering"),
    [
        (20, 6, 20),  # three groups of 20 channels
        (8, 16, 8),  # no group at all
        (8, 0, 8),
        (24, 8, 32),  # three groups of 32 channels that enter
    ],
)
def test_groups_that_cannot_be(channels: int, group_divisor: int, entering: int) -> None:
    with pytest.raises(ModelError, match=f"group_divisor {group_divisor} makes . groups of {entering} to {channels}"):
        groups_of(channels, group_divisor, entering=entering)


def test_the_official_network_rounds_down(reference_dir: Path) -> None:
    """b1 has 12 and 24 channels and a divisor of 8; (out, in per group) as the official code builds them."""
    with gzip.open(reference_dir / "redimnet/v1-b1.keys.json.gz", "rt") as file:
        shapes = {name: shape for name, shape, _ in json.load(file)}
    divisor = variant("redimnet-b1").config["group_divisor"]
    convolutions = [shape for name, shape in shapes.items() if ".conv_block.dwconvs.0.weight" in name]
    assert {12, 24, 72, 144} <= {out for out, *_ in convolutions}
    assert divisor == 8
    for out, per_group, *_ in convolutions:
        assert out // groups_of(out, divisor) == per_group
