"""The encoder half of Mimi, the codec of Moshi: convolutions, a causal transformer, and 512 numbers every 80 ms.

The network is that of transformers (5.20 or newer, whose attention keeps to the window of 250 steps); older releases
attend to all that came before and differ from 10 s on.

Source: A. Defossez et al., "Moshi: a speech-text foundation model for real-time dialogue", arXiv 2410.00037.

Notation: B utterances, S samples, T frames.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from nestvox.encoders.contract import Affine, Translation
from nestvox.encoders.pooling import TSTP
from nestvox.encoders.whole_utterances import WholeUtteranceEncoder
from nestvox.errors import ModelError, WeightsError
from nestvox.extras import require
from nestvox.schema import StrictModel

_STRIDE = 2  # of the last convolution, from the transformer's steps to frames
_CODEBOOKS = 32

_Width = Annotated[int, Field(ge=1, le=4096)]
_Ratio = Annotated[int, Field(ge=2, le=64)]


class _Arguments(StrictModel):
    sample_rate: Annotated[int, Field(ge=1000, le=384_000)] = 24_000
    filters: _Width = 64
    size: _Width = 512
    ratios: list[_Ratio] = Field(default=[8, 6, 5, 4], min_length=1, max_length=8)
    depth: Annotated[int, Field(ge=1, le=64)] = 8
    heads: Annotated[int, Field(ge=1, le=64)] = 8
    feed_forward: _Width = 2048
    window: Annotated[int, Field(ge=1, le=100_000)] = 250
    codebooks: Annotated[int, Field(ge=0, le=_CODEBOOKS)] = 0


class Mimi(WholeUtteranceEncoder):
    """`frames` are the latents before the quantiser, `pooled` their means and deviations, and `embedding` is the same.

    Layers are ``seanet`` and ``transformer0`` and so on, at twice the rate of the frames, and ``latents``; with
    codebooks also ``semantic``, what the first one makes of them, and ``quantised8`` or as many as there are. The
    waveform is filled up with zeros to whole frames, as the codec itself does: ceil(S / 1920) frames.

    Args:
        sample_rate: of the input, in Hz.
        filters: channels of the first convolution; each stride doubles them.
        size: of the frames.
        ratios: strides, the last one first.
        depth: layers of the transformer.
        heads: of its attention.
        feed_forward: its hidden units.
        window: steps that attention reaches back, its own among them.
        codebooks: of the quantiser, the semantic one first; 0: it is left out.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: transformers cannot build it.
    """

    architecture = "mimi"
    arguments = _Arguments
    codec: Any
    quantizer: Any

    def __init__(
        self,
        *,
        sample_rate: int = 24_000,
        filters: int = 64,
        size: int = 512,
        ratios: Sequence[int] = (8, 6, 5, 4),
        depth: int = 8,
        heads: int = 8,
        feed_forward: int = 2048,
        window: int = 250,
        codebooks: int = 0,
    ) -> None:
        super().__init__()
        self._config: dict[str, Any] = {
            "sample_rate": sample_rate,
            "filters": filters,
            "size": size,
            "ratios": list(ratios),
            "depth": depth,
            "heads": heads,
            "feed_forward": feed_forward,
            "window": window,
            "codebooks": codebooks,
        }
        self.codebooks = codebooks
        self.hop = _STRIDE * math.prod(ratios)
        self.sample_rate = sample_rate
        self.frame_rate_hz = sample_rate / self.hop
        self.frames_dim = size
        self.pool = TSTP(size)
        self.pooled_dim = self.embedding_dim = self.pool.out_dim
        self.min_samples = self.hop + 1  # a deviation needs two frames
        steps = dict.fromkeys(("seanet", *(f"transformer{n}" for n in range(depth))), _STRIDE * self.frame_rate_hz)
        quantised = {"semantic": 1, f"quantised{codebooks}": codebooks} if codebooks else {}
        self._quantised = quantised
        self.layer_rates_hz = {**steps, **dict.fromkeys(("latents", *quantised), self.frame_rate_hz)}
        self.codec, quantizer = _network(self._config)
        if codebooks:
            self.quantizer = quantizer

    def config(self) -> dict[str, Any]:
        """Return the JSON-serialisable constructor arguments."""
        return dict(self._config)

    def run(self, audio: Tensor, layers: Collection[str]) -> Mapping[str, Tensor]:
        """Layers and frames of utterances (B, S) without padding."""
        whole = functional.pad(audio, (0, -audio.shape[1] % self.hop))
        found = {"seanet": self.codec.encoder_seanet(whole[:, None])}
        steps = found["seanet"].transpose(1, 2)
        hooks = [
            layer.register_forward_hook(lambda _m, _i, out, name=f"transformer{n}": found.update({name: _first(out)}))
            for n, layer in enumerate(self.codec.encoder_transformer.layers)
        ]
        try:
            last = self.codec.encoder_transformer(steps).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        latents = self.codec.downsample(last.transpose(1, 2))
        found["frames"] = found["latents"] = latents
        for name in set(layers) & set(self._quantised):
            codes = self.quantizer.encode(latents, self._quantised[name])  # (books, B, T)
            found[name] = self.quantizer.decode(codes.transpose(0, 1))
        return found

    def codes(self, audio: Tensor) -> Tensor:
        """The codes of utterances (B, S) without padding, (B, codebooks, T), the semantic ones first.

        Raises:
            ModelError: the encoder was made without codebooks.
        """
        if not self.codebooks:
            raise ModelError("this mimi was made without its quantiser; give codebooks")
        found: Tensor = self.quantizer.encode(self.run(audio, ())["latents"], self.codebooks).transpose(0, 1)
        return found

    def stream(self, chunk: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Hear the next whole frames of a stream.

        Args:
            chunk: (B, S), S a multiple of 1920.
            state: what the call before it returned; None: the stream begins.

        Returns:
            Latents (B, C, S / 1920), those that a whole run gives there, and the state.

        Raises:
            ModelError: a chunk that ends within a frame.
        """
        if chunk.shape[1] == 0 or chunk.shape[1] % self.hop:
            raise ModelError(f"chunks of a stream are whole frames of {self.hop} samples, got {chunk.shape[1]}")
        past, padding = state or (None, None)
        out = self.codec(chunk[:, None], past_key_values=past, padding_cache=padding, use_streaming=True)
        return out.latents, (out.past_key_values, out.padding_cache)

    def embed(self, pooled: Tensor) -> Tensor:
        """Return them as they are."""
        return pooled

    def projection(self) -> Affine:
        """Return the identity."""
        return Affine.identity(self.embedding_dim)

    def translate(self, tensors: Mapping[str, Tensor], source: str) -> Translation:
        """Rename what transformers or moshi saved; the decoder half is left out.

        Raises:
            WeightsError: a fused projection of another shape.
        """
        if any(name.startswith("codec.") for name in tensors):
            return Translation(tensors)
        moshi = any(name.startswith("encoder.model.") for name in tensors)
        flat = _from_moshi(tensors, self._config["heads"], source) if moshi else dict(tensors)
        own, left_out = {}, []
        for name, tensor in flat.items():
            if name.startswith("quantizer.") and self.codebooks:
                own[name] = tensor
            elif name.startswith(("encoder.", "encoder_transformer.", "downsample.")):
                own[f"codec.{_in_memory(name)}"] = tensor
            else:
                left_out.append(name)
        return Translation(own, "moshi" if moshi else "transformers", left_out=tuple(sorted(left_out)))


def _network(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The encoder half, and the quantiser (None where there are no codebooks)."""
    require("transformers", extra="codec", purpose="running the codec Mimi")
    modeling = require("transformers.models.mimi.modeling_mimi", extra="codec", purpose="running the codec Mimi")
    configuration = require(
        "transformers.models.mimi.configuration_mimi", extra="codec", purpose="running the codec Mimi"
    )
    given = configuration.MimiEncoderConfig(
        sampling_rate=config["sample_rate"],
        num_filters=config["filters"],
        hidden_size=config["size"],
        upsampling_ratios=list(config["ratios"]),
        num_hidden_layers=config["depth"],
        num_attention_heads=config["heads"],
        num_key_value_heads=config["heads"],
        intermediate_size=config["feed_forward"],
        sliding_window=config["window"],
        upsample_groups=config["size"],
        num_quantizers=_CODEBOOKS,
        frame_rate=config["sample_rate"] / (_STRIDE * math.prod(config["ratios"])),
        attn_implementation="sdpa",
    )
    quantizer = modeling.MimiSplitResidualVectorQuantizer(given) if config["codebooks"] else None
    return modeling.MimiEncoderModel(given), quantizer


def _first(output: Any) -> Tensor:
    """(B, T, C) of a layer as (B, C, T)."""
    values: Tensor = output[0] if isinstance(output, tuple) else output
    return values.transpose(1, 2)


def _in_memory(flat: str) -> str:
    """From the name in a file to the name in the encoder half of transformers 5."""
    if flat.startswith("encoder.layers."):
        return flat.replace("encoder.", "encoder_seanet.", 1)
    return flat.removeprefix("encoder.")


_FROM_MOSHI: Sequence[tuple[str, str]] = (
    (r"^encoder\.model\.(\d+)\.conv\.conv\.", r"encoder.layers.\1.conv."),
    (r"^encoder\.model\.(\d+)\.block\.(\d+)\.conv\.conv\.", r"encoder.layers.\1.block.\2.conv."),
    (r"^downsample\.conv\.conv\.conv\.", "downsample.conv."),
    (r"^encoder_transformer\.transformer\.", "encoder_transformer."),
    (r"\.self_attn\.(?:out_proj|out_projs\.0)\.", ".self_attn.o_proj."),
    (r"\.linear([12])\.", r".mlp.fc\1."),
    (r"\.norm1\.", ".input_layernorm."),
    (r"\.norm2\.", ".post_attention_layernorm."),
    (r"\.layer_scale_1\.", ".self_attn_layer_scale."),
    (r"\.layer_scale_2\.", ".mlp_layer_scale."),
    (r"^quantizer\.rvq_first\.", "quantizer.semantic_residual_vector_quantizer."),
    (r"^quantizer\.rvq_rest\.", "quantizer.acoustic_residual_vector_quantizer."),
    (r"\.vq\.layers\.(\d+)\._codebook\._initialized", r".layers.\1.codebook.initialized"),
    (r"\.vq\.layers\.(\d+)\._codebook\.cluster_usage", r".layers.\1.codebook.cluster_usage"),
    (r"\.vq\.layers\.(\d+)\._codebook\.embedding_sum", r".layers.\1.codebook.embed_sum"),
)
_FUSED = re.compile(r"^(encoder_transformer\.layers\.\d+\.self_attn)\.(?:in_proj_weight|in_projs?\.(?:0\.)?weight)$")


def _from_moshi(tensors: Mapping[str, Tensor], heads: int, source: str) -> dict[str, Tensor]:
    """Names and row orders of transformers for what moshi saved."""
    found: dict[str, Tensor] = {}
    for moshi, tensor in tensors.items():
        name = moshi
        for pattern, flat in _FROM_MOSHI:
            name = re.sub(pattern, flat, name)
        if not (fused := _FUSED.match(name)):
            found[name] = tensor
            continue
        if tensor.ndim != 2 or tensor.shape[0] % (6 * heads):
            raise WeightsError(f"{source}: {moshi} is {tuple(tensor.shape)}, no query, key and value of {heads} heads")
        query, key, value = tensor.chunk(3)
        # Rotary pairs: neighbours (2i, 2i + 1) in moshi, the halves (i, i + size / 2) of a head in transformers.
        found[f"{fused[1]}.q_proj.weight"] = _halves(query, heads)
        found[f"{fused[1]}.k_proj.weight"] = _halves(key, heads)
        found[f"{fused[1]}.v_proj.weight"] = value.contiguous()
    return found


def _halves(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head: first all even ones, then all odd ones."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
