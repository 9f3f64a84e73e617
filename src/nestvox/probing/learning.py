"""Training a small network on cached frames, the same way and at the same cost whatever the frames are of.

Notation: N utterances, B of a batch, L layers, C channels, T frames, D embedding size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nestvox.probing.latents import LayerFrames
from nestvox.probing.linear import Vectors, all_pairs_eer
from nestvox.progress import Progress, silent

Loss = Callable[[Tensor, NDArray[np.int64]], Tensor]
"""From embeddings (B, D) and the rows that they are of to a scalar."""

_WARM_UP = 0.2
_CLIP = 5.0


@dataclass(frozen=True)
class Budget:
    """What a network is given to learn with.

    Attributes:
        epochs: passes over the utterances.
        batch_size: utterances of a step.
        crop_s: of each utterance, at a random place; a shorter one is repeated.
        peak_rate: highest learning rate of the one cycle; Adam with decoupled weight decay of 1e-4.
        seed: of weights, order and places.
    """

    epochs: int = 12
    batch_size: int = 64
    crop_s: float = 3.0
    peak_rate: float = 2e-3
    seed: int = 0


def crops(layers: Sequence[LayerFrames], rows: NDArray[np.int64], size: int, draw: np.random.Generator) -> Tensor:
    """Stretches of `size` frames of utterances, (B, L, C, size)."""
    batch = np.empty((len(rows), len(layers), size, layers[0].channels), np.float32)
    for place, row in zip(batch, rows, strict=True):
        length = len(layers[0].utterances[row])
        start = int(draw.integers(max(length - size, 0) + 1))
        taken = (start + np.arange(size)) % length
        for one, layer in zip(place, layers, strict=True):
            one[:] = layer.utterances[row][taken]
    return torch.from_numpy(batch).transpose(2, 3)


def embedded(network: nn.Module, layers: Sequence[LayerFrames], rows: NDArray[np.int64]) -> Vectors:
    """Embeddings (N, D) of whole utterances, each by itself."""
    network.eval()
    found = []
    with torch.inference_mode():
        for row in rows:
            whole = np.stack([np.asarray(layer.utterances[row], np.float32).T for layer in layers])
            if whole.shape[2] < 2:  # a deviation needs two
                whole = np.repeat(whole, 2, axis=2)
            found.append(network(torch.from_numpy(whole)[None])[0].numpy())
    return np.stack(found).astype(np.float64)


def learn(
    network: nn.Module,
    criterion: nn.Module,
    loss: Loss,
    layers: Sequence[LayerFrames],
    rows: NDArray[np.int64],
    choice: tuple[NDArray[np.int64], Sequence[str]],
    budget: Budget,
    progress: Progress = silent,
) -> float:
    """Train a network in place and leave it with the weights of the epoch that is best on the speakers of choice.

    Args:
        network: from (B, L, C, T) to (B, D).
        criterion: its parameters learn too.
        loss: see `Loss`.
        layers: with as many frames an utterance each.
        rows: (N,) utterances to learn from.
        choice: utterances and speakers that the epoch is chosen by.
        budget: what it is given.
        progress: epochs done of all.

    Returns:
        EER of all pairs of choice, at the best epoch.
    """
    draw = np.random.default_rng(budget.seed)
    learning = [p for module in (network, criterion) for p in module.parameters() if p.requires_grad]
    steps = max(1, len(rows) // budget.batch_size)
    optimiser = torch.optim.AdamW(learning, lr=budget.peak_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, budget.peak_rate, total_steps=budget.epochs * steps + 1, pct_start=_WARM_UP
    )
    size = max(2, round(budget.crop_s * layers[0].frame_rate_hz))
    best, best_state = float("inf"), copy.deepcopy(network.state_dict())
    for epoch in range(budget.epochs):
        network.train()
        order = draw.permutation(rows)
        for batch in np.array_split(order, steps):
            value = loss(network(crops(layers, batch, size, draw)), batch)
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(learning, _CLIP)
            optimiser.step()
            schedule.step()
        rate = all_pairs_eer(embedded(network, layers, choice[0]), choice[1])
        if rate < best:
            best, best_state = rate, copy.deepcopy(network.state_dict())
        progress(epoch + 1, budget.epochs)
    network.load_state_dict(best_state)
    return best


def written_probe(
    vectors: Vectors, labels: NDArray[np.int64], *, seed: int, epochs: int = 100, batch_size: int = 256
) -> tuple[Vectors, float]:
    """Train a linear classifier as the probe of the write-up "encoder_modification" does.

    Vectors as they come; weights and bias; cross-entropy; Adam at 1e-3; nothing held out. The bias is dropped where the
    weights serve as a projection.

    Args:
        vectors: (N, D).
        labels: (N,) classes, from 0.
        seed: of weights and order.
        epochs: passes.
        batch_size: of a step.

    Returns:
        The weights (D, classes), and the accuracy on what it was trained on, over the last epoch as it ran.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(vectors.shape[1], int(labels.max()) + 1)
        optimiser = torch.optim.Adam(layer.parameters(), lr=1e-3)
        given, wanted = torch.from_numpy(vectors.astype(np.float32)), torch.from_numpy(labels)
        right = 0
        for _ in range(epochs):
            right = 0
            for batch in torch.randperm(len(given)).split(batch_size):  # type: ignore[no-untyped-call]
                logits = layer(given[batch])
                optimiser.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(logits, wanted[batch]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                right += int((logits.argmax(dim=1) == wanted[batch]).sum())
    return layer.weight.detach().numpy().T.astype(np.float64), right / len(given)
