"""Strict models of nestvox's own formats: what a file may say is written down once, and everything else is refused."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nestvox.gate import ErrorMaker

__all__ = ["Count", "Fraction", "OpenModel", "Size", "StrictModel", "Word", "validated"]

_MOST = 2**53  # beyond it a float, which other programs write counts as, no longer tells neighbours apart
_MOST_PROBLEMS = 3

Count = Annotated[int, Field(ge=0, le=_MOST)]
"""How many there are of something."""
Size = Annotated[int, Field(ge=1, le=1 << 20)]
"""Numbers of a vector, channels of a layer."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""A rate or a probability."""
Word = Annotated[str, Field(max_length=1 << 16)]
"""Text that stands in messages and tables."""

Model = TypeVar("Model", bound=BaseModel)


class StrictModel(BaseModel):
    """An object of a file: no key that is not listed, no text or truth value for a number, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class OpenModel(BaseModel):
    """As `StrictModel`, for objects that others write too: keys that are not listed are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


def validated(model: type[Model], content: Any, source: str, error: ErrorMaker, *, what: str = "malformed") -> Model:
    """Check what a file says.

    Args:
        model: that it must be.
        content: as `gate.parse_json` or `gate.parse_yaml` gives it.
        source: name of the file.
        error: makes the error.
        what: beginning of the message.

    Raises:
        NestvoxError: of `error`; it names the fields and what is wrong with them.
    """
    try:
        return model.model_validate(content)
    except ValidationError as why:
        found = why.errors(include_url=False, include_context=False)
        told = "; ".join(_told(problem) for problem in found[:_MOST_PROBLEMS])
        more = f"; and {len(found) - _MOST_PROBLEMS:,} more" if len(found) > _MOST_PROBLEMS else ""
        raise error(f"{what}: {told}{more}", source) from why


def _told(problem: Any) -> str:
    place = ".".join(str(part)[:60] for part in problem["loc"])
    given = repr(problem["input"])
    shown = "" if problem["type"] in ("missing", "extra_forbidden") else f", got {given[:60]}"
    words = problem["msg"].removeprefix("Value error, ")
    words = words[:1].lower() + words[1:]
    return f"{place}: {words}{shown}" if place else f"{words}{shown}"
