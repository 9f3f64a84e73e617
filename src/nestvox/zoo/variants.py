"""Configurations of the published ReDimNet sizes and of students, to build them from scratch. Knows no torch.

A released checkpoint carries its own configuration, which is what counts when it is loaded. Those here were gathered
from several places, and `status` says how far each can be trusted:

- ``confirmed``: read out of the released file by somebody, or its counts of tensors and parameters are reproduced;
- ``consistent``: every published count agrees to the digits that were printed;
- ``unconfirmed``: a transcription that may not be the released network.

Students have no released file; they are what is built here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nestvox.encoders.mixer_sizes import MIXERS
from nestvox.errors import CatalogueError

ConfigStatus = Literal["confirmed", "consistent", "unconfirmed"]


@dataclass(frozen=True)
class Variant:
    """One size of a network.

    Attributes:
        name: e.g. ``redimnet-b2``.
        architecture: what `registry.build` builds.
        status: how far `config` can be trusted to be that of the released files.
        parameters: of the network.
        config: its constructor arguments.
    """

    name: str
    architecture: str
    status: ConfigStatus
    parameters: int
    config: Mapping[str, Any]


def variants() -> tuple[Variant, ...]:
    """Every size, sorted by name."""
    return tuple(_VARIANTS.values())


def variant(name: str) -> Variant:
    """Return the size called `name`.

    Raises:
        CatalogueError: there is none.
    """
    if name not in _VARIANTS:
        raise CatalogueError(f"no variant called {name!r}; known: {', '.join(_VARIANTS)}")
    return _VARIANTS[name]


# ReDimNet: (stride, blocks, expansion, reduction) of each stage.
_Stage = tuple[int, int, int, int | None]
_B4: tuple[_Stage, ...] = (
    (1, 4, 2, 48),
    (2, 4, 2, 48),
    (1, 6, 2, 48),
    (2, 6, 1, 32),
    (1, 8, 1, 24),
    (2, 4, 1, 16),
)


def _first(
    size: str,
    status: ConfigStatus,
    parameters: int,
    stages: Iterable[_Stage],
    *,
    C: int,
    block: str,
    group_divisor: int,
    F: int = 72,
    hop_length: int = 240,
    spec_params: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Variant:
    config = {
        "F": F,
        "C": C,
        "block_1d_type": "conv+att",
        "block_2d_type": block,
        "stages_setup": [
            [stride, blocks, expansion, [[3, 3]], reduction] for stride, blocks, expansion, reduction in stages
        ],
        "group_divisor": group_divisor,
        "out_channels": None,
        "embed_dim": 192,
        "hop_length": hop_length,
        "pooling_func": "ASTP",
        "feat_type": "pt",
        "global_context_att": True,
        "emb_bn": False,
        "spec_params": dict(spec_params or {"do_preemph": True, "do_spec_aug": False, "norm_signal": False}),
        **changes,
    }
    return Variant(f"redimnet-{size}", "redimnet", status, parameters, config)


def _augmented(first_bin: int, freq_width: int, time_width: int) -> dict[str, Any]:
    return {
        "norm_signal": True,
        "do_preemph": True,
        "do_spec_aug": True,
        "freq_start_bin": first_bin,
        "freq_mask_width": [0, freq_width],
        "time_mask_width": [0, time_width],
    }


_B2: tuple[_Stage, ...] = ((1, 2, 1, 12), (2, 2, 1, 12), (1, 3, 1, 12), (3, 4, 1, 8), (1, 4, 1, 8), (2, 4, 1, 4))

# ReDimNet2: (frequency stride, time stride, blocks, expansion) of each stage; kernels and reductions apart.
_Stage2 = tuple[int, int, int, float]
_SMALL: tuple[_Stage2, ...] = ((1, 1, 2, 2), (2, 1, 3, 1), (1, 2, 4, 1), (2, 1, 5, 1), (1, 2, 4, 1), (2, 1, 3, 1))
_MIDDLE: tuple[_Stage2, ...] = ((1, 1, 2, 4), (2, 1, 3, 3), (1, 2, 4, 2), (2, 1, 5, 1), (1, 2, 4, 1), (2, 1, 3, 1))
_LARGE: tuple[_Stage2, ...] = (
    (1, 1, 3, 3),
    (2, 1, 4, 2),
    (1, 2, 5, 2),
    (2, 1, 5, 1),
    (1, 2, 4, 0.75),
    (2, 1, 3, 0.5),
)


def _second(
    size: str,
    status: ConfigStatus,
    parameters: int,
    stages: Iterable[_Stage2],
    reductions: Iterable[int],
    *,
    C: int,
    out_channels: int | None = None,
    kernels: Iterable[tuple[int, int]] = ((3, 3),) * 6,
    **changes: Any,
) -> Variant:
    rows = zip(stages, kernels, reductions, strict=True)
    config = {
        "F": 72,
        "C": C,
        "block_1d_type": "conv+att",
        "block_2d_type": "basic_resnet",
        "stages_setup": [
            [[freq, time], blocks, expansion, [list(kernel)], reduction]
            for (freq, time, blocks, expansion), kernel, reduction in rows
        ],
        "group_divisor": 1,
        "out_channels": out_channels,
        "embed_dim": 192,
        "hop_length": 160,
        "pooling_func": "ASTP",
        "feat_type": "tf",
        "global_context_att": True,
        "emb_bn": False,
        "return_2d_output": True,
        "compress_tconvs": True,
        "fm_weigthing_type": "NC",
        "causal": "none",
        "spec_in_channels": 1,
        "spec_params": {"do_preemph": True, "do_spec_aug": False, "norm_signal": True},
        **changes,
    }
    return Variant(f"redimnet2-{size}", "redimnet2", status, parameters, config)


_ALL = (
    _first(
        "b0",
        "unconfirmed",
        1_004_251,
        ((1, 2, 1, 30), (2, 3, 2, 30), (1, 3, 3, 30), (2, 4, 2, 10), (1, 3, 1, 10)),
        C=10,
        F=60,
        block="basic_resnet",
        group_divisor=1,
    ),
    _first(
        "b1",
        "unconfirmed",
        2_126_937,
        ((1, 2, 1, None), (2, 3, 1, None), (3, 4, 1, 12), (2, 5, 1, 12), (2, 3, 1, 8)),
        C=12,
        block="convnext_like",
        group_divisor=8,
    ),
    _first("b2", "confirmed", 5_067_057, _B2, C=16, block="convnext_like", group_divisor=4),
    _first(
        "b2-mrl",
        "confirmed",
        5_016_305,
        _B2,
        C=16,
        block="convnext_like",
        group_divisor=4,
        hop_length=160,
        out_channels=512,
        embed_dim=256,
        global_context_att=False,
    ),
    _first(
        "b3",
        "unconfirmed",
        3_225_021,
        ((1, 6, 4, 32), (2, 6, 2, 32), (1, 8, 2, 32), (2, 10, 2, 16), (1, 10, 1, 16), (2, 8, 1, 16)),
        C=16,
        block="basic_resnet_fwse",
        group_divisor=1,
    ),
    _first("b4", "unconfirmed", 6_441_521, _B4, C=32, block="basic_resnet_fwse", group_divisor=1),
    _first("b5", "confirmed", 7_659_761, _B4, C=32, block="basic_resnet_fwse", group_divisor=16),
    _first(
        "b6",
        "consistent",
        15_015_473,
        ((1, 4, 4, 32), (2, 6, 2, 32), (1, 6, 2, 24), (3, 8, 1, 24), (1, 8, 1, 16), (2, 8, 1, 16)),
        C=32,
        block="basic_resnet",
        group_divisor=32,
    ),
    _first(
        "M",
        "confirmed",
        4_811_745,
        ((1, 4, 2, 24), (2, 5, 2, 24), (1, 6, 2, 24), (2, 8, 1, 24), (1, 8, 1, 24), (2, 3, 1, 24)),
        C=24,
        block="basic_resnet",
        group_divisor=8,
        hop_length=160,
        spec_params=_augmented(40, 10, 20),
    ),
    _first(
        "S",
        "confirmed",
        3_152_913,
        ((1, 4, 2, 16), (2, 5, 2, 16), (1, 6, 2, 16), (2, 8, 1, 16), (1, 8, 1, 16), (2, 3, 1, 16)),
        C=16,
        block="basic_resnet",
        group_divisor=8,
        hop_length=160,
        spec_params=_augmented(32, 7, 12),
    ),
    _second("b0", "consistent", 1_115_220, _SMALL, (36, 36, 36, 36, 18, 18), C=12, out_channels=64),
    _second("b1", "consistent", 2_161_488, _SMALL, (32, 32, 32, 32, 16, 16), C=16),
    _second(
        "b2",
        "confirmed",
        3_677_760,
        (*_SMALL[:3], (3, 1, 5, 1), *_SMALL[4:]),
        (40, 30, 30, 20, 20, 10),
        C=20,
        kernels=((3, 5),) * 4 + ((3, 7),) * 2,
    ),
    _second("b3", "consistent", 4_181_576, _MIDDLE, (24,) * 6, C=24),
    _second("b3-gnorm", "confirmed", 4_508_488, _MIDDLE, (24,) * 6, C=24, out_channels=224, agg_gnorm=True),
    _second("b4", "consistent", 6_659_744, _MIDDLE, (24,) * 6, C=32),
    _second("b5", "consistent", 8_959_272, _MIDDLE, (48, 48, 48, 48, 32, 32), C=48, out_channels=256),
    _second("b6", "confirmed", 12_394_784, _LARGE, (64, 64, 48, 48, 32, 24), C=64, out_channels=224),
    _second(
        "b6-gnorm",
        "confirmed",
        12_459_296,
        _LARGE,
        (64, 64, 48, 48, 32, 24),
        C=64,
        out_channels=224,
        agg_gnorm=True,
        dual_agg=False,
    ),
    _second(
        "b6-dual",
        "unconfirmed",
        12_611_360,
        _LARGE,
        (64, 64, 48, 48, 32, 24),
        C=64,
        out_channels=224,
        agg_gnorm=True,
        dual_agg=True,
    ),
)

_MIXER_PARAMETERS = {
    "v2": 2_664_576,
    "v2-large": 7_844_864,
    "4x384": 7_008_000,
    "6x256": 4_617_216,
    "12x128": 2_291_968,
    "lstm-before": 2_799_744,
    "lstm-within": 3_804_672,
    "temporal": 1_773_840,
    "temporal-large": 2_872_816,
}
_SMALL_CAMPPLUS = {
    "head_channels": 16,
    "initial": 64,
    "growth": 32,
    "bottleneck": 64,
    "blocks": [[6, 1], [12, 2], [8, 2]],
    "embedding_dim": 512,
}
_STUDENTS = (
    *(
        Variant(f"mixer-{name}", "mixer", "confirmed", parameters, MIXERS[name])
        for name, parameters in _MIXER_PARAMETERS.items()
    ),
    Variant("lstm-autoencoder", "lstm_autoencoder", "confirmed", 3_873_745, {"decoder": True}),
    Variant("lstm-encoder", "lstm_autoencoder", "confirmed", 3_515_777, {}),
    Variant("ecapa-512", "ecapa", "confirmed", 6_191_104, {}),
    Variant("ecapa-256", "ecapa", "confirmed", 2_541_024, {"channels": 256, "aggregated": 768, "embedding_dim": 512}),
    Variant("campplus-small", "campplus", "confirmed", 1_369_936, _SMALL_CAMPPLUS),
)
_VARIANTS = {entry.name: entry for entry in sorted((*_ALL, *_STUDENTS), key=lambda entry: entry.name)}
