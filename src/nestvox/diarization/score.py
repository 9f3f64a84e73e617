"""How wrong a diarization is: DER with its parts, JER and the number of speakers, each with what it was measured by.

The components are those of pyannote.metrics, which finds the best mapping of speakers; here they are summed over files,
bounded, and told with their settings. Definitions:

- DER = (missed + false alarm + confusion) / speech of the reference, in seconds times speakers (J. G. Fiscus et al.,
  "The Rich Transcription 2006 Spring meeting recognition evaluation", MLMI 2006).
- JER: mean over the speakers of the reference of 1 - intersection / union with the speaker that each is mapped to
  (N. Ryant et al., "The second DIHARD diarization challenge", Interspeech 2019).

Notation: N files, R replicates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.diarization.turn_files import read_turns
from nestvox.diarization.turns import Stretch, Turn, by_file, by_speaker, common, length_s, united
from nestvox.diarization.uem import read_uem
from nestvox.errors import NestvoxError, TableError, first_of
from nestvox.extras import require
from nestvox.metrics.bootstrap import check_replicates, draw_speakers, seeded
from nestvox.metrics.estimate import Estimate, TrialSet

_LARGEST_COLLAR_S = 60.0
_MOST_DRAWS = 1 << 26  # of a file in a replicate
_NEGLIGIBLE_S = 1e-3

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ReferenceSet(TrialSet):
    """The reference that a diarization was held against, and how; in place of trials, of which there are none.

    `trials_sha256` is that of the reference and of what is scored of it, `n_clusters` the number of files.

    Attributes:
        reference: file or folder of the reference; empty: turns of a program.
        uem: file or folder that says what is scored; empty: from the first to the last turn of either side.
        collar_s: seconds on each side of every boundary of the reference that are not scored.
        skip_overlap: stretches where the reference has several speakers are not scored.
        speech_s: of the reference as scored: seconds times speakers.
    """

    reference: str
    uem: str
    collar_s: float
    skip_overlap: bool
    speech_s: float

    def trials_to_dict(self) -> dict[str, Any]:
        """Plain values of the reference and the settings."""
        names = set(self.__dataclass_fields__) - {"trials_sha256", "n_target", "n_nontarget", "n_clusters"}
        own = {name: getattr(self, name) for name in sorted(names)}
        return {"reference_sha256": self.trials_sha256, "n_files": self.n_clusters, **own, **self.flags}

    @property
    def flags(self) -> dict[str, str]:
        """How other scorers are called for the same numbers."""
        nist = f"md-eval.pl{f' -c {self.collar_s:g}' if self.collar_s else ''}{' -1' if self.skip_overlap else ''}"
        whole = 2 * self.collar_s  # pyannote counts both sides
        return {
            "md_eval": f"{nist} -u UEM -r REF -s HYP",
            "pyannote": f"DiarizationErrorRate(collar={whole:g}, skip_overlap={self.skip_overlap})(ref, hyp, uem=uem)",
        }


@dataclass(frozen=True, kw_only=True)
class FileScore:
    """The parts of one file.

    Attributes:
        file: its name.
        speech_s: of the reference as scored: seconds times speakers.
        missed_s: where fewer speakers are found than there are.
        false_alarm_s: where more are found.
        confusion_s: where another one is found.
        jaccard: sum over the reference's speakers of their Jaccard errors.
        n_speakers: of the reference.
        n_found: of the hypothesis.
    """

    file: str
    speech_s: float
    missed_s: float
    false_alarm_s: float
    confusion_s: float
    jaccard: float
    n_speakers: int
    n_found: int

    @property
    def der(self) -> float:
        """Diarization error rate, a fraction; 0 where nothing is to be found and nothing is, else 1."""
        wrong = self.missed_s + self.false_alarm_s + self.confusion_s
        return wrong / self.speech_s if self.speech_s else float(wrong > 0)


@dataclass(frozen=True, kw_only=True)
class DiarizationRates:
    """Error rates over all files, fractions; each may exceed 1 but JER and the miss.

    Attributes:
        der: diarization error rate, the sum of the next three.
        missed: of the speech of the reference.
        false_alarm: likewise.
        confusion: likewise.
        jer: Jaccard error rate, over speakers.
        speaker_count: mean difference between the numbers of speakers found and there, without sign, per file.
    """

    der: Estimate
    missed: Estimate
    false_alarm: Estimate
    confusion: Estimate
    jer: Estimate
    speaker_count: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Plain values, by name."""
        return {name: getattr(self, name).to_dict() for name in self.__dataclass_fields__}


@dataclass(frozen=True, kw_only=True)
class DiarizationScore:
    """What a diarization is worth.

    Attributes:
        rates: over all files.
        files: the parts of each.
        notes: what a reader has to know: files without a hypothesis, speech outside of what is scored.
    """

    rates: DiarizationRates
    files: tuple[FileScore, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        files = [{**asdict(file), "der": file.der} for file in self.files]
        return {"rates": self.rates.to_dict(), "files": files, "notes": list(self.notes)}


def score_diarization(
    reference: str | Path | Iterable[Turn],
    hypothesis: str | Path | Iterable[Turn],
    *,
    uem: str | Path | Mapping[str, Sequence[Stretch]] | None = None,
    collar_s: float = 0.0,
    skip_overlap: bool = False,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    labels: Sequence[str] = (),
) -> DiarizationScore:
    """Hold a diarization against a reference.

    Args:
        reference: who speaks when: a file or folder that `read_turns` reads, or turns.
        hypothesis: what was found, likewise. A file that the reference lacks is scored only where the UEM names it.
        uem: what is scored: a file or folder that `read_uem` reads, or stretches by file. None: of each file all from
            the first to the last turn of either side.
        collar_s: left out on each side of every boundary of the reference.
        skip_overlap: leave out where the reference has several speakers.
        n_bootstrap: replicates of the intervals, which draw files.
        confidence: of the intervals.
        seed: of the draws.
        labels: what has to be said with every number.

    Raises:
        TableError: a file that is malformed, or nothing to score.
        NestvoxError: a collar or a number of replicates that is none.
        MissingExtraError: pyannote.metrics is not installed.
    """
    if not 0 <= collar_s <= _LARGEST_COLLAR_S:
        raise NestvoxError(f"a collar lies between 0 and {_LARGEST_COLLAR_S:g} s, got {collar_s}")
    check_replicates(n_bootstrap, confidence)
    there, found = (by_file(_turns(side)) for side in (reference, hypothesis))
    regions = read_uem(uem) if isinstance(uem, str | Path) else uem
    scored, notes = _scored(there, found, regions)
    files = _components(there, found, scored, collar_s, skip_overlap)
    settings = ReferenceSet(
        trials_sha256=_sha256(there, scored),
        n_target=0,
        n_nontarget=0,
        n_clusters=len(files),
        labels=tuple(labels),
        reference=str(reference) if isinstance(reference, str | Path) else "",
        uem=str(uem) if isinstance(uem, str | Path) else "" if uem is None else "given",
        collar_s=collar_s,
        skip_overlap=skip_overlap,
        speech_s=sum(file.speech_s for file in files),
    )
    if settings.speech_s == 0:
        raise TableError(
            "nobody speaks in what is scored of the reference: there is no error rate",
            source=settings.reference or None,
        )
    return DiarizationScore(rates=_rates(files, settings, n_bootstrap, confidence, seed), files=files, notes=notes)


def _turns(side: str | Path | Iterable[Turn]) -> Iterable[Turn]:
    return read_turns(side) if isinstance(side, str | Path) else side


def _scored(
    there: Mapping[str, Sequence[Turn]],
    found: Mapping[str, Sequence[Turn]],
    uem: Mapping[str, Sequence[Stretch]] | None,
) -> tuple[dict[str, list[Stretch]], tuple[str, ...]]:
    """What is scored of each file, and what is to be said about the rest."""
    notes = []
    if uem is None:
        ends = {name: [turn.stretch for turn in (*turns, *found.get(name, ()))] for name, turns in there.items()}
        scored = {name: [(min(ends[name])[0], max(end for _, end in ends[name]))] for name in ends}
    else:
        scored = {name: united(stretches) for name, stretches in uem.items()}
        if unscored := sorted(there.keys() - scored.keys()):
            notes.append(
                f"{len(unscored)} files of the reference are not in the UEM and not scored: {first_of(unscored)}"
            )
        for what, side in (("reference", there), ("hypothesis", found)):
            outside = sum(_outside_s(side.get(name, ()), scored[name]) for name in scored)
            if outside >= _NEGLIGIBLE_S:
                notes.append(f"{outside:.3f} s of the {what} lie outside of the UEM and are not scored")
    if not scored:
        raise TableError("the reference holds no turn: there is nothing to score")
    if stray := sorted(found.keys() - scored.keys() - there.keys()):
        notes.append(f"{len(stray)} files of the hypothesis are not in the reference and not scored: {first_of(stray)}")
    if missing := sorted(name for name in scored if name in there and name not in found):
        notes.append(f"{len(missing)} files have no hypothesis, all their speech is missed: {first_of(missing)}")
    return scored, tuple(notes)


def _outside_s(turns: Iterable[Turn], scored: Sequence[Stretch]) -> float:
    speakers = by_speaker(turns).values()
    return sum(length_s(stretches) - length_s(common(stretches, scored)) for stretches in speakers)


def _components(
    there: Mapping[str, Sequence[Turn]],
    found: Mapping[str, Sequence[Turn]],
    scored: Mapping[str, Sequence[Stretch]],
    collar_s: float,
    skip_overlap: bool,
) -> tuple[FileScore, ...]:
    purpose = "scoring a diarization"
    metrics = require("pyannote.metrics.diarization", extra="diarization", purpose=purpose)
    core = require("pyannote.core", extra="diarization", purpose=purpose)
    settings = {"collar": 2 * collar_s, "skip_overlap": skip_overlap}
    der, jer = metrics.DiarizationErrorRate(**settings), metrics.JaccardErrorRate(**settings)

    def annotation(name: str, turns: Sequence[Turn]) -> Any:
        made = core.Annotation(uri=name)
        for speaker, stretches in by_speaker(turns).items():
            for number, (begin, end) in enumerate(stretches):
                made[core.Segment(begin, end), f"{speaker} {number}"] = speaker
        return made

    rows = []
    for name in sorted(scored):
        sides = [annotation(name, side.get(name, ())) for side in (there, found)]
        region = core.Timeline([core.Segment(begin, end) for begin, end in scored[name]], uri=name)
        parts = der.compute_components(*sides, uem=region)
        counts = [
            sum(bool(common(s, scored[name])) for s in by_speaker(side.get(name, ())).values())
            for side in (there, found)
        ]
        rows.append(
            FileScore(
                file=name,
                speech_s=parts["total"],
                missed_s=parts["missed detection"],
                false_alarm_s=parts["false alarm"],
                confusion_s=parts["confusion"],
                jaccard=jer.compute_components(*sides, uem=region)["speaker error"],
                n_speakers=counts[0],
                n_found=counts[1],
            )
        )
    return tuple(rows)


def _rates(
    files: Sequence[FileScore], settings: ReferenceSet, n_bootstrap: int, confidence: float, seed: int
) -> DiarizationRates:
    speech = np.array([file.speech_s for file in files])
    parts = {name: np.array([getattr(file, f"{name}_s") for file in files]) for name in _PARTS}
    speakers = np.array([float(file.n_speakers) for file in files])
    amiss = np.array([float(abs(file.n_found - file.n_speakers)) for file in files])
    ratios = {
        "der": ("DER", sum(parts.values(), np.zeros(len(files))), speech),
        **{name: (name.replace("_", " "), parts[name], speech) for name in _PARTS},
        "jer": ("JER", np.array([file.jaccard for file in files]), speakers),
        "speaker_count": ("speakers amiss", amiss, np.ones(len(files))),
    }
    weights = _draws(len(files), n_bootstrap, seed)
    return DiarizationRates(**{key: _estimate(*ratio, weights, confidence, settings) for key, ratio in ratios.items()})


_PARTS = ("missed", "false_alarm", "confusion")


def _draws(n_files: int, n_bootstrap: int, seed: int) -> NDArray[np.int64]:
    """(R, N) how often each file was drawn."""
    if n_files * n_bootstrap > _MOST_DRAWS:
        raise NestvoxError(f"{n_bootstrap:,} replicates of {n_files:,} files take too much memory; ask for fewer")
    return draw_speakers(seeded(seed), n_files, n_bootstrap)


def _estimate(
    name: str, amiss: Floats, of: Floats, weights: NDArray[np.int64], confidence: float, settings: ReferenceSet
) -> Estimate:
    """A ratio of two sums over files, with its percentile interval over draws of files."""
    total = float(of.sum())
    low = high = None
    drawn = weights @ of
    if len(of) > 1 and (drawn > 0).any():
        ratios = (weights @ amiss)[drawn > 0] / drawn[drawn > 0]
        ends = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
        low, high = float(ends[0]), float(ends[1])
    return Estimate(
        name=name,
        dim=None,
        value=float(amiss.sum()) / total if total else 0.0,
        low=low,
        high=high,
        interval="" if low is None else "percentile",
        trials=settings,
    )


def _sha256(there: Mapping[str, Sequence[Turn]], scored: Mapping[str, Sequence[Stretch]]) -> str:
    """Of the reference and what is scored of it, to the millisecond, whatever file it came from."""
    lines = [f"{name} {begin:.3f} {end:.3f}" for name, stretches in sorted(scored.items()) for begin, end in stretches]
    for name in sorted(scored):
        for speaker, stretches in by_speaker(there.get(name, ())).items():
            lines += [f"{name} {speaker} {begin:.3f} {end:.3f}" for begin, end in stretches]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
