"""Trees laid out as VoxCeleb1 and 2, with missing and broken files: prepared, checked, embedded and evaluated.

Nobody speaks in them, so every number must carry the label `synthetic`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import Result
from typer.testing import CliRunner

from nestvox.cli.app import app
from nestvox.corpora import read_utterances
from nestvox.errors import OverlapError, StoreError, TableError

RATE = 16_000
TEST_SPEAKERS = ("id10270", "id10271", "id10272")  # three of the forty
DEV_SPEAKERS = ("id10001", "id10002")
VIDEOS = ("x6uYqmx31kE", "-JEAjG6SegY")  # a name may begin with a hyphen
TAKES = ("00001", "00002")


def run(*words: object, code: int = 0) -> str:
    result: Result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


def refused(*words: object) -> Exception:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is not None
    assert isinstance(result.exception, Exception)
    return result.exception


def voice(speaker: str, name: str, seconds: float = 1.3) -> np.ndarray:
    """Harmonics of a speaker's own pitch and colour, in other phases and noise each time."""
    own = np.random.default_rng(int(speaker[2:]))
    now = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    pitch, colour = own.uniform(90, 250), own.uniform(0, 1, 20)
    time = np.arange(round(seconds * RATE)) / RATE
    tones = [np.cos(2 * np.pi * pitch * (n + 1) * time + now.uniform(0, 6)) for n in range(20)]
    return 0.02 * (colour @ np.array(tones) + 0.1 * now.standard_normal(len(time)))


def put(root: Path, folder: str, name: str) -> Path:
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, voice(name[:7], name), RATE)
    return path


def names(speakers: tuple[str, ...]) -> list[str]:
    return [f"{speaker}/{video}/{take}.wav" for speaker in speakers for video in VIDEOS for take in TAKES]


def trial_list(path: Path, utterances: list[str]) -> Path:
    """Every pair once, as the official lists have them."""
    lines = []
    for number, enrol in enumerate(utterances):
        lines += [f"{int(enrol[:7] == test[:7])} {enrol} {test}\n" for test in utterances[number + 1 :]]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def voxceleb1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("VoxCeleb1")
    for name in names(DEV_SPEAKERS):
        put(root, "dev/wav", name)
    for name in names(TEST_SPEAKERS):
        put(root, "test/wav", name)
    (root / "dev/wav/id10002/x6uYqmx31kE/00002.wav").write_bytes(b"")  # the disk was full
    (root / "test/wav/id10271/x6uYqmx31kE/00002.wav").write_bytes(b"<html>404</html>" * 40)
    (root / "test/wav/id10272/x6uYqmx31kE/00001.wav").unlink()
    (root / "vox1_meta.csv").write_text(
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
        + "".join(f"{s}\tName\t{'fm'[int(s[-1]) % 2]}\tUSA\tdev\n" for s in (*DEV_SPEAKERS, *TEST_SPEAKERS))
    )
    trial_list(root / "veri_test.txt", names(TEST_SPEAKERS))
    trial_list(root / "list_test_all.txt", names((*DEV_SPEAKERS, *TEST_SPEAKERS)))
    trial_list(root / "list_test_hard.txt", names(("id10271", "id10001")))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    from nestvox.corpora.overlap import speaker_key
    from nestvox.encoders.ge2e import GE2E
    from nestvox.model.speaker_model import SpeakerModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    SpeakerModel(GE2E(), name="random", training_speakers=(speaker_key("id10001"),)).save(folder)
    return folder


def test_without_opening_the_files_the_check_finds_them(voxceleb1: Path, tmp_path: Path) -> None:
    table = tmp_path / "vox1.tsv"
    said = run("data", "prepare", "voxceleb1", voxceleb1, "--out", table)
    assert "skipped dev/wav/id10002/x6uYqmx31kE/00002.wav: the file is empty (0 bytes)" in said
    assert "dev: 2 speakers, 7 utterances; published are 1,211 and 148,642: 1,209 speakers missing" in said
    assert "test: 3 speakers, 11 utterances; published are 40 and 4,874: 37 speakers missing, 4,863 utterances" in said
    assert "1,246 published speakers are missing: id10003, id10004" in said
    report = tmp_path / "check.json"
    run("data", "check", table, "--trials", voxceleb1 / "veri_test.txt", "--json", report, code=1)
    findings = {finding["kind"]: finding for finding in json.loads(report.read_text())["findings"]}
    assert set(findings) == {"unusable-audio", "trial-name-unknown", "short-audio"}  # clips of a second
    assert "id10271/x6uYqmx31kE/00002.wav" in findings["unusable-audio"]["examples"][0]
    assert findings["trial-name-unknown"]["examples"] == ["id10272/x6uYqmx31kE/00001.wav"]


def test_from_the_tree_to_error_rates(voxceleb1: Path, model: Path, tmp_path: Path) -> None:
    table, store, report, out = (tmp_path / name for name in ("vox1.tsv", "store", "prepared.json", "out.json"))
    run("data", "prepare", "voxceleb1", voxceleb1, "--out", table, "--durations", "--synthetic", "--json", report)
    prepared = json.loads(report.read_text())
    assert (prepared["n_utterances"], prepared["n_speakers"], prepared["complete"]) == (17, 5, False)
    assert [row["path"] for row in prepared["skipped"]] == [
        "dev/wav/id10002/x6uYqmx31kE/00002.wav",
        "test/wav/id10271/x6uYqmx31kE/00002.wav",
    ]
    frame = read_utterances(table).frame
    assert frame["synthetic"].all()
    assert dict(frame.select("speaker", "sex").unique().rows())["id10271"] == "m"
    assert "fit for use" in run("data", "check", table)
    run("embed", table, "--model", model, "--out", store, "--offline")

    # The three official lists; 2 of the 12 utterances of the first are gone, 3 of 20, and 1 of 8.
    for name, there, targets, leaky in (
        ("veri_test.txt", 10, 6 + 3 + 3, False),
        ("list_test_all.txt", 17, 6 + 3 + 6 + 3 + 3, True),
        ("list_test_hard.txt", 7, 3 + 6, True),
    ):
        arguments = ["evaluate", "--store", store, "--trials", voxceleb1 / name, "--table", table, "--json", out]
        assert isinstance(refused(*arguments), StoreError)
        if leaky:  # id10001 is said to have been trained on
            assert isinstance(refused(*arguments, "--skip-missing"), OverlapError)
        options = ["--skip-missing", "--bootstrap", 50, *(["--allow-overlap"] if leaky else [])]
        said = run(*arguments, *options)
        result = json.loads(out.read_text())
        assert set(result["labels"]) == {"synthetic", *(["leaky"] if leaky else [])}
        assert "SYNTHETIC" in said
        row = result["results"][0]
        assert row["n_target"] == targets
        assert row["n_target"] + row["n_nontarget"] == there * (there - 1) // 2
        assert 0 <= row["eer"] <= 1
        kept = [line.split() for line in (voxceleb1 / name).read_text().splitlines()]
        kept = [(label, a, b) for label, a, b in kept if {a, b} <= set(frame["utt_id"])]
        canonical = "".join(sorted(f"{a}\t{b}\t{label}\n" for label, a, b in kept))
        assert result["trials_sha256"] == hashlib.sha256(canonical.encode()).hexdigest()
        assert any("were left out because" in note for note in result["notes"])


def test_a_model_on_the_official_list_itself(model: Path, tmp_path: Path, lists_dir: Path) -> None:
    official = lists_dir / "veri_test.txt"
    lines = [line.split() for line in official.read_text().splitlines()]
    there = {name for line in lines[:8] for name in line[1:]}
    for name in there:
        put(tmp_path / "VoxCeleb1", "wav", name)
    table, out = tmp_path / "vox1.tsv", tmp_path / "out.json"
    run("data", "prepare", "voxceleb1", tmp_path / "VoxCeleb1", "--out", table, "--synthetic")
    arguments = ["evaluate", "--model", model, "--table", table, "--trials", official, "--offline", "--json", out]
    assert isinstance(refused(*arguments), TableError)
    run(*arguments, "--skip-missing", "--bootstrap", 50)
    result = json.loads(out.read_text())
    labels = [label for label, enrol, test in lines if {enrol, test} <= there]
    row = result["results"][0]
    assert (row["n_target"], row["n_nontarget"]) == (labels.count("1"), labels.count("0"))
    assert len(labels) >= 8
    assert result["trials"].endswith(f"veri_test.txt without {37_720 - len(labels):,} of 37,720 trials")
    assert result["labels"] == ["synthetic"]


@pytest.fixture
def voxceleb2(tmp_path: Path) -> Path:
    pytest.importorskip("av", reason="the extra [av] is not installed")
    import av

    root = tmp_path / "VoxCeleb2"
    for part, speaker in (("dev", "id00012"), ("dev", "id00015"), ("test", "id00017")):
        for video in VIDEOS:
            path = root / part / "aac" / speaker / video / "00001.m4a"
            path.parent.mkdir(parents=True)
            samples = voice(speaker, f"{speaker}/{video}").astype(np.float32)
            with av.open(str(path), "w", format="ipod") as file:
                stream = file.add_stream("aac", rate=RATE)
                stream.layout = "mono"
                for start in range(0, len(samples), 1024):
                    frame = av.AudioFrame.from_ndarray(
                        samples[None, start : start + 1024], format="fltp", layout="mono"
                    )
                    frame.sample_rate, frame.pts = RATE, start
                    file.mux(stream.encode(frame))
                file.mux(stream.encode(None))
    cut = root / "dev/aac/id00015" / VIDEOS[0] / "00002.m4a"
    cut.write_bytes((root / "dev/aac/id00015" / VIDEOS[0] / "00001.m4a").read_bytes()[:3000])
    (root / "dev/aac/id00016").mkdir()
    (root / "vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set\n"
        + "".join(
            f"id000{n} ,n0000{n} ,m ,{part}\n" for n, part in ((12, "dev"), (15, "dev"), (16, "dev"), (17, "test"))
        )
    )
    return root


def test_voxceleb2_in_m4a(voxceleb2: Path, model: Path, tmp_path: Path) -> None:
    table, store, out = tmp_path / "vox2.parquet", tmp_path / "store", tmp_path / "out.json"
    said = run("data", "prepare", "voxceleb2", voxceleb2, "--out", table, "--durations", "--synthetic")
    assert f"skipped dev/aac/id00015/{VIDEOS[0]}/00002.m4a: cannot be opened as audio" in said
    assert "dev: 2 speakers, 4 utterances; published are 5,994 and 1,092,009" in said
    assert "test: 1 speakers, 2 utterances; published are 118 and 36,237" in said
    assert "1 published speakers are missing: id00016" in said
    assert "1 speakers' folders hold no usable audio: dev/aac/id00016" in said
    frame = read_utterances(table).frame
    assert frame["duration_s"].to_list() == pytest.approx([1.3] * 6, abs=1e-3)
    assert "fit for use" in run("data", "check", table)
    run("embed", table, "--model", model, "--out", store, "--offline")
    trials = trial_list(tmp_path / "trials.txt", frame["utt_id"].to_list())
    said = run("evaluate", "--store", store, "--trials", trials, "--table", table, "--bootstrap", 50, "--json", out)
    assert "SYNTHETIC" in said
    row = json.loads(out.read_text())["results"][0]
    assert (row["n_target"], row["n_nontarget"]) == (3, 12)


def test_a_mini_corpus_by_the_command(tmp_path: Path) -> None:
    for number in range(12):
        for video in VIDEOS:
            path = tmp_path / "VoxCeleb2/dev/aac" / f"id{12 + number:05}" / video / "00001.m4a"
            path.parent.mkdir(parents=True)
            path.write_bytes(b"m4a")
    arguments = ("data", "prepare", "voxceleb2", tmp_path / "VoxCeleb2", "--mini", "--speakers", 5)
    chosen = []
    for seed in (42, 42, 7):
        run(*arguments, "--seed", seed, "--out", tmp_path / "mini.tsv")
        frame = read_utterances(tmp_path / "mini.tsv").frame
        assert (frame["speaker"].n_unique(), len(frame)) == (5, 10)
        chosen.append(set(frame["speaker"]))
    assert chosen[0] == chosen[1] != chosen[2]


PREPARE_SLOWLY = """
import sys, time
from nestvox.corpora.prepare.voxceleb import prepare_voxceleb2

def progress(done, total):
    print(done, flush=True)
    time.sleep(0.02)

prepare_voxceleb2(sys.argv[1], journal=sys.argv[2], workers=2, progress=progress)
"""


def test_a_search_that_was_killed_goes_on(tmp_path: Path) -> None:
    root, out = tmp_path / "VoxCeleb2", tmp_path / "vox2.tsv"
    for number in range(60):
        path = root / "dev/aac" / f"id{12 + number:05}" / VIDEOS[0] / "00001.m4a"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"m4a")
    journal = tmp_path / ".vox2.tsv.scan"  # that of the command
    command = [sys.executable, "-c", PREPARE_SLOWLY, str(root), str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as searching:
        assert searching.stdout is not None
        for line in searching.stdout:
            if int(line) >= 20:
                searching.kill()  # SIGKILL: nothing is tidied up
    kept = {path.name: path.stat().st_mtime_ns for path in journal.glob("*.json")}
    assert 20 <= len(kept) < 60
    again = subprocess.run([*command[:3], str(root), str(journal)], capture_output=True, text=True, check=True)
    assert int(again.stdout.split()[0]) == len(kept)  # it begins where the other was
    assert {name: (journal / name).stat().st_mtime_ns for name in kept} == kept
    run("data", "prepare", "voxceleb2", root, "--out", out)
    undisturbed = tmp_path / "undisturbed.tsv"
    run("data", "prepare", "voxceleb2", root, "--out", undisturbed)
    assert out.read_bytes() == undisturbed.read_bytes()
    assert len(read_utterances(out)) == 60
    assert not journal.exists()
