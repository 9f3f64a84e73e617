"""Optional dependencies, asked for by the extra that installs them."""

from __future__ import annotations

import importlib
from types import ModuleType

from nestvox.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import `module`, or raise `MissingExtraError` that names the extra and what it is for.

    Args:
        module: dotted name of the module, e.g. ``torch``.
        extra: the extra of this package that installs it, e.g. ``torch``.
        purpose: subject of the error sentence, e.g. ``running an encoder``.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that is there but lacks a dependency of its own is another fault: let it show.
        if error.name is not None and error.name.split(".")[0] == module.split(".", maxsplit=1)[0]:
            raise MissingExtraError(extra, purpose) from error
        raise
