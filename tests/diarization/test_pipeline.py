"""From chunks to turns: against stored results of the original functions, and on recordings made up here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")

from nestvox.diarization import clustering  # noqa: E402
from nestvox.diarization.chunks import CHUNK_SAMPLES, FRAMES, Chunks, frame_at, seconds_of  # noqa: E402
from nestvox.diarization.clustering import SpeakerCount, assign, centroids, cluster  # noqa: E402
from nestvox.diarization.pyannet import POWERSET  # noqa: E402
from nestvox.diarization.tracks import highest, stretches, votes  # noqa: E402
from nestvox.errors import NestvoxError  # noqa: E402

EXCERPT = Chunks(480_001)


@pytest.fixture(scope="module")
def golden(reference_dir: Path) -> dict[str, np.ndarray]:
    return dict(np.load(reference_dir / "segmentation" / "pipeline.npz"))


def test_where_chunks_lie() -> None:
    assert (EXCERPT.count, EXCERPT.frames) == (22, 1838)
    assert Chunks(480_000).count == 21
    assert Chunks(5_000).count == 1
    assert [EXCERPT.first_frame(chunk) for chunk in (1, 2, 21)] == [59, 119, 1244]
    assert seconds_of(0) == pytest.approx(0.03096875)
    assert frame_at(np.array([seconds_of(0), seconds_of(77)])).tolist() == [0, 77]


@pytest.mark.parametrize("name", ["trn08", "tst00", "trn01"])
def test_stored_labels_become_the_stored_turns(golden: dict[str, np.ndarray], reference_dir: Path, name: str) -> None:
    turns = json.loads((reference_dir / "segmentation" / "pipeline.json").read_text())[name]["turns"]
    active = POWERSET[golden[f"argmax_{name}"]]
    count = np.rint(EXCERPT.overlap_add(active.sum(axis=2, dtype=np.float32))).astype(int)
    assert (count == golden[f"count_{name}"]).all()
    discrete = golden[f"discrete_{name}"]
    speakers = discrete.shape[1]
    score = votes(EXCERPT, active, golden[f"hard31_{name}"].astype(int), speakers)
    on = highest(score + 1e-6, np.minimum(count, speakers))  # the original also puts on those without a vote
    assert (on == discrete).all()
    found = sorted((begin, end, k) for k in range(speakers) for begin, end in stretches(on[:, k]))
    np.testing.assert_allclose(np.reshape(found, (-1, 3)), np.reshape(turns, (-1, 3)), atol=1e-6)


@pytest.mark.parametrize("name", ["trn08", "tst00"])
@pytest.mark.parametrize(("rule", "alone"), [("hard31", 0.0), ("hard4", 0.2)])
def test_stored_vectors_become_the_stored_labels(
    golden: dict[str, np.ndarray], name: str, rule: str, alone: float
) -> None:
    active = POWERSET[golden[f"argmax_{name}"]]
    clean = (active * (active.sum(axis=2, keepdims=True) < 2)).sum(axis=1)
    vectors = golden[f"emb_{name}"]
    trained = np.isfinite(vectors[:, :, 0]) & (clean >= alone * FRAMES)
    labels = cluster(vectors[trained], 0.7045654963945799, method="centroid", count=SpeakerCount())
    found = assign(vectors, centroids(vectors[trained], labels), apart=False)
    stored = golden[f"{rule}_{name}"]
    assert ((found == -1) == (stored == -2)).all()
    pairs = {(int(a), int(b)) for a, b in zip(found[found >= 0], stored[found >= 0], strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), "the same but for the numbers"


def voices(n: int, speakers: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    heads = rng.normal(size=(speakers, 32))
    labels = rng.integers(0, speakers, n)
    return heads[labels] + 0.5 * rng.normal(size=(n, 32)), labels


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))


def test_numbers_of_speakers_that_are_wanted() -> None:
    vectors, labels = voices(120, 4)
    assert same_partition(cluster(vectors, 0.6, count=SpeakerCount()), labels)
    for count, expected in (
        (SpeakerCount(2, 2), 2),
        (SpeakerCount(1, 3), 3),
        (SpeakerCount(6), 6),
        (SpeakerCount(1, 1), 1),
    ):
        assert cluster(vectors, 0.6, smallest=3, count=count).max() + 1 == expected
    for fewest, most in ((0, None), (3, 2), (1, 10_000)):
        with pytest.raises(NestvoxError, match="speakers lie between"):
            SpeakerCount(fewest, most)


def test_few_vectors_join_the_nearest() -> None:
    vectors, labels = voices(60, 2)
    stray = np.random.default_rng(5).normal(size=32)
    found = cluster(np.vstack([vectors, stray]), 0.6, smallest=5, count=SpeakerCount())
    assert found.max() == 1
    assert same_partition(found[:-1], labels)


def test_in_parts_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = voices(400, 5, seed=3)
    whole = cluster(vectors, 0.6, count=SpeakerCount())
    monkeypatch.setattr(clustering, "MOST_AT_ONCE", 90)
    parts = cluster(vectors, 0.6, count=SpeakerCount())
    assert same_partition(whole, labels)
    assert (parts == whole).all()


def test_two_of_one_chunk_are_two_as_long_as_there_are_enough() -> None:
    centres = np.eye(3)
    local = np.array([[[1, 0.2, 0], [1, 0.3, 0], [np.nan] * 3]])
    assert assign(local, centres, apart=False).tolist() == [[0, 0, -1]]
    assert assign(local, centres).tolist() == [[0, 1, -1]]
    assert assign(local, centres[:1]).tolist() == [[0, 0, -1]]


def test_stretches_and_gaps() -> None:
    on = np.zeros(100, bool)
    on[10:20] = on[22:30] = on[60:61] = True
    assert len(stretches(on)) == 3
    assert stretches(on)[0] == (seconds_of(10), seconds_of(20))
    assert stretches(on, longest_gap_s=0.04, shortest_s=0.02) == [(seconds_of(10), seconds_of(30))]
    assert stretches(~np.zeros(5, bool)) == [(seconds_of(0), seconds_of(4))], "the last frame has no end of its own"


def test_what_chunks_say_is_averaged_where_they_meet() -> None:
    chunks = Chunks(2 * CHUNK_SAMPLES, CHUNK_SAMPLES // 2)
    said = np.stack([np.full(FRAMES, value, np.float32) for value in (1, 2, 6)])
    mean = chunks.overlap_add(said)
    assert (mean[0], mean[400], mean[600], mean[1000]) == (1, 1.5, 4, 6)
