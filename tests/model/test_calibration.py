"""calibration.json: what it holds, what it refuses, and where it goes."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nestvox.corpora.overlap import speaker_key
from nestvox.errors import FingerprintError, ModelError, OverlapError, ScoresError, TrialsError
from nestvox.metrics.calibration import Calibration
from nestvox.model import calibration as model_calibration
from nestvox.model.calibration import (
    LlrCalibration,
    ModelCalibration,
    add_to_file,
    quality_columns,
    quality_names,
    read_calibration,
    store_in_model,
    write_calibration,
)
from nestvox.model.card import render_card
from nestvox.model.threshold import COSINE, DurationClass, ScoreSpace, Threshold

PRINT = "f" * 16


def affine(scale: float = 10.0, offset: float = -5.0, quality: tuple[tuple[str, float], ...] = ()) -> Calibration:
    return Calibration(scale, offset, quality, 0.5, 1e-4, 100_000, 200_000, "ab" * 32)


def llr(**changes: object) -> LlrCalibration:
    made = {
        "maps": {16: affine(), 64: affine(20.0)},
        "fingerprint": PRINT,
        "measures": (),
        "space": COSINE,
        "trials_sha256": "ab" * 32,
        "trials_source": "dev.txt",
        "speakers": (speaker_key("anna"), speaker_key("ben")),
    }
    return LlrCalibration(**(made | changes))


def threshold(**changes: object) -> Threshold:
    stored = Threshold(64, 0.25, "eer", 0.1, 0.1, 10, 20, "ab" * 32, "dev.txt", fingerprint=PRINT)
    return replace(stored, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What store_in_model needs of a model folder; it reads no weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_calibration(ModelCalibration(PRINT, (threshold(),)), folder / "calibration.json")
    card = {"name": "m", "fingerprint": PRINT, "encoder": "ge2e", "sample_rate": 16_000, "head": None, "dims": (16, 64)}
    (folder / "README.md").write_text(render_card(**card, thresholds=(threshold(),), card={}))
    return folder


def test_written_and_read_back(tmp_path: Path) -> None:
    whole = ModelCalibration(
        PRINT,
        (threshold(), threshold(duration_class=DurationClass(2, 4), domain="phone", p_fa_interval=(0.05, 0.2))),
        llr(
            maps={16: affine(quality=(("log duration, mean", -1.5), ("log duration, difference", 0.25)))},
            measures=("duration",),
            labels=("synthetic",),
        ),
    )
    write_calibration(whole, tmp_path / "c.json")
    assert read_calibration(tmp_path / "c.json") == whole
    assert whole.llr is not None
    assert read_calibration(tmp_path / "c.json").llr.key == whole.llr.key
    none = ModelCalibration("", (), llr(fingerprint="", maps={None: affine()}, space=ScoreSpace("given")))
    write_calibration(none, tmp_path / "n.json")
    assert read_calibration(tmp_path / "n.json") == none


def test_files_from_before_there_were_calibrations(tmp_path: Path) -> None:
    old = {
        "dim": 16,
        "value": 0.5,
        "operating_point": "eer",
        "p_fa": 0.1,
        "p_miss": 0.1,
        "n_target": 10,
        "n_nontarget": 20,
        "trials_sha256": "ab" * 32,
        "trials_source": "dev.txt",
        "labels": [],
    }
    (tmp_path / "calibration.json").write_text(json.dumps({"fingerprint": PRINT, "thresholds": [old]}))
    found = read_calibration(tmp_path)
    assert (found.llr, found.thresholds[0].value, found.thresholds[0].space) == (None, 0.5, COSINE)
    assert found.thresholds[0].fingerprint == PRINT


def test_maps_to_nats() -> None:
    np.testing.assert_allclose(llr().llr(64, [0.5, 0.25], {}), [5.0, 0.0])
    with pytest.raises(ModelError, match="no map for dimension 32; it was fitted for 16, 64"):
        llr().llr(32, [0.5], {})


def test_quality_enters_by_mean_and_difference_of_both_sides() -> None:
    made = llr(
        maps={16: affine(quality=(("log duration, mean", 2.0), ("log duration, difference", 3.0)))},
        measures=("duration",),
    )
    found = made.llr(16, [0.5], {"duration": ([2.0], [8.0])})
    assert found[0] == pytest.approx(10 * 0.5 - 5 + 2 * np.log(4) + 3 * np.log(4))
    np.testing.assert_allclose(found, made.llr(16, [0.5], {"duration": ([8.0], [2.0])}))
    assert quality_names(("duration", "age")) == (
        *("log duration, mean", "log duration, difference", "age, mean", "age, difference"),
    )
    np.testing.assert_allclose(quality_columns(("age",), {"age": ([20, 30], [40, 30])}), [[30, 20], [30, 0]])
    with pytest.raises(ScoresError, match="needs the quality measure 'duration'"):
        made.llr(16, [0.5], {})
    with pytest.raises(ScoresError, match="above 0"):
        made.llr(16, [0.5], {"duration": ([0.0], [2.0])})


def test_its_own_trials_and_speakers_are_refused() -> None:
    made = llr()
    with pytest.raises(TrialsError, match="these very trials"):
        made.refuse_seen("ab" * 32, [], allow=True)
    with pytest.raises(OverlapError, match="1 of the evaluated speakers served to fit the calibration: ben;"):
        made.refuse_seen("cd" * 32, ["ben", "carla"])
    assert made.refuse_seen("cd" * 32, ["ben"], allow=True) == ("leaky",)
    assert made.refuse_seen("cd" * 32, ["carla"]) == ()


def test_the_key_follows_everything_that_changes_a_score() -> None:
    keys = {
        made.key
        for made in (
            llr(),
            llr(maps={16: affine(), 64: affine(20.0, -5.5)}),
            llr(maps={16: affine()}),
            llr(space=ScoreSpace("normalised", "as-norm")),
        )
    }
    assert len(keys) == 4
    assert llr(trials_source="other name.txt").key == llr().key


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["llr"]["maps"]["16"].update(scale=11.0), "changed after it was written"),
        (lambda c: c["llr"].pop("speakers"), "malformed.*speakers"),
        (lambda c: c["llr"]["maps"].clear(), "changed after it was written"),
        (lambda c: c["llr"].update(fingerprint="0" * 16), "do not belong"),
        (lambda c: c["thresholds"][0].update(surprise=1), "malformed.*surprise"),
        (lambda c: c["thresholds"][0].update(duration_class={"low_s": 4, "high_s": 2}), "malformed.*lower to a higher"),
        (lambda c: c["thresholds"][0].update(value_interval=[1]), "malformed"),
        (lambda c: c.update(format="nestvox-calibration-2"), "expected 'nestvox-calibration-1'"),
        (lambda c: c.pop("fingerprint"), "malformed"),
    ],
)
def test_tampered_files(tmp_path: Path, change, words: str) -> None:
    path = tmp_path / "c.json"
    write_calibration(ModelCalibration(PRINT, (threshold(),), llr()), path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=words) as caught:
        read_calibration(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [("[]", "not a JSON object"), ("{", "not JSON"), ("", "not JSON")])
def test_files_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        read_calibration(tmp_path / "c.json")
    with pytest.raises(ModelError, match="not there"):
        read_calibration(tmp_path / "none.json")


def test_a_new_threshold_takes_the_place_of_the_old_one() -> None:
    found = ModelCalibration(PRINT, (threshold(), threshold(domain="phone")))
    again = found.with_thresholds([threshold(value=0.5), threshold(duration_class=DurationClass(2, 4))])
    assert [(t.value, t.domain, str(t.duration_class or "")) for t in again.thresholds] == [
        (0.25, "phone", ""),
        (0.5, "", ""),
        (0.25, "", "2 to 4 s"),
    ]


def test_thresholds_on_ratios_go_with_their_maps() -> None:
    first = llr()
    found = ModelCalibration(PRINT, (threshold(), threshold(space=first.llr_space)), first)
    assert len(found.with_llr(first).thresholds) == 2
    assert [t.space for t in found.with_llr(llr(maps={16: affine(3.0)})).thresholds] == [COSINE]


def test_stored_in_a_model_folder_and_on_its_card(folder: Path) -> None:
    before = (folder / "README.md").read_text()
    assert "cosine 0.2500, set at eer" in before
    store_in_model(folder, thresholds=[threshold(value=0.75), threshold(dim=16, domain="phone")], llr=llr())
    found = read_calibration(folder)
    assert [t.value for t in found.thresholds] == [0.75, 0.25]
    assert found.llr == llr()
    card = (folder / "README.md").read_text()
    assert "64 dimensions: cosine 0.7500, set at eer on dev.txt" in card
    assert "16 dimensions: cosine 0.2500, set at eer for phone" in card
    assert "cosine 0.2500, set at eer on" not in card
    assert card.split("## Training")[1] == before.split("## Training")[1]


def test_what_does_not_belong_to_the_model_is_not_stored(folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FingerprintError, match="do not belong"):
        store_in_model(folder, thresholds=[threshold(fingerprint="0" * 16)])
    with pytest.raises(FingerprintError, match="do not belong"):
        store_in_model(folder, llr=llr(fingerprint="0" * 16))
    with pytest.raises(FingerprintError, match="do not say which model"):
        store_in_model(folder, llr=llr(fingerprint=""))
    with pytest.raises(ModelError, match="not a model folder"):
        store_in_model(tmp_path, llr=llr())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_card_of_another_form_stays_as_it_is(folder: Path) -> None:
    (folder / "README.md").write_text("# Mine\n\nNothing that nestvox wrote.\n")
    store_in_model(folder, thresholds=[threshold(value=0.75)])
    assert (folder / "README.md").read_text() == "# Mine\n\nNothing that nestvox wrote.\n"


def test_another_models_file_is_refused() -> None:
    ModelCalibration(PRINT).refuse_another(PRINT)
    with pytest.raises(FingerprintError, match="calibrate this model"):
        ModelCalibration(PRINT).refuse_another("0" * 16)
    with pytest.raises(FingerprintError, match=r"\(unknown\)"):
        ModelCalibration("").refuse_another(PRINT)


def test_two_that_store_at_once_lose_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = model_calibration.read_calibration

    def slow(path: Path) -> ModelCalibration:
        found = read(path)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(model_calibration, "read_calibration", slow)
    values = [(store_in_model, folder, {}), (add_to_file, folder.parent / "own", {"fingerprint": PRINT})]
    for store, place, more in values:
        threads = [
            threading.Thread(target=store, args=(place,), kwargs={"thresholds": [threshold(domain=domain)], **more})
            for domain in ("phone", "studio", "car")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {"phone", "studio", "car"} <= {kept.domain for kept in read(place).thresholds}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model", "own"]
