"""What compression found: a row a form, differences to the original, and which form is for which platform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nestvox.evaluation.results import interval_in_words, percent, plain_values
from nestvox.metrics.estimate import TrialSet

ORIGINAL = "original"

# A form keeps the accuracy where it is neither shown to be worse nor by more than this.
MOST_LOST = 0.005
_LEVEL = 0.05
# What a smaller form may take of the original's time.
_PHONE_TIME, _BROWSER_TIME = 1.25, 2.0

RULES: Mapping[str, str] = {
    "phone": f"the smallest on disk that takes at most {_PHONE_TIME:g} times the original's time",
    "browser": f"the smallest when zipped, as it is sent, that takes at most {_BROWSER_TIME:g} times the original's "
    "time",
    "server": "the fastest; where two are equal, the lower EER",
}
"""Of the forms that keep the accuracy: by platform, which one is recommended."""

KEEPS = (
    f"a form keeps the accuracy if at no dimension its EER is more than {100 * MOST_LOST:g} points above the "
    f"original's, or shown to be above it (p < {_LEVEL:g})"
)


@dataclass(frozen=True, kw_only=True)
class FormRates(TrialSet):
    """Error rates of one form at one dimension.

    Attributes:
        dim: prefix length.
        eer: equal error rate.
        eer_low: lower end of its interval.
        eer_high: upper end.
        difference: of the EER, less the original's; 0 where both put the trials in the same order.
        difference_low: lower end of its paired interval.
        difference_high: upper end.
        p_value: of a difference, by permutation of speakers, corrected for the number of comparisons.
        teacher_eer: of the teacher, at this dimension or else at its full size; None: there is none.
        gap: EER less the teacher's.
    """

    dim: int
    eer: float
    eer_low: float
    eer_high: float
    difference: float
    difference_low: float
    difference_high: float
    p_value: float
    teacher_eer: float | None
    gap: float | None


@dataclass(frozen=True)
class FormRow:
    """One form.

    Attributes:
        form: its name; ``original`` first.
        what: in words.
        folder: of the model, None of the original.
        fingerprint: of the model.
        parameters: of the encoder, zeros counted; None: it is a graph.
        nonzero: those that are not zero.
        size_bytes: of weights and configuration on disk.
        zipped_bytes: of the same, compressed by deflate.
        ratio: size of the original over that of this form.
        zipped_ratio: the same of the zipped sizes.
        clip_ms: for one clip of `clip_s`, on one thread, the median of calls by turns with the other forms.
        rates: one a dimension, ascending; empty without trials.
    """

    form: str
    what: str
    folder: str | None
    fingerprint: str
    parameters: int | None
    nonzero: int | None
    size_bytes: int
    zipped_bytes: int
    ratio: float
    zipped_ratio: float
    clip_ms: float
    rates: tuple[FormRates, ...] = ()

    @property
    def keeps(self) -> bool:
        """Whether it keeps the accuracy of the original, see `KEEPS`."""
        return bool(self.rates) and all(
            row.difference <= MOST_LOST and not (row.difference > 0 and row.p_value < _LEVEL) for row in self.rates
        )


@dataclass(frozen=True)
class Recommendation:
    """A form for a platform.

    Attributes:
        platform: ``phone``, ``browser`` or ``server``.
        form: recommended.
        rule: by which.
        why: its figures.
    """

    platform: str
    form: str
    rule: str
    why: str


@dataclass(frozen=True, repr=False)
class Compression:
    """All forms of one model on one machine.

    Attributes:
        model: name of the original.
        machine: on what was measured, in words.
        clip_s: length of the timed clip.
        teacher: name of the teacher, if there is one.
        forms: the original first.
        left_out: by form, why it was not made.
        recommendations: by platform; empty without trials.
        labels: of every error rate.
        notes: what a reader has to know, in sentences.
    """

    model: str
    machine: str
    clip_s: float
    teacher: str | None
    forms: tuple[FormRow, ...]
    left_out: Mapping[str, str]
    recommendations: tuple[Recommendation, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        found = "; ".join(f"{row.form} {row.ratio:.2f}x, {row.clip_ms:.1f} ms" for row in self.forms)
        return f"Compression({self.model!r}, {found})"

    def row(self, form: str) -> FormRow:
        """The row of a form.

        Raises:
            KeyError: it was not made.
        """
        return {row.form: row for row in self.forms}[form]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; rates are fractions."""
        plain: dict[str, Any] = plain_values(asdict(self))
        for row, found in zip(plain["forms"], self.forms, strict=True):
            row["keeps"] = found.keeps if found.rates else None
        return {**plain, "rules": dict(RULES), "keeps_accuracy": KEEPS}


def recommended(rows: Sequence[FormRow]) -> tuple[Recommendation, ...]:
    """Choose a form for each platform by `RULES`; the original is one of the forms.

    Args:
        rows: of all forms, with their error rates, the original first.
    """
    original = rows[0]
    if not original.rates:
        return ()
    kept = [row for row in rows if row is original or row.keeps]

    def within(share: float) -> list[FormRow]:
        return [row for row in kept if row is original or row.clip_ms <= share * original.clip_ms]

    best = {
        "phone": min(within(_PHONE_TIME), key=lambda row: row.size_bytes),
        "browser": min(within(_BROWSER_TIME), key=lambda row: row.zipped_bytes),
        "server": min(kept, key=lambda row: (round(row.clip_ms, 1), row.rates[-1].eer)),
    }
    return tuple(
        Recommendation(platform, row.form, RULES[platform], _figures(row, original)) for platform, row in best.items()
    )


def _figures(row: FormRow, original: FormRow) -> str:
    rate = row.rates[-1]
    sizes = f"{row.size_bytes / 1e6:.2f} MB on disk, {row.zipped_bytes / 1e6:.2f} zipped, {row.clip_ms:.1f} ms a clip"
    if row is original:
        return f"{sizes}, EER {percent(rate.eer)} %: no form that keeps the accuracy is better by this rule"
    return (
        f"{sizes} (original {original.size_bytes / 1e6:.2f}, {original.zipped_bytes / 1e6:.2f}, "
        f"{original.clip_ms:.1f}), EER {percent(rate.eer)} % at {rate.dim}, {100 * rate.difference:+.2f} points "
        f"{interval_in_words(100 * rate.difference_low, 100 * rate.difference_high, 2)}"
    )
