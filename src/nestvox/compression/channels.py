"""Which channels of a network can be left out together: hidden ones, that only layers of one block see.

A group is a number of units; each lies at certain places along axes of certain tensors. Where a network shares units
among groups of channels, LSTM gates or directions, as many of each share stay, so that the smaller network is one that
the same class builds.

Notation: N units of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.encoders.contract import Encoder
from nestvox.encoders.registry import encoder_class
from nestvox.errors import ModelError

Places = Callable[[int], NDArray[np.int64]]
"""For N units (N, M) places along an axis; -1 where a unit has none."""


def _itself(n: int) -> NDArray[np.int64]:
    return np.arange(n)[:, None]


def _one_cell(n: int) -> NDArray[np.int64]:
    return np.zeros(n, np.int64)


@dataclass(frozen=True)
class Member:
    """One axis of a tensor along which the units of a group lie.

    Attributes:
        name: of the tensor; it need not be there.
        axis: 0 or 1.
        places: of the units.
        groups: of a grouped convolution whose entering channels (axis 1) the units are, group by group.
    """

    name: str
    axis: int = 0
    places: Places = _itself
    groups: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """Units that can be left out.

    Attributes:
        size: N.
        kept: how many stay.
        members: where they lie.
        cells: for N units (N,) the share that each belongs to; as many of each share stay.
    """

    size: int
    kept: int
    members: tuple[Member, ...]
    cells: Places = _one_cell


def channel_groups(encoder: Encoder) -> tuple[dict[str, Any], list[ChannelGroup]]:
    """Return the configuration of about half as many hidden channels, and what becomes of which units.

    Raises:
        ModelError: no such groups are known of the encoder, or it cannot be made smaller.
    """
    if encoder.architecture not in _KNOWN:
        raise ModelError(
            f"which channels of {encoder.architecture} go together is not known; it is of {', '.join(sorted(_KNOWN))}"
        )
    config = encoder.config()
    changes, groups = _KNOWN[encoder.architecture](config)
    return {**config, **changes}, groups


def smaller(config: Mapping[str, Any], architecture: str) -> Encoder:
    """Build the network of a configuration."""
    return encoder_class(architecture)(**config)


def _pooled(*names: str) -> tuple[Member, ...]:
    """Where channels of the frames lie behind the pooling, means before deviations: in a head, and in these."""
    whole = (*names, "head.linear.weight", "head.inner.0.weight")
    statistics = (f"head.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var"))
    return (*(Member(name, 1, _halves) for name in whole), *(Member(name, 0, _halves) for name in statistics))


def _norm(prefix: str, names: str = "weight bias running_mean running_var") -> list[Member]:
    return [Member(f"{prefix}.{name}") for name in names.split()]


def _campplus(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[ChannelGroup]]:
    """Channels within each layer of the dense blocks, and within their gates."""
    size = config["bottleneck"]
    kept = size // 4 * 2
    if kept < 2:
        raise ModelError(f"campplus: a bottleneck of {size} channels cannot be halved")
    groups = []
    for block, (depth, _) in enumerate(config["blocks"], start=1):
        for layer in range(1, depth + 1):
            prefix = f"xvector.block{block}.tdnnd{layer}"
            gate = f"{prefix}.cam_layer"
            seen = (Member(f"{gate}.linear_local.weight", 1), Member(f"{gate}.linear1.weight", 1))
            made = (Member(f"{prefix}.linear1.weight"), *_norm(f"{prefix}.nonlinear2.batchnorm"))
            groups.append(ChannelGroup(size, kept, (*made, *seen)))
            within = (Member(f"{gate}.linear1.weight"), Member(f"{gate}.linear1.bias"))
            groups.append(ChannelGroup(size // 2, kept // 2, (*within, Member(f"{gate}.linear2.weight", 1))))
    return {"bottleneck": kept}, groups


def _mixer(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[ChannelGroup]]:
    """Hidden channels of the MLPs over channels (3 times the width become 2, 4 become 2), and half of the frames'."""
    width, expansion, shares, mfm = (config[name] for name in ("width", "expansion", "groups", "mfm"))
    kept = (expansion + 1) // 2
    if expansion < 2:
        raise ModelError("mixer: an expansion of 1 cannot be made smaller")
    size, left = expansion * width, kept * width
    if config["variant"] == "temporal" and (size // shares % shares or left // shares % shares):
        raise ModelError(f"mixer: {size} hidden channels in {shares} groups cannot become {left}")
    second = 2 if config["lstm"] and config["lstm_place"] == "within" else 1
    groups = []
    for block in range(config["depth"]):
        prefix = f"blocks.{block}.{second}"
        if config["variant"] == "temporal":
            groups.append(_shuffled(prefix, size, left, shares, mfm=mfm))
            continue
        halves = (_halves,) if mfm else ()
        both = tuple(Member(f"{prefix}.expand.{name}", 0, *halves) for name in ("weight", "bias"))
        groups.append(ChannelGroup(size, left, (*both, Member(f"{prefix}.reduce.weight", 1))))
        tokens = f"blocks.{block}.0.mlp"
        made = (Member(f"{tokens}.0.weight"), Member(f"{tokens}.0.bias"))
        seen = Member(f"{tokens}.3.weight", 1, groups=shares)
        groups.append(ChannelGroup(size, left, (*made, seen), lambda n: np.arange(n) // (n // shares)))
    frames = config["aggregated"]
    if frames < 2 or config["pooling"] != "attentive":
        return {"expansion": kept}, groups
    mixed = _norm("aggregate", "weight bias")
    mixed += _norm("last_norm") if config["variant"] == "temporal" else _norm("last_norm", "weight bias")
    weighed = [Member("pool.linear1.weight", 1), *_norm("pool.linear2", "weight bias")]
    groups.append(ChannelGroup(frames, frames // 2, (*mixed, *weighed, *_pooled("linear.weight"))))
    return {"expansion": kept, "aggregated": frames // 2}, groups


def _halves(n: int) -> NDArray[np.int64]:
    """Two halves, of which the maximum goes on."""
    return np.stack([np.arange(n), n + np.arange(n)], axis=1)


def _shuffled(prefix: str, size: int, left: int, shares: int, *, mfm: bool) -> ChannelGroup:
    """Units as they enter the second convolution: unit s comes from group s mod G, as its number s div G."""

    def places(n: int) -> NDArray[np.int64]:
        units, share = np.arange(n), n // shares
        first = units % shares * (2 if mfm else 1) * share + units // shares
        return np.stack([first, first + share], axis=1) if mfm else first[:, None]

    def cells(n: int) -> NDArray[np.int64]:
        units = np.arange(n)
        return units // (n // shares) * shares + units % shares

    both = tuple(Member(f"{prefix}.expand.{name}", 0, places) for name in ("weight", "bias"))
    return ChannelGroup(size, left, (*both, Member(f"{prefix}.reduce.weight", 1, groups=shares)), cells)


def _autoencoder(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[ChannelGroup]]:
    """Channels around the bottleneck, units of every LSTM in both directions, hidden ones of the attention."""
    channels, hidden, depth = config["channels"], config["hidden"], config["depth"]
    if channels < 2 or hidden < 2:
        raise ModelError(f"lstm_autoencoder: {channels} channels and {hidden} hidden units cannot be halved")
    groups = [
        ChannelGroup(
            channels,
            channels // 2,
            (
                *_norm(f"encoder.{place}", "weight bias"),
                *_norm(f"encoder.{place + 1}"),
                Member(f"encoder.{place + 4}.weight", 1),
            ),
        )
        for place in (0, 4)
    ]
    units, kept = 2 * hidden, hidden // 2 * 2
    for layer in range(depth):
        members = [
            Member(f"lstms.{layer}.{name}_l0{end}", 0, _gates(direction))
            for direction, end in enumerate(("", "_reverse"))
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        members += [
            Member(f"lstms.{layer}.weight_hh_l0{end}", 1, _direction(direction))
            for direction, end in enumerate(("", "_reverse"))
        ]
        if layer < depth - 1:
            members += [Member(f"lstms.{layer + 1}.weight_ih_l0{end}", 1) for end in ("", "_reverse")]
        else:
            members += [*_norm("layer_norm", "weight bias"), Member("pool.linear1.weight", 1)]
            members += _pooled("linear.weight")
        groups.append(ChannelGroup(units, kept, tuple(members), lambda n: np.arange(n) // (n // 2)))
    attention = (*_norm("pool.linear1", "weight bias"), Member("pool.linear2.weight", 1))
    groups.append(ChannelGroup(units, kept, attention))
    return {"channels": channels // 2, "hidden": hidden // 2, "decoder": False}, groups


def _direction(number: int) -> Places:
    def places(n: int) -> NDArray[np.int64]:
        units, hidden = np.arange(n), n // 2
        return np.where(units // hidden == number, units % hidden, -1)[:, None]

    return places


def _gates(number: int) -> Places:
    def places(n: int) -> NDArray[np.int64]:
        own = _direction(number)(n)
        return np.where(own < 0, -1, own + n // 2 * np.arange(4))

    return places


_KNOWN: Mapping[str, Callable[[Mapping[str, Any]], tuple[dict[str, Any], list[ChannelGroup]]]] = {
    "campplus": _campplus,
    "lstm_autoencoder": _autoencoder,
    "mixer": _mixer,
}
