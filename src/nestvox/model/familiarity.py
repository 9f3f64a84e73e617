"""How far a recording lies from those of training: by its spectrum, its modulation and its noise. Knows no torch.

It hears the recording, not the network: whatever a network makes of noise, this tells that there is some.

Notation: S samples, T frames, K measures, N recordings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from nestvox.arrays import as_numbers
from nestvox.audio.condition import SHORT_S
from nestvox.audio.mixing import active_power
from nestvox.audio.snr import estimate_snr_db
from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank
from nestvox.errors import ModelError
from nestvox.gate import naming
from nestvox.schema import Count, Fraction, Word, validated_dataclass

UNFAMILIAR = "unfamiliar"
"""The code of a recording that lies too far away, beside those of `audio.condition.CODES`."""

_BANDS, _CEPSTRA = 24, 4
MEASURES = (
    *(f"cepstrum {order}, mean" for order in range(1, _CEPSTRA)),
    *(f"cepstrum {order} of the deviations" for order in range(_CEPSTRA)),
    "snr",
)
"""What is measured: shape of the mean spectrum, how far each region moves about it, dB above the noise."""

_HIGHEST_SNR_DB = 35.0  # cleaner than that is not farther away
_ACTIVE = math.log(1000.0)  # 30 dB: frames that lie no lower below the loud ones count
_SHORTEST_S = SHORT_S  # below it the figures scatter: of clips cut to 1 s one in fourteen would be unfamiliar
_LEVEL = 0.1
_MOST_FALSE_ALARMS = 0.01

FEWEST_TRAINING, FEWEST_CLEAN = 2 * len(MEASURES) + 1, 100
"""Recordings without which nothing can be said."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Familiarity:
    """A normal distribution over recordings of training, and how far from its centre clean speech comes.

    Attributes:
        mean: (K,) of the recordings of training.
        covariance: (K, K).
        farthest: Mahalanobis distance above which a recording counts as unfamiliar.
        false_alarm_rate: share of the clean recordings that lie farther away.
        n_training: recordings of training.
        n_clean: development recordings that `farthest` was set on.
        source: name of these.
    """

    mean: Annotated[tuple[float, ...], Field(min_length=len(MEASURES), max_length=len(MEASURES))]
    covariance: Annotated[tuple[tuple[float, ...], ...], Field(min_length=len(MEASURES), max_length=len(MEASURES))]
    farthest: Annotated[float, Field(gt=0)]
    false_alarm_rate: Fraction
    n_training: Count
    n_clean: Count
    source: Word

    def __post_init__(self) -> None:
        square = {len(row) for row in self.covariance} == {len(self.mean)} == {len(self.covariance)}
        if not square or not np.isfinite([*self.mean, *np.ravel(self.covariance)]).all():
            raise ModelError("the recordings of training have no such mean and covariance")
        try:
            _ = self._root
        except np.linalg.LinAlgError as error:
            raise ModelError("the covariance of the recordings of training is none: it is not positive") from error

    @cached_property
    def _root(self) -> Floats:
        root: Floats = np.linalg.cholesky(np.asarray(self.covariance))
        return root

    def distances(self, rows: ArrayLike) -> Floats:
        """Mahalanobis distances (N,) of measured recordings (N, K) from the centre of training."""
        apart = np.asarray(rows, np.float64) - np.asarray(self.mean)
        found: Floats = np.sqrt(np.square(np.linalg.solve(self._root, apart.T)).sum(axis=0))
        return found

    def doubt(self, samples: NDArray[np.floating[Any]], sample_rate: int) -> str | None:
        """Say in a sentence that a recording (S,) is unlike those of training; None: it is like them, or too short."""
        row = measured(samples, sample_rate)
        if row is None:
            return None
        distance = float(self.distances(row[None])[0])
        if distance <= self.farthest:
            return None
        return (
            f"The audio is unlike what the model was trained on: at a distance of {distance:.1f}, where "
            f"{self.false_alarm_rate:.1%} of {self.n_clean} clean recordings of {self.source} lie above "
            f"{self.farthest:.1f} (noise, music, another room or channel); speech is about "
            f"{estimate_snr_db(samples, sample_rate):.0f} dB above the noise."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Familiarity:
        """Read what `to_dict` wrote.

        Raises:
            ModelError: something is missing, unknown or of another kind, or no such distribution.
        """
        return validated_dataclass(cls, content, "familiarity", naming(ModelError))


def measured(samples: NDArray[np.floating[Any]], sample_rate: int) -> NDArray[np.float64] | None:
    """Measure a recording (S,), whatever its level: (K,), see `MEASURES`; None: shorter than 2 s, or silent.

    The cepstra are those of 24 mel bands, by the cosine transform of their logarithms: over the active frames (within
    30 dB of the loud ones) of mean and standard deviation.
    """
    if len(samples) < _SHORTEST_S * sample_rate:
        return None
    power = active_power(samples, sample_rate)
    snr_db = estimate_snr_db(samples, sample_rate)
    if not power > 0 or math.isnan(snr_db):
        return None
    front_end = KaldiFbank(sample_rate=sample_rate, n_mels=_BANDS, subtract_mean=False)
    bands = front_end(np.asarray(samples, np.float64) * (_LEVEL / math.sqrt(power))).astype(np.float64)  # (T, bands)
    loudness = bands.mean(axis=1)
    active = bands[loudness >= np.quantile(loudness, 0.95) - _ACTIVE]
    order = np.arange(_CEPSTRA)[:, None]
    cosines = np.cos(np.pi / _BANDS * order * (np.arange(_BANDS) + 0.5))  # (cepstra, bands)
    shape, movement = cosines @ bands.mean(axis=0), cosines @ active.std(axis=0)
    row: Floats = np.array([*shape[1:], *movement, min(snr_db, _HIGHEST_SNR_DB)])
    return row


def fit_familiarity(training: Sequence[ArrayLike], clean: Sequence[ArrayLike], source: str) -> Familiarity:
    """Fit the distribution to recordings of training, and set the limit on clean ones that were not trained on.

    Args:
        training: (K,) of each recording, as `measured` gives them.
        clean: (K,) of each development recording; at most one in a hundred will lie beyond the limit.
        source: name of these.

    Raises:
        ModelError: recordings too few, or all alike.
    """
    rows, others = (
        as_numbers(np.array(part), "measured recordings", ndim=2, error=ModelError) for part in (training, clean)
    )
    if len(rows) < FEWEST_TRAINING or len(others) < FEWEST_CLEAN:
        raise ModelError(
            f"{len(rows)} recordings of training and {len(others)} clean ones are too few to say what is familiar"
        )
    mean = rows.mean(axis=0)
    covariance = np.cov(rows.T) + np.eye(len(mean))  # where all have one noise, 1 dB more is no surprise
    bare = Familiarity(
        tuple(mean.tolist()), tuple(map(tuple, covariance.tolist())), 1.0, 0.0, len(rows), len(others), source
    )
    distances = np.sort(bare.distances(others))
    farthest = float(distances[math.ceil((1 - _MOST_FALSE_ALARMS) * len(others)) - 1])
    beyond = float(np.mean(distances > farthest))
    return replace(bare, farthest=farthest, false_alarm_rate=beyond)
