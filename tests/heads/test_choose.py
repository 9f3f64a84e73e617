"""Choosing: the pairs decide, and nothing is fitted on them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nestvox.errors import ModelError
from nestvox.heads.choose import Candidate, choose_rotation
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.refine import Refinement, refine
from nestvox.heads.rotation import Scatter, discriminant, pca

SIZE = 12
WEIGHTS = (0.0, 1.0, 3.0)


def world(seed: int, speakers: int, takes: int, loud: slice) -> tuple[np.ndarray, list[str]]:
    """Speakers differ in the first four coordinates, sessions in those of `loud`."""
    generator = np.random.default_rng(seed)
    vectors = 0.2 * generator.standard_normal((speakers * takes, SIZE))
    vectors[:, :4] += generator.standard_normal((speakers, 4)).repeat(takes, axis=0)
    vectors[:, loud] += 1.5 * generator.standard_normal((speakers * takes, len(range(SIZE)[loud])))
    return vectors, [f"{seed}-{row // takes}" for row in range(speakers * takes)]


FIT = world(1, 60, 4, slice(2, 8))
SETTINGS = Refinement(checkpoints=(2, 4), shortest=2)


def chosen(pairs: LabelledPairs, **options: object) -> dict[str, Candidate]:
    return choose_rotation(*FIT, pairs, **{"dims": (2, 4), "weights": WEIGHTS, "refinement": SETTINGS, **options})


def test_every_method_keeps_its_best_and_best_is_the_best() -> None:
    pairs = LabelledPairs.all_of(*world(2, 30, 4, slice(2, 8)))
    found = chosen(pairs)
    assert list(found) == ["truncation", "pca", "discriminant", "refined", "best"]
    for name, candidate in found.items():
        assert candidate.eers == pairs.eers(candidate.rotation)
        assert candidate.criterion == pytest.approx((candidate.eers[2] + candidate.eers[4]) / 2)
        assert candidate.rotation.method == (found["best"].rotation.method if name == "best" else name)
    methods = [found[name] for name in ("pca", "discriminant", "refined")]
    assert found["best"].criterion == min(candidate.criterion for candidate in methods)
    assert any(found["best"] is candidate for candidate in methods)
    # Against the candidates, fitted here.
    scatter = Scatter(SIZE)
    scatter.add(*FIT)

    def criterion(rotation: object) -> float:
        eers = pairs.eers(rotation)
        return (eers[2] + eers[4]) / 2

    assert found["pca"].criterion == criterion(pca(scatter, (2, 4)))
    orders = [discriminant(scatter, weight, (2, 4)) for weight in WEIGHTS]
    assert found["discriminant"].criterion == min(map(criterion, orders))
    start = discriminant(scatter, SETTINGS.weight, (2, 4), every_speaker=True)
    assert found["refined"].criterion == criterion(refine(start, *FIT, SETTINGS))


def test_the_pairs_pick_the_weight() -> None:
    """Where pairs are quiet in the loud directions nothing is gained by punishing them; where they are loud it is."""
    quiet = chosen(LabelledPairs.all_of(*world(3, 40, 4, slice(0, 0))), method="discriminant")
    loud = chosen(LabelledPairs.all_of(*world(3, 40, 4, slice(2, 8))), method="discriminant")
    assert loud["discriminant"].rotation.details["weight"] > 0
    assert loud["discriminant"].criterion < loud["pca"].criterion
    assert quiet["truncation"].criterion < loud["truncation"].criterion


def test_nothing_is_fitted_on_the_pairs() -> None:
    """At given settings other labels, and other vectors, of the pairs leave every candidate as it is."""
    vectors, speakers = world(4, 20, 4, slice(2, 8))
    shuffled = [str(name) for name in np.random.default_rng(5).permutation(speakers)]
    one_step = Refinement(checkpoints=(3,), shortest=2)
    results = [
        chosen(pairs, weights=(1.0,), refinement=one_step)
        for pairs in (
            LabelledPairs.all_of(vectors, speakers),
            LabelledPairs.all_of(vectors, shuffled),
            LabelledPairs.all_of(-5 * vectors[::-1], speakers),
        )
    ]
    for other in results[1:]:
        for name in ("pca", "discriminant", "refined"):
            assert other[name].rotation.matrix.tobytes() == results[0][name].rotation.matrix.tobytes()
    assert results[1]["best"].eers != results[0]["best"].eers, "but they are measured on them"


@pytest.mark.parametrize(
    ("method", "total"), [("pca", 2), ("discriminant", 2 + 3), ("refined", 2 + 3 + 1), ("auto", 2 + 3 + 1)]
)
def test_progress_counts_every_candidate(method: str, total: int) -> None:
    calls: list[tuple[int, int | None]] = []
    found = chosen(
        LabelledPairs.all_of(*world(6, 10, 3, slice(2, 8))),
        method=method,
        progress=lambda done, all_of: calls.append((done, all_of)),
    )
    assert calls == [(k, total) for k in range(1, total + 1)]
    assert set(found) == {"truncation", "best", *["pca", "discriminant", "refined"][: {2: 1, 5: 2, 6: 3}[total]]}


def test_one_prefix_alone_is_the_criterion() -> None:
    found = chosen(LabelledPairs.all_of(*world(7, 10, 3, slice(2, 8))), dims=(SIZE,), method="pca")
    assert found["pca"].criterion == found["pca"].eers[SIZE]
    for a, b in itertools.pairwise(found.values()):
        assert a.criterion == pytest.approx(b.criterion, abs=1e-12), "a rotation leaves the full dimension as it is"


def test_faults() -> None:
    pairs = LabelledPairs.all_of(*world(8, 10, 3, slice(2, 8)))
    with pytest.raises(ModelError, match="12 dimensions, the pairs' vectors 3"):
        chosen(LabelledPairs.all_of(np.eye(3), list("aab")))
    with pytest.raises(ModelError, match="between 1 and 12"):
        chosen(pairs, dims=(16,))
    with pytest.raises(ModelError, match="239 speakers for 240 vectors"):
        choose_rotation(FIT[0], FIT[1][1:], pairs)
    with pytest.raises(ModelError, match="two speakers with two vectors"):
        choose_rotation(FIT[0], [str(k) for k in range(len(FIT[0]))], pairs)
    assert choose_rotation(FIT[0], [str(k) for k in range(len(FIT[0]))], pairs, method="pca")["best"].criterion < 0.5
