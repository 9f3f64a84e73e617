"""Weights that are small become zero, or channels that weigh little are left out.

Neither is trained again here: both give a model to begin a distillation with, and say what was lost.

Source: H. Li et al., "Pruning filters for efficient ConvNets", ICLR 2017 (channels by the size of their weights).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestvox.compression.channels import ChannelGroup, Member, channel_groups, smaller
from nestvox.encoders.contract import Encoder
from nestvox.errors import ModelError

SPARSITY = 0.5


def sparse(encoder: Encoder) -> Encoder:
    """Set the half of each matrix and kernel to zero whose numbers are the smallest; the original stays as it is.

    Raises:
        ModelError: the encoder has no weights of its own.
    """
    pruned = copy.deepcopy(encoder)
    weights = [parameter for parameter in pruned.parameters() if parameter.ndim >= 2]
    if not weights:
        raise ModelError(f"{encoder.architecture} has no weights that could be set to zero")
    with torch.no_grad():
        for weight in weights:
            count = int(SPARSITY * weight.numel())
            weight.view(-1)[weight.abs().flatten().argsort(stable=True)[:count]] = 0.0
    return pruned


def without_weak_channels(encoder: Encoder, head: Mapping[str, Tensor]) -> tuple[Encoder, dict[str, Tensor]]:
    """Leave out about half of the hidden channels, those with the smallest weights before and behind them.

    Args:
        encoder: stays as it is.
        head: tensors of a head that takes pooled vectors, for which some of those channels are means and deviations.

    Returns:
        A smaller encoder of the same kind, and the tensors of the head for it.

    Raises:
        ModelError: which channels go together is not known of this encoder.
    """
    config, groups = channel_groups(encoder)
    pruned = smaller(config, encoder.architecture)
    tensors: dict[str, Tensor] = {**encoder.state_dict(), **{f"head.{name}": tensor for name, tensor in head.items()}}
    chosen = [_kept(group, tensors) for group in groups]  # of the whole network, before anything is left out
    for group, kept in zip(groups, chosen, strict=True):
        for member in group.members:
            if member.name in tensors:
                tensors[member.name] = _without(tensors[member.name], member, group, kept)
    pruned.load_state_dict({name: tensors[name] for name in pruned.state_dict()}, strict=True)
    return pruned.eval(), {name: tensors[f"head.{name}"] for name in head}


def _kept(group: ChannelGroup, tensors: dict[str, Tensor]) -> NDArray[np.int64]:
    """The units that stay, in the order in which they will stand."""
    worth = np.zeros(group.size)
    for member in group.members:
        if member.name not in tensors:
            continue
        tensor = _with_units(tensors[member.name], member)
        if tensor.ndim < 2:
            continue  # statistics and shifts say nothing of how much a channel does
        squares = tensor.double().square().transpose(0, member.axis).flatten(1).sum(dim=1).numpy()
        places = member.places(group.size)
        of_units = np.where(places < 0, 0.0, squares[places]).sum(axis=1)
        worth += of_units / max(of_units.mean(), 1e-30)
    before, after = group.cells(group.size), group.cells(group.kept)
    kept = np.empty(group.kept, np.int64)
    for cell in np.unique(after):
        units, left = np.flatnonzero(before == cell), np.flatnonzero(after == cell)
        strongest = units[np.argsort(-worth[units], kind="stable")[: len(left)]]
        kept[left] = np.sort(strongest)
    return kept


def _without(tensor: Tensor, member: Member, group: ChannelGroup, kept: NDArray[np.int64]) -> Tensor:
    """The tensor with the kept units only, each at the place that the smaller network has for it."""
    old, new = member.places(group.size)[kept], member.places(group.kept)
    index = np.empty((new >= 0).sum(), np.int64)
    index[new[new >= 0]] = old[old >= 0]
    whole = _with_units(tensor, member)
    return _as_convolution(whole.index_select(member.axis, torch.from_numpy(index)), member)


def _with_units(tensor: Tensor, member: Member) -> Tensor:
    """A grouped convolution's weight (C, N / G, ...) as (C / G, N, ...), its units side by side; others as they are."""
    if member.groups == 1:
        return tensor
    return torch.cat(tensor.chunk(member.groups), dim=1)


def _as_convolution(tensor: Tensor, member: Member) -> Tensor:
    return tensor if member.groups == 1 else torch.cat(tensor.chunk(member.groups, dim=1))
