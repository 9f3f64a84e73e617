"""`gallery.json`: of which model the vectors of a gallery are, and where its people lie."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from nestvox.atomic import names_in, write_text
from nestvox.errors import FingerprintError, StoreError
from nestvox.gate import naming, read_json
from nestvox.locking import locked
from nestvox.schema import Size, Word, validated_dataclass

GALLERY_FILE = "gallery.json"
PEOPLE = "people-"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Description:
    """What a gallery says of itself.

    Attributes:
        model: name of the model that made the vectors.
        load: what `nestvox.load` takes to have it again: a name, or the path of a folder or file.
        fingerprint: of the model.
        dim: full size of the vectors.
        dims: prefix lengths that are embeddings by themselves.
        people: folder of the people within the gallery.
        format: of the gallery.
    """

    model: Word
    load: Word
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
    dim: Size
    dims: tuple[Size, ...]
    people: Annotated[str, Field(pattern=r"^people-[0-9a-f]{1,64}$")]
    format: Literal["nestvox-gallery-1"] = "nestvox-gallery-1"


def is_gallery(folder: str | Path) -> bool:
    """Whether a gallery is there."""
    return (Path(folder) / GALLERY_FILE).is_file()


def read_description(folder: Path) -> Description:
    """Read `gallery.json`.

    Raises:
        StoreError: not a gallery, or malformed.
    """
    path = folder / GALLERY_FILE
    missing = "not there: this is no gallery; `nestvox.search.Gallery.create` makes one"
    content = read_json(path, naming(StoreError), most_bytes=_MOST_BYTES, most_depth=4, missing=missing)
    found = validated_dataclass(Description, content, str(path), naming(StoreError))
    if not found.dims or any(not 1 <= dim <= found.dim for dim in found.dims):
        raise StoreError(f"{path}: dims {found.dims} are no prefixes of {found.dim} dimensions")
    return found


def write_description(folder: Path, description: Description) -> None:
    """Write it whole or not at all."""
    write_text(folder / GALLERY_FILE, json.dumps(asdict(description), indent=1, ensure_ascii=False) + "\n")


def begin_gallery(path: str | Path, description: Description) -> None:
    """Make an empty gallery, where there is none.

    Raises:
        StoreError: the folder holds something else.
        FingerprintError: it is the gallery of another model.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file; a gallery is a folder: give another path")
    with locked(folder, folder=True):
        if not is_gallery(folder):
            others = [one.name for one in folder.iterdir() if not one.name.startswith(".")]
            if others:
                raise StoreError(f"{folder} is no gallery but holds {min(others)!r}; give an empty or new folder")
            write_description(folder, description)
    before = read_description(folder)
    if before.fingerprint != description.fingerprint:
        raise FingerprintError(
            f"{folder} is a gallery of the model {before.model} ({before.fingerprint}), {description.model} is "
            f"{description.fingerprint}; leave the model out, or give another folder"
        )


def sweep_gallery(folder: Path, description: Description) -> None:
    """Remove what killed writers left: half-written files, and people whom a rebuilding began or superseded."""
    for place in (folder, folder / description.people):
        if place.is_dir():
            names_in(place)
    for other in folder.glob(f"{PEOPLE}*"):
        if other.name != description.people:
            shutil.rmtree(other)
