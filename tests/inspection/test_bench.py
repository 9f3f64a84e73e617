"""Costs: storage by arithmetic, memory held within bounds, and the command as it is typed."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

from nestvox.cli.main import main
from nestvox.encoders.ge2e import GE2E
from nestvox.errors import ModelError, NestvoxError
from nestvox.heads.rotation import Rotation
from nestvox.inspection.bench import bench_model
from nestvox.model.speaker_model import SpeakerModel

SMALL: dict[str, Any] = {"gallery": 300, "queries": 4, "clip_s": 0.2, "batch_size": 2, "seconds": 0.001}


@pytest.fixture(scope="module")
def model() -> SpeakerModel:
    torch.manual_seed(0)
    return SpeakerModel(GE2E(), Rotation(np.eye(256), (16, 64), "pca"), "tiny")


def test_rows_and_storage(model: SpeakerModel) -> None:
    told: list[tuple[int, int | None]] = []
    found = bench_model(model, **SMALL, progress=lambda done, total: told.append((done, total)))
    assert [row.dim for row in found.dims] == [16, 64, 256]
    # A million vectors of d numbers of four or two bytes.
    assert [row.bytes_float32 for row in found.dims] == [64_000_000, 256_000_000, 1_024_000_000]
    assert [row.bytes_float16 for row in found.dims] == [32_000_000, 128_000_000, 512_000_000]
    assert all(row.pairs_per_s > 0 and row.queries_per_s > 0 for row in found.dims)
    cost = found.extraction
    assert cost.calls >= 3
    assert cost.clips_per_s * cost.real_time_factor == pytest.approx(1 / cost.clip_s)
    assert told == [(done, 7) for done in range(8)]
    assert (found.fingerprint, found.gallery, found.top) == (model.fingerprint, 300, 10)


def test_network_runs_for_one_measurement_only(model: SpeakerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = SpeakerModel.forward

    def counted(self: SpeakerModel, waveforms: Any, **options: Any) -> Any:
        calls.append(len(waveforms))
        return forward(self, waveforms, **options)

    monkeypatch.setattr(SpeakerModel, "forward", counted)
    found = bench_model(model, **SMALL)
    assert calls == [2] * (found.extraction.calls + 1)  # and one that is not counted


def test_memory_stays_near_that_of_the_gallery(model: SpeakerModel) -> None:
    vectors, dim = 400_000, 16
    tracemalloc.start()
    try:
        bench_model(model, **SMALL | {"dims": [dim], "gallery": vectors, "queries": 64})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * vectors * dim + 40e6 < 4 * vectors * 64  # less than the matrix of all scores alone


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        ({"gallery": 10**7}, NestvoxError, r"takes 10\.2 GB, more than the 2\.0 GB allowed; take at most 1,953,125"),
        ({"gallery": 0}, NestvoxError, "gallery must be at least 1"),
        ({"top": 0}, NestvoxError, "top must be at least 1"),
        ({"seconds": 0.0}, NestvoxError, "seconds must be above 0"),
        ({"clip_s": 0.05}, NestvoxError, r"the encoder needs 0\.100 s"),
        ({"dims": [16, 300]}, ModelError, "between 1 and 256, got 300"),
    ],
)
def test_numbers_that_make_no_sense(
    model: SpeakerModel, change: dict[str, Any], error: type[NestvoxError], what: str
) -> None:
    with pytest.raises(error, match=what):
        bench_model(model, **SMALL | change)


def run(*arguments: object) -> int:
    try:
        main(["bench", *map(str, arguments)])
    except SystemExit as stopped:
        return int(str(stopped.code or 0))
    return 0


OPTIONS = ["--gallery", 300, "--queries", 4, "--clip-s", 0.2, "--batch-size", 2, "--seconds", 0.001]


def test_command(model: SpeakerModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save(tmp_path / "model")
    assert run(tmp_path / "model", *OPTIONS, "--dims", "16,100", "--json", tmp_path / "b.json") == 0
    text = capsys.readouterr().out
    assert "extraction, the same at every dimension: " in text
    assert "It does not change extraction" in text
    assert "top-10 searches/s among 300" in text
    written = json.loads((tmp_path / "b.json").read_text())
    assert [row["dim"] for row in written["dims"]] == [16, 100]
    assert written["dims"][1]["bytes_float32"] == 400_000_000


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--memory-gb", 0.0001], "take at most 97 vectors"),
        (["--dims", "300"], "between 1 and 256"),
        (["--dims", "few"], "--dims few"),
        (["--weights", "w.safetensors"], "has its own weights"),
    ],
)
def test_wrong_calls_exit_2(
    model: SpeakerModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[object], what: str
) -> None:
    model.save(tmp_path / "model")
    assert run(tmp_path / "model", *OPTIONS, *arguments) == 2
    printed = capsys.readouterr()
    assert what in printed.err
    assert "Traceback" not in printed.out + printed.err
