"""ECAPA-TDNN: parameters counted from the paper, and its parts by loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from keyed_weights import keyed_weights
from nestvox.encoders import build
from nestvox.errors import ModelError

SMALL: dict[str, Any] = {"architecture": "ecapa", "channels": 16, "aggregated": 12, "scale": 4, "bottleneck": 6}


def total(c: int, aggregated: int, scale: int = 8, bottleneck: int = 128, dim: int = 192) -> int:
    share = c // scale
    res2 = (scale - 1) * (3 * share**2 + share + 2 * share)
    gates = 2 * c * bottleneck + bottleneck + c
    block = 2 * (c**2 + c + 2 * c) + res2 + gates
    front = 5 * 80 * c + c + 2 * c
    attention = 3 * aggregated * bottleneck + bottleneck + bottleneck * aggregated + aggregated
    ends = 2 * 2 * aggregated + 2 * aggregated * dim + dim + 2 * dim
    return front + 3 * block + (3 * c * aggregated + aggregated) + attention + ends


def test_parameters() -> None:
    """The paper prints 6.2 and 14.7 million."""

    def count(**arguments: Any) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build({"architecture": "ecapa", **arguments}).parameters())

    assert count() == total(512, 1536) == 6_191_104
    assert count(channels=1024) == total(1024, 1536)
    assert round(total(1024, 1536) / 1e6, 1) == 14.7
    assert count(channels=256, aggregated=768, embedding_dim=512) == total(256, 768, dim=512)


def test_a_block_by_its_parts() -> None:
    encoder = build(SMALL).eval()
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    block: Any = encoder.get_submodule("blocks.1")
    x = torch.randn(2, 16, 30, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        h = block.enter(x)
        parts = [h[:, :4]]
        for n in range(1, 4):
            entering = h[:, 4 * n : 4 * n + 4] + (parts[-1] if n > 1 else 0)
            conv, _, norm = block.parts[n - 1]
            parts.append(norm(functional.conv1d(entering, conv.weight, conv.bias, padding=3, dilation=3).relu()))
        y = block.leave(torch.cat(parts, dim=1))
        gates = torch.sigmoid(block.excite(block.squeeze(y.mean(dim=2)).relu()))
        torch.testing.assert_close(block(x), x + y * gates[:, :, None], rtol=0, atol=1e-5)


def test_a_block_hears_the_sum_of_all_before_it() -> None:
    encoder: Any = build(SMALL).eval()
    audio = 0.1 * torch.randn(1, 8_000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        layers = encoder(audio, layers=encoder.layer_rates_hz).layers
        before = layers["front"].values + layers["block1"].values + layers["block2"].values
        torch.testing.assert_close(encoder.blocks[2](before), layers["block3"].values, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"channels": 18}, "a scale of 4"), ({"scale": 1}, "scale"), ({"dilations": []}, "dilations")],
)
def test_what_describes_no_network_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        build({**SMALL, **changes})
