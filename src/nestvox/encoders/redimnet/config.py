"""What a ReDimNet checkpoint says about its network: the keys of `model_config`, typed and checked.

The names are those of the released checkpoints, so that ``ReDimNet(**model_config)`` builds the network of a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Self

from pydantic import Field

from nestvox.errors import ModelError
from nestvox.gate import naming
from nestvox.schema import validated_dataclass

# Far beyond every network that there is, and small enough that a sketch of it takes no memory.
Width = Annotated[int, Field(ge=1, le=4096)]
Wide = Annotated[int, Field(ge=1, le=1 << 16)]
Stride = Annotated[int, Field(ge=1, le=256)]
Blocks = Annotated[int, Field(ge=0, le=256)]
Expansion = Annotated[int, Field(gt=0, le=1024)] | Annotated[float, Field(gt=0, le=1024)]
Size = Annotated[int, Field(ge=1, le=255)]
Kernels = Annotated[list[tuple[Size, Size]], Field(min_length=1, max_length=16)]
Reduction = Annotated[int, Field(ge=1)] | None
Stages = Field(min_length=1, max_length=64)


@dataclass(frozen=True)
class Stage:
    """One entry of `stages_setup`, in the terms of either generation.

    Attributes:
        freq_stride: the stage has this many times fewer frequencies, and as many times more channels.
        time_stride: its frames are this many times fewer than those of the stage before.
        n_blocks: two-dimensional blocks.
        expansion: of the channels inside the stage.
        kernels: of the parallel convolutions of a `convnext_like` block, (frequency, time).
        reduction: the one-dimensional block is this many times narrower than the map; None: there is no such block.
    """

    freq_stride: int
    time_stride: int
    n_blocks: int
    expansion: float
    kernels: tuple[tuple[int, int], ...]
    reduction: int | None


@dataclass(frozen=True, kw_only=True)
class _Config:
    """Keys that both generations have.

    Attributes:
        stages_setup: one list a stage; see `stages`.
        F: mel bands.
        C: channels after the stem; every map has C * F channels.
        block_1d_type: ``conv+att``, ``att``, ``conv`` or ``fc``.
        block_2d_type: ``convnext_like``, ``convnext_like_relu``, ``basic_resnet`` or ``basic_resnet_fwse``.
        group_divisor: channels in each group of a 3x3 convolution; None: dense.
        out_channels: width of the layer between the last map and the pooling; None: no such layer.
        embed_dim: size of the embedding.
        hop_length: samples from one frame to the next.
        pooling_func: name of a class of `nestvox.encoders.pooling`.
        feat_type: front end, see `redimnet_front_end`.
        spec_params: its settings.
        global_context_att: the attention of ASTP also sees mean and deviation of the utterance.
        emb_bn: batch normalisation of the embedding.
        num_classes, class_dropout, head_activation: of a classifier that an encoder does not need; ignored.
        feat_agg_dropout: on the maps, in training (ReDimNet only).
    """

    stages_setup: list[Any]
    F: Width = 72
    C: Width = 16
    block_1d_type: str = "att"
    block_2d_type: str = "convnext_like"
    group_divisor: Annotated[int, Field(ge=0, le=1 << 16)] | None = 4
    out_channels: Wide | None = None
    embed_dim: Wide = 192
    hop_length: Annotated[int, Field(ge=1, le=16_000)] = 160
    pooling_func: str = "ASTP"
    feat_type: str = "pt"
    spec_params: dict[str, Any] = field(default_factory=dict)
    global_context_att: bool = False
    emb_bn: bool = False
    num_classes: int | None = None
    class_dropout: float = 0.0
    head_activation: str | None = None
    feat_agg_dropout: float = 0.0

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Read a `model_config`.

        Raises:
            ModelError: an unknown or missing key, or a value that no network here has.
        """
        known = {entry.name: entry for entry in fields(cls)}
        for key in arguments.keys() - known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ModelError(f"model_config: unknown key {key!r}{hint}")
        # Tuples are lists in every file; a strict model takes nothing else for a list.
        config = validated_dataclass(cls, _plain(dict(arguments)), "model_config", naming(ModelError))
        config.check()
        return config

    def to_dict(self) -> dict[str, Any]:
        """All keys, JSON-serialisable."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def check(self) -> None:
        """Refuse values that no network here has.

        Raises:
            ModelError: which, and what there is instead.
        """
        freq = self.F
        for number, stage in enumerate(self.stages()):
            if freq % stage.freq_stride:
                raise ModelError(f"stages_setup[{number}]: {freq} frequencies cannot be divided by {stage.freq_stride}")
            freq //= stage.freq_stride
            if stage.reduction is not None and stage.reduction > self.C * self.F:
                raise ModelError(f"stages_setup[{number}]: the reduction must lie in 1 to C * F, or be null: {stage}")

    def stages(self) -> tuple[Stage, ...]:
        """`stages_setup`, parsed."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ReDimNetConfig(_Config):
    """The `model_config` of ReDimNet.

    Attributes:
        stages_setup: [stride, blocks, expansion, kernels (ignored), reduction or None] for each stage.
        return_all_outputs: accepted; the taps are the same.
        tf_optimized_arch: must be false; the variant was never published.
    """

    stages_setup: Annotated[list[tuple[Stride, Blocks, Expansion, Any, Reduction]], Stages]
    return_all_outputs: bool = False
    tf_optimized_arch: bool = False

    def check(self) -> None:
        """Refuse values that no network here has.

        Raises:
            ModelError: with the key.
        """
        super().check()
        if self.tf_optimized_arch:
            raise ModelError("tf_optimized_arch: the architecture was never published, only false is supported")

    def stages(self) -> tuple[Stage, ...]:
        """`stages_setup`, parsed; blocks are 3x3 whatever it says."""
        return tuple(
            Stage(stride, 1, blocks, float(expansion), ((3, 3),), reduction)
            for stride, blocks, expansion, _, reduction in self.stages_setup
        )


@dataclass(frozen=True, kw_only=True)
class ReDimNet2Config(_Config):
    """The `model_config` of ReDimNet2. `return_2d_output`, `C` and `spec_params` have no known default.

    Attributes:
        stages_setup: [[frequency stride, time stride], blocks, expansion, kernels, reduction or None] for each stage.
        return_2d_output: the last map is pooled with channels before frequencies, through a layer of `out_channels`.
        compress_tconvs: the convolution between two stages is grouped.
        fm_weigthing_type: ``NC``: maps are weighted by channel.
        agg_gnorm: group normalisation of every map; true: C groups, a number: so many.
        dual_agg: a stage hands on its two-dimensional and its one-dimensional map.
        pad_right_samples: zeros after the waveform.
        before_pool_offset: frames that the pooling leaves out at the start.
        causal: must be ``none``.
        spec_in_channels: must be 1.
        is_subnet, offset_fm_weights: must be false and 0: networks fed by another network are not supported.
        att_dos: dropouts of the attention layers; ignored.
        return_all_outputs: accepted; the taps are the same.
    """

    stages_setup: Annotated[list[tuple[tuple[Stride, Stride], Blocks, Expansion, Kernels, Reduction]], Stages]
    # Said as a field: a bare annotation would take over the default of the class above.
    C: Width = field()
    spec_params: dict[str, Any] = field()
    return_2d_output: bool
    global_context_att: bool = True
    compress_tconvs: bool = True
    fm_weigthing_type: str = "NC"
    agg_gnorm: bool | Wide = False
    dual_agg: bool = False
    pad_right_samples: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    before_pool_offset: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    causal: str = "none"
    spec_in_channels: int = 1
    is_subnet: bool = False
    offset_fm_weights: int = 0
    att_dos: Any = None
    return_all_outputs: bool = False

    def check(self) -> None:
        """Refuse values that no network here has.

        Raises:
            ModelError: with the key.
        """
        super().check()
        for key, wanted in (("fm_weigthing_type", "NC"), ("causal", "none"), ("spec_in_channels", 1)):
            if getattr(self, key) != wanted:
                raise ModelError(f"{key}: only {wanted!r} is supported, got {getattr(self, key)!r}")
        if self.is_subnet or self.offset_fm_weights:
            raise ModelError("is_subnet, offset_fm_weights: networks fed by another network are not supported")

    def stages(self) -> tuple[Stage, ...]:
        """`stages_setup`, parsed."""
        return tuple(
            Stage(*strides, blocks, float(expansion), tuple(kernels), reduction)
            for strides, blocks, expansion, kernels, reduction in self.stages_setup
        )


def _plain(value: Any) -> Any:
    """Tuples to lists, all the way down: what JSON gives back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
