"""What `calibration.json` holds: the thresholds of a model, and the maps from its scores to log likelihood ratios.

The same file stands in a model folder, or alone where there is no folder: beside a score file, or for an encoder of the
catalogue. Reading and writing it needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestvox.atomic import special_file, write_text
from nestvox.atomic_folder import changing, settled
from nestvox.corpora.overlap import refuse_overlap
from nestvox.errors import FingerprintError, ModelError, NestvoxError, ScoresError, TrialsError
from nestvox.gate import naming, read_json, read_text
from nestvox.locking import locked
from nestvox.metrics.calibration import (
    Calibration,
    calibrations_from_dict,
    calibrations_to_dict,
    symmetric_quality,
)
from nestvox.model.card import replace_thresholds
from nestvox.model.familiarity import Familiarity
from nestvox.model.threshold import ScoreSpace, Threshold
from nestvox.schema import StrictModel, Word, validated, validated_dataclass

CALIBRATION_FILE = "calibration.json"
DURATION, NORM, SNR = "duration", "norm", "snr"
MEASURES = (DURATION, NORM, SNR)
"""Quality measures that nestvox takes itself; any other name is a column of the utterance table."""

_FORMAT = "nestvox-calibration-1"
_MOST_CARD_BYTES = 16 << 20
_LONGEST_DIM = 8  # digits
_LOGARITHMIC = (DURATION, NORM)  # twice as long is one step, from 1 s or from 10 s

Floats = NDArray[np.float64]
Sides = tuple[ArrayLike, ArrayLike]


class _Whole(StrictModel):
    """The file; those from before there were maps have neither format nor maps."""

    format: Word = _FORMAT
    fingerprint: Word
    thresholds: list[dict[str, Any]]
    llr: dict[str, Any] | None = None
    familiarity: dict[str, Any] | None = None


@dataclass(frozen=True)
class LlrCalibration:
    """Maps from the scores of one model to log likelihood ratios, one a dimension.

    Attributes:
        maps: dimension (None: scores of a file) to its map.
        fingerprint: of the model; empty where the scores did not say.
        measures: quality measures of both sides that enter, in this order: ``duration`` (seconds), ``norm`` (length of
            the prefix before it is normalised), ``snr`` (dB, `audio.snr`), or a column of the table.
        space: what the scores meant that it was fitted on.
        trials_sha256: canonical hash of the trials that it was fitted on.
        trials_source: their name.
        speakers: keys (`corpora.overlap.speaker_key`) of the speakers in them; empty where they were not known.
        labels: ``synthetic``, ``leaky``: what every number from it must carry.
    """

    maps: Mapping[int | None, Calibration]
    fingerprint: str
    measures: tuple[str, ...]
    space: ScoreSpace
    trials_sha256: str
    trials_source: str
    speakers: tuple[str, ...]
    labels: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """12 hex digits over everything that it does to a score."""
        content = {"maps": calibrations_to_dict(self.maps), "measures": self.measures, "space": str(self.space)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def llr_space(self) -> ScoreSpace:
        """What the numbers mean that it gives."""
        return ScoreSpace("llr", f"calibration {self.key}")

    def describe(self) -> str:
        """Where it comes from, in a sentence."""
        first = next(iter(self.maps.values()))
        measured = f" with {', '.join(self.measures)}" if self.measures else ""
        labels = f", {', '.join(self.labels)}" if self.labels else ""
        return (
            f"affine map of the {self.space}{measured}, fitted at prior {first.p_target:g} on {self.trials_source} "
            f"({first.n_target} target and {first.n_nontarget} non-target trials, sha256 "
            f"{self.trials_sha256[:12]}{labels}), which support {first.bounds[0]:.2f} to {first.bounds[1]:+.2f} nats"
        )

    def llr(self, dim: int | None, scores: ArrayLike, quality: Mapping[str, Sides]) -> Floats:
        """Map scores (N,) to log likelihood ratios (N,) in nats.

        Args:
            dim: prefix length of the scores.
            scores: (N,) finite.
            quality: each of `measures` to its values on both sides, (N,) each, in its own unit.

        Raises:
            ModelError: no map for this dimension.
            ScoresError: measures that are missing, not finite, or not positive where a logarithm is taken.
        """
        if dim not in self.maps:
            there = ", ".join("none" if d is None else str(d) for d in self.maps)
            raise ModelError(f"the calibration has no map for dimension {dim}; it was fitted for {there}")
        return self.maps[dim](scores, quality_columns(self.measures, quality))

    def refuse_seen(self, trials_sha256: str, speakers: Iterable[str], *, allow: bool = False) -> tuple[str, ...]:
        """Refuse to be judged on the trials or speakers that it was fitted on.

        Args:
            trials_sha256: of the trials to be judged on.
            speakers: names of the speakers in them, where they are known.
            allow: take shared speakers; never the same trials.

        Returns:
            Labels for the results: ``("leaky",)`` where shared speakers were allowed, else none.

        Raises:
            TrialsError: the same trials.
            OverlapError: shared speakers, named.
        """
        if trials_sha256 == self.trials_sha256:
            raise TrialsError(
                f"the calibration was fitted on these very trials ({self.trials_source}, sha256 {trials_sha256[:12]}); "
                "its cost on them says nothing: evaluate on others"
            )
        return refuse_overlap(
            set(self.speakers),
            speakers,
            allow=allow,
            use="served to fit the calibration",
            advice="calibrate on development speakers that are not evaluated, or allow the overlap and have every "
            "number labelled leaky",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "key": self.key,
            "fingerprint": self.fingerprint,
            "space": {"kind": self.space.kind, "made_by": self.space.made_by},
            "measures": list(self.measures),
            "trials_sha256": self.trials_sha256,
            "trials_source": self.trials_source,
            "labels": list(self.labels),
            "speakers": list(self.speakers),
            "maps": calibrations_to_dict(self.maps),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LlrCalibration:
        """Read what `to_dict` wrote.

        Raises:
            NestvoxError: something is missing, unknown or of another kind, or was changed by hand.
        """
        error, rest = naming(ModelError), dict(content)
        key, maps = rest.pop("key", None), rest.pop("maps", None)
        if not isinstance(maps, dict) or max(map(len, maps), default=0) > _LONGEST_DIM:
            raise NestvoxError("the calibration's maps are not one for each dimension; fit it again")
        for name, value in maps.items():
            validated_dataclass(Calibration, value, f"llr.maps.{name}", error)
        found = replace(validated_dataclass(cls, {**rest, "maps": {}}, "llr", error), maps=calibrations_from_dict(maps))
        if found.key != key:
            raise NestvoxError(f"the calibration {str(key)[:80]} was changed after it was written; fit it again")
        if not maps:
            raise NestvoxError("the calibration has no maps; fit it again")
        return found


@dataclass(frozen=True)
class ModelCalibration:
    """Everything that turns the scores of one model into decisions.

    Attributes:
        fingerprint: of the model; empty: scores whose model is not known.
        thresholds: per dimension, operating point, domain and duration class.
        llr: maps to log likelihood ratios, or None.
        familiarity: what recordings the model knows, or None: nobody measured it.
    """

    fingerprint: str
    thresholds: tuple[Threshold, ...] = ()
    llr: LlrCalibration | None = None
    source: str = field(default="", compare=False)
    familiarity: Familiarity | None = None

    def __post_init__(self) -> None:
        found = {threshold.fingerprint for threshold in self.thresholds}
        found |= set() if self.llr is None else {self.llr.fingerprint}
        if others := sorted(found - {self.fingerprint}):
            raise FingerprintError(
                f"thresholds and calibrations of the models {', '.join(other or '(unknown)' for other in others)} do "
                f"not belong to {self.fingerprint or 'scores'}"
            )

    def refuse_another(self, fingerprint: str) -> None:
        """Refuse to be used with another model.

        Raises:
            FingerprintError: it belongs to another model, or does not say to which.
        """
        if fingerprint != self.fingerprint:
            raise FingerprintError(
                f"{self.source or 'the calibration'} is for scores of the model {self.fingerprint or '(unknown)'}, "
                "this is "
                f"{fingerprint}; calibrate this model and set its thresholds"
            )

    def with_thresholds(self, thresholds: Sequence[Threshold]) -> ModelCalibration:
        """Add thresholds; one for the same dimension, score, operating point, domain and duration is replaced.

        The operating point that its owner named for a domain stays its default, until he names another there.
        """
        new = {threshold.place for threshold in thresholds}
        kept = tuple(threshold for threshold in self.thresholds if threshold.place not in new)
        named = {t.domain: t.operating_point for t in (*self.thresholds, *thresholds) if t.default and not t.fitted}
        found = tuple(
            t if t.fitted else replace(t, default=named.get(t.domain) == t.operating_point)
            for t in (*kept, *thresholds)
        )
        return replace(self, thresholds=found)

    def with_both(self, thresholds: Sequence[Threshold], llr: LlrCalibration | None) -> ModelCalibration:
        """Replace the maps where there are new ones, then add thresholds."""
        return (self if llr is None else self.with_llr(llr)).with_thresholds(thresholds)

    def with_llr(self, llr: LlrCalibration) -> ModelCalibration:
        """Replace the maps; thresholds on log likelihood ratios of other maps mean nothing any more and go."""
        kept = tuple(t for t in self.thresholds if t.space.kind != "llr" or t.space == llr.llr_space)
        return replace(self, thresholds=kept, llr=llr)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "thresholds": [threshold.to_dict() for threshold in self.thresholds],
            "llr": None if self.llr is None else self.llr.to_dict(),
            **({} if self.familiarity is None else {"familiarity": self.familiarity.to_dict()}),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], source: str = "") -> ModelCalibration:
        """Read what `to_dict` wrote, now or before there were calibrations.

        Raises:
            NestvoxError: another format, or something is missing, unknown or of another kind.
        """
        if content.get("format", _FORMAT) != _FORMAT:
            raise NestvoxError(f"format {str(content['format'])[:80]!r}, expected {_FORMAT!r}")
        given = validated(_Whole, content, "the file", naming(ModelError))
        mine = {"fingerprint": given.fingerprint}  # also that of a threshold of version 0.1, which does not say it
        return cls(
            given.fingerprint,
            tuple(Threshold.from_dict(one if one.get("fingerprint") else one | mine) for one in given.thresholds),
            None if given.llr is None else LlrCalibration.from_dict(given.llr),
            source,
            None if given.familiarity is None else Familiarity.from_dict(given.familiarity),
        )


def quality_columns(measures: Sequence[str], quality: Mapping[str, Sides]) -> Floats | None:
    """(N, 2Q) columns of a calibration: mean and absolute difference of both sides for each measure; None: no measures.

    Raises:
        ScoresError: a measure is missing, or not positive where its logarithm is taken.
    """
    columns = []
    for measure in measures:
        if measure not in quality:
            raise ScoresError(f"the calibration needs the quality measure {measure!r} of both sides of every trial")
        sides = [np.asarray(side, dtype=np.float64) for side in quality[measure]]
        if measure in _LOGARITHMIC:
            if any((side <= 0).any() for side in sides):
                raise ScoresError(f"the quality measure {measure!r} must be above 0 on both sides of every trial")
            sides = [np.log(side) for side in sides]
        columns.append(symmetric_quality(*sides))
    return np.concatenate(columns, axis=1) if columns else None


def quality_names(measures: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of `quality_columns`."""
    names = [f"log {measure}" if measure in _LOGARITHMIC else measure for measure in measures]
    return tuple(f"{name}, {part}" for name in names for part in ("mean", "difference"))


def read_calibration(path: str | Path) -> ModelCalibration:
    """Read a calibration file, or that of a model folder.

    Raises:
        ModelError: not there, or not what `write_calibration` wrote.
    """
    path = Path(path)
    if path.is_dir():
        path = settled(path, CALIBRATION_FILE)
    missing = "not there; `nestvox calibrate` and `nestvox threshold` write such a file, and model folders have one"
    content = read_json(path, naming(ModelError), missing=missing)
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object")
    try:
        return ModelCalibration.from_dict(content, str(path))
    except NestvoxError as error:
        raise ModelError(f"{path}: malformed calibration: {error}") from error


def write_calibration(calibration: ModelCalibration, path: str | Path) -> None:
    """Write a calibration file atomically."""
    write_text(Path(path), json.dumps(calibration.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def store_in_model(
    folder: str | Path, *, thresholds: Sequence[Threshold] = (), llr: LlrCalibration | None = None
) -> ModelCalibration:
    """Put thresholds or maps into a model folder: calibration.json, and the thresholds on the model card.

    Args:
        folder: written by `SpeakerModel.save`.
        thresholds: added, or put in the place of those for the same place.
        llr: takes the place of the maps that are there.

    Returns:
        What the folder holds now.

    Raises:
        ModelError: not a model folder.
        FingerprintError: they were made from scores of another model.
    """
    folder = Path(folder)
    if not settled(folder, "config.json").is_file():
        raise ModelError(f"{folder} is not a model folder: it has no config.json")
    if any(not threshold.fingerprint for threshold in thresholds) or (llr is not None and not llr.fingerprint):
        raise FingerprintError(
            f"the scores do not say which model made them, so nothing of theirs goes into {folder}; write it to a file "
            "of its own"
        )
    with changing(folder) as fresh:
        found = read_calibration(folder).with_both(thresholds, llr)
        write_calibration(found, fresh / CALIBRATION_FILE)
        card = settled(folder, "README.md")
        if card.is_file():
            text = read_text(card, naming(ModelError), most_bytes=_MOST_CARD_BYTES)
            write_text(fresh / card.name, replace_thresholds(text, found.thresholds))
    return found


def add_to_file(
    path: str | Path, fingerprint: str, *, thresholds: Sequence[Threshold] = (), llr: LlrCalibration | None = None
) -> ModelCalibration:
    """Put thresholds or maps into a calibration file, beside what it holds; it is made where there is none.

    Args:
        path: the file; that of a model folder is changed as `store_in_model` does.
        fingerprint: of the model whose scores they were made from; empty: unknown.
        thresholds: as in `store_in_model`.
        llr: as in `store_in_model`.

    Returns:
        What the file holds now.

    Raises:
        ModelError: what is there is no calibration file.
        FingerprintError: it is of another model.
    """
    path = Path(path)
    if path.name == CALIBRATION_FILE and settled(path.parent, "config.json").is_file():
        return store_in_model(path.parent, thresholds=thresholds, llr=llr)
    with nullcontext() if special_file(path) else locked(path, folder=False):
        before = read_calibration(path) if path.is_file() else ModelCalibration(fingerprint)
        found = before.with_both(thresholds, llr)
        write_calibration(found, path)
    return found
