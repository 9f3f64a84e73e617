"""Several models behind one door: a small one for small dimensions, another for noisy recordings.

Embeddings of two models are not comparable, so each carries the fingerprint of the model that made it, and scoring
across two fingerprints is an error. `Router.verify` therefore lets one model answer for both recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from nestvox.audio.read import Recording
from nestvox.audio.segment import Segment
from nestvox.audio.snr import estimate_snr_db
from nestvox.encoders.runtime.backends import Backend
from nestvox.errors import CatalogueError, FingerprintError, ModelError
from nestvox.gate import is_folder, naming, read_yaml
from nestvox.model.loading import load
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.threshold import Verification
from nestvox.schema import Size, StrictModel, Word, validated

Rule = Callable[[NDArray[np.float32], int], bool]
"""Samples (T,) and their rate in Hz; true where a route is for such a recording."""


@dataclass(frozen=True)
class RoutedEmbedding:
    """An embedding that knows where it comes from.

    Attributes:
        vector: (dim,) float32 of unit length.
        dim: its length.
        route: name of the route that answered.
        fingerprint: of the model that made it.
    """

    vector: NDArray[np.float32]
    dim: int
    route: str
    fingerprint: str

    def score(self, other: RoutedEmbedding) -> float:
        """Cosine with another embedding, in [-1, 1].

        Raises:
            FingerprintError: of another model, or of another length.
        """
        if self.fingerprint != other.fingerprint or self.dim != other.dim:
            raise FingerprintError(
                f"an embedding of route {self.route} ({self.dim} dimensions of {self.fingerprint}) cannot be compared "
                f"with one of route {other.route} ({other.dim} dimensions of {other.fingerprint}); "
                "name one route for both"
            )
        return float(np.clip(np.dot(self.vector.astype(np.float64), other.vector.astype(np.float64)), -1.0, 1.0))


@dataclass(frozen=True)
class Route:
    """One model and what it is for.

    Attributes:
        name: by which it can be asked for.
        model: answers.
        up_to_dim: it takes requests of at most so many dimensions; None: of all that its model has.
        when: it takes only recordings for which this holds; None: any.
    """

    name: str
    model: SpeakerModel
    up_to_dim: int | None = None
    when: Rule | None = None

    def serves(self, dim: int | None) -> bool:
        """Whether it answers requests of this length (None: of the full size, which a limited route never has)."""
        if dim is None:
            return self.up_to_dim is None
        return dim <= min(self.up_to_dim or dim, self.model.embedding_dim)

    def length(self, dim: int | None) -> int:
        """Return the length of its answer to a request (None: the longest that it is for).

        That of a limited route is the longest within its limit that its model was made for, else the limit itself.

        Raises:
            ModelError: a length that its model does not have.
        """
        longest = self.model.check_dim(None)
        if dim is None and self.up_to_dim is not None and self.up_to_dim < longest:
            return max((d for d in self.model.dims if d <= self.up_to_dim), default=self.up_to_dim)
        return self.model.check_dim(dim)


class Router:
    """Routes in the order in which they are asked; the first that serves dimension and recording answers.

    Args:
        routes: named differently, of one sample rate. One without `when` for every length that is to be served makes
            sure that no recording is left over.

    Raises:
        ModelError: no route, a name twice, or models of different sample rates.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        names = [route.name for route in routes]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if not routes or doubled:
            raise ModelError(f"a router needs routes of different names, got {', '.join(doubled) or 'none'}")
        rates = {route.model.sample_rate for route in routes}
        if len(rates) > 1:
            raise ModelError(f"the routes' models take different sample rates: {sorted(rates)} Hz")
        self.routes = tuple(routes)
        self.sample_rate = rates.pop()

    def choose(self, samples: NDArray[np.float32] | None, *, dim: int | None = None, route: str | None = None) -> Route:
        """Return the route that answers a request.

        Args:
            samples: (T,) at `sample_rate`; None: only routes for any recording are asked.
            dim: length that is asked for; None: the full size.
            route: name of a route, which then answers whatever its `when` says.

        Raises:
            ModelError: no such route, or none that serves the request.
        """
        if route is not None:
            named = next((r for r in self.routes if r.name == route), None)
            if named is None:
                raise ModelError(f"no route {route!r}; there is {', '.join(r.name for r in self.routes)}")
            if dim is not None and not named.serves(dim):
                limit = min(named.up_to_dim or named.model.embedding_dim, named.model.embedding_dim)
                raise ModelError(f"route {route} serves up to {limit} dimensions, asked for {dim}")
            return named
        for candidate in self.routes:
            if not candidate.serves(dim):
                continue
            if candidate.when is None or (samples is not None and candidate.when(samples, self.sample_rate)):
                return candidate
        asked = "the full size" if dim is None else f"{dim} dimensions"
        raise ModelError(f"no route serves {asked} of this recording; add one without 'when' and without 'up_to_dim'")

    def embed(
        self, audio: str | Path | Segment | NDArray[np.float32], *, dim: int | None = None, route: str | None = None
    ) -> RoutedEmbedding:
        """Embed one recording with the model that is for it.

        Args:
            audio: a path, or a float array (T,) at `sample_rate` in [-1, 1].
            dim: length; None: the longest that the route is for, which is the full size unless a limited one is named.
            route: name of the route; None: chosen by `dim` and the recording.

        Raises:
            AudioError: the file cannot be used.
            ModelError: no route serves the request.
        """
        samples = self._samples(audio)
        chosen = self.choose(samples, dim=dim, route=route)
        vector = chosen.model.embed(samples, dim=chosen.length(dim))
        return RoutedEmbedding(vector, len(vector), chosen.name, chosen.model.fingerprint)

    def verify(
        self,
        a: str | Path | Segment | NDArray[np.float32],
        b: str | Path | Segment | NDArray[np.float32],
        *,
        dim: int | None = None,
        route: str | None = None,
        operating_point: str | None = None,
        domain: str | None = None,
        marks: Sequence[str] = (),
    ) -> Verification:
        """Score two recordings with one model.

        Where the recordings are of different kinds, the first route for any recording answers for both: scores
        between two models would mean nothing.

        Args:
            a: a path, or a float array (T,) at `sample_rate` in [-1, 1].
            b: likewise.
            dim: length; None: see `embed`.
            route: name of the route; None: chosen.
            operating_point: of the threshold, see `SpeakerModel.verify`; so are the next two.
            domain: of the threshold.
            marks: what the recordings are, if not real.

        Raises:
            AudioError: a file cannot be used.
            ModelError: no route serves the request.
        """
        first, second = self._heard(a), self._heard(b)
        samples = [one.samples if isinstance(one, Recording) else one for one in (first, second)]
        chosen = self.choose_pair(*samples, dim=dim, route=route)
        return chosen.model.verify(
            first, second, dim=chosen.length(dim), operating_point=operating_point, domain=domain, marks=marks
        )

    def choose_pair(
        self,
        a: str | Path | Segment | NDArray[np.float32],
        b: str | Path | Segment | NDArray[np.float32],
        *,
        dim: int | None = None,
        route: str | None = None,
    ) -> Route:
        """Return the one route that answers for two recordings; see `verify`.

        Args:
            a: a path, or a float array (T,) at `sample_rate` in [-1, 1].
            b: likewise.
            dim: length; None: see `embed`.
            route: name of the route; None: chosen.

        Raises:
            AudioError: a file cannot be used.
            ModelError: no route serves the request.
        """
        chosen = self.choose(self._samples(a), dim=dim, route=route)
        if self.choose(self._samples(b), dim=dim, route=route) is not chosen:
            chosen = self.choose(None, dim=dim, route=route)
        return chosen

    def _samples(self, audio: str | Path | Segment | NDArray[np.float32]) -> NDArray[np.float32]:
        heard = self._heard(audio)
        return heard.samples if isinstance(heard, Recording) else heard

    def _heard(self, audio: str | Path | Segment | NDArray[np.float32]) -> Recording | NDArray[np.float32]:
        if isinstance(audio, np.ndarray):
            return audio
        segment = audio if isinstance(audio, Segment) else Segment(Path(audio))
        shortest = min(route.model.min_duration_s for route in self.routes)
        return segment.read(sample_rate=self.sample_rate, min_duration_s=shortest)


def noisier_than(snr_db: float) -> Rule:
    """Rule for recordings whose estimated signal-to-noise ratio is below `snr_db`; see `audio.snr`."""
    return lambda samples, rate: estimate_snr_db(samples, rate) < snr_db


def shorter_than(duration_s: float) -> Rule:
    """Rule for recordings of less than `duration_s` seconds."""
    return lambda samples, rate: len(samples) / rate < duration_s


_MOST_ROUTES = 256
_RULES: Mapping[str, Callable[[float], Rule]] = {"snr_below_db": noisier_than, "shorter_than_s": shorter_than}


def load_router(path: str | Path, *, device: str = "auto", backend: Backend = "auto", offline: bool = False) -> Router:
    """Load the routes that a YAML file lists.

    Under ``routes`` each has ``name`` and ``model`` (a folder, relative to the file, or a catalogue name) and may have
    ``up_to_dim`` and ``when`` (``snr_below_db`` or ``shorter_than_s``, with a number). A model named twice is loaded
    once.

    Raises:
        ModelError: not such a file.
    """
    path, error = Path(path), naming(ModelError)
    content = read_yaml(path, error)
    if not isinstance(content, dict) or list(content) != ["routes"] or not isinstance(content["routes"], list):
        raise ModelError(f"{path}: expected one key, routes, with a list")
    if not 0 < len(content["routes"]) <= _MOST_ROUTES:
        raise ModelError(f"{path}: {len(content['routes']):,} routes; 1 to {_MOST_ROUTES} are read")
    models: dict[str, SpeakerModel] = {}
    routes = []
    for number, entry in enumerate(content["routes"]):
        where = f"{path}: routes[{number}]"
        checked = validated(_Entry, entry, where, error, what="needs name and model, may have up_to_dim and when")
        if checked.model not in models:
            folder = path.parent / checked.model
            named = folder if is_folder(folder) else checked.model
            try:
                models[checked.model] = load(named, device=device, backend=backend, offline=offline)
            except (CatalogueError, ModelError) as problem:
                raise ModelError(f"{where}: {problem}") from problem
        routes.append(Route(checked.name, models[checked.model], checked.up_to_dim, _rule(checked.when)))
    try:
        return Router(routes)
    except ModelError as problem:
        raise ModelError(f"{path}: {problem}") from problem


class _When(StrictModel):
    """Recordings that a route is for: one of the two."""

    snr_below_db: float | None = None
    shorter_than_s: float | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or getattr(self, next(iter(self.model_fields_set))) is None:
            raise ValueError(f"when is one of {', '.join(_RULES)} with a number")
        return self


class _Entry(StrictModel):
    """One route."""

    name: Annotated[Word, Field(min_length=1)]
    model: Annotated[Word, Field(min_length=1)]
    up_to_dim: Size | None = None
    when: _When | None = None


def _rule(when: _When | None) -> Rule | None:
    if when is None:
        return None
    (name,) = when.model_fields_set
    return _RULES[name](getattr(when, name))
