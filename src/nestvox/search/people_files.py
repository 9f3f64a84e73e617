"""The files of a gallery: people in up to 256 files by the hash of their names, each replaced whole or not at all.

One change of one person replaces one file, by a rename: whoever reads, or kills the process, finds the person as before
or as after. Who is removed is in no file any more. One file a person would cost a large gallery a file system call and
a flush each, one file for all would be written anew for every change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field
from safetensors.numpy import save

from nestvox.atomic import write_bytes
from nestvox.errors import NestvoxError, ScoresError, StoreError
from nestvox.gate import naming, parse_json
from nestvox.names import name_key
from nestvox.schema import Size, StrictModel, Word, validated
from nestvox.search.profile import EnrolledRecording, Profile, check_person
from nestvox.tensor_files import read_arrays

_SUFFIX = ".safetensors"
_VECTORS, _PEOPLE = "vectors", "people"
_LENGTH_TOLERANCE = 1e-4

Signature = tuple[int, int, int]
"""What changes when a file does: inode, time, size."""


class _Recording(StrictModel):
    name: Word
    condition: Word | None = None


class _Person(StrictModel):
    person: Word
    recordings: list[_Recording] = Field(min_length=1)


class _People(StrictModel):
    dim: Size
    people: list[_Person]


def bucket_of(person: str) -> str:
    """Two hex digits: in which file a person stands."""
    return hashlib.sha256(name_key(person).encode()).hexdigest()[:2]


def signatures(folder: Path) -> dict[str, Signature]:
    """The files that there are, by their two hex digits."""
    found = {}
    if folder.is_dir():
        for file in folder.glob(f"[0-9a-f][0-9a-f]{_SUFFIX}"):
            try:
                state = file.stat()
            except FileNotFoundError:  # removed in between
                continue
            found[file.stem] = (state.st_ino, state.st_mtime_ns, state.st_size)
    return found


def read_people(folder: Path, bucket: str, dim: int) -> dict[str, Profile]:
    """The people of one file by their keys; none where there is no file.

    Raises:
        StoreError: the file is damaged, or says what cannot be.
    """
    path = folder / f"{bucket}{_SUFFIX}"
    if not path.exists():
        return {}
    error = naming(StoreError)
    source = str(path)
    arrays, texts = read_arrays(path, error)
    said = validated(_People, parse_json(texts.get(_PEOPLE, "null"), source, error, most_depth=8), source, error)
    vectors = arrays.get(_VECTORS)
    count = sum(len(person.recordings) for person in said.people)
    if vectors is None or vectors.dtype != np.float32 or vectors.shape != (count, dim) or said.dim != dim:
        raise error(f"{count} vectors of {dim} float32 numbers belong here", source)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not (np.abs(lengths - 1) < _LENGTH_TOLERANCE).all():  # what is not finite is not near either
        raise error("a vector is not of unit length: the file is damaged", source)
    found: dict[str, Profile] = {}
    row = 0
    for one in said.people:
        rows = slice(row, row + len(one.recordings))
        row = rows.stop
        names = {recording.name for recording in one.recordings}
        try:
            person = check_person(one.person)
            recordings = tuple(EnrolledRecording(each.name, each.condition) for each in one.recordings)
            profile = Profile(person, recordings, vectors[rows].copy())
        except (NestvoxError, ScoresError) as why:
            raise error(str(why), source) from why
        if profile.key in found or bucket_of(person) != bucket or len(names) < len(one.recordings):
            raise error(f"{person!r} does not belong here, or not twice", source)
        found[profile.key] = profile
    return found


def write_people(folder: Path, bucket: str, people: Mapping[str, Profile], dim: int) -> None:
    """Replace one file, or remove it where nobody is left in it."""
    path = folder / f"{bucket}{_SUFFIX}"
    if not people:
        path.unlink(missing_ok=True)
        return
    ordered = [people[key] for key in sorted(people)]
    said = {
        "dim": dim,
        "people": [
            {
                "person": one.person,
                "recordings": [{"name": each.name, "condition": each.condition} for each in one.recordings],
            }
            for one in ordered
        ],
    }
    vectors = np.concatenate([one.vectors for one in ordered])
    write_bytes(path, save({_VECTORS: vectors}, {_PEOPLE: json.dumps(said, ensure_ascii=False)}))
