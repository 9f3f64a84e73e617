"""Which device a network runs on, by the name that a person gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.errors import ModelError

if TYPE_CHECKING:
    import torch


def find_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called `name`, once it is sure that it is there; torch must be installed.

    Args:
        name: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``, or another one of torch.

    Raises:
        ModelError: no such device, or not on this machine.
    """
    import torch  # noqa: PLC0415  only who runs a network needs it

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"no device is called {name!r}; there is auto, cpu, cuda and cuda:1, cuda:2, ...") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count() or "no"
        raise ModelError(f"device {name!s}: torch finds {there} GPU here; take auto or cpu")
    return device
