"""Calibration applied: the scores of a system mapped to log likelihood ratios in nats by maps fitted elsewhere.

Notation: N trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from numpy.typing import ArrayLike

from nestvox.corpora.trials import Trials
from nestvox.errors import FingerprintError, ScoresError
from nestvox.model.calibration import LlrCalibration
from nestvox.model.threshold import ScoreSpace
from nestvox.scoring.system import System


def check_calibration(llr: LlrCalibration, name: str, fingerprint: str | None, space: ScoreSpace) -> None:
    """Refuse a calibration of another model, or of scores that mean something else.

    Raises:
        FingerprintError, ScoresError: with both.
    """
    if llr.fingerprint != (fingerprint or ""):
        raise FingerprintError(
            f"the calibration was fitted on scores of the model {llr.fingerprint or '(unknown)'}, {name} is of "
            f"{fingerprint or '(unknown)'}; calibrate this model"
        )
    if space != llr.space:
        raise ScoresError(
            f"the calibration was fitted on the {llr.space}, the scores of {name} are the {space}; normalise them "
            "alike, or calibrate again"
        )


def calibrated(
    system: System,
    llr: LlrCalibration,
    trials: Trials,
    speakers: Iterable[str],
    quality: Mapping[int | None, Mapping[str, tuple[ArrayLike, ArrayLike]]],
    *,
    allow_overlap: bool = False,
) -> System:
    """Map every score to a log likelihood ratio in nats.

    Args:
        system: scores of the kind, and of the model, that the calibration was fitted on; dimensions without a map are
            left out, and said.
        llr: fitted on other trials and speakers.
        trials: that the scores are of.
        speakers: names of the speakers in them, where they are known.
        quality: dimension to the calibration's measures on both sides, see `quality.trial_quality`.
        allow_overlap: take shared speakers, with the label ``leaky``.

    Raises:
        FingerprintError: the calibration is of another model.
        ScoresError: it was fitted on scores of another kind, or for other dimensions.
        TrialsError, OverlapError: as `LlrCalibration.refuse_seen`.
    """
    check_calibration(llr, system.name, system.fingerprint, system.space)
    labels = llr.refuse_seen(trials.sha256, speakers, allow=allow_overlap)
    there = {dim: scores for dim, scores in system.scores.items() if dim in llr.maps}
    if not there:
        fitted = ", ".join("scores without a dimension" if dim is None else str(dim) for dim in llr.maps)
        raise ScoresError(f"the calibration was fitted for {fitted}, none of which {system.name} has")
    left_out = [str(dim) for dim in system.scores if dim not in there]
    notes = [f"The calibration holds no map for {', '.join(left_out)} dimensions: left out."] if left_out else []
    if llr.labels:
        notes.append(f"The calibration was fitted on trials labelled {', '.join(llr.labels)}.")
    return replace(
        system,
        scores={dim: llr.llr(dim, scores, quality.get(dim, {})) for dim, scores in there.items()},
        space=llr.llr_space,
        labels=tuple(sorted({*system.labels, *labels})),
        notes=(*system.notes, *notes),
    )
