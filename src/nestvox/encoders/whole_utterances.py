"""Encoders that hear every utterance as a whole, so that none is ever padded on its way through the network.

Notation: B utterances, S samples, T frames, C frame channels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from nestvox.encoders.contract import Encoder, Layer, Taps
from nestvox.encoders.pooling import length_mask


class WholeUtteranceEncoder(Encoder):
    """A network whose layers may look at the whole utterance: convolutions with padding, attention, normalisation.

    Utterances of equal length in a batch run together, the others by themselves. Batches of equal lengths are the fast
    ones. A subclass gives `run`, `pool` and `embed`.
    """

    @abstractmethod
    def run(self, audio: Tensor, layers: Collection[str]) -> Mapping[str, Tensor]:
        """Run the network up to its frames.

        Args:
            audio: (B, S) without padding.
            layers: names in `layer_rates_hz`.

        Returns:
            (B, C, T) each: ``frames``, and the layers by name.
        """

    def forward(self, audio: Tensor, lengths: Tensor | None = None, *, layers: Collection[str] = ()) -> Taps:
        """Run the network once; see `Encoder.forward`. Utterances of equal length run together."""
        lengths = self.check_input(audio, lengths, layers)
        distinct = sorted(set(lengths.tolist()))
        rows = [(lengths == length).nonzero()[:, 0].to(audio.device) for length in distinct]
        alike = len(distinct) == 1
        parts = [
            self.run(audio[:, :length] if alike else audio[row, :length], layers)
            for row, length in zip(rows, distinct, strict=True)
        ]
        places = torch.cat(rows).argsort()  # of the utterances, in the order in which they ran

        def whole(name: str) -> tuple[Tensor, Tensor]:
            values = [part[name] for part in parts]
            sizes = [value.shape[2] for value in values]
            counts = torch.cat([row.new_full(row.shape, size) for row, size in zip(rows, sizes, strict=True)])
            mask = length_mask(counts, max(sizes))
            if alike:
                return values[0], mask
            padded = [functional.pad(value, (0, max(sizes) - value.shape[2])) for value in values]
            return torch.cat(padded)[places], mask[places]

        frames, mask = whole("frames")
        pooled = self.pool(frames, None if alike else mask)
        found = {name: Layer(*whole(name), self.layer_rates_hz[name]) for name in layers}
        return Taps(frames, mask, pooled, self.embed(pooled), found)
