"""Kaldi data directories and lhotse manifests, written by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nestvox.cli.data import app
from nestvox.corpora import read_utterances
from nestvox.corpora.prepare.kaldi import prepare_kaldi
from nestvox.corpora.prepare.lhotse import prepare_lhotse
from nestvox.errors import TableError


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".") if name == "wav_scp" else folder / name).write_text(text)
    return folder


def test_recordings_that_are_utterances(tmp_path: Path) -> None:
    folder = kaldi(
        tmp_path / "d",
        wav_scp="ann-1 audio/a b.wav\nben-1\t/abs/b.flac\nlost-1 c.wav\n",
        utt2spk="ann-1 ann\nben-1 ben\nghost-1 ann\n",
        spk2gender="ann f\nben m\n",
        utt2dur="ann-1 1.5\nben-1 2\n",
    )
    prepared = prepare_kaldi(folder, root=tmp_path)
    assert prepared.table.frame.to_dicts() == [
        {"utt_id": "ann-1", "path": "audio/a b.wav", "speaker": "ann", "duration_s": 1.5, "sex": "f"},
        {"utt_id": "ben-1", "path": "/abs/b.flac", "speaker": "ben", "duration_s": 2.0, "sex": "m"},
    ]
    assert [str(path) for path in prepared.table.audio_paths] == [str(tmp_path / "audio/a b.wav"), "/abs/b.flac"]
    assert {skipped.path: skipped.reason for skipped in prepared.skipped} == {
        "lost-1": "is not in utt2spk",
        "ghost-1": "is not in wav.scp",
    }


def test_segments(tmp_path: Path) -> None:
    folder = kaldi(
        tmp_path / "d",
        wav_scp="call a.wav\n",
        utt2spk="ann-1 ann\nben-1 ben\nben-2 ben\n",
        segments="ann-1 call 0.5 2.25\nben-1 call 2.25 -1\nben-2 other 0 1\n",
    )
    prepared = prepare_kaldi(folder, corpus="calls")
    assert prepared.table.frame.select("utt_id", "start_s", "duration_s", "session", "corpus").rows() == [
        ("ann-1", 0.5, 1.75, "call", "calls"),
        ("ben-1", 2.25, None, "call", "calls"),
    ]
    assert prepared.skipped[0].reason == "is not in wav.scp (recording other)"
    assert "session" not in prepare_kaldi(folder, session="none").table.frame.columns


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wav_scp": "a sph2pipe -f wav a.sph |\n"}, r"wav\.scp:1: .*is a command"),
        ({"wav_scp": "a cat x|\n"}, "is a command"),
        ({"wav_scp": "a data.ark:17\n"}, "a place in an archive"),
        ({"wav_scp": "a a.wav\na b.wav\n"}, r"wav\.scp:2: 'a' stands already on line 1"),
        ({"wav_scp": "a a.wav\nb\n"}, r"wav\.scp:2: expected a name and a value"),
        ({"segments": "a a 1 0.5\n"}, r"segments:1: a segment from 1 to 0\.5 s"),
        ({"segments": "a a 1 x\n"}, r"'x' is not a number of seconds"),
        ({"segments": "a a 1\n"}, "expected: utterance recording start end"),
        ({"segments": "a a 0 1 B\n"}, "channels are averaged, not chosen"),
        ({"utt2spk": "b ben\n"}, "no utterance stands in all of its files"),
    ],
)
def test_what_a_kaldi_directory_may_not_say(tmp_path: Path, files: dict[str, str], message: str) -> None:
    folder = kaldi(tmp_path / "d", **{"wav_scp": "a a.wav\n", "utt2spk": "a ann\n", **files})
    with pytest.raises(TableError, match=message):
        prepare_kaldi(folder)


def test_a_directory_without_utt2spk(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"utt2spk: no such file"):
        prepare_kaldi(kaldi(tmp_path / "d", wav_scp="a a.wav\n"))


RECORDINGS: list[dict[str, Any]] = [
    {"id": "r1", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "duration": 3.0},
    {"id": "r2", "sources": [{"type": "command", "channels": [0], "source": "cat b"}], "duration": 3.0},
    {"id": "r3", "sources": [{"type": "file", "source": "c.wav"}], "duration": 3.0, "transforms": [{"name": "Speed"}]},
]
SUPERVISIONS: list[dict[str, Any]] = [
    {"id": "u1", "recording_id": "r1", "start": 0.0, "duration": 3.0, "speaker": "ann", "gender": "Female"},
    {"id": "u2", "recording_id": "r1", "start": 1, "duration": 0.5, "speaker": "ben", "language": "en"},
    {"id": "u3", "recording_id": "r2", "start": 0, "duration": 1, "speaker": "ben"},
    {"id": "u4", "recording_id": "r3", "start": 0, "duration": 1, "speaker": "ben"},
    {"id": "u5", "recording_id": "r9", "start": 0, "duration": 1, "speaker": "ben"},
    {"id": "u6", "recording_id": "r1", "start": 0, "duration": 1},
]


def manifest(path: Path, items: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(item) + "\n" for item in items)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_lhotse_manifests(tmp_path: Path, suffix: str) -> None:
    recordings = manifest(tmp_path / f"recordings{suffix}", RECORDINGS)
    supervisions = manifest(tmp_path / f"supervisions{suffix}", SUPERVISIONS)
    out = tmp_path / "t.tsv"
    words = ["prepare", "lhotse", str(recordings), str(supervisions), "--out", str(out), "--root", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "recording comes from a command" in result.output
    columns = ("utt_id", "path", "speaker", "start_s", "duration_s", "session", "sex", "language")
    assert read_utterances(out).frame.select(columns).rows() == [
        ("u1", "a.wav", "ann", None, 3.0, "r1", "f", None),
        ("u2", "a.wav", "ben", 1.0, 0.5, "r1", None, "en"),
    ]
    skipped = {item.path: item.reason for item in prepare_lhotse(recordings, supervisions).skipped}
    assert set(skipped) == {"u3", "u4", "u5", "u6"}
    assert "transforms" in skipped["u4"]
    assert skipped["u5"] == "recording r9 is not in the manifest"
    assert skipped["u6"] == "has no speaker"


def test_one_side_of_a_call_is_not_mixed_with_the_other(tmp_path: Path) -> None:
    two = {"type": "file", "channels": [0, 1], "source": "call.wav"}
    call = {"id": "call", "sources": [two], "sampling_rate": 8000, "num_samples": 80_000, "duration": 10.0}
    spoken = {"recording_id": "call", "start": 0.0, "duration": 10.0, "speaker": "ann"}
    supervisions = [{"id": "a", "channel": 0}, {"id": "b", "channel": [0, 1]}, {"id": "c"}, {"id": "d", "channel": [1]}]
    prepared = prepare_lhotse(
        manifest(tmp_path / "r.jsonl", [call]),
        manifest(tmp_path / "s.jsonl", [{**spoken, **supervision} for supervision in supervisions]),
    )
    assert prepared.table.frame["utt_id"].to_list() == ["b"]
    reasons = {skipped.path: skipped.reason for skipped in prepared.skipped}
    assert {name: reason.split(",")[0] for name, reason in reasons.items()} == {
        "a": "is of channel 0 of 2",
        "c": "is of channel 0 of 2",
        "d": "is of channel 1 of 2",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"supervisions\.jsonl:.*is not JSON lines"),
        ("[1]", r"supervisions\.jsonl:1: expected one JSON object a line"),
        ('{"recording_id": "r1"}', r"\[id\]: id is not a text"),
        ('{"id": "u", "recording_id": "r1", "speaker": "a", "start": "0"}', r"\[start\]: .*number of seconds"),
        ('{"id": "u", "recording_id": "r1"}', "no usable supervision"),
    ],
)
def test_damaged_manifests(tmp_path: Path, line: str, message: str) -> None:
    recordings = manifest(tmp_path / "recordings.jsonl", RECORDINGS)
    (tmp_path / "supervisions.jsonl").write_text(line + "\n")
    with pytest.raises(TableError, match=message):
        prepare_lhotse(recordings, tmp_path / "supervisions.jsonl")


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    recordings = manifest(tmp_path / "r.jsonl.gz", RECORDINGS * 50)
    recordings.write_bytes(recordings.read_bytes()[:60])
    with pytest.raises(TableError, match=r"r\.jsonl\.gz.*is not JSON lines"):
        prepare_lhotse(recordings, recordings)
