"""The steps of a ladder: each makes vectors, or scores, of an utterance from cached frames and says what it fitted.

Notation: N utterances, L layers, C channels, D vector size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nestvox.heads.contract import normalise
from nestvox.losses import AamSoftmax, EmbeddingCosine, NestedLoss
from nestvox.probing.latents import LayerFrames, codes_of
from nestvox.probing.learning import Budget, embedded, learn, written_probe
from nestvox.probing.linear import (
    Plda,
    Vectors,
    all_pairs_eer,
    centring,
    lda_on_choice,
    score_matrix_eer,
    standardising,
    whitened_on_choice,
)
from nestvox.probing.networks import WIDTH, Adapter
from nestvox.progress import Progress, silent

POOLED = ("mean", "centred", "mean+std", "whitened", "lda", "plda", "linear")
"""Without a network over time, on every layer."""
TRAINED = ("attentive", "transformer", "ecapa", "nested", "distilled")
"""Networks over time, on the layers that are adapted."""
WEIGHTED = "weighted"
"""A learned sum over all layers that have one rate and one size."""
RUNGS = (*POOLED, WEIGHTED, *TRAINED)
NESTED_DIMS = (8, 16, 32, 64, WIDTH)

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Parts:
    """Which utterances serve for what, as rows of the table.

    Attributes:
        fit: to fit on.
        choice: to choose on.
        trials: that the trials name.
        speakers: of all rows.
    """

    fit: Rows
    choice: Rows
    trials: Rows
    speakers: Sequence[str]

    def of(self, rows: Rows) -> list[str]:
        """Speakers of rows."""
        return [self.speakers[row] for row in rows]


@dataclass(frozen=True, eq=False)
class Made:
    """What a step gives.

    Attributes:
        rung: its name.
        vectors: (n, D) of the utterances of the trials, in the order of `Parts.trials`; None: it gives scores.
        scores: (n, n) of all pairs of those.
        dims: prefix lengths of vectors that are measured; empty: all of D.
        choice_eer: see `outcome.Rung`, by prefix length where there are several; so are the others.
    """

    rung: str
    vectors: Vectors | None = None
    scores: Vectors | None = None
    dims: tuple[int, ...] = ()
    choice_eer: Mapping[int | None, float] = field(default_factory=dict)
    accuracy: float | None = None
    parameters: int = 0
    how: str = ""
    fit_s: float = 0.0


def pooled_rungs(layer: LayerFrames, parts: Parts, wanted: Sequence[str], seed: int) -> Iterator[Made]:
    """The steps without a network, on one layer."""
    size = layer.channels
    pooled = layer.statistics().astype(np.float64)
    fit_speakers, choice_speakers = parts.of(parts.fit), parts.of(parts.choice)

    def made(rung: str, transform: Callable[[Vectors], Vectors], given: Vectors, began: float, **said: object) -> Made:
        took = time.perf_counter() - began
        rate = all_pairs_eer(transform(given[parts.choice]), choice_speakers)
        vectors = transform(given[parts.trials])
        return Made(rung, vectors, choice_eer={None: rate}, fit_s=took, **said)  # type: ignore[arg-type]

    means = pooled[:, :size]
    scaled = standardising(pooled[parts.fit])
    both = scaled(pooled)
    for rung in (rung for rung in POOLED if rung in wanted):
        began = time.perf_counter()
        if rung == "mean":
            yield made(rung, lambda x: x, means, began)
        elif rung == "centred":
            yield made(rung, centring(means[parts.fit]), means, began)
        elif rung == "mean+std":
            yield made(rung, scaled, pooled, began)
        elif rung == "whitened":
            found, how = whitened_on_choice(both[parts.fit], both[parts.choice], choice_speakers)
            yield made(rung, found, both, began, how=how)
        elif rung == "linear":
            weights, accuracy = written_probe(means[parts.fit], codes_of(fit_speakers), seed=seed)
            said = {"accuracy": accuracy, "parameters": weights.size + weights.shape[1]}
            yield made(rung, lambda x, w=weights: x @ w, means, began, **said)  # type: ignore[misc]
        else:
            found, how = lda_on_choice(both[parts.fit], fit_speakers, both[parts.choice], choice_speakers)
            if rung == "lda":
                yield made(rung, found, both, began, how=how, parameters=found.matrix.size)
                continue
            model = Plda.fitted(found(both[parts.fit]), fit_speakers)
            took = time.perf_counter() - began
            rate = score_matrix_eer(model(found(both[parts.choice])), choice_speakers)
            scores = model(found(both[parts.trials]))
            size_of = found.matrix.size + 2 * model.projection.matrix.size
            yield Made(rung, scores=scores, choice_eer={None: rate}, how=how, parameters=size_of, fit_s=took)


def leaky_rungs(layer: LayerFrames, parts: Parts, seed: int) -> Iterator[Made]:
    """The linear probe fitted on the very utterances of the trials, as the write-up's number was made."""
    began = time.perf_counter()
    means = layer.statistics().astype(np.float64)[parts.trials, : layer.channels]
    weights, accuracy = written_probe(means, codes_of(parts.of(parts.trials)), seed=seed)
    took = time.perf_counter() - began
    size = weights.size + weights.shape[1]
    yield Made("linear", means @ weights, accuracy=accuracy, parameters=size, fit_s=took)


def trained_rung(
    rung: str,
    layers: Sequence[LayerFrames],
    parts: Parts,
    budget: Budget,
    *,
    teacher: Vectors | None = None,
    progress: Progress = silent,
) -> Made:
    """A step with a network.

    Args:
        rung: of `TRAINED`, or ``weighted``.
        layers: one; of ``weighted`` several.
        parts: which utterances serve for what.
        budget: what the network is given.
        teacher: (N, E) embeddings of all utterances, for ``distilled``.
        progress: epochs.
    """
    began = time.perf_counter()
    trunk = {WEIGHTED: "statistics", "nested": "ecapa", "distilled": "ecapa"}.get(rung, rung)
    dim = WIDTH if teacher is None or rung != "distilled" else teacher.shape[1]
    names = codes_of(parts.of(parts.fit))
    labels = torch.full((len(parts.speakers),), -1, dtype=torch.int64)
    labels[torch.from_numpy(parts.fit)] = torch.from_numpy(names)
    classes = int(names.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(budget.seed)
        network = Adapter(trunk, *_moments(layers, parts.fit), dim=dim, frame_rate_hz=layers[0].frame_rate_hz)
        criterion: nn.Module
        if rung == "distilled":
            assert teacher is not None
            criterion, targets = EmbeddingCosine(), torch.from_numpy(normalise(teacher).astype(np.float32))

            def loss(embedding: Tensor, rows: Rows) -> Tensor:
                value: Tensor = criterion(embedding, targets[torch.from_numpy(rows)])
                return value

        elif rung == "nested":
            criterion = NestedLoss(NESTED_DIMS, lambda d: AamSoftmax(d, classes))

            def loss(embedding: Tensor, rows: Rows) -> Tensor:
                value: Tensor = criterion(embedding, labels[torch.from_numpy(rows)]).total
                return value

        else:
            criterion = AamSoftmax(dim, classes)

            def loss(embedding: Tensor, rows: Rows) -> Tensor:
                value: Tensor = criterion(embedding, labels[torch.from_numpy(rows)])
                return value

        choice = parts.choice, parts.of(parts.choice)
        learn(network, criterion, loss, layers, parts.fit, choice, budget, progress)
    took = time.perf_counter() - began
    dims: tuple[int | None, ...] = NESTED_DIMS if rung == "nested" else (None,)
    heard = embedded(network, layers, parts.choice)
    weights = network.weights.detach().softmax(dim=0).tolist()
    how = (
        ", ".join(f"{layer.name} {w:.2f}" for layer, w in zip(layers, weights, strict=True)) if len(layers) > 1 else ""
    )
    return Made(
        rung,
        embedded(network, layers, parts.trials),
        dims=NESTED_DIMS if rung == "nested" else (),
        choice_eer={dim: all_pairs_eer(heard[:, :dim], choice[1]) for dim in dims},
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        how=how,
        fit_s=took,
    )


def _moments(layers: Sequence[LayerFrames], rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the frames of utterances, (L, C) each."""
    found = []
    for layer in layers:
        count, total, squares = 0, np.zeros(layer.channels), np.zeros(layer.channels)
        for row in rows:
            frames = np.asarray(layer.utterances[row], np.float64)
            count, total, squares = count + len(frames), total + frames.sum(axis=0), squares + (frames**2).sum(axis=0)
        mean = total / count
        found.append((mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0))))
    means, deviations = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in zip(*found, strict=True))
    return means, deviations
