"""Devices by name."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch
from typer.testing import CliRunner

from nestvox.cli.app import app
from nestvox.device import find_device
from nestvox.errors import ModelError


def test_names() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert find_device(torch.device("meta")).type == "meta"
    with pytest.raises(ModelError, match="no device is called 'gpu'"):
        find_device("gpu")


def test_gpus_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1").index == 1
    with pytest.raises(ModelError, match="cuda:2: torch finds 2 GPU here"):
        find_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ModelError, match=f"{name}: torch finds no GPU here; take auto or cpu"):
            find_device(name)


def test_a_command_says_so_before_it_looks_for_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("NESTVOX_CACHE", str(tmp_path))
    done = CliRunner().invoke(app, ["bench", "redimnet-b2-vox2-ptn", "--device", "cuda", "--offline"])
    assert isinstance(done.exception, ModelError)
    assert "no GPU" in str(done.exception)
