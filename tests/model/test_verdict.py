"""Thresholds hold for their model, dimension and score only, and the right one is chosen for a pair."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nestvox.errors import FingerprintError, ModelError, NestvoxError
from nestvox.model.calibration import ModelCalibration
from nestvox.model.threshold import (
    COSINE,
    DurationClass,
    ScoreSpace,
    Threshold,
    Verification,
    choose_threshold,
    duration_classes,
)

LLR = ScoreSpace("llr", "calibration 0123")
STORED = Threshold(
    64,
    0.25,
    "far 0.01",
    0.01,
    0.2,
    1000,
    2000,
    "ab" * 32,
    "phone.txt",
    ("synthetic",),
    fingerprint="f" * 16,
    domain="phone",
    duration_class=DurationClass(2, 4),
    value_interval=(0.2, 0.3),
    p_fa_interval=(0.005, 0.02),
    p_miss_interval=(0.1, 0.3),
    interval="95 % percentile interval",
)


def test_plain_values_and_back():
    content = json.loads(json.dumps(STORED.to_dict(), allow_nan=False))
    assert Threshold.from_dict(content) == STORED
    bare = Threshold(64, 0.25, "eer", 0.1, 0.1, 10, 20, "ab" * 32, "dev.txt")
    assert set(bare.to_dict()) == {
        *("dim", "value", "operating_point", "p_fa", "p_miss", "n_target", "n_nontarget"),
        *("trials_sha256", "trials_source", "labels"),
    }
    assert Threshold.from_dict(bare.to_dict()) == bare
    on_llr = replace(STORED, space=LLR, duration_class=DurationClass(16, None))
    assert Threshold.from_dict(json.loads(json.dumps(on_llr.to_dict()))) == on_llr


@pytest.mark.parametrize(
    ("elsewhere", "error", "words"),
    [
        ({"fingerprint": "0" * 16}, FingerprintError, "set for the model ffffffffffffffff, the scores are of 0000"),
        ({"dim": 128}, ModelError, "set for 64 dimensions, the scores are of 128 dimensions"),
        ({"dim": None}, ModelError, "scores without a dimension"),
        ({"space": LLR}, ModelError, r"splits a cosine, the scores are a LLR in nats \(calibration 0123\)"),
        ({"space": ScoreSpace("normalised", "as-norm")}, ModelError, "normalised cosine"),
    ],
)
def test_used_elsewhere_it_is_refused(elsewhere, error, words):
    here = {"fingerprint": "f" * 16, "dim": 64, "space": COSINE}
    here["marks"] = ("synthetic",)
    assert STORED.accepts(0.25, **here)
    assert not STORED.accepts(0.2499999, **here)
    with pytest.raises(error, match=words):
        STORED.accepts(0.9, **(here | elsewhere))


def test_one_of_no_known_model_decides_only_about_scores_of_none():
    unknown = replace(STORED, fingerprint="")
    with pytest.raises(FingerprintError, match=r"set for the model \(unknown\), the scores are of ffffffffffffffff"):
        unknown.accepts(0.9, fingerprint="f" * 16, dim=64, marks=("synthetic",))
    assert unknown.accepts(0.9, fingerprint="", dim=64, marks=("synthetic",))
    with pytest.raises(FingerprintError, match="do not belong"):
        ModelCalibration("f" * 16, (unknown,))


def test_it_says_where_it_comes_from_and_how_sure_it_is():
    text = STORED.describe()
    for words in (
        "far 0.01 for phone and recordings of 2 to 4 s",
        "1000 target and 2000 non-target",
        "synthetic",
        "1.00% (0.50 to 2.00) false alarms",
        "20.00% (10.00 to 30.00) misses",
    ):
        assert words in text


def test_classes_have_no_gaps_and_no_overlaps():
    classes = duration_classes((2, 4))
    assert [str(c) for c in classes] == ["0 to 2 s", "2 to 4 s", "4 s and more"]
    for duration_s in (0.0, 0.5, 1.999, 2.0, 3.5, 4.0, 1000.0):
        assert sum(c.contains(duration_s) for c in classes) == 1
    assert classes[1].contains(2.0)
    for wrong in ((), (4, 2), (0, 2), (2, 2)):
        with pytest.raises(NestvoxError):
            duration_classes(wrong)
    with pytest.raises(NestvoxError, match="lower to a higher"):
        DurationClass(4, 2)


def choose(thresholds, **changes):
    asked = {"dim": 64, "operating_point": "far", "domain": None, "duration_s": 3.0, "marks": ["synthetic"]} | changes
    return choose_threshold(thresholds, **asked).threshold


def test_the_class_of_the_shorter_recording_goes_before_any_duration():
    any_duration = replace(STORED, duration_class=None, value=0.5)
    longer = replace(STORED, duration_class=DurationClass(4, 8), value=0.4)
    stored = [any_duration, STORED, longer]
    assert choose(stored) == STORED
    assert choose(stored, duration_s=5.0) == longer
    assert choose(stored, duration_s=30.0) == any_duration
    assert choose([STORED, longer], duration_s=30.0) is None


def test_dimension_point_domain_and_score_must_fit():
    assert choose([STORED], dim=128) is None
    assert choose([STORED], operating_point="eer") is None
    assert choose([STORED], operating_point="far 0.01") == STORED
    assert choose([STORED], domain="phone") == STORED
    assert choose([STORED], domain="studio") is None
    on_llr = replace(STORED, space=LLR)
    assert choose([on_llr]) is None
    assert choose([on_llr], spaces=[COSINE, LLR]) == on_llr
    assert choose([on_llr, STORED], spaces=[COSINE, LLR]) == STORED


def test_several_domains_have_to_be_named():
    studio = replace(STORED, domain="studio")
    with pytest.raises(ModelError, match="for phone, studio: name the domain"):
        choose([STORED, studio])
    assert choose([STORED, studio], domain="studio") == studio
    plain = replace(STORED, domain="")
    with pytest.raises(ModelError, match="for phone, studio: name the domain"):
        choose([STORED, studio, plain])
    assert choose([plain, studio]) == studio, "a domain that was stored goes before none"
    assert choose([plain]) == plain


def test_several_points_of_one_kind_have_to_be_named():
    strict = replace(STORED, operating_point="far 0.001")
    with pytest.raises(ModelError, match=r"at far 0.01, far 0.001: name the operating point in full"):
        choose([STORED, strict])
    assert choose([STORED, strict], operating_point="far 0.001") == strict


REAL = replace(STORED, labels=(), duration_class=None)
POINTS = {
    "eer": replace(REAL, operating_point="eer", value=0.2, p_fa=0.05),
    "far 0.01": REAL,
    "far 0.001": replace(REAL, operating_point="far 0.001", value=0.4, p_fa=0.001),
    "frr 0.01": replace(REAL, operating_point="frr 0.01", value=0.1, p_fa=0.3),
}


def test_without_a_word_the_strictest_decides_and_never_the_equal_error_rate():
    for order in (list(POINTS.values()), list(POINTS.values())[::-1]):
        assert choose(order, operating_point=None) == POINTS["far 0.001"]
        assert choose(order[:2], operating_point=None).value == max(t.value for t in order[:2])
    assert choose(POINTS.values(), operating_point="eer") == POINTS["eer"]
    on_llr = replace(REAL, space=LLR, operating_point="far 0.0001", value=-3.0, p_fa=0.0001)
    mixed = [*POINTS.values(), on_llr]
    assert choose(mixed, operating_point=None, spaces=[COSINE, LLR]) == on_llr, "it lets in the fewest"
    short = replace(POINTS["eer"], duration_class=DurationClass(2, 4), value=0.45)
    assert choose([*POINTS.values(), short], operating_point=None) == short


def test_the_point_that_the_owner_named_goes_first_and_has_no_stand_in():
    named = replace(POINTS["far 0.01"], default=True)
    stored = [POINTS["eer"], named, POINTS["far 0.001"]]
    assert choose(stored, operating_point=None) == named
    assert choose(stored, operating_point="far 0.001") == POINTS["far 0.001"], "who asks gets what he asks for"
    studio = replace(POINTS["far 0.001"], domain="studio")
    assert choose([*stored, studio], operating_point=None) == named, "and the domain that it is of"
    assert choose([*stored, studio], operating_point=None, domain="studio") == studio
    # At another dimension only laxer ones are there: no verdict, rather than one that nobody named.
    elsewhere = replace(POINTS["eer"], dim=128)
    found = choose_threshold([*stored, elsewhere], dim=128, duration_s=3.0)
    assert found.threshold is None
    assert "none for 128 dimensions at the operating point that was named for it, far 0.01 for 'phone'" in found.reason


AS_MADE = [
    replace(POINTS["eer"], domain="", default=True, fitted=True),
    replace(POINTS["far 0.001"], operating_point="min_dcf p_target=0.05", domain="", value=0.6, fitted=True),
]


def test_what_the_fit_named_stands_in_until_the_owner_sets_a_threshold():
    assert choose(AS_MADE, operating_point=None) == AS_MADE[0]
    assert choose(AS_MADE, operating_point="min_dcf") == AS_MADE[1]
    strict = replace(POINTS["far 0.001"], domain="", value=0.7)
    for own in (strict, replace(strict, domain="phone")):
        assert choose([*AS_MADE, own], operating_point=None) == own
    # The owner's is for another dimension: the laxest of the fit does not come back.
    assert choose([*AS_MADE, replace(strict, dim=128)], operating_point=None) == AS_MADE[1]
    named = replace(POINTS["far 0.01"], domain="", default=True)
    assert choose([*AS_MADE, named], operating_point=None) == named


def test_what_the_fit_named_is_not_handed_on_to_what_the_owner_sets():
    own = replace(AS_MADE[0], default=False, fitted=False, value=0.25)  # the same place: takes its place
    stored = ModelCalibration("f" * 16, tuple(AS_MADE)).with_thresholds([own])
    assert not any(threshold.default for threshold in stored.thresholds)
    again = ModelCalibration.from_dict(ModelCalibration("f" * 16, tuple(AS_MADE)).to_dict())
    assert list(again.thresholds) == AS_MADE


@pytest.mark.parametrize("label", ["synthetic", "augmented", "leaky", "selected", "anything"])
@pytest.mark.parametrize("asked", [None, "far", "far 0.01"])
def test_a_threshold_from_other_speech_decides_about_no_real_recording(label, asked):
    stored = replace(REAL, labels=(label,), default=True)
    found = choose_threshold([stored], dim=64, operating_point=asked, duration_s=3.0)
    assert found.threshold is None
    assert (
        f"NONE FOR REAL RECORDINGS: what the model holds for 64 dimensions was set on {label.upper()}" in found.reason
    )
    assert choose_threshold([stored], dim=64, operating_point=asked, duration_s=3.0, marks=(label,)).threshold == stored
    with pytest.raises(ModelError, match=f"set on {label.upper()} speech and decides about no other"):
        stored.accepts(0.9, fingerprint="f" * 16, dim=64)
    other = replace(stored, labels=("leaky", "synthetic"))
    assert choose_threshold([other], dim=64, duration_s=3.0, marks=("synthetic",)).threshold is None


def test_real_thresholds_decide_beside_synthetic_ones():
    synthetic = replace(POINTS["far 0.001"], labels=("synthetic",), domain="")
    assert choose([synthetic, POINTS["eer"]], operating_point=None, marks=()) == POINTS["eer"]


def test_an_answer_prints_as_a_sentence() -> None:
    none = Verification(0.25, 64, None, None, ("first recording: It is short.",), "m", "f", reason="no threshold")
    assert str(none) == "no verdict (no threshold): cosine +0.2500 at 64 dimensions\nfirst recording: It is short."


@pytest.mark.parametrize("value", [1.001, -1.5, 1e12, -1e308])
def test_a_cosine_is_never_beyond_one(value: float) -> None:
    with pytest.raises(NestvoxError, match="lies in -1 to 1"):
        replace(REAL, value=value)
    assert replace(REAL, value=value, space=LLR).value == value


def test_an_interval_runs_from_low_to_high() -> None:
    with pytest.raises(NestvoxError, match="from low to high"):
        replace(REAL, value_interval=(0.5, 0.25))
