"""Errors of a diarization, against sums made by hand; the library beneath is asked for its parts only."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestvox.cli.main import main
from nestvox.diarization import Turn, score_diarization, write_turns, write_uem
from nestvox.errors import NestvoxError, TableError

pytest.importorskip("pyannote.metrics", reason="the extra [diarization] is not installed")

# ann 0-10 and bob 5-12: 17 s of speech, 5 of them overlap.
REFERENCE = [Turn("a", 0.0, 10.0, "ann"), Turn("a", 5.0, 7.0, "bob")]


def test_parts_by_hand() -> None:
    # x is ann for 7 s and y is bob for 5 s; 3 s of ann and 2 s of bob are missed, 1 s is nobody's.
    found = score_diarization(REFERENCE, [Turn("a", 0.0, 7.0, "x"), Turn("a", 7.0, 6.0, "y")], uem={"a": [(0.0, 20.0)]})
    (file,) = found.files
    assert (file.speech_s, file.missed_s, file.false_alarm_s, file.confusion_s) == pytest.approx((17, 5, 1, 0))
    assert file.jaccard == pytest.approx(3 / 10 + 3 / 8)  # ann: 7 of 10; bob: 5-12 against 7-13, 5 of 8
    rates = found.rates
    assert rates.der.value == pytest.approx(6 / 17)
    assert rates.jer.value == pytest.approx((3 / 10 + 3 / 8) / 2)
    assert rates.der.low is None, "one file has no interval"
    assert rates.speaker_count.value == 0


def test_confusion_under_the_best_mapping() -> None:
    found = score_diarization(REFERENCE[:1], [Turn("a", 0.0, 6.0, "x"), Turn("a", 6.0, 4.0, "y")]).files[0]
    assert (found.missed_s, found.false_alarm_s, found.confusion_s) == pytest.approx((0, 0, 4))
    assert (found.n_speakers, found.n_found) == (1, 2)


def test_collar_is_on_each_side_and_overlap_can_be_left_out() -> None:
    hypothesis = [Turn("a", 0.0, 10.2, "x"), Turn("a", 5.0, 7.0, "y")]
    assert score_diarization(REFERENCE, hypothesis).files[0].false_alarm_s == pytest.approx(0.2)
    forgiven = score_diarization(REFERENCE, hypothesis, collar_s=0.25)
    # Left out: 0-0.25, 4.75-5.25, 9.75-10.25 (twice), 11.75-12.
    assert forgiven.files[0].speech_s == pytest.approx(17 - 0.25 - 0.75 - 0.75 - 0.25)
    assert forgiven.rates.der.value == 0
    alone = score_diarization(REFERENCE, hypothesis, skip_overlap=True)
    assert alone.files[0].speech_s == pytest.approx(7)
    assert "md-eval.pl -c 0.25 -u" in forgiven.rates.der.to_dict()["md_eval"]
    assert "collar=0.5, skip_overlap=False" in forgiven.rates.der.to_dict()["pyannote"]
    assert "md-eval.pl -1 -u" in alone.rates.jer.to_dict()["md_eval"]


def test_one_speaker_twice_at_once_counts_once() -> None:
    doubled = [*REFERENCE[:1], Turn("a", 2.0, 3.0, "ann")]
    assert score_diarization(doubled, REFERENCE[:1]).files[0].speech_s == pytest.approx(10)


def test_files_that_one_side_lacks_are_said() -> None:
    reference = [*REFERENCE, Turn("b", 0.0, 3.0, "ann")]
    found = score_diarization(reference, [Turn("a", 0.0, 10.0, "x"), Turn("z", 0.0, 1.0, "x")])
    assert [file.file for file in found.files] == ["a", "b"]
    assert found.rates.missed.value == pytest.approx((7 + 3) / 20)
    assert any("not in the reference and not scored: z" in note for note in found.notes)
    assert any("all their speech is missed: b" in note for note in found.notes)


def test_what_is_outside_of_the_uem_is_said_and_not_scored() -> None:
    found = score_diarization(REFERENCE, [Turn("a", 0.0, 30.0, "x")], uem={"a": [(0.0, 5.0)], "silent": [(0.0, 9.0)]})
    assert found.files[0].speech_s == pytest.approx(5)
    assert found.rates.der.value == 0
    assert found.files[1].speech_s == 0
    assert any("12.000 s of the reference lie outside" in note for note in found.notes)
    assert any("25.000 s of the hypothesis lie outside" in note for note in found.notes)
    assert score_diarization(
        REFERENCE, [Turn("silent", 1.0, 2.0, "x")], uem={"a": [(0.0, 12.0)], "silent": [(0.0, 9.0)]}
    ).rates.false_alarm.value == pytest.approx(2 / 17)


def test_the_interval_is_over_files_and_repeatable() -> None:
    reference = [Turn(f"f{k}", 0.0, 10.0, "ann") for k in range(8)]
    hypothesis = [Turn(f"f{k}", 0.0, 10.0 if k % 2 else 5.0, "x") for k in range(8)]
    first = score_diarization(reference, hypothesis, n_bootstrap=400).rates.der
    assert first == score_diarization(reference, hypothesis, n_bootstrap=400).rates.der
    assert first.value == pytest.approx(0.25)
    # Each draw is half a binomial share of eight: quantiles 0.025 and 0.975 of B(8, 1/2)/16 are 1/16 and 7/16.
    assert (first.low, first.high) == pytest.approx((1 / 16, 7 / 16))
    assert first.trials.n_clusters == 8
    with pytest.raises(NestvoxError, match="replicates"):
        score_diarization(reference, hypothesis, n_bootstrap=10)


def test_the_reference_is_known_by_its_hash(tmp_path: Path) -> None:
    write_turns(tmp_path / "ref.rttm", REFERENCE)
    write_turns(tmp_path / "ref.json", REFERENCE)
    one, other = (score_diarization(tmp_path / name, REFERENCE).rates.der for name in ("ref.rttm", "ref.json"))
    assert one.trials.trials_sha256 == other.trials.trials_sha256
    assert score_diarization(REFERENCE[:1], REFERENCE).rates.der.trials.trials_sha256 != one.trials.trials_sha256
    assert one.to_dict()["reference"].endswith("ref.rttm")


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(TableError, match="nothing to score"):
        score_diarization([], REFERENCE)
    with pytest.raises(TableError, match="nobody speaks"):
        score_diarization(REFERENCE, REFERENCE, uem={"a": [(20.0, 30.0)]})
    with pytest.raises(NestvoxError, match="collar"):
        score_diarization(REFERENCE, REFERENCE, collar_s=-1.0)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_turns(tmp_path / "ref.rttm", REFERENCE)
    write_turns(tmp_path / "hyp.rttm", [Turn("a", 0.0, 10.0, "x")])
    write_uem(tmp_path / "all.uem", {"a": [(0.0, 12.0)]})
    call = ["diarize-score", str(tmp_path / "ref.rttm"), str(tmp_path / "hyp.rttm"), "--uem", str(tmp_path / "all.uem")]
    with pytest.raises(SystemExit) as end:
        main(call)
    shown = capsys.readouterr().out
    assert not end.value.code
    assert "41.18" in shown  # 7 of 17 s
    assert "collar 0 s on each side, overlap scored" in shown
    (tmp_path / "hyp.rttm").write_text("SPEAKER a 1 0 1 <NA> <NA>\n")
    with pytest.raises(SystemExit) as end:
        main(call)
    assert end.value.code == 2
    assert "hyp.rttm:1: a line of RTTM has 10 fields" in capsys.readouterr().err
