"""What a score is compared with, and what comes out: thresholds that know where they were set and where they hold.

One function, `choose_threshold`, says which threshold decides about a pair of recordings, for Python and the command
alike. It fails closed: what the model's owner named goes first, else the strictest, and a threshold that was set on
speech of another kind than the recordings (synthetic, augmented, or of the training speakers) decides about none. What
the fit of the model named, its equal error rate, stands in until its owner sets a threshold of his own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field

from nestvox.corpora.utterances import MARKS
from nestvox.errors import FingerprintError, ModelError, NestvoxError
from nestvox.gate import naming
from nestvox.metrics.estimate import Estimate, TrialSet
from nestvox.schema import Count, Fraction, Size, validated_dataclass

DURATION_EDGES_S = (2.0, 4.0, 8.0, 16.0)
"""Borders of the usual duration classes; a duration on a border belongs to the longer class."""

Pair = tuple[float, float]
_LARGEST_COSINE = 1 + 1e-5  # of two vectors whose length was rounded, and the next number above


@dataclass(frozen=True)
class ScoreSpace:
    """What the numbers of a score mean; two scores may be held against one threshold only if theirs is the same.

    Attributes:
        kind: ``cosine`` in [-1, 1]; ``normalised``: standard deviations above a cohort's scores; ``llr``: log
            likelihood ratio in nats; ``given``: numbers of a score file, whatever they mean.
        made_by: of a normalised score method and cohort, of a log likelihood ratio the key of the calibration.
    """

    kind: Literal["cosine", "normalised", "llr", "given"] = "cosine"
    made_by: str = ""

    def __str__(self) -> str:
        name = {"llr": "LLR in nats", "normalised": "normalised cosine", "given": "given score"}.get(
            self.kind, "cosine"
        )
        return f"{name} ({self.made_by})" if self.made_by else name


COSINE = ScoreSpace()
"""The cosine of two prefixes, as it is."""


@dataclass(frozen=True)
class DurationClass:
    """Pairs whose shorter recording lasts from `low_s` to below `high_s` seconds; None: there is no upper end."""

    low_s: float
    high_s: float | None

    def __post_init__(self) -> None:
        if self.low_s < 0 or (self.high_s is not None and self.high_s <= self.low_s):
            raise NestvoxError(f"a duration class runs from a lower to a higher number of seconds, got {self}")

    def contains(self, duration_s: float) -> bool:
        """Whether a pair belongs here whose shorter recording lasts so long."""
        return self.low_s <= duration_s and (self.high_s is None or duration_s < self.high_s)

    def __str__(self) -> str:
        return f"{self.low_s:g} s and more" if self.high_s is None else f"{self.low_s:g} to {self.high_s:g} s"


def duration_classes(edges_s: Sequence[float] = DURATION_EDGES_S) -> tuple[DurationClass, ...]:
    """The classes between the borders, the first from 0 and the last without an end.

    Raises:
        NestvoxError: borders that are not positive and ascending.
    """
    borders = (0.0, *map(float, edges_s))
    if len(borders) < 2 or any(not a < b for a, b in pairwise(borders)):
        raise NestvoxError(
            f"duration borders must be positive and ascending seconds, got {', '.join(map(str, edges_s))}"
        )
    return (*(DurationClass(a, b) for a, b in pairwise(borders)), DurationClass(borders[-1], None))


@dataclass(frozen=True)
class Threshold:
    """A decision threshold with everything it belongs to.

    Attributes:
        dim: prefix length whose score it splits; None for scores of a file.
        value: accept where the score is at or above it.
        operating_point: what it was set for, e.g. ``eer``, ``far 0.01`` or ``min_dcf p_target=0.05 c_miss=1 c_fa=1``.
        p_fa: false-alarm rate on the trials it was set on.
        p_miss: miss rate there.
        n_target: target trials.
        n_nontarget: non-target trials.
        trials_sha256: canonical hash of these trials.
        trials_source: their name, for people.
        labels: ``synthetic``, ``leaky``: what every rate above must be shown with.
        fingerprint: of the model whose scores it splits; empty where it is not known.
        space: what the scores mean.
        domain: name of the material that it was set on, as the user calls it; empty: none given.
        duration_class: of the pairs that it was set on; None: pairs of any duration.
        enrol_clips: recordings in the profiles that the first side of its trials were; 1: pairs of recordings.
        value_interval: of the threshold itself, over samples of speakers.
        p_fa_interval: of the false-alarm rate at `value`; None where nobody measured it.
        p_miss_interval: of the miss rate.
        interval: in words: confidence and what was resampled.
        default: it decides where nobody asks for another operating point: the model's owner named it, or its fit did.
        fitted: set with the model itself, on its development trials; such a default gives way to what the owner sets.
    """

    dim: Size | None
    value: float
    operating_point: Annotated[str, Field(pattern=r"^\S")]
    p_fa: Fraction
    p_miss: Fraction
    n_target: Count
    n_nontarget: Count
    trials_sha256: str
    trials_source: str
    labels: tuple[str, ...] = ()
    fingerprint: str = ""
    space: ScoreSpace = COSINE
    domain: str = ""
    duration_class: DurationClass | None = None
    enrol_clips: Size = 1
    value_interval: Pair | None = None
    p_fa_interval: tuple[Fraction, Fraction] | None = None
    p_miss_interval: tuple[Fraction, Fraction] | None = None
    interval: str = ""
    default: bool = False
    fitted: bool = False

    def __post_init__(self) -> None:
        if self.space.kind == "cosine" and not abs(self.value) <= _LARGEST_COSINE:
            raise NestvoxError(
                f"a threshold on the cosine lies in -1 to 1, got {self.value:g}: it decides the same for every pair"
            )
        if self.value_interval is not None and self.value_interval[0] > self.value_interval[1]:
            raise NestvoxError(f"the interval of a threshold runs from low to high, got {self.value_interval}")

    @property
    def trials(self) -> TrialSet:
        """Those that it was set on."""
        return TrialSet(
            trials_sha256=self.trials_sha256, n_target=self.n_target, n_nontarget=self.n_nontarget, labels=self.labels
        )

    @property
    def rates(self) -> tuple[Estimate, Estimate]:
        """False-alarm and miss rate on these trials, with their intervals where they were measured."""
        fa = ("FAR", self.p_fa, self.p_fa_interval or (None, None))
        miss = ("FRR", self.p_miss, self.p_miss_interval or (None, None))
        return _estimate(self, *fa), _estimate(self, *miss)

    @property
    def place(self) -> tuple[int | None, ScoreSpace, str, str, DurationClass | None, int]:
        """What it decides about: a threshold set anew for the same place takes the place of the old one."""
        return (self.dim, self.space, self.operating_point, self.domain, self.duration_class, self.enrol_clips)

    def refuse_elsewhere(self, *, fingerprint: str, dim: int | None, space: ScoreSpace) -> None:
        """Refuse scores of another model, another dimension, or that mean something else.

        Raises:
            FingerprintError: another model, or one of the two is not known.
            ModelError: another dimension or another kind of score.
        """
        if fingerprint != self.fingerprint:
            raise FingerprintError(
                f"this threshold was set for the model {self.fingerprint or '(unknown)'}, the scores are of "
                f"{fingerprint or '(unknown)'}; set one for this model"
            )
        if dim != self.dim:
            raise ModelError(
                f"this threshold was set for {_dimensions(self.dim)}, the scores are of {_dimensions(dim)}; every "
                "dimension has its own"
            )
        if space != self.space:
            raise ModelError(
                f"this threshold splits a {self.space}, the scores are a {space}; a number of one says nothing about "
                "the other"
            )

    def foreign(self, marks: Collection[str] = ()) -> tuple[str, ...]:
        """Its labels that the recordings do not share: with any of these it decides nothing about them.

        Args:
            marks: what the recordings are known to be, e.g. ``synthetic``; none: they are real.
        """
        return tuple(label for label in self.labels if label not in marks)

    def accepts(
        self,
        score: float,
        *,
        fingerprint: str,
        dim: int | None,
        space: ScoreSpace = COSINE,
        marks: Collection[str] = (),
    ) -> bool:
        """Decide about one score.

        Args:
            score: of two recordings.
            fingerprint: of the model that it is of.
            dim: prefix length that it is of.
            space: what it means.
            marks: what the recordings are known to be, e.g. ``synthetic``; none: they are real.

        Raises:
            FingerprintError, ModelError: as `refuse_elsewhere`; or the threshold was set on speech of another kind.
        """
        self.refuse_elsewhere(fingerprint=fingerprint, dim=dim, space=space)
        if foreign := self.foreign(marks):
            raise ModelError(f"this threshold was set on {_loud(foreign)} speech and decides about no other")
        return bool(score >= self.value)

    def describe(self) -> str:
        """Return one sentence that says where the threshold comes from."""
        labels = f", {', '.join(self.labels)}" if self.labels else ""
        domain = f" for {self.domain}" if self.domain else ""
        duration = f" and recordings of {self.duration_class}" if self.duration_class else ""
        profiles = f" and profiles of {self.enrol_clips} recordings" if self.enrol_clips > 1 else ""
        return (
            f"set at {self.operating_point}{domain}{duration}{profiles} on {self.trials_source} ({self.n_target} "
            f"target and {self.n_nontarget} non-target trials, sha256 {self.trials_sha256[:12]}{labels}): "
            f"{_in_words(self.rates[0])} false alarms, {_in_words(self.rates[1])} misses there"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what was not given is left out."""
        content = asdict(self)
        empty = {name: field.default for name, field in self.__dataclass_fields__.items() if name != "labels"}
        return {name: value for name, value in content.items() if getattr(self, name) != empty.get(name, ...)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Threshold:
        """Read what `to_dict` wrote.

        Raises:
            ModelError: something is missing, unknown or of another kind, or a number is not finite.
            NestvoxError: a duration class that ends before it begins.
        """
        return validated_dataclass(cls, content, "a threshold", naming(ModelError))


def check_marks(marks: Collection[str]) -> None:
    """Refuse what recordings cannot be marked as.

    Raises:
        ModelError: with the marks that there are.
    """
    if unknown := sorted(set(marks) - set(MARKS)):
        raise ModelError(f"recordings are marked {' or '.join(MARKS)}, or not at all; got {', '.join(unknown)}")


@dataclass(frozen=True)
class Choice:
    """The threshold that decides about a pair of recordings, or why none does.

    Attributes:
        threshold: None: there is no verdict.
        reason: why, and what there is instead; empty where there is a threshold.
    """

    threshold: Threshold | None
    reason: str = ""


def choose_threshold(
    thresholds: Sequence[Threshold],
    *,
    dim: int,
    operating_point: str | None = None,
    domain: str | None = None,
    duration_s: float,
    spaces: Sequence[ScoreSpace] = (COSINE,),
    marks: Collection[str] = (),
    enrol_clips: int = 1,
) -> Choice:
    """The threshold that decides about one pair of recordings, or about a profile of several and a recording.

    Where nobody asks for an operating point, that which the model's owner named decides, in the domain that he named;
    if he named none, the strictest of all that fit. As long as he set none, what the fit named counts as his. Of the
    thresholds at one operating point, that for the duration of the shorter recording goes before that for any.

    Args:
        thresholds: those of the model.
        dim: prefix length.
        operating_point: in full, or its first word; None: see above.
        domain: its name; None: that of the owner's choice, else the only named one, else thresholds without a domain.
        duration_s: of the shorter recording.
        spaces: scores that there are of this pair; of the thresholds for one duration, the one on the first is taken.
        marks: what the recordings are known to be, e.g. ``synthetic``; thresholds from such speech decide about
            nothing else.
        enrol_clips: recordings in the profiles that it was set on; one that was set on pairs says nothing of profiles.

    Raises:
        ModelError: no domain was named and several have such a threshold, or several operating points fit the word.
    """
    there = [
        threshold
        for threshold in thresholds
        if threshold.dim == dim
        and threshold.enrol_clips == enrol_clips
        and threshold.space in spaces
        and (threshold.duration_class is None or threshold.duration_class.contains(duration_s))
    ]
    as_made = all(threshold.fitted for threshold in thresholds)
    named = {(t.operating_point, t.domain) for t in thresholds if t.default and (as_made or not t.fitted)}
    if operating_point is None and (named := {place for place in named if domain in (None, place[1])}):
        fitting = [threshold for threshold in there if (threshold.operating_point, threshold.domain) in named]
        asked = "the operating point that was named for it, " + ", ".join(sorted(_point(*place) for place in named))
    else:
        fitting = [
            threshold
            for threshold in there
            if operating_point in (None, threshold.operating_point, threshold.operating_point.split()[0])
            and domain in (None, threshold.domain)
        ]
        asked = _point("any operating point" if operating_point is None else repr(operating_point), domain or "")
    deciding = [threshold for threshold in fitting if not threshold.foreign(marks)]
    if not deciding:
        return Choice(None, _why_none(thresholds, fitting, dim, asked, marks))
    domains = {threshold.domain for threshold in deciding}
    if len(domains - {""}) > 1:
        raise ModelError(
            f"the model holds thresholds at {asked} for {', '.join(sorted(domains - {''}))}: name the domain"
        )
    deciding = [threshold for threshold in deciding if threshold.domain == max(domains)]  # a name goes before none
    points = list(dict.fromkeys(threshold.operating_point for threshold in deciding))
    if operating_point is not None and len(points) > 1:
        raise ModelError(f"the model holds thresholds at {', '.join(points)}: name the operating point in full")
    deciding.sort(key=lambda threshold: (threshold.duration_class is None, spaces.index(threshold.space)))
    of_point = [next(t for t in deciding if t.operating_point == point) for point in points]
    if len({threshold.space for threshold in of_point}) == 1:
        return Choice(max(of_point, key=lambda threshold: threshold.value))
    # Numbers of two kinds of score are not comparable, the share of impostors that they let in is.
    return Choice(min(of_point, key=lambda threshold: threshold.p_fa))


def _why_none(
    thresholds: Sequence[Threshold], fitting: Sequence[Threshold], dim: int, asked: str, marks: Collection[str]
) -> str:
    """Say what there is instead."""
    if not thresholds:
        return "none: the model holds no thresholds"
    if fitting:
        labels = sorted({label for threshold in fitting for label in threshold.foreign(marks)})
        kind = " or ".join(sorted(marks)) or "real"
        return (
            f"NONE FOR {kind.upper()} RECORDINGS: what the model holds for {dim} dimensions was set on {_loud(labels)} "
            "speech and decides about no other"
        )
    dims = ", ".join(map(str, sorted({t.dim for t in thresholds if t.dim is not None})))
    points = ", ".join(sorted({t.operating_point.split()[0] for t in thresholds}))
    domains = ", ".join(sorted({t.domain for t in thresholds if t.domain}))
    found = f"the model has some for {dims} at {points}" + (f", for {domains}" if domains else "")
    return f"none for {dim} dimensions at {asked}; {found}"


def _point(operating_point: str, domain: str) -> str:
    return operating_point + (f" for {domain!r}" if domain else "")


def _loud(labels: Collection[str]) -> str:
    return ", ".join(labels).upper()


@dataclass(frozen=True)
class Verification:
    """The answer to "is this the same speaker?".

    Attributes:
        score: cosine of the two prefixes, in [-1, 1]; higher means more alike. Not a probability.
        dim: prefix length.
        same: score >= threshold, or None: there is no verdict.
        threshold: the threshold used, with its origin.
        warnings: what is wrong with either recording (short, silent, clipped, ...).
        model: name of the model.
        fingerprint: of the model.
        llr: log likelihood ratio in nats, or None where the model holds no calibration that gives one.
        llr_origin: where the calibration comes from, or why there is no log likelihood ratio.
        duration_s: of the shorter recording, which chooses among thresholds by duration.
        reason: why there is no verdict; empty where there is one.
        conditions: codes (`audio.condition.CODES`, and ``unfamiliar``) of the first recording and of the second;
            `warnings` says the same in sentences.
    """

    score: float
    dim: int
    same: bool | None
    threshold: Threshold | None
    warnings: tuple[str, ...]
    model: str
    fingerprint: str
    score_name: str = "cosine"
    direction: str = "higher is more alike"
    llr: float | None = None
    llr_origin: str = ""
    duration_s: float | None = None
    reason: str = ""
    conditions: tuple[tuple[str, ...], ...] = ()

    def __str__(self) -> str:
        verdict = {True: "same speaker", False: "different speakers", None: "no verdict"}[self.same]
        because = f" ({self.reason})" if self.reason else ""
        lines = [f"{verdict}{because}: {self.score_name} {self.score:+.4f} at {_dimensions(self.dim)}"]
        if self.threshold is not None:
            lines.append(f"threshold {self.threshold.value:+.4f}, {self.threshold.describe()}")
        return "\n".join([*lines, *self.warnings])


def _dimensions(dim: int | None) -> str:
    return "scores without a dimension" if dim is None else f"{dim} dimensions"


def _estimate(threshold: Threshold, name: str, value: float, ends: tuple[float | None, float | None]) -> Estimate:
    low, high = ends
    kind = "" if low is None else "percentile"
    return Estimate(
        name=name, dim=threshold.dim, value=value, low=low, high=high, interval=kind, trials=threshold.trials
    )


def _in_words(rate: Estimate) -> str:
    if rate.low is None or rate.high is None:
        return f"{rate.value:.2%}"
    return f"{rate.value:.2%} ({100 * rate.low:.2f} to {100 * rate.high:.2f})"
