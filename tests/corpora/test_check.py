"""Every kind of finding, planted one at a time in a corpus that is clean without it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from nestvox.corpora import CheckReport, Trials, UtteranceTable, check_corpus, read_trials, read_utterances

COLUMNS = ("utt_id", "path", "speaker", "session", "split")


@pytest.fixture
def rows(tmp_path: Path) -> list[dict]:
    """Two utterances in two sessions of each of four speakers, one second each, all different."""
    made = []
    for number in range(8):
        name = f"{number}.wav"
        noise = 0.1 * np.random.default_rng(number).standard_normal(16000)
        soundfile.write(tmp_path / name, noise, 16000)
        speaker, split = f"s{number // 2}", "train" if number < 4 else "test"
        row = dict(zip(COLUMNS, (f"u{number}", name, speaker, str(number % 2), split), strict=True))
        made.append(row | {"start_s": None, "duration_s": 1.0})
    return made


@pytest.fixture(autouse=True)
def _of_one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus is of one second each, which would be a finding by default."""
    monkeypatch.setitem(globals(), "check_corpus", partial(check_corpus, min_duration_s=0.5))


def table_of(rows: list[dict], root: Path, source: str = "table") -> UtteranceTable:
    return UtteranceTable(pl.DataFrame(rows, infer_schema_length=None), source, root)


def trials_of(*rows: tuple) -> Trials:
    schema = {"enrol": pl.String, "test": pl.String, "target": pl.Boolean}
    return Trials(pl.DataFrame(rows, schema=schema, orient="row"), "list")


def kinds(report: CheckReport) -> dict[str, tuple[str, int]]:
    return {finding.kind: (finding.severity, finding.count) for finding in report.findings}


def test_a_clean_corpus(rows: list[dict], tmp_path: Path) -> None:
    seen = []
    report = check_corpus(
        [table_of(rows, tmp_path)],
        [trials_of(("u4", "u5", True), ("u4", "7.wav", False), ("u6", "u7", None))],
        workers=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert report.findings == ()
    assert report.ok
    assert (report.n_tables, report.n_utterances, report.n_speakers, report.n_trials) == (1, 8, 4, 3)
    assert (report.n_decoded, report.audio_s) == (8, 8.0)
    assert seen == [(done, 8) for done in range(1, 9)]
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_a_speaker_in_two_splits(rows: list[dict], tmp_path: Path) -> None:
    rows[1]["split"] = "dev"
    report = check_corpus([table_of(rows, tmp_path)], audio=False)
    assert kinds(report) == {"speaker-in-two-splits": ("error", 1)}
    assert report.findings[0].examples == ("s0: dev, train",)
    assert not report.ok


def test_a_speaker_trained_and_tested(rows: list[dict], tmp_path: Path) -> None:
    report = check_corpus([table_of(rows, tmp_path)], [trials_of(("u0", "u1", True), ("u4", "u2", False))], audio=False)
    assert kinds(report) == {"speaker-trained-and-tested": ("error", 2)}
    assert sorted(report.findings[0].examples) == ["s0", "s1"]


def test_a_training_table_without_splits(rows: list[dict], tmp_path: Path) -> None:
    for row in rows:
        row["split"] = None
    training, evaluation = table_of(rows[:6], tmp_path), table_of(rows[6:], tmp_path)
    clean = trials_of(("u6", "u7", True))
    assert check_corpus([evaluation], [clean], training=[training], audio=False).ok
    report = check_corpus([table_of(rows[4:], tmp_path)], [trials_of(("u4", "u6", False))], audio=False)
    assert report.ok
    report = check_corpus(
        [table_of([rows[5] | {"utt_id": "other", "path": "7.wav"}], tmp_path)],
        [trials_of(("other", "u5", True))],
        training=[table_of(rows[4:7], tmp_path)],
        audio=False,
    )
    assert kinds(report)["speaker-trained-and-tested"] == ("error", 1)


def test_the_same_samples_in_another_file(rows: list[dict], tmp_path: Path) -> None:
    samples, rate = soundfile.read(tmp_path / "0.wav")
    soundfile.write(tmp_path / "copy.flac", samples, rate)
    assert (tmp_path / "copy.flac").read_bytes() != (tmp_path / "0.wav").read_bytes()
    rows[1]["path"] = "copy.flac"
    report = check_corpus([table_of(rows, tmp_path)])
    assert kinds(report) == {"duplicate-audio": ("warning", 1)}
    assert report.findings[0].examples == ("u0 = u1",)
    assert report.ok
    rows[1]["path"], rows[7]["path"] = "1.wav", "copy.flac"
    report = check_corpus([table_of(rows, tmp_path)])
    assert kinds(report) == {"duplicate-audio-across": ("error", 1)}
    assert report.findings[0].examples == ("u0 = u7",)


def test_parts_of_a_file_are_not_duplicates(rows: list[dict], tmp_path: Path) -> None:
    for number, row in enumerate(rows[:2]):
        row |= {"path": "0.wav", "start_s": number / 2, "duration_s": 0.5}
    assert check_corpus([table_of(rows, tmp_path)]).findings == ()


def test_durations(rows: list[dict], tmp_path: Path) -> None:
    rows[0]["duration_s"] = 1.09
    rows[1]["duration_s"] = 0.5
    rows[2] |= {"start_s": 0.5, "duration_s": 1.0}
    report = check_corpus([table_of(rows, tmp_path)])
    assert kinds(report) == {"duration-differs": ("error", 2), "partial": ("warning", 1)}
    assert report.findings[0].examples == ("u1: 0.500 s stated, 1.000 s decoded", "u2: 1.000 s stated, 0.500 s decoded")
    report = check_corpus([table_of(rows, tmp_path)], duration_tolerance_s=1, min_duration_s=0.75)
    assert kinds(report) == {"short-audio": ("warning", 1), "partial": ("warning", 1)}


def test_missing_and_unusable_files(rows: list[dict], tmp_path: Path) -> None:
    (tmp_path / "0.wav").unlink()
    (tmp_path / "1.wav").write_bytes(b"RIFF, but no more")
    soundfile.write(tmp_path / "2.wav", np.zeros(16000), 16000)
    report = check_corpus([table_of(rows, tmp_path)])
    assert kinds(report) == {"missing-file": ("error", 1), "unusable-audio": ("error", 2)}
    assert report.findings[0].examples == (str(tmp_path / "0.wav"),)
    assert "all 16000 samples are zero" in report.findings[1].examples[1]
    assert report.n_decoded == 5
    assert kinds(check_corpus([table_of(rows, tmp_path)], audio=False)) == {"missing-file": ("error", 1)}


def test_a_file_that_was_cut_at_its_end(rows: list[dict], tmp_path: Path) -> None:
    content = (tmp_path / "2.wav").read_bytes()
    (tmp_path / "2.wav").write_bytes(content[:30_000])  # reads as 0.936 s, within the tolerance of the duration
    rows.append({**rows[2], "utt_id": "part", "start_s": 0.1, "duration_s": 0.5})
    report = check_corpus([table_of(rows, tmp_path)])
    assert kinds(report) == {"audio-cut-off": ("error", 1)}  # once, whatever the number of its parts
    assert report.findings[0].examples == (f"{tmp_path / '2.wav'}: 29,956 of 32,000 bytes of samples are there",)
    assert kinds(check_corpus([table_of(rows, tmp_path)], audio=False)) == {}


def test_labels_between_tables(rows: list[dict], tmp_path: Path) -> None:
    other = [rows[0] | {"speaker": "s1"}, rows[2]]
    report = check_corpus([table_of(rows, tmp_path), table_of(other, tmp_path)], audio=False)
    assert kinds(report) == {
        "utterance-of-two-speakers": ("error", 1),
        "utterance-in-two-tables": ("error", 1),
        "file-of-two-speakers": ("error", 1),
    }
    assert report.findings[0].examples == ("u0: s0, s1",)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\uff76\uff9e", "\u30ac"),
        ("\uff21\uff11", "a1"),
        ("\u0130pek", "ipek"),
        ("\u0130pek", "IPEK"),
        ("J. R.", "J. R"),
        ("Stra\u00dfe", "STRASSE"),
        ("\ufb01", "fi"),
    ],
)
def test_names_that_differ_in_width_or_a_last_dot(rows: list[dict], tmp_path: Path, one: str, other: str) -> None:
    rows[0]["speaker"] = rows[1]["speaker"] = one
    rows[2]["speaker"] = rows[3]["speaker"] = other
    report = check_corpus([table_of(rows, tmp_path)], audio=False)
    assert kinds(report) == {"speaker-spelt-twice": ("error", 1)}


def test_names_that_differ_in_case_or_blanks(rows: list[dict], tmp_path: Path) -> None:
    rows[1]["speaker"] = "S0"
    rows[3]["utt_id"] = "U2 "
    report = check_corpus([table_of(rows, tmp_path)], audio=False)
    assert kinds(report) == {
        "speaker-spelt-twice": ("error", 1),
        "utt-id-spelt-twice": ("error", 1),
        "speaker-with-one-utterance": ("warning", 2),
    }
    assert report.findings[0].examples == ("'s0' / 'S0'",)


def test_sessions(rows: list[dict], tmp_path: Path) -> None:
    rows[1]["session"] = "0"
    rows[3]["session"] = None
    report = check_corpus([table_of(rows, tmp_path)], audio=False)
    assert kinds(report) == {"session-partly-missing": ("warning", 1), "speaker-with-one-session": ("warning", 1)}
    assert [finding.examples for finding in report.findings] == [("s1",), ("s0",)]
    assert report.ok


def test_trials_against_the_table(rows: list[dict], tmp_path: Path) -> None:
    listed = trials_of(
        ("u4", "u5", False),
        ("u4", "u6", True),
        ("u4", "nobody", True),
        ("u6", "u6", True),
        ("u7", "u5", False),
        ("u5", "u7", False),
        ("u7", "u4", False),
        ("u7", "u4", False),
    )
    report = check_corpus([table_of(rows, tmp_path)], [listed], audio=False)
    assert kinds(report) == {
        "trial-name-unknown": ("error", 1),
        "trial-label-wrong": ("error", 2),
        "trial-with-itself": ("error", 1),
        "trial-doubled": ("error", 1),
        "trial-mirrored": ("warning", 1),
    }
    examples = {finding.kind: finding.examples for finding in report.findings}
    assert examples["trial-name-unknown"] == ("nobody",)
    assert examples["trial-label-wrong"] == ("u4 u5: nontarget, but s2 and s2", "u4 u6: target, but s2 and s3")
    assert examples["trial-doubled"] == ("u4 u7",)
    assert examples["trial-mirrored"] == ("u5 u7",)


def test_the_official_list_is_no_error(lists_dir: Path, tmp_path: Path) -> None:
    trials = read_trials(lists_dir / "veri_test.txt")
    names = pl.concat([trials.frame["enrol"], trials.frame["test"]]).unique().sort()
    frame = pl.DataFrame({"utt_id": names, "path": "a.wav", "speaker": names.str.slice(0, 7)})
    frame = frame.with_columns(start_s=pl.Series(range(len(names)), dtype=pl.Float64))
    report = check_corpus([UtteranceTable(frame, "t", tmp_path)], [trials], audio=False)
    # 338 of its 37,720 trials are the same pair the other way round; counted with awk, sort and uniq.
    assert kinds(report)["trial-mirrored"] == ("warning", 338)
    assert {kind for kind in kinds(report) if kind.startswith("trial")} == {"trial-mirrored"}


def test_a_file_in_two_splits(rows: list[dict], tmp_path: Path) -> None:
    rows[6] |= {"path": "0.wav"}
    report = check_corpus([table_of(rows, tmp_path)], audio=False)
    assert kinds(report) == {"file-in-two-splits": ("error", 1), "file-of-two-speakers": ("error", 1)}


def test_the_speech_corpus_is_fit(speech_dir: Path) -> None:
    """Its SOURCES.md promises: no speaker in two splits, no audio twice, trials within dev and within test."""
    table = read_utterances(speech_dir / "utterances.tsv")
    trials = [read_trials(speech_dir / f"trials_{split}.txt") for split in ("dev", "test")]
    report = check_corpus([table], trials, audio=False)
    assert report.ok
    singles = table.frame["speaker"].value_counts().filter(pl.col("count") == 1).height
    assert kinds(report)["speaker-with-one-utterance"] == ("warning", singles)
    some = table.where(split="dev", corpus="libri")
    report = check_corpus([some], workers=2)
    assert report.ok
    assert report.n_decoded == 117
