"""Is a corpus fit to train on and to measure with? Everything that can be said before a network runs.

An error is something that makes a number wrong or a run fail; a warning is something to know.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl

from nestvox.audio.archives import file_of
from nestvox.audio.condition import CODES, SHORT_S
from nestvox.audio.opening import truncation
from nestvox.audio.read import SAMPLE_RATE
from nestvox.audio.segment import Segment
from nestvox.corpora.overlap import shared_speakers
from nestvox.corpora.profiles import BAR, with_bars
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import AudioError
from nestvox.names import key_column
from nestvox.progress import Progress, silent

_EXAMPLES = 5
_AT_ONCE = 512
# The sides of a trial in the order of the alphabet: a pair, whichever way round it is listed.
_FIRST, _SECOND = pl.min_horizontal("enrol", "test"), pl.max_horizontal("enrol", "test")


@dataclass(frozen=True)
class Finding:
    """One kind of problem, with how often and where it occurs.

    Attributes:
        kind: short name, e.g. ``speaker-in-two-splits``.
        severity: ``error`` or ``warning``.
        message: what is wrong, and what to do.
        count: how many items have it.
        examples: the first few of them.
    """

    kind: str
    severity: Literal["error", "warning"]
    message: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """What a check looked at and what it found.

    Attributes:
        n_tables, n_utterances, n_speakers, n_trials: amounts looked at.
        n_decoded: audio files or parts that were decoded; 0 where audio was left out.
        audio_s: seconds that they hold.
        findings: errors first.
    """

    n_tables: int
    n_utterances: int
    n_speakers: int
    n_trials: int
    n_decoded: int
    audio_s: float
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings do not count."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        findings = [{**vars(finding), "examples": list(finding.examples)} for finding in self.findings]
        return {"ok": self.ok, **vars(self), "findings": findings}


def check_corpus(
    tables: Sequence[UtteranceTable],
    trials: Sequence[Trials] = (),
    *,
    training: Sequence[UtteranceTable] = (),
    audio: bool = True,
    min_duration_s: float = SHORT_S,
    duration_tolerance_s: float = 0.1,
    workers: int = 4,
    progress: Progress = silent,
) -> CheckReport:
    """Check tables and trial lists against each other, and against their audio.

    Args:
        tables: utterance tables, together one corpus.
        trials: trial lists over these tables.
        training: tables to train on, whole; of the others, rows whose `split` begins with ``train`` are training
            material as well.
        audio: decode every utterance: duplicates by the SHA-256 of the decoded samples (so a wav and its flac are
            the same), durations, damage, files that end before their header says, and the condition of every
            recording (`audio.condition`), as a warning. Without it only the presence of files is checked.
        min_duration_s: shorter utterances are a warning.
        duration_tolerance_s: by how much the stated and the decoded duration may differ.
        workers: threads that decode.
        progress: called with the number of utterances decoded.
    """
    everything = [*tables, *training]
    rows = pl.concat([_plain(table, training=number >= len(tables)) for number, table in enumerate(everything)])
    findings: list[Finding] = []
    findings += _labels(rows)
    findings += _splits(rows)
    findings += _sessions(rows)
    for one in trials:
        findings += _trials(one, rows)
    decoded = 0
    audio_s = 0.0
    if audio:
        measured = _decode(rows, workers, progress)
        rows = pl.concat([rows, measured], how="horizontal")
        findings += _audio(rows, min_duration_s, duration_tolerance_s)
        decoded, audio_s = rows["decoded_s"].count(), float(rows["decoded_s"].sum())
    else:
        missing = [path for path in rows["file"].unique(maintain_order=True) if not file_of(path).is_file()]
        findings += _found("missing-file", "error", "audio files are missing", missing)
    findings.sort(key=lambda finding: finding.severity != "error")
    return CheckReport(
        n_tables=len(everything),
        n_utterances=rows.height,
        n_speakers=rows["speaker"].n_unique(),
        n_trials=sum(len(one) for one in trials),
        n_decoded=decoded,
        audio_s=audio_s,
        findings=tuple(findings),
    )


def _found(kind: str, severity: Literal["error", "warning"], message: str, items: Iterable[str]) -> Iterator[Finding]:
    """Yield the finding if there are items that have it."""
    listed = list(items)
    if listed:
        yield Finding(kind, severity, message, len(listed), tuple(listed[:_EXAMPLES]))


def _plain(table: UtteranceTable, *, training: bool) -> pl.DataFrame:
    """Bring a table to the columns that the checks use."""
    frame = table.frame
    optional = [
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in (
            ("split", pl.String()),
            ("session", pl.String()),
            ("start_s", pl.Float64()),
            ("duration_s", pl.Float64()),
            ("channel", pl.Int64()),
        )
    ]
    plain = frame.select("utt_id", "path", "speaker", *optional)
    in_training = pl.lit(value=True) if training else pl.col("split").str.to_lowercase().str.starts_with("train")
    return plain.with_columns(
        pl.Series("file", [str(path) for path in table.audio_paths], pl.String),
        in_training.fill_null(value=False).alias("training"),
        pl.lit(table.source).alias("table"),
    )


def _labels(rows: pl.DataFrame) -> Iterator[Finding]:
    keyed = rows.with_columns(key_column(rows["utt_id"]))
    per_id = keyed.group_by("utt_id", maintain_order=True).agg(pl.col("speaker").unique().sort(), pl.len())
    two = per_id.filter(pl.col("speaker").list.len() > 1)
    yield from _found(
        "utterance-of-two-speakers",
        "error",
        "utterance ids have one speaker in one table and another in the next",
        (f"{name}: {', '.join(speakers)}" for name, speakers, _ in two.rows()),
    )
    twice = per_id.filter((pl.col("speaker").list.len() == 1) & (pl.col("len") > 1))
    yield from _found("utterance-in-two-tables", "error", "utterance ids stand in several tables", twice["utt_id"])
    for column in ("speaker", "utt_id"):
        names = rows[column].unique(maintain_order=True)
        folded = pl.DataFrame({"name": names, "folded": [_folded(name) for name in names]})
        alike = folded.group_by("folded", maintain_order=True).agg("name").filter(pl.col("name").list.len() > 1)
        yield from _found(
            f"{column.replace('_', '-')}-spelt-twice",
            "error",
            f"values of {column} differ in case, blanks, width or a last dot only: one of them is most likely a slip",
            (" / ".join(repr(name) for name in group) for group in alike["name"]),
        )
    per_speaker = rows.group_by("speaker", maintain_order=True).len()
    yield from _found(
        "speaker-with-one-utterance",
        "warning",
        "speakers have a single utterance: they give no target trials and no within-speaker variation",
        per_speaker.filter(pl.col("len") == 1)["speaker"],
    )


def _folded(name: str) -> str:
    """What names that one keyboard, input method or file system makes of each other have in common."""
    wide = unicodedata.normalize("NFKC", name).casefold()
    # Windows drops dots at the end of a folder's name; a dotted i in capitals keeps its dot when it is made small.
    return " ".join(wide.replace("i\u0307", "i").split()).rstrip(". ") or name


def _splits(rows: pl.DataFrame) -> Iterator[Finding]:
    """Speakers and files on both sides of a border that they must not cross."""
    side = pl.when("training").then(pl.lit("train")).otherwise(pl.col("split")).alias("side")
    for column, kind, what in (
        ("speaker", "speaker-in-two-splits", "speakers stand in two splits: move all their utterances to one"),
        ("file", "file-in-two-splits", "audio files stand in two splits"),
    ):
        sides = (
            rows.select(column, side).drop_nulls().group_by(column, maintain_order=True).agg(pl.col("side").unique())
        )
        crossing = sides.filter(pl.col("side").list.len() > 1)
        yield from _found(
            kind, "error", what, (f"{name}: {', '.join(sorted(names))}" for name, names in crossing.rows())
        )
    alike = rows.group_by("file", maintain_order=True).agg(pl.col("speaker").unique().sort(), pl.col("start_s").count())
    several = alike.filter((pl.col("speaker").list.len() > 1) & (pl.col("start_s") == 0))
    yield from _found(
        "file-of-two-speakers",
        "error",
        "whole audio files have two speakers; parts of a file need start_s and duration_s",
        (f"{name}: {', '.join(speakers)}" for name, speakers, _ in several.rows()),
    )


def _sessions(rows: pl.DataFrame) -> Iterator[Finding]:
    per_speaker = rows.group_by("speaker", maintain_order=True).agg(
        pl.col("session").drop_nulls().n_unique().alias("sessions"),
        pl.col("session").null_count().alias("without"),
        pl.len().alias("utterances"),
    )
    partly = per_speaker.filter((pl.col("without") > 0) & (pl.col("sessions") > 0))
    yield from _found(
        "session-partly-missing",
        "warning",
        "speakers have a session on some utterances and none on others",
        partly["speaker"],
    )
    one = per_speaker.filter((pl.col("sessions") == 1) & (pl.col("without") == 0) & (pl.col("utterances") > 1))
    yield from _found(
        "speaker-with-one-session",
        "warning",
        "speakers have one session only: their target trials are easier than trials across sessions",
        one["speaker"],
    )


def _trials(trials: Trials, rows: pl.DataFrame) -> Iterator[Finding]:
    """Check a trial list against the tables and against itself."""
    source = trials.source
    names = pl.concat(
        [
            rows.select(key_column(rows[column]).alias("name"), "speaker")
            for column in ("utt_id", "path")  # an utterance of this name comes before a file
        ]
    )
    known = names.unique("name", keep="first", maintain_order=True)
    known, mixed, absent = _with_profiles(known, trials)
    frame = trials.frame
    frame = frame.with_columns(key_column(frame[side]) for side in ("enrol", "test"))
    for side in ("enrol", "test"):
        frame = frame.join(
            known.rename({"name": side, "speaker": f"{side}_speaker"}),
            on=side,
            how="left",
            maintain_order="left",
        )
    missing = pl.concat(
        [frame.filter(pl.col(f"{side}_speaker").is_null())[side].alias("name") for side in ("enrol", "test")]
    )
    yield from _found(
        "trial-name-unknown",
        "error",
        f"{source} names utterances that no table has",
        pl.concat([missing.filter(~missing.str.contains(BAR, literal=True)), absent]).unique(maintain_order=True),
    )
    yield from _found("profile-of-several", "error", f"{source} has profiles of several speakers", mixed)
    # By speaker, whichever of their utterances are trained on and which are in the trials.
    tested = pl.concat([frame[f"{side}_speaker"].alias("name") for side in ("enrol", "test")]).drop_nulls().unique()
    trained = shared_speakers(rows.filter("training")["speaker"].unique(), tested)
    yield from _found(
        "speaker-trained-and-tested",
        "error",
        f"{source} has speakers of the training material: every number measured on it would be too good",
        trained,
    )
    same = pl.col("enrol_speaker") == pl.col("test_speaker")
    wrong = frame.filter((same != pl.col("target")).fill_null(value=False))
    yield from _found(
        "trial-label-wrong",
        "error",
        f"{source} contradicts the speakers in the table",
        (
            f"{row['enrol']} {row['test']}: {'target' if row['target'] else 'nontarget'}, "
            f"but {row['enrol_speaker']} and {row['test_speaker']}"
            for row in wrong.iter_rows(named=True)
        ),
    )
    itself = frame.filter(
        (pl.col("enrol") == pl.col("test")) | pl.col("enrol").str.split(BAR).list.contains(pl.col("test"))
    )["test"]
    yield from _found("trial-with-itself", "error", f"{source} compares utterances with themselves", itself)
    again = frame.filter(frame.select("enrol", "test").is_duplicated())
    yield from _found("trial-doubled", "error", f"{source} has trials more than once", _pairs(again))
    once = frame.unique(["enrol", "test"], maintain_order=True).filter(pl.col("enrol") != pl.col("test"))
    mirrored = once.filter(pl.concat_list(_FIRST, _SECOND).is_duplicated())
    # 338 pairs of VoxCeleb1-O: every published number counts them twice, so they are no reason to refuse a list.
    yield from _found(
        "trial-mirrored", "warning", f"{source} has pairs in both orders, which count twice", _pairs(mirrored)
    )


def _with_profiles(known: pl.DataFrame, trials: Trials) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """Names with their speakers, the profiles of the trials among them.

    Returns:
        The names, profiles of several speakers, and recordings of profiles that no table has.
    """
    barred = with_bars(key_column(trials.pairs.names)) - set(known["name"])
    parts = pl.DataFrame({"profile": sorted(barred)}, schema={"profile": pl.String})
    parts = parts.with_columns(name=pl.col("profile").str.split(BAR)).explode("name", empty_as_null=True)
    parts = parts.join(known, on="name", how="left", maintain_order="left")
    absent = parts.filter(pl.col("speaker").is_null())["name"]
    speakers = parts.group_by("profile", maintain_order=True).agg(
        pl.col("speaker").first(), several=pl.col("speaker").n_unique() > 1, lacking=pl.col("speaker").is_null().any()
    )
    mixed = speakers.filter(pl.col("several") & ~pl.col("lacking"))["profile"]
    whole = speakers.filter(~pl.col("several") & ~pl.col("lacking"))
    return pl.concat([known, whole.select(pl.col("profile").alias("name"), "speaker")]), mixed, absent


def _pairs(frame: pl.DataFrame) -> Iterable[str]:
    return frame.select(pl.concat_str(_FIRST, _SECOND, separator=" ")).to_series().unique(maintain_order=True)


class _Measured(NamedTuple):
    """What decoding a row gave; null where there is nothing to say."""

    decoded_s: float | None = None
    content: str | None = None  # hash of samples and rate
    problem: str | None = None
    cut_off: str | None = None
    condition: str | None = None  # codes of `audio.condition`, with blanks between


_MEASURED = {name: pl.Float64 if name == "decoded_s" else pl.String for name in _Measured._fields}


def _decode(rows: pl.DataFrame, workers: int, progress: Progress) -> pl.DataFrame:
    """Decode every row; columns are those of `_Measured`."""

    def measure(
        file: str, start_s: float | None, duration_s: float | None, channel: int | None, first: bool
    ) -> _Measured:
        try:
            heard = Segment(Path(file), start_s, duration_s, channel).read(sample_rate=None)
            samples, rate = heard.samples, heard.sample_rate
            cut_off = truncation(file) if first else None
        except AudioError as error:
            return _Measured(problem=error.problem)
        content = hashlib.sha256(samples.tobytes() + str(rate).encode()).hexdigest()
        # Measured at the rate at which most models hear it, as it is when it is embedded.
        codes = heard.condition(sample_rate=SAMPLE_RATE).codes()
        found = " ".join(code for code in codes if code != "cut-off")  # told of the file, above
        return _Measured(len(samples) / rate, content, cut_off=cut_off, condition=found)

    # A file that is cut at its end is one, however many parts of it are utterances.
    first = pl.col("file").is_first_distinct()
    columns = rows.select("file", "start_s", "duration_s", "channel", first.alias("first")).get_columns()
    found: list[_Measured] = []
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for start in range(0, rows.height, _AT_ONCE):
            for result in pool.map(measure, *(column[start : start + _AT_ONCE].to_list() for column in columns)):
                found.append(result)
                progress(len(found), rows.height)
    return pl.DataFrame(found, schema=_MEASURED, orient="row")


def _audio(rows: pl.DataFrame, min_duration_s: float, tolerance_s: float) -> Iterator[Finding]:
    broken = rows.filter(pl.col("problem").is_not_null())
    missing = broken["problem"] == "no such file"
    yield from _found("missing-file", "error", "audio files are missing", broken.filter(missing)["file"])
    yield from _found(
        "unusable-audio",
        "error",
        "audio cannot be used",
        (f"{file}: {problem}" for file, problem in broken.filter(~missing).select("file", "problem").rows()),
    )
    yield from _found(
        "audio-cut-off",
        "error",
        "audio files end before their header says: copy or download them again",
        (f"{file}: {lack}" for file, lack in rows.drop_nulls("cut_off").select("file", "cut_off").rows()),
    )
    alike = (
        rows.filter(pl.col("content").is_not_null())
        .with_columns(pl.when("training").then(pl.lit("train")).otherwise(pl.col("split")).fill_null("").alias("side"))
        .group_by("content", maintain_order=True)
        .agg("utt_id", pl.col("speaker").n_unique(), pl.col("side").n_unique())
        .filter(pl.col("utt_id").list.len() > 1)
    )
    harmful = (pl.col("speaker") > 1) | (pl.col("side") > 1)
    yield from _found(
        "duplicate-audio-across",
        "error",
        "utterances of different speakers or splits have the same audio",
        (" = ".join(names) for names in alike.filter(harmful)["utt_id"]),
    )
    yield from _found(
        "duplicate-audio",
        "warning",
        "utterances of one speaker have the same audio: a target trial of them is no test",
        (" = ".join(names) for names in alike.filter(~harmful)["utt_id"]),
    )
    off = rows.filter((pl.col("decoded_s") - pl.col("duration_s")).abs() > tolerance_s)
    yield from _found(
        "duration-differs",
        "error",
        f"stated and decoded duration differ by more than {tolerance_s:g} s",
        (
            f"{name}: {stated:.3f} s stated, {decoded:.3f} s decoded"
            for name, stated, decoded in off.select("utt_id", "duration_s", "decoded_s").rows()
        ),
    )
    short = rows.filter(pl.col("decoded_s") < min_duration_s)
    yield from _found(
        "short-audio",
        "warning",
        f"utterances are shorter than {min_duration_s:g} s",
        (f"{name}: {decoded:.3f} s" for name, decoded in short.select("utt_id", "decoded_s").rows()),
    )
    codes = rows.select("utt_id", pl.col("condition").fill_null("").str.split(" ")).explode("condition")
    for code, meaning in CODES.items():
        if code != "short":  # has its own limit, above
            yield from _found(code, "warning", meaning, codes.filter(pl.col("condition") == code)["utt_id"])
