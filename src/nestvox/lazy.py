"""Names of a package that are imported when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as in the package itself: typing takes longer to import than all else here
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def lazily(
    package: str, home: Mapping[str, str], need: Callable[[str], None] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its ``__name__``.
        home: the module within the package that each public name stands in.
        need: called with a name before it is imported; it may raise what says which extra is missing.
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import importlib  # noqa: PLC0415  see above

        if need is not None:
            need(name)
        return getattr(importlib.import_module(f"{package}.{home[name]}"), name)

    return get, lambda: sorted(sys.modules[package].__all__)
