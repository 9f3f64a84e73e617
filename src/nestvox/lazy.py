"""Names of a package that are imported when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as in the package itself: typing takes longer to import than all else here
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def lazily(
    package: str, modules: Mapping[str, str], *, torch: Mapping[str, str] | None = None, purpose: str = ""
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its ``__name__``.
        modules: the public names of each module within the package, parted by spaces.
        torch: the same of the modules that import torch.
        purpose: what torch is needed for, should it not be installed.
    """
    heavy = torch or {}
    home = {name: module for module, names in {**modules, **heavy}.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import importlib  # noqa: PLC0415  see above

        if home[name] in heavy:
            from nestvox.extras import require  # noqa: PLC0415

            require("torch", extra="torch", purpose=purpose)
        return getattr(importlib.import_module(f"{package}.{home[name]}"), name)

    return get, lambda: sorted(sys.modules[package].__all__)
