"""The catalogue of pretrained encoders: where the weights are from, their licence and hash. Knows no torch."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from nestvox.errors import CatalogueError

__all__ = ["CatalogueEntry", "Source", "entries", "find", "parse"]

Source = Literal["wheel", "file"]


@dataclass(frozen=True)
class CatalogueEntry:
    """One set of pretrained weights.

    Attributes:
        name: what users type.
        architecture: what `registry.build` builds.
        description: one sentence.
        source: ``wheel``: a member of a distribution on the package index; ``file``: the user brings the file.
        distribution: name of the distribution on the package index; empty for ``file``.
        version: its version; empty for ``file``.
        member: path of the weights inside the distribution, or the name of the file.
        download_bytes: what has to be downloaded.
        size_bytes: of the member.
        sha256: of the member, 64 hex digits.
        state_key: key of the checkpoint under which the tensors stand; empty: at its top.
        drop: keys of the checkpoint that inference does not need.
        licence: SPDX identifier of the weights' licence.
        licence_url: where the licence stands.
        project: where the weights were made.
        paper: title, venue, year.
        training_data: corpora that the weights were trained on, with their parts.
        sample_rate: of the input, in Hz.
        embedding_dim: size of the embedding.
        published: error rates published by the makers with the protocol, or that there are none.
        config: constructor arguments of the architecture.
    """

    name: str
    architecture: str
    description: str
    source: Source
    distribution: str
    version: str
    member: str
    download_bytes: int
    size_bytes: int
    sha256: str
    state_key: str
    drop: tuple[str, ...]
    licence: str
    licence_url: str
    project: str
    paper: str
    training_data: str
    sample_rate: int
    embedding_dim: int
    published: str
    config: Mapping[str, Any]

    @property
    def origin(self) -> str:
        """Where the weights come from, in words: distribution and member, or the file's name."""
        if self.source == "wheel":
            return f"{self.distribution} {self.version} on the package index ({self.member})"
        return f"the file {self.member}, from {self.project}"

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-serialisable."""
        return {**asdict(self), "drop": list(self.drop), "config": dict(self.config)}


def parse(text: str, source: str) -> dict[str, CatalogueEntry]:
    """Read a catalogue in TOML: one table an entry.

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
    return {name: _entry(name, table, source) for name, table in sorted(tables.items())}


def _entry(name: str, table: Any, source: str) -> CatalogueEntry:
    where = f"{source} [{name}]"
    if not isinstance(table, dict):
        raise CatalogueError(f"{where}: must be a table")
    table = {"config": {}, "drop": [], "state_key": "", **table}
    wanted = {field.name for field in fields(CatalogueEntry)} - {"name"}
    if missing := sorted(wanted - table.keys()):
        raise CatalogueError(f"{where}: missing {', '.join(missing)}")
    if unknown := sorted(table.keys() - wanted):
        raise CatalogueError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(wanted))}")
    special: dict[str, type] = {"config": dict, "drop": list}
    numbers = {"download_bytes", "size_bytes", "sample_rate", "embedding_dim"}
    for key, value in table.items():
        expected = special.get(key, int if key in numbers else str)
        if type(value) is not expected:
            raise CatalogueError(f"{where} {key}: must be {expected.__name__}, got {value!r}")
    if table["source"] not in get_args(Source):
        raise CatalogueError(f"{where} source: must be one of {', '.join(get_args(Source))}, got {table['source']!r}")
    if len(table["sha256"]) != 64 or set(table["sha256"]) - set("0123456789abcdef"):
        raise CatalogueError(f"{where} sha256: must be 64 lower-case hex digits, got {table['sha256']!r}")
    return CatalogueEntry(name=name, **{**table, "drop": tuple(table["drop"])})


@cache
def _packaged() -> Mapping[str, CatalogueEntry]:
    file = resources.files("nestvox.encoders") / "catalogue.toml"
    return parse(file.read_text(encoding="utf-8"), "catalogue.toml")


def entries() -> tuple[CatalogueEntry, ...]:
    """Every entry of the catalogue, sorted by name."""
    return tuple(_packaged().values())


def find(name: str) -> CatalogueEntry:
    """Return the entry called `name`.

    Raises:
        CatalogueError: there is none; the message names the nearest.
    """
    known = _packaged()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise CatalogueError(f"no model folder and no encoder called {name!r}{hint} (known: {', '.join(known)})")
