"""People are enrolled, told apart, found and removed; every expected number is worked out beside the gallery."""

from __future__ import annotations

import json
import os
import signal
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nestvox.errors import AudioError, FingerprintError, ModelError, NestvoxError, ScoresError, StoreError
from nestvox.model.calibration import ModelCalibration, write_calibration
from nestvox.search import Gallery
from nestvox.search.people_files import bucket_of

from .conftest import DIM, LevelModel, cosine, set_at, sound

Levels = NDArray[np.float64]


def profile_by_hand(rows: Levels, dim: int) -> Levels:
    """Every recording counts alike: whole vectors to unit length, averaged, then cut."""
    return np.mean([row / np.linalg.norm(row) for row in rows], axis=0)[:dim]


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("dim", [DIM, 4, 3])
def test_scores_are_cosines_with_the_mean_of_unit_vectors(gallery: Gallery, levels: Levels, dim: int) -> None:
    probe = np.array([0.1, -0.3, 0.2, 0.4, -0.1, 0.25, 0.3, -0.2])
    expected = {"ann": levels[:3], "bob": levels[3:]}
    for person, rows in expected.items():
        answer = gallery.verify(sound(probe), person, dim=dim)
        assert answer.score == pytest.approx(cosine(profile_by_hand(rows, dim), probe[:dim]), abs=1e-6)
        assert (answer.dim, answer.same, answer.threshold) == (dim, None, None)
    found = gallery.identify(sound(probe), dim=dim)
    scores = {one.person: one.score for one in found.candidates}
    assert scores == {
        p: pytest.approx(cosine(profile_by_hand(r, dim), probe[:dim]), abs=1e-6) for p, r in expected.items()
    }
    assert [one.person for one in found.candidates] == sorted(scores, key=lambda name: -scores[name])
    assert found.person is None  # nothing decides


def test_people_find_themselves(gallery: Gallery, levels: Levels) -> None:
    found = gallery.search(levels, k=1)
    assert [row[0].person for row in found] == ["ann"] * 3 + ["bob"] * 3
    assert [one.person for one in gallery.people] == ["ann", "bob"]
    assert len(gallery) == 2
    assert "ann" in gallery
    assert "eve" not in gallery


def test_a_threshold_decides_about_profiles_of_its_size(gallery: Gallery, levels: Levels) -> None:
    score = gallery.verify(sound(levels[0]), "ann").score
    kept = gallery.path / "calibration.json"

    def decided(*thresholds: object) -> tuple[bool | None, str, tuple[str, ...]]:
        write_calibration(ModelCalibration("0123456789abcdef", thresholds), kept)  # type: ignore[arg-type]
        answer = gallery.verify(sound(levels[0]), "ann")
        return answer.same, answer.reason, tuple(one for one in answer.warnings if "threshold" in one)

    assert decided(set_at(score - 0.01, enrol_clips=3)) == (True, "", ())
    assert decided(set_at(score + 1e-3, enrol_clips=3)) == (False, "", ())
    same, reason, _ = decided(set_at(-1.0))
    assert same is None
    assert "pairs of recordings" in reason
    same, _, warnings = decided(set_at(score - 0.01, enrol_clips=5), set_at(score + 0.001, enrol_clips=2))
    assert same
    assert "profiles of 5 recordings and this one has 3" in warnings[0]
    same, _, warnings = decided(set_at(score + 0.001, enrol_clips=2))
    assert same is False
    assert "more false alarms" in warnings[0]
    found = gallery.identify(sound(levels[0]))
    assert found.person is None
    assert [one.accepted for one in found.candidates] == [False, False]
    decided(set_at(score - 0.01, enrol_clips=3))
    assert gallery.identify(sound(levels[0])).person == "ann"
    write_calibration(ModelCalibration("fedcba9876543210"), kept)
    with pytest.raises(FingerprintError, match="is for scores of the model fedcba9876543210"):
        gallery.verify(sound(levels[0]), "ann")


def test_the_gallerys_threshold_goes_before_the_models(tmp_path: Path, levels: Levels) -> None:
    model = LevelModel(thresholds=(set_at(1.0, enrol_clips=3),))
    gallery = Gallery.create(tmp_path / "g", model)
    gallery.enrol("ann", [sound(row) for row in levels[:3]])
    assert gallery.verify(sound(levels[0]), "ann").same is False
    write_calibration(
        ModelCalibration(model.fingerprint, (set_at(0.0, enrol_clips=3),)), gallery.path / "calibration.json"
    )
    assert gallery.verify(sound(levels[0]), "ann").same is True


def test_removed_is_removed(gallery: Gallery, levels: Levels) -> None:
    """No four numbers in a row of any of the vectors are in any file, nor the name; whoever shares the file stays."""
    neighbour = next(f"p{n}" for n in range(10_000) if bucket_of(f"p{n}") == bucket_of("ann"))
    gallery.enrol(neighbour, sound(levels[4]))
    vectors = gallery.profile("ann").vectors
    pieces = [row.tobytes()[start : start + 16] for row in vectors for start in range(0, 4 * DIM - 15, 4)]
    left = gallery.path / gallery.description.people / f".{bucket_of('ann')}-0123456789ab.partial.safetensors"
    left.write_bytes(vectors.tobytes())  # of a killed writer
    stale = gallery.path / "people-beef"
    stale.mkdir()
    (stale / "00.safetensors").write_bytes(vectors.tobytes())  # of a killed rebuilding
    assert all(piece in bytes_in(gallery.path) for piece in pieces)
    removed = gallery.remove("ann")
    assert removed.person == "ann"
    there = bytes_in(gallery.path)
    assert not any(piece in there for piece in [*pieces, b"ann"])
    assert gallery.profile(neighbour).recordings
    with pytest.raises(NestvoxError, match="'ann' is not enrolled"):
        gallery.verify(sound(levels[0]), "ann")
    with pytest.raises(NestvoxError, match="'ann' is not enrolled"):
        gallery.remove("ann")
    gallery.remove("bob")
    gallery.remove(neighbour)
    assert not list((gallery.path / gallery.description.people).iterdir())
    with pytest.raises(NestvoxError, match="nobody is enrolled"):
        gallery.identify(sound(levels[0]))


def test_another_process_is_seen(gallery: Gallery, levels: Levels) -> None:
    other = Gallery(gallery.path, model=LevelModel())
    assert other.verify(sound(levels[0]), "ann").score > 0.5
    gallery.enrol("cid", sound(levels[1]))
    assert len(other) == 3
    gallery.remove("ann")
    assert [one.person for one in other.people] == ["bob", "cid"]
    assert other.search(levels[:1], k=9)[0][0].person == "cid"


def test_recordings_are_told_apart_by_name(gallery: Gallery, levels: Levels) -> None:
    before = bytes_in(gallery.path)
    done = gallery.enrol("ann", sound(levels[5]), names=["one"])
    assert (done.added, done.kept, done.n_recordings) == ((), ("one",), 3)
    assert bytes_in(gallery.path) == before
    done = gallery.enrol("ann", sound(levels[5]), names=["one"], again=True)
    assert (done.added, done.kept, done.n_recordings) == (("one",), (), 3)
    rows = np.array([levels[5], levels[1], levels[2]])
    assert gallery.profile("ann").mean == pytest.approx(profile_by_hand(rows, DIM), abs=1e-6)
    first = gallery.enrol("dora", [sound(levels[0]), sound(levels[1])])  # named by what they sound like
    assert len(first.added) == 2
    assert gallery.enrol("dora", [sound(levels[1]), sound(levels[0])]).added == ()
    with pytest.raises(NestvoxError, match="twice"):
        gallery.enrol("dora", [sound(levels[0]), sound(levels[0])])


def test_order_and_repetition_change_nothing(tmp_path: Path, levels: Levels) -> None:
    people, names = ["ann"] * 3 + ["bob"] * 3, ["a", "b", "c"] * 2
    whole = Gallery.create(tmp_path / "whole", LevelModel())
    whole.enrol_vectors(people, names, levels)
    parts = Gallery.create(tmp_path / "parts", LevelModel())
    for row in (5, 0, 3, 3, 1, 4, 2):
        parts.enrol_vectors([people[row]], [names[row]], 7 * levels[row : row + 1])
    files = {path.relative_to(whole.path): path.read_bytes() for path in whole.path.rglob("*") if path.is_file()}
    again = {path.relative_to(parts.path): path.read_bytes() for path in parts.path.rglob("*") if path.is_file()}
    assert files.keys() == again.keys()
    for one, other in zip(whole.people, parts.people, strict=True):
        assert one.recordings == other.recordings
        assert other.vectors == pytest.approx(one.vectors, abs=1e-7)


def test_names_that_look_alike_are_one_person(gallery: Gallery, levels: Levels) -> None:
    gallery.enrol("Zoë", sound(levels[0]))
    done = gallery.enrol(unicodedata.normalize("NFD", "Zoë") + " ", sound(levels[1]))
    assert done.n_recordings == 2
    assert done.person == "Zoë"
    assert gallery.verify(sound(levels[0]), unicodedata.normalize("NFD", "Zoë")).score > 0.5
    for bad in ("", " ", "a\tb", "a\nb", "\u200b", "x" * 2000, "\udcff"):
        with pytest.raises(NestvoxError, match="is no name of a person"):
            gallery.enrol(bad, sound(levels[0]))


def test_what_cannot_be_enrolled_changes_nothing(gallery: Gallery, levels: Levels, tmp_path: Path) -> None:
    before = bytes_in(gallery.path)
    with pytest.raises(AudioError):
        gallery.enrol("eve", [sound(levels[0]), np.zeros(40_000, np.float32)])
    with pytest.raises(AudioError):
        gallery.enrol("eve", tmp_path / "none.wav")
    with pytest.raises(ScoresError, match=r"vectors \(1, 8\)"):
        gallery.enrol_vectors(["eve"], ["a"], levels[:1, :4])
    with pytest.raises(ScoresError):
        gallery.enrol_vectors(["eve"], ["a"], np.full((1, DIM), np.nan))
    with pytest.raises(ScoresError, match="zero"):
        gallery.enrol_vectors(["eve"], ["a"], np.zeros((1, DIM)))
    with pytest.raises(ModelError, match="between 1 and 8"):
        gallery.verify(sound(levels[0]), "ann", dim=9)
    with pytest.raises(NestvoxError, match="one recording or more"):
        gallery.enrol("eve", [])
    assert bytes_in(gallery.path) == before


def test_other_models_and_other_folders_are_refused(gallery: Gallery, tmp_path: Path) -> None:
    other = LevelModel(fingerprint="fedcba9876543210", name="other")
    with pytest.raises(FingerprintError, match="holds vectors of the model levels"):
        Gallery(gallery.path, model=other)
    with pytest.raises(FingerprintError, match="is a gallery of the model levels"):
        Gallery.create(gallery.path, other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match=r"holds 'letter\.txt'"):
        Gallery.create(tmp_path / "full", other)
    with pytest.raises(StoreError, match="no gallery"):
        Gallery(tmp_path / "full")
    with pytest.raises(StoreError, match="is a file"):
        Gallery.create(tmp_path / "full" / "letter.txt", other)


def _cut(data: bytes) -> bytes:
    return data[:-5]


def _louder(data: bytes) -> bytes:
    return data[:-4] + np.float32(3).tobytes()


def _not_a_number(data: bytes) -> bytes:
    return data[:-4] + np.float32(np.nan).tobytes()


def _other_name(data: bytes) -> bytes:
    return data.replace(b"bob", b"bab")


@pytest.mark.parametrize(
    "damage", [_cut, _louder, _not_a_number, _other_name, lambda _: b"", lambda _: b"PK\x03\x04" * 9]
)
def test_damage_is_named(gallery: Gallery, damage: Callable[[bytes], bytes]) -> None:
    file = gallery.path / gallery.description.people / f"{bucket_of('bob')}.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(StoreError, match=file.name):
        _ = Gallery(gallery.path).people


@pytest.mark.parametrize(
    "change", [{"dims": [9]}, {"people": "people-../../x"}, {"dim": "8"}, {"more": 1}, {"fingerprint": ""}]
)
def test_a_description_that_cannot_be_is_refused(gallery: Gallery, change: dict[str, object]) -> None:
    file = gallery.path / "gallery.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(StoreError, match=r"gallery\.json"):
        Gallery(gallery.path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("moment", ["before", "while", "after"])
@pytest.mark.parametrize("what", ["enrol", "more", "remove"])
def test_killed_in_a_change(gallery: Gallery, levels: Levels, moment: str, what: str) -> None:
    """SIGKILL just before, in the middle of, and just after the one rename of a change: as before, or as after."""

    def change(one: Gallery) -> None:
        if what == "remove":
            one.remove("ann")
        else:
            one.enrol("cid" if what == "enrol" else "ann", [sound(levels[0]), sound(levels[4])])

    def state() -> dict[str, int]:
        return {one.person: len(one.recordings) for one in Gallery(gallery.path, model=LevelModel()).people}

    if what == "remove":  # so that the file is written anew, not only unlinked
        gallery.enrol(next(f"p{n}" for n in range(10_000) if bucket_of(f"p{n}") == bucket_of("ann")), sound(levels[4]))
    before = state()
    child = os.fork()
    if not child:
        _die_at(moment)
        change(gallery)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    expected = {**before, "cid": 2} if what == "enrol" else {**before, "ann": 5}
    if what == "remove":
        expected = {person: count for person, count in before.items() if person != "ann"}
    assert state() == (expected if moment == "after" else before)
    if moment != "after":
        change(Gallery(gallery.path, model=LevelModel()))
    assert state() == expected
    folder = gallery.path / gallery.description.people
    Gallery(gallery.path, model=LevelModel()).enrol("last", sound(levels[0]))
    assert not list(folder.glob(".*.partial*"))


def _die_at(moment: str) -> None:
    """In a child: end this process by SIGKILL at a moment of the next atomic write."""
    rename, write = Path.replace, Path.write_bytes

    def replace(self: Path, target: Path) -> Path:
        if moment == "after":
            rename(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def half(self: Path, data: bytes) -> int:
        write(self, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    Path.replace = replace  # type: ignore[method-assign,assignment]
    if moment == "while":
        Path.write_bytes = half  # type: ignore[method-assign,assignment]
