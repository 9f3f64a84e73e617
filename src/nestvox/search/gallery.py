"""`Gallery`: a folder of enrolled people, who may log in, be found, and be removed.

Notation: R recordings, N people, Q queries, D vector size, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.arrays import as_count, as_vectors
from nestvox.audio.given import Audio, recordings_of
from nestvox.errors import FingerprintError, ModelError, NestvoxError, ScoresError, StoreError
from nestvox.heads.contract import cut_in_words, truncate
from nestvox.locking import locked
from nestvox.model.calibration import CALIBRATION_FILE, read_calibration
from nestvox.model.threshold import Threshold, Verification, check_marks
from nestvox.names import name_key
from nestvox.search.answers import Candidate, Enrolled, Identification
from nestvox.search.deciding import OF_GALLERY, OF_MODEL, threshold_for
from nestvox.search.description import (
    PEOPLE,
    Description,
    begin_gallery,
    is_gallery,
    read_description,
    sweep_gallery,
)
from nestvox.search.enrolling import NewRecordings, enrolment_of
from nestvox.search.hearing import hear
from nestvox.search.people import People
from nestvox.search.people_files import bucket_of, write_people
from nestvox.search.profile import Profile, check_person

if TYPE_CHECKING:
    from nestvox.extraction.shard_job import EmbeddingModel

_SHOWN = 3


class Gallery:
    """People who are enrolled with recordings, by one model.

    Each change of a person is written whole or not at all, whatever ends the process; several processes may write and
    read one gallery. Whoever is removed is in no file of the folder any more.

    Args:
        path: folder of the gallery.
        model: that made its vectors; None: it is loaded, as the gallery says, when a recording is heard.

    Attributes:
        path: the folder.

    Raises:
        StoreError: no gallery is there, or it is damaged.
        FingerprintError: it is of another model.
    """

    def __init__(self, path: str | Path, *, model: EmbeddingModel | None = None) -> None:
        self.path = Path(path)
        self._model: EmbeddingModel | None = None
        self._read()
        if model is not None:
            self._take(model)

    @classmethod
    def create(cls, path: str | Path, model: EmbeddingModel, *, load: str | None = None) -> Gallery:
        """Make a gallery, or open that of the same model.

        Args:
            path: of a folder, new or empty.
            model: that embeds.
            load: what `nestvox.load` takes to have the model again; None: its name.

        Raises:
            StoreError: the folder holds something else.
            FingerprintError: it is the gallery of another model.
        """
        described = Description(
            model=model.name,
            load=load or model.name,
            fingerprint=model.fingerprint,
            dim=model.dims[-1],
            dims=tuple(model.dims),
            people=PEOPLE + model.fingerprint,
        )
        begin_gallery(path, described)
        return cls(path, model=model)

    def __len__(self) -> int:
        return len(self._people().everybody())

    def __contains__(self, person: object) -> bool:
        return isinstance(person, str) and self._people().find(name_key(person)) is not None

    def __repr__(self) -> str:
        said = self.description
        return f"Gallery({str(self.path)!r}, {len(self)} people, {said.model} {said.dim}, {said.fingerprint})"

    @property
    def description(self) -> Description:
        """What the gallery says of itself."""
        return self._description

    @property
    def fingerprint(self) -> str:
        """Of the model that made the vectors."""
        return self._description.fingerprint

    @property
    def model(self) -> EmbeddingModel:
        """The model; loaded at the first use.

        Raises:
            FingerprintError: what is loaded by that name is another model by now.
            NestvoxError: it cannot be loaded.
        """
        if self._model is None:
            from nestvox.model.loading import load  # noqa: PLC0415  may import torch

            self._take(load(self._description.load))
        assert self._model is not None
        return self._model

    @property
    def people(self) -> tuple[Profile, ...]:
        """Everybody who is enrolled, in the order of their names."""
        return tuple(self._people().everybody())

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """The gallery's own, of its `calibration.json`; they go before those of the model.

        Raises:
            ModelError: the file is malformed.
            FingerprintError: they were set for another model.
        """
        path = self.path / CALIBRATION_FILE
        if not path.is_file():
            return ()
        found = read_calibration(path)
        found.refuse_another(self.fingerprint)
        return found.thresholds

    def profile(self, person: str) -> Profile:
        """What the gallery knows of a person.

        Raises:
            NestvoxError: nobody of this name is enrolled.
        """
        found = self._people().find(name_key(person))
        if found is None:
            raise self._nobody(person)
        return found

    def enrol(
        self,
        person: str,
        recordings: Audio | Sequence[Audio],
        *,
        names: Sequence[str] | None = None,
        sample_rate: float | None = None,
        again: bool = False,
    ) -> Enrolled:
        """Enrol a person with recordings, or add recordings to those that the person has.

        Args:
            person: name; people whose names look alike are one.
            recordings: one or several, each as `SpeakerModel.embed` takes it.
            names: by which the person's recordings are told apart; None: the path of a file, else a hash of the sound.
            sample_rate: of arrays without a rate, in Hz; None: the model's.
            again: recordings whose names are there already take the place of those; else those stay.

        Raises:
            AudioError: a recording cannot be used; nobody is enrolled then.
            NestvoxError: a name that is none.
        """
        check_person(person)
        items, _ = recordings_of(recordings)
        if not items:
            raise NestvoxError(f"{person!r} needs one recording or more to be enrolled with")
        if names is not None and len(names) != len(items):
            raise NestvoxError(f"{len(items)} recordings need as many names, got {len(names)}")
        sounds = [hear(self.model, item, sample_rate) for item in items]
        called = [sound.name for sound in sounds] if names is None else list(names)
        vectors = np.stack([sound.vector for sound in sounds])
        conditions = [" ".join(sound.codes) for sound in sounds]
        (found,) = self.enrol_vectors([person] * len(items), called, vectors, conditions=conditions, again=again)
        told = (f"{name}: {words}" for name, sound in zip(called, sounds, strict=True) for words in sound.warnings)
        return replace(found, warnings=tuple(told))

    def enrol_vectors(
        self,
        people: Sequence[str],
        names: Sequence[str],
        vectors: ArrayLike,
        *,
        conditions: Sequence[str | None] | None = None,
        again: bool = False,
    ) -> tuple[Enrolled, ...]:
        """Enrol people with vectors that the gallery's model made of their recordings.

        Args:
            people: R names, one a recording.
            names: of the R recordings.
            vectors: (R, D) at full size, need not be normalised.
            conditions: of the recordings, as a store holds them.
            again: as in `enrol`.

        Returns:
            One for each person, in the order in which they first stand there.

        Raises:
            NestvoxError: names that are none.
            ScoresError: vectors of another size, zero, or not finite.
        """
        new = enrolment_of(people, names, vectors, dim=self._description.dim, conditions=conditions)
        by_bucket: dict[str, list[NewRecordings]] = {}
        for one in new:
            by_bucket.setdefault(bucket_of(one.person), []).append(one)
        done: dict[str, Enrolled] = {}
        with self._writing() as known:
            for bucket, them in by_bucket.items():
                there = known.bucket(bucket)
                found = [one.added_to(there, again=again) for one in them]
                if any(one.added for one in found):
                    write_people(known.folder, bucket, there, self._description.dim)
                done |= {name_key(one.person): one for one in found}
        return tuple(done[name_key(one.person)] for one in new)

    def remove(self, person: str) -> Profile:
        """Remove a person: afterwards no file of the folder holds anything of the recordings.

        Returns:
            What was removed.

        Raises:
            NestvoxError: nobody of this name is enrolled.
        """
        key = name_key(person)
        with self._writing() as known:
            bucket = bucket_of(key)
            there = known.bucket(bucket)
            found = there.pop(key, None)
            if found is None:
                raise self._nobody(person)
            write_people(known.folder, bucket, there, self._description.dim)
        return found

    def verify(
        self,
        recording: Audio,
        person: str,
        *,
        dim: int | None = None,
        operating_point: str | None = None,
        domain: str | None = None,
        sample_rate: float | None = None,
        marks: Sequence[str] = (),
    ) -> Verification:
        """Say whether a recording is of an enrolled person.

        Args:
            recording: as `SpeakerModel.embed` takes it.
            person: name.
            dim: prefix length; None: the full size.
            operating_point: of the threshold, by its first word or in full; None: its owner's choice, else the
                strictest; see `choose_threshold`.
            domain: of the threshold.
            sample_rate: of an array without a rate, in Hz.
            marks: what the recording is, if not real: ``synthetic``, ``augmented``.

        Raises:
            AudioError: the recording cannot be used.
            NestvoxError: nobody of this name is enrolled, or a dimension or mark that is none.
        """
        profile, size = self.profile(person), self.check_dim(dim)
        check_marks(marks)
        sound = hear(self.model, recording, sample_rate)
        score = _cosine(profile.prefix(size), truncate(sound.vector[None], size)[0])
        choice, promise = threshold_for(
            self._holders(),
            len(profile.recordings),
            dim=size,
            operating_point=operating_point,
            domain=domain,
            duration_s=sound.duration_s,
            marks=marks,
        )
        same = None
        if choice.threshold is not None:
            same = choice.threshold.accepts(score, fingerprint=self.fingerprint, dim=size, marks=marks)
        return Verification(
            score,
            size,
            same,
            choice.threshold,
            tuple(filter(None, (*sound.warnings, cut_in_words(size, self._description.dims), promise))),
            self._description.model,
            self.fingerprint,
            llr_origin="a calibration is fitted on pairs of recordings, not on profiles",
            duration_s=sound.duration_s,
            reason=choice.reason,
            conditions=(sound.codes,),
        )

    def identify(
        self,
        recording: Audio,
        *,
        k: int = 5,
        dim: int | None = None,
        operating_point: str | None = None,
        domain: str | None = None,
        sample_rate: float | None = None,
        marks: Sequence[str] = (),
    ) -> Identification:
        """Say whose voice a recording is, if anybody's who is enrolled.

        Args:
            recording: as `SpeakerModel.embed` takes it.
            k: how many candidates are told.
            dim: prefix length; None: the full size.
            operating_point: of the threshold, as in `verify`.
            domain: of the threshold.
            sample_rate: of an array without a rate, in Hz.
            marks: what the recording is, if not real.

        Raises:
            AudioError: the recording cannot be used.
            NestvoxError: nobody is enrolled, or a dimension or mark that is none.
        """
        size = self.check_dim(dim)
        check_marks(marks)
        sound = hear(self.model, recording, sample_rate)
        asked = {"operating_point": operating_point, "domain": domain, "marks": marks}
        found = self._identified(sound.vector[None], size, k, duration_s=sound.duration_s, **asked)
        said = tuple(filter(None, (*sound.warnings, cut_in_words(size, self._description.dims), *found.warnings)))
        return replace(found, warnings=said, duration_s=sound.duration_s, conditions=sound.codes)

    def search(self, vectors: ArrayLike, *, k: int = 5, dim: int | None = None) -> list[tuple[Candidate, ...]]:
        """Find the most similar people for vectors of the gallery's model; nothing is decided.

        Args:
            vectors: (Q, D) at full size, need not be normalised.
            k: how many.
            dim: prefix length; None: the full size.

        Returns:
            For each vector its candidates, best first.

        Raises:
            NestvoxError: nobody is enrolled, or vectors of another size.
        """
        table = as_vectors(vectors, "vectors", error=ScoresError)
        size, count = self.check_dim(dim), as_count(k, "k")
        if table.shape[1] != self._description.dim:
            raise ScoresError(f"the gallery's vectors have {self._description.dim} numbers, these {table.shape[1]}")
        if not len(self):
            raise NestvoxError(f"nobody is enrolled in {self.path}")
        queries = np.asarray(truncate(table, size), np.float32)
        profiles, scores = self._people().nearest(queries, size, count)
        return [
            tuple(Candidate(one.person, float(s), len(one.recordings)) for one, s in zip(row, values, strict=True))
            for row, values in zip(profiles, scores, strict=True)
        ]

    def check_dim(self, dim: int | None) -> int:
        """Return the prefix length that `dim` means (None: the full size).

        Raises:
            ModelError: below 1 or above the full size.
        """
        whole = self._description.dim
        size = whole if dim is None else as_count(dim, "dim", error=ModelError)
        if size > whole:
            raise ModelError(f"dim must be between 1 and {whole}, got {size}; made for {self._description.dims}")
        return size

    def _identified(self, vector: NDArray[np.float32], size: int, k: int, **asked: Any) -> Identification:
        candidates = self.search(vector, k=k, dim=size)[0]
        n_people, best = len(self), candidates[0]
        choice, promise = threshold_for(self._holders(), best.n_recordings, dim=size, **asked)
        if choice.threshold is not None:
            limit = choice.threshold.value
            candidates = tuple(replace(one, accepted=one.score >= limit) for one in candidates)
        return Identification(
            candidates,
            size,
            n_people,
            choice.threshold,
            choice.reason,
            (promise,) if promise else (),
            self._description.model,
            self.fingerprint,
        )

    def _nobody(self, person: str) -> NestvoxError:
        return NestvoxError(f"{person!r} is not enrolled in {self.path}, which has {_some(self.people)}")

    def _holders(self) -> dict[str, tuple[Threshold, ...]]:
        of_model = tuple(getattr(self.model, "thresholds", ()))
        return {OF_GALLERY: self.thresholds, OF_MODEL: of_model}

    def _take(self, model: EmbeddingModel) -> None:
        if model.fingerprint != self.fingerprint:
            raise FingerprintError(
                f"{self.path} holds vectors of the model {self._description.model} ({self.fingerprint}), "
                f"{model.name} is {model.fingerprint}; load the gallery's model, or enrol the "
                "recordings in a gallery of this one"
            )
        self._model = model

    def _read(self) -> None:
        self._description = read_description(self.path)
        self._known = People(self.path / self._description.people, self._description.dim)

    def _people(self) -> People:
        """The people, where `gallery.json` says that they are now; another process may have rebuilt it."""
        if read_description(self.path) != self._description:
            before = self.fingerprint
            self._read()
            if before != self.fingerprint:
                self._model = None
        return self._known

    @contextmanager
    def _writing(self) -> Iterator[People]:
        """Keep other writers out, and remove what a killed one left."""
        if not is_gallery(self.path):
            read_description(self.path)  # says what is wrong
        with locked(self.path, folder=True):
            before = self.fingerprint
            known = self._people()
            if self.fingerprint != before:
                raise StoreError(f"{self.path} was rebuilt under another model meanwhile; open it again")
            sweep_gallery(self.path, self._description)
            yield known


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.clip(np.dot(a.astype(np.float64), b.astype(np.float64)), -1.0, 1.0))


def _some(people: Sequence[Profile]) -> str:
    if not people:
        return "nobody"
    more = f" and {len(people) - _SHOWN} more" if len(people) > _SHOWN else ""
    return ", ".join(one.person for one in people[:_SHOWN]) + more
