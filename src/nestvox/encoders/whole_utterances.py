"""Encoders that hear every utterance as a whole, so that none is ever padded on its way through the network.

Notation: B utterances, S samples, T frames, C frame channels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.contract import Affine, Encoder, Layer, Taps
from nestvox.encoders.front_ends.gabor import GaborBands
from nestvox.encoders.front_ends.log_mel import NormalisedLogMel
from nestvox.encoders.pooling import Pooling, length_mask


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


class LogMelEncoder(WholeUtteranceEncoder):
    """A network between 80 bands and a pooling, with a linear layer and a batch norm behind it.

    A subclass gives `trunk`, and sets `frames_dim` and the frame rates.

    Args:
        pool: P is its size.
        embedding_dim: D.
        config: what `config` returns.
        features: the front end; None: `NormalisedLogMel`.
    """

    sample_rate = 16_000
    min_samples = 400  # one window, three frames

    def __init__(
        self,
        pool: Pooling,
        embedding_dim: int,
        config: Mapping[str, Any],
        features: NormalisedLogMel | GaborBands | None = None,
    ) -> None:
        super().__init__()
        self._config = dict(config)
        self.features = NormalisedLogMel() if features is None else features
        self.pool = pool
        self.pooled_dim = pool.out_dim
        self.embedding_dim = embedding_dim
        self.linear = nn.Linear(self.pooled_dim, embedding_dim)
        self.norm = nn.BatchNorm1d(embedding_dim)

    @abstractmethod
    def trunk(self, features: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Map features (B, 80, T) to ``frames`` and the layers behind them, as `run` gives them."""

    def config(self) -> dict[str, Any]:
        """Return the JSON-serialisable constructor arguments."""
        return dict(self._config)

    def run(self, audio: Tensor, layers: Collection[str]) -> Mapping[str, Tensor]:
        """Features, layers and frames of utterances (B, S) without padding."""
        features = self.features(audio)
        return {"features": features, **self.trunk(features.to(self.linear.weight.dtype), layers)}

    def embed(self, pooled: Tensor) -> Tensor:
        """Map pooled vectors (..., P) to embeddings (..., D)."""
        embedding: Tensor = self.norm(self.linear(pooled.reshape(-1, self.pooled_dim)))
        return embedding.reshape(*pooled.shape[:-1], -1)

    def projection(self) -> Affine:
        """Linear layer and batch norm as one map; exact."""
        return Affine.of(self.linear, self.norm)
