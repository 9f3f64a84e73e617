"""The log: lines of JSON, event files that another implementation reads, nothing told twice."""

from __future__ import annotations

import json
import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from nestvox.errors import MissingExtraError
from nestvox.training.run_log import RunLog, crc32c


def test_crc_of_the_standard() -> None:
    # RFC 3720, B.4: 32 bytes of zeros, of ones, and rising.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


def events_of(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Read with the protocol buffers of tensorboardX, checking frame and checksums by the format's description."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed")
    (file,) = folder.glob("events/*tfevents*")
    data, place, found = file.read_bytes(), 0, []

    def checked(content: bytes, masked: bytes) -> None:
        crc = (struct.unpack("<I", masked)[0] - 0xA282EAD8) % 2**32
        assert ((crc >> 17) | (crc << 15)) % 2**32 == crc32c(content)

    while place < len(data):
        length = data[place : place + 8]
        checked(length, data[place + 8 : place + 12])
        (size,) = struct.unpack("<Q", length)
        content = data[place + 12 : place + 12 + size]
        checked(content, data[place + 12 + size : place + 16 + size])
        event = event_pb2.Event.FromString(content)
        found.append((event.step, {value.tag: value.simple_value for value in event.summary.value}))
        if not place:
            assert event.file_version == "brain.Event:2"
        place += 16 + size
    return found[1:]


def test_every_number_is_in_both_places(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.write(3, {"loss": 1.5, "loss_of": {"16": 2.0}, "epoch": 0.25})
        log.write(300, {"dev_eer": {"16": 0.125}, "note": "text stays in the lines"})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 300]
    assert lines[1]["note"] == "text stays in the lines"
    events = events_of(tmp_path)
    assert [step for step, _ in events] == [3, 300]
    assert events[0][1] == {"loss": 1.5, "loss_of/16": 2.0, "epoch": 0.25}
    assert events[1][1] == {"dev_eer/16": 0.125}


def test_steps_after_the_checkpoint_are_told_once(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.write(1, {"loss": 4.0})
        kept = log.n_bytes
        log.write(2, {"loss": 3.0})
    with RunLog(tmp_path, kept) as log:
        log.write(2, {"loss": 2.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 4.0), (2, 2.0)]
    assert [(step, values["loss"]) for step, values in events_of(tmp_path)] == [(1, 4.0), (2, 2.0)]


def test_weights_and_biases_only_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            told.append((step, values))

        def finish(self) -> None:
            told.append("finished")

    fake = types.ModuleType("wandb")
    fake.init = lambda **settings: told.append(settings) or Run()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with RunLog(tmp_path) as log:
        log.write(1, {"loss": 1.0})
    assert not told
    with RunLog(tmp_path, wandb="voices", run_id="abc", settings={"seed": 0}) as log:
        log.write(1, {"loss": 1.0})
    assert told[0] == {"project": "voices", "id": "abc", "resume": "allow", "config": {"seed": 0}}
    assert told[1:] == [(1, {"loss": 1.0}), "finished"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"\[wandb\]"):
        RunLog(tmp_path, wandb="voices")
