"""What both generations of ReDimNet share around their backbone: front end, pooling, embedding.

Notation: B utterances, S samples, F mel bands, T frames, C channels of the backbone's output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from nestvox.encoders.contract import Affine, Translation
from nestvox.encoders.pooling import pooling
from nestvox.encoders.redimnet.config import ReDimNet2Config, ReDimNetConfig
from nestvox.encoders.redimnet.front_end import FrontEnd, FrontEndSettings
from nestvox.encoders.redimnet.keys import translate
from nestvox.encoders.whole_utterances import WholeUtteranceEncoder

# One frame has no deviation.
_FEWEST_POOLED = 2


class ReDimNetEncoder(WholeUtteranceEncoder):
    """A ReDimNet of either generation: `frames` are what the pooling sees, `embedding` is not normalised.

    Its layers are the features and the flat maps whose weighted sum the frames are made of: ``features``, ``stem``,
    ``stage0`` and so on (``stage0_2d`` and ``stage0_1d`` where a stage hands on both of its branches), all at the frame
    rate of the frames.

    The front end runs in float32, whatever the precision of the network; the rest follows ``encoder.to(dtype)``.

    Args:
        config: the checkpoint's `model_config`.
        backbone: features (B, 1, F, T) to frames (B, C, T); writes its maps into a dictionary where it is given one.
        map_names: of those maps.
        frames_dim: C.
        frame_multiple: T is cut to a multiple of this.

    Raises:
        ModelError: the configuration describes no network.
    """

    sample_rate = 16_000
    forms = {  # noqa: RUF012
        "fused": "nestvox.encoders.redimnet.rows:arrange_rows",
        "onnx": "nestvox.encoders.redimnet.onnx_backbone:run_with_onnx",
    }
    half_precision = True

    def __init__(
        self,
        config: ReDimNetConfig | ReDimNet2Config,
        backbone: nn.Module,
        *,
        map_names: Sequence[str],
        frames_dim: int,
        frame_multiple: int = 1,
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
        self.layer_rates_hz = dict.fromkeys(("features", *map_names), self.frame_rate_hz)
        self.frames_dim = frames_dim
        self.pooled_dim = self.pool.out_dim
        self.embedding_dim = config.embed_dim
        self.pad_right = config.pad_right_samples if isinstance(config, ReDimNet2Config) else 0
        self.skipped_frames = config.before_pool_offset if isinstance(config, ReDimNet2Config) else 0
        fewest = -(-(self.skipped_frames + _FEWEST_POOLED) // frame_multiple) * frame_multiple
        self.min_samples = max(2, self.spec.min_samples(fewest) - self.pad_right)

    def config(self) -> dict[str, Any]:
        """Return the JSON-serialisable `model_config`."""
        return self.model_config.to_dict()

    def projection(self) -> Affine:
        """Batch norm, linear layer and, where there is one, the last batch norm as one map; exact."""
        return Affine.of(self.bn, self.linear, self.bn2)

    def translate(self, tensors: Mapping[str, Tensor], source: str) -> Translation:
        """Accept every published layout; the front end's buffers may be absent."""
        fixed = {f"spec.{name}" for name, _ in self.spec.named_buffers() if not name.startswith("spec_norm.")}
        own = self.state_dict()
        return translate(tensors, own, fixed & own.keys(), source)

    def run(self, audio: Tensor, layers: Collection[str]) -> Mapping[str, Tensor]:
        """Features, maps and frames of utterances (B, S) without padding, where the pooling begins to hear them."""
        features = self.spec(functional.pad(audio, (0, self.pad_right)))  # (B, F, T)
        kept: dict[str, Tensor] = {}
        frames = self.backbone(features[:, None].to(self.linear.weight.dtype), kept if layers else None)
        found = {"features": features, **kept, "frames": frames}
        return {name: found[name][:, :, self.skipped_frames :] for name in (*layers, "frames")}

    def embed(self, pooled: Tensor) -> Tensor:
        """Map pooled vectors (..., P) to embeddings (..., D)."""
        rows = pooled.reshape(-1, self.pooled_dim)  # a batch norm takes no more axes
        embedding: Tensor = self.bn2(self.linear(self.bn(rows)))
        return embedding.reshape(*pooled.shape[:-1], -1)
