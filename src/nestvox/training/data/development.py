"""The development trials: who may stand in them, and what a head reaches on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.corpora.overlap import shared_speakers
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import OverlapError, ScoresError, TrainingError, TrialsError, first_of
from nestvox.evaluation.llr_fit import fit_llr
from nestvox.evaluation.set_threshold import set_thresholds
from nestvox.heads.contract import FloatArray
from nestvox.heads.pairs import LabelledPairs
from nestvox.metrics.thresholds import DecisionRule
from nestvox.model.calibration import LlrCalibration
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.threshold import Threshold
from nestvox.scoring.speakers import speakers_of_sides
from nestvox.scoring.system import System

REPLICATES = 200
"""Draws of the speakers for an interval on the development trials."""

RULES = (DecisionRule("eer"), DecisionRule("min_dcf"))
"""Operating points that every model with a head gets thresholds for."""


def keep_apart(train: Sequence[str], dev: Sequence[str], test: Sequence[str] = ()) -> None:
    """Refuse speakers who stand in two of the three parts.

    Args:
        train: speakers of the training utterances.
        dev: of the development utterances.
        test: of those that the result is reported on.

    Raises:
        OverlapError: the message names the parts and the speakers.
    """
    parts = {"training": train, "development": dev, "test": test}
    for left, right in (("training", "development"), ("training", "test"), ("development", "test")):
        if shared := shared_speakers(parts[left], parts[right]):
            raise OverlapError(
                f"{left} and {right} share speakers: {first_of(shared)}; leave them out of one of the two "
                "(data.train, data.dev and data.test say which rows belong to which)"
            )


def of_trials(trials: Trials) -> dict[str, Any]:
    """Name, hash and counts of a list, as log and results say them."""
    counts = {"n_target": trials.n_target, "n_nontarget": trials.n_nontarget}
    return {"trials": trials.source, "sha256": trials.sha256, **counts}


@dataclass(frozen=True)
class Development:
    """The trials as pairs of utterances, before anything is embedded.

    Attributes:
        table: the utterances.
        trials: the list.
        utterances: rows of the table that the trials name, ascending.
        first: (P,) places in `utterances`.
        second: (P,) likewise.
        target: (P,) bool.
    """

    table: UtteranceTable
    trials: Trials
    utterances: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    target: NDArray[np.bool_]

    @classmethod
    def of(cls, table: UtteranceTable, trials: Trials) -> Development:
        """Resolve the names.

        Raises:
            TableError: a trial names an utterance that the table does not have.
            TrainingError: a trial has no label.
        """
        unlabelled = trials.frame["target"].null_count()
        if unlabelled:
            raise TrainingError(f"{trials.source}: {unlabelled} trials have no label; nothing can be chosen on them")
        sides = [table.resolve(trials.frame[side]) for side in ("enrol", "test")]
        rows, positions = np.unique(np.concatenate(sides), return_inverse=True)
        first, second = np.split(positions.astype(np.int64), 2)
        return cls(table, trials, rows, first, second, trials.frame["target"].to_numpy().astype(bool))

    @property
    def utt_ids(self) -> list[str]:
        """Names of the utterances that the trials need, in the order of `utterances`."""
        return [str(name) for name in self.table.frame["utt_id"].gather(self.utterances)]

    @property
    def notes(self) -> list[str]:
        """A sentence where the trials use less than half of the development utterances or speakers."""
        used, whole = self.table.frame[self.utterances], self.table.frame
        parts = [
            (len(used), len(whole), "utterances"),
            (used["speaker"].n_unique(), whole["speaker"].n_unique(), "speakers"),
        ]
        if all(2 * count >= of for count, of, _ in parts):
            return []
        said = " and ".join(f"{count:,} of {of:,} development {what}" for count, of, what in parts)
        return [f"{self.trials.source} uses {said}: the weights are chosen on these alone"]

    def pairs(self, gather: Callable[[list[str]], FloatArray]) -> LabelledPairs:
        """Return the pairs on vectors.

        Args:
            gather: utt_ids to their vectors (n, D).
        """
        return LabelledPairs(gather(self.utt_ids), self.first, self.second, self.target)

    @property
    def speakers(self) -> tuple[list[str], list[str]]:
        """Speakers of both sides of each trial."""
        names = self.table.frame["speaker"].gather(self.utterances)
        return names.gather(self.first).to_list(), names.gather(self.second).to_list()

    def thresholds(
        self, model: SpeakerModel, pairs: LabelledPairs, labels: Sequence[str], *, rules: Sequence[DecisionRule] = RULES
    ) -> tuple[tuple[Threshold, ...], tuple[str, ...]]:
        """Set thresholds per prefix length, by default at the equal error rate and at the minimum detection cost.

        Args:
            model: whose head has the prefix lengths.
            pairs: of the trials, on the vectors that its head takes.
            labels: what every rate must be shown with, e.g. ``synthetic``.
            rules: operating points.

        Returns:
            The thresholds, and a sentence on each that these trials cannot set.
        """
        whole = self.system(model, pairs, labels)
        found: list[Threshold] = []
        notes = []
        for dim, scores in whole.scores.items():
            system = replace(whole, scores={dim: scores})
            for rule in rules:
                try:
                    sides = speakers_of_sides(self.trials, *self.speakers, source=self.table.source)
                    # Decides until the model's owner sets one: he alone knows what errors cost him.
                    default = rule.kind == "eer"
                    fit = set_thresholds(system, self.trials, sides, rule, default=default, n_bootstrap=REPLICATES)
                    found += [replace(threshold, fitted=True) for threshold in fit.thresholds]
                except TrialsError as error:
                    notes.append(f"no threshold of {dim} dimensions: {error}")
        return tuple(found), tuple(notes)

    def calibration(self, model: SpeakerModel, pairs: LabelledPairs, labels: Sequence[str]) -> LlrCalibration | None:
        """Fit maps from its cosines to log likelihood ratios; None where these trials are too few, or do not vary."""
        sides = speakers_of_sides(self.trials, *self.speakers, source=self.table.source)
        try:
            return fit_llr(self.system(model, pairs, labels), self.trials, sides).llr
        except (TrialsError, ScoresError):
            return None

    def system(self, model: SpeakerModel, pairs: LabelledPairs, labels: Sequence[str]) -> System:
        """The cosines of a model at all of its prefix lengths."""
        head = model.head
        assert head is not None
        scores: dict[int | None, NDArray[np.float64]] = {
            dim: np.asarray(pairs.scores(head, dim), np.float64) for dim in head.dims
        }
        return System(model.name, scores, self.trials.sha256, "", model.fingerprint, tuple(labels))
