"""What both generations of ReDimNet share around their backbone: front end, pooling, embedding, batches.

Notation: B utterances, S samples, F mel bands, T frames, C channels of the backbone's output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.contract import Affine, Encoder, Taps, Translation
from nestvox.encoders.pooling import length_mask, pooling
from nestvox.encoders.redimnet.config import ReDimNet2Config, ReDimNetConfig
from nestvox.encoders.redimnet.front_end import FrontEnd, FrontEndSettings
from nestvox.encoders.redimnet.keys import translate

__all__ = ["ReDimNetEncoder"]

# One frame has no deviation.
_FEWEST_POOLED = 2


class ReDimNetEncoder(Encoder):
    """A ReDimNet of either generation: `frames` are what the pooling sees, `embedding` is not normalised.

    Attention and statistics see the whole utterance, so utterances are never padded to a common length: those of
    equal length in a batch run together, the others by themselves. Batches of equal lengths are the fast ones.

    The front end runs in float32, whatever the precision of the network; the rest follows ``encoder.to(dtype)``.

    Args:
        config: the checkpoint's `model_config`.
        backbone: features (B, 1, F, T) to frames (B, C, T).
        frames_dim: C.
        frame_multiple: T is cut to a multiple of this.

    Raises:
        ModelError: the configuration describes no network.
    """

    sample_rate = 16_000

    def __init__(
        self, config: ReDimNetConfig | ReDimNet2Config, backbone: nn.Module, *, frames_dim: int, frame_multiple: int = 1
    ) -> None:
        super().__init__()
        self.model_config = config
        self.backbone = backbone
        self.spec = FrontEnd(
            config.feat_type,
            n_bands=config.F,
            hop=config.hop_length,
            settings=FrontEndSettings.of(config.spec_params),
        )
        self.pool = pooling(config.pooling_func, frames_dim, global_context=config.global_context_att)
        self.bn = nn.BatchNorm1d(self.pool.out_dim)
        self.linear = nn.Linear(self.pool.out_dim, config.embed_dim)
        self.bn2 = nn.BatchNorm1d(config.embed_dim) if config.emb_bn else nn.Identity()
        self.frame_rate_hz = self.sample_rate / config.hop_length
        self.frames_dim = frames_dim
        self.pooled_dim = self.pool.out_dim
        self.embedding_dim = config.embed_dim
        self.pad_right = config.pad_right_samples if isinstance(config, ReDimNet2Config) else 0
        self.skipped_frames = config.before_pool_offset if isinstance(config, ReDimNet2Config) else 0
        fewest = -(-(self.skipped_frames + _FEWEST_POOLED) // frame_multiple) * frame_multiple
        self.min_samples = max(2, self.spec.min_samples(fewest) - self.pad_right)

    def config(self) -> dict[str, Any]:
        """Return the JSON-serialisable `model_config`."""
        return self.model_config.as_dict()

    def projection(self) -> Affine:
        """Batch norm, linear layer and, where there is one, the last batch norm as one map; exact."""
        return Affine.of(self.bn, self.linear, self.bn2)

    def translate(self, tensors: Mapping[str, Tensor], source: str) -> Translation:
        """Accept every published layout; the front end's buffers may be absent."""
        fixed = {f"spec.{name}" for name, _ in self.spec.named_buffers() if not name.startswith("spec_norm.")}
        own = self.state_dict()
        return translate(tensors, own, fixed & own.keys(), source)

    def forward(self, audio: Tensor, lengths: Tensor | None = None) -> Taps:
        """Run the network once; see `Encoder.forward`. Utterances of equal length run together."""
        lengths = self.check_input(audio, lengths)
        distinct = sorted(set(lengths.tolist()))
        if len(distinct) == 1:
            frames, pooled, embedding = self._equal_lengths(audio[:, : distinct[0]])
            mask = torch.ones(frames.shape[0], frames.shape[2], dtype=torch.bool, device=frames.device)
            return Taps(frames=frames, frame_mask=mask, pooled=pooled, embedding=embedding)
        rows, parts = [], []
        for length in distinct:
            rows.append((lengths == length).nonzero()[:, 0])
            parts.append(self._equal_lengths(audio[rows[-1].to(audio.device), :length]))
        most = max(frames.shape[2] for frames, _, _ in parts)
        counts = torch.cat([torch.full((len(frames),), frames.shape[2]) for frames, _, _ in parts])
        padded = [functional.pad(frames, (0, most - frames.shape[2])) for frames, _, _ in parts]
        places = torch.cat(rows).argsort()  # of the utterances, in the order in which they ran
        mask = length_mask(counts, most)[places].to(audio.device)
        places = places.to(audio.device)
        return Taps(
            frames=torch.cat(padded)[places],
            frame_mask=mask,
            pooled=torch.cat([pooled for _, pooled, _ in parts])[places],
            embedding=torch.cat([embedding for _, _, embedding in parts])[places],
        )

    def _equal_lengths(self, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, C, T), pooled (B, P) and embedding (B, D) of utterances (B, S) without padding."""
        features = self.spec(functional.pad(audio, (0, self.pad_right)))  # (B, F, T)
        frames = self.backbone(features[:, None].to(self.linear.weight.dtype))[:, :, self.skipped_frames :]
        pooled = self.pool(frames)
        embedding = self.bn2(self.linear(self.bn(pooled)))
        return frames, pooled, embedding
