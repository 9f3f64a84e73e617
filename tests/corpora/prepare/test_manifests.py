"""Kaldi data directories and lhotse manifests, written by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nestvox.cli.data import app
from nestvox.corpora import read_utterances
from nestvox.corpora.prepare.kaldi import prepare_kaldi
from nestvox.corpora.prepare.lhotse import prepare_lhotse
from nestvox.corpora.prepare.nemo import prepare_nemo
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
        ({"segments": "a a 0 1 left\n"}, r"segments:1: 'left' is no channel"),
        ({"segments": "a a 0 1 -1\n"}, "'-1' is no channel"),
        ({"segments": "a a 0 1\n", "reco2file_and_channel": "a a X1\n"}, "'X1' is no channel"),
        ({"segments": "a a 0 1\n", "reco2file_and_channel": "a A\n"}, "expected: recording file channel"),
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
    supervisions.append({"id": "e", "channel": 4})
    prepared = prepare_lhotse(
        manifest(tmp_path / "r.jsonl", [call]),
        manifest(tmp_path / "s.jsonl", [{**spoken, **supervision} for supervision in supervisions]),
    )
    assert prepared.table.frame.select("utt_id", "channel").rows() == [("a", 0), ("b", None), ("c", 0), ("d", 1)]
    reasons = {skipped.path: skipped.reason for skipped in prepared.skipped}
    assert reasons == {"e": "is of channel 4, and its recording has 0, 1"}


def test_channels_are_counted_in_the_file(tmp_path: Path) -> None:
    """A source that holds the channels 2 to 4 of an array has them as its first, second and third."""
    array = {"id": "r", "sources": [{"type": "file", "channels": [2, 3, 4], "source": "a.wav"}], "duration": 10.0}
    spoken = {"recording_id": "r", "start": 0.0, "duration": 10.0, "speaker": "ann"}
    prepared = prepare_lhotse(
        manifest(tmp_path / "r.jsonl", [array]),
        manifest(tmp_path / "s.jsonl", [spoken | {"id": "x", "channel": 4}, spoken | {"id": "y", "channel": [2, 3]}]),
    )
    assert prepared.table.frame.select("utt_id", "channel").rows() == [("x", 2)]
    assert prepared.skipped[0].reason.startswith("is of channels 2, 3 of 3")


@pytest.mark.parametrize(
    ("named", "expected"),
    [("01", [0, 1]), ("AB", [0, 1]), ("ba", [1, 0]), ("12", [0, 1]), ("11", [1, 1]), ("02", [0, 2])],
)
def test_channels_of_kaldi_segments(tmp_path: Path, named: str, expected: list[int]) -> None:
    folder = kaldi(
        tmp_path / "d",
        wav_scp="call call.wav\n",
        utt2spk="a ann\nb ben\n",
        segments=f"a call 0 1 {named[0]}\nb call 0.5 2 {named[1]}\n",
    )
    assert prepare_kaldi(folder).table.frame["channel"].to_list() == expected


@pytest.mark.parametrize("named", ["AB", "12", "01"])
def test_sides_of_kaldi_recordings(tmp_path: Path, named: str) -> None:
    """As Switchboard has them: one file of two sides, or two files of which each is a side already."""
    soundfile.write(tmp_path / "call.wav", np.random.default_rng(0).normal(0, 0.1, (8000, 2)), 8000)
    soundfile.write(tmp_path / "b.wav", np.random.default_rng(1).normal(0, 0.1, 8000), 8000)
    one, two = named
    folder = kaldi(
        tmp_path / "d",
        wav_scp="call-A call.wav\ncall-B call.wav\nalone b.wav\ngone-A gone.wav\ngone-B gone.wav\n",
        utt2spk="call-A ann\ncall-B ben\nalone cat\ngone-A dan\ngone-B eve\n",
        reco2file_and_channel=f"call-A x {one}\ncall-B x {two}\nalone y {two}\ngone-A z {one}\ngone-B z {two}\n",
    )
    frame = prepare_kaldi(folder, root=tmp_path).table.frame
    assert frame.select("utt_id", "channel").rows() == [
        ("call-A", 0),
        ("call-B", 1),
        ("alone", None),
        ("gone-A", 0),
        ("gone-B", 1),
    ]


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


NFC, NFD = "Jos\u00e9", "Jose\u0301"


def test_letters_that_python_takes_for_blanks(tmp_path: Path) -> None:
    name, path, speaker = "u\u00a01", "audio/a\u3000b.wav", "ann\u3000lee\u2028\x1cx"
    folder = kaldi(
        tmp_path / "d", wav_scp=f"rec {path}\n", utt2spk=f"{name} {speaker}\n", segments=f"{name} rec 0 1.5\n"
    )
    row = prepare_kaldi(folder).table.frame.select("utt_id", "path", "speaker", "duration_s").row(0)
    assert row == (name, path, speaker, 1.5)


def test_a_kaldi_directory_in_two_spellings_and_with_marks(tmp_path: Path) -> None:
    folder = kaldi(
        tmp_path / "d",
        wav_scp=f"\ufeff{NFD} {NFD}.wav\n",
        utt2spk=f"\ufeff{NFC} ann\n",
        utt2dur=f"{NFC} 2\n",
        spk2gender="\ufeffann f\n",
    )
    prepared = prepare_kaldi(folder)
    assert prepared.table.frame.select("utt_id", "path", "speaker", "duration_s", "sex").rows() == [
        (NFD, f"{NFD}.wav", "ann", 2.0, "f")
    ]
    assert prepared.skipped == ()
    doubled = kaldi(tmp_path / "e", wav_scp=f"{NFC} a.wav\n{NFD} b.wav\n", utt2spk=f"{NFC} ann\n")
    with pytest.raises(TableError, match=r"wav\.scp:2: .* stands already on line 1"):
        prepare_kaldi(doubled)


def recording(name: str = "r1", **more: Any) -> dict[str, Any]:
    source = {"type": "file", "channels": [0], "source": f"{name}.wav"}
    return {"id": name, "sources": [source], "sampling_rate": 16000, "num_samples": 96_000, "duration": 6.0, **more}


def cut(name: str, start: float, duration: float, *spoken: dict[str, Any], **more: Any) -> dict[str, Any]:
    common = {"id": name, "start": start, "duration": duration, "channel": 0, "supervisions": list(spoken)}
    return {**common, "recording": recording(), "type": "MonoCut", **more}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_lhotse_cuts(tmp_path: Path, suffix: str) -> None:
    ann = {"id": "s1", "recording_id": "r1", "start": 0, "duration": 6.0, "speaker": "ann", "gender": "F"}
    ben = {"id": "s2", "recording_id": "r1", "start": 1.5, "duration": 9.0, "speaker": 1001, "language": "en"}
    early = {"id": "s3", "recording_id": "r1", "start": -1.0, "duration": 1.5, "speaker": "cat"}
    cuts = [
        cut("whole", 0, 6.0, ann),
        cut("part", 2.0, 4.0, ben),
        cut("two", 1.0, 3.0, ben, early),
        cut("nobody", 0, 6.0),
        cut("unnamed", 0, 6.0, {"id": "s4"}),
        cut("outside", 0, 1.0, ben),
        {"id": "mixed", "tracks": [], "type": "MixedCut"},
        cut("command", 0, 6.0, ann, recording=recording(sources=[{"type": "command", "source": "cat"}])),
        cut("side", 0, 6.0, ann, recording=recording(sources=[{"type": "file", "channels": [0, 1], "source": "x"}])),
    ]
    file = manifest(tmp_path / f"cuts{suffix}", cuts)
    out = tmp_path / "t.tsv"
    result = CliRunner().invoke(app, ["prepare", "lhotse", str(file), "--out", str(out)])
    assert result.exit_code == 0, result.output
    prepared = prepare_lhotse(file)
    assert prepared.table.frame.select("utt_id", "path", "speaker", "start_s", "duration_s").rows() == [
        ("whole", "r1.wav", "ann", None, 6.0),
        ("part", "r1.wav", "1001", 3.5, 2.5),
        ("two/s2", "r1.wav", "1001", 2.5, 1.5),
        ("two/s3", "r1.wav", "cat", 1.0, 0.5),
        ("side", "x", "ann", None, 6.0),
    ]
    assert prepared.table.frame["channel"].to_list() == [None, None, None, None, 0]
    assert {one.path: one.reason.split(";")[0] for one in prepared.skipped} == {
        "nobody": "has no supervision, so that nobody says who speaks",
        "unnamed": "has no speaker",
        "outside": "lies outside of its cut",
        "mixed": "is mixed of other cuts",
        "command": "its recording comes from a command, not from a file",
    }


def test_manifests_in_each_others_place(tmp_path: Path) -> None:
    recordings = manifest(tmp_path / "r.jsonl", [recording()])
    supervisions = manifest(tmp_path / "s.jsonl", SUPERVISIONS)
    cuts = manifest(tmp_path / "c.jsonl", [cut("a", 0, 1)])
    for one, what in ((recordings, "recordings"), (supervisions, "supervisions")):
        with pytest.raises(TableError, match=rf":1: is a manifest of {what}: give that of recordings and"):
            prepare_lhotse(one)
    with pytest.raises(TableError, match="is a manifest of cuts; give it alone"):
        prepare_lhotse(cuts, supervisions)
    other = recording(sources=[{"type": "file", "source": "other.wav"}])
    with pytest.raises(TableError, match=r":2: the recording 'r1' stands there already"):
        prepare_lhotse(manifest(recordings, [recording(), other]), supervisions)


def test_nemo_manifests(tmp_path: Path) -> None:
    lines = [
        {"audio_filepath": "a b/one.wav", "duration": 3.5, "label": "ann", "text": "-"},
        {"audio_filepath": "two.wav", "offset": 0, "duration": 1.5, "label": 1001},
        {"audio_filepath": "two.wav", "offset": 1.5, "duration": 2, "label": 1001},
        {"audio_filepath": "three.wav", "offset": 0.5, "duration": None, "speaker": "ben"},
        {"audio_filepath": "four.wav", "duration": None, "label": "infer"},
        {"audio_filepath": "five.wav", "duration": 1.0},
        {"audio_filepath": ["a.wav", "b.wav"], "duration": 1.0, "label": "ann"},
    ]
    file = manifest(tmp_path / "train.json", lines)
    out = tmp_path / "t.csv"
    result = CliRunner().invoke(app, ["prepare", "nemo", str(file), "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = read_utterances(out)
    assert found.frame.select("utt_id", "path", "speaker", "start_s", "duration_s").rows() == [
        ("a_b/one", "a b/one.wav", "ann", None, 3.5),
        ("two#1", "two.wav", "1001", 0.0, 1.5),
        ("two#2", "two.wav", "1001", 1.5, 2.0),
        ("three", "three.wav", "ben", 0.5, None),
    ]
    assert found.audio_path(1) == tmp_path / "two.wav"
    assert [one.reason for one in prepare_nemo(file).skipped] == [
        "is 'infer'",
        "has no speaker in label",
        "names several files; write the channel that is meant to one",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio_filepath": "a.wav", "label": 1001.0}', r":1 \[label\]: label is the number 1001\.0"),
        ('{"audio_filepath": "a.wav", "label": ["x"]}', r":1 \[label\]: label is no text"),
        ('{"audio_filepath": 7, "label": "x"}', r"\[audio_filepath\]: audio_filepath is not a text"),
        ('{"audio_filepath": "a", "label": "x", "offset": "1"}', r"\[offset\]: offset is not a number of seconds"),
        ('{"audio_filepath": "a", "label": "x", "offset": NaN}', r"is not JSON lines: .*NaN"),
        ("[" * 100_000, r"is not JSON lines: .*nested"),
        ('{"audio_filepath": "a", "label": "infer"}', r"no usable line \(1 skipped; a: is 'infer'\)"),
        ("", "no usable line"),
    ],
)
def test_what_a_nemo_manifest_may_not_say(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "m.json").write_text(line + "\n")
    with pytest.raises(TableError, match=message):
        prepare_nemo(tmp_path / "m.json")


def test_a_manifest_that_unpacks_without_end(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(bytes(80 << 20), 1))
    with pytest.raises(TableError, match="a line without end"):
        prepare_nemo(tmp_path / "m.jsonl.gz")
