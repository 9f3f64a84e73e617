"""Augmentation as commands take it: `--augment NAME=VALUE`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestvox.audio.augment import Augmentation, Banks


def settings_for(banks: Banks, given: list[str]) -> Augmentation:
    """Return the defaults for the banks, changed as `name=value` says; values are JSON."""
    from nestvox.audio.augment import Augmentation
    from nestvox.audio.errors import AugmentationError
    from nestvox.gate import naming, parse_json

    changes: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        try:
            changes[name.strip()] = parse_json(value, name.strip(), naming(AugmentationError))
        except AugmentationError as error:
            raise AugmentationError(
                f"--augment {text}: "
                + ('the value is not JSON, as 0.5, [5,20] or ["opus"] are' if sign else "give NAME=VALUE")
            ) from error
    return Augmentation.from_config({**Augmentation.for_banks(banks).config(), **changes})


def summary(settings: Mapping[str, Any]) -> str:
    """Return what the settings (`Augmentation.config`) do, and how often, in words."""
    used = [name for name in ("speed", "reverb", "noise", "gain", "clip", "channel") if settings[f"p_{name}"]]
    return ", ".join(f"{name} {settings[f'p_{name}']:.0%}" for name in used) or "nothing"
