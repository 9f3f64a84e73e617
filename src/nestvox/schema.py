"""Strict models of nestvox's own formats: what a file may say is written down once, and everything else is refused."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Hashable
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nestvox.gate import ErrorMaker

_MOST = 2**53  # beyond it a float, which other programs write counts as, no longer tells neighbours apart
_MOST_PROBLEMS = 3
_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

Count = Annotated[int, Field(ge=0, le=_MOST)]
"""How many there are of something."""
Size = Annotated[int, Field(ge=1, le=1 << 20)]
"""Numbers of a vector, channels of a layer."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""A rate or a probability."""
Word = Annotated[str, Field(max_length=1 << 16)]
"""Text that stands in messages and tables."""

Model = TypeVar("Model", bound=BaseModel)
Data = TypeVar("Data")


class StrictModel(BaseModel):
    """An object of a file: no key that is not listed, no text or truth value for a number, no NaN."""

    model_config = _STRICT


class OpenModel(BaseModel):
    """As `StrictModel`, for objects that others write too: keys that are not listed are passed over."""

    model_config = ConfigDict(**{**_STRICT, "extra": "ignore"})


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
        raise error(f"{what}: {_all_told(why)}", source) from why


def validated_dataclass(
    kind: type[Data], content: Any, source: str, error: ErrorMaker, *, what: str = "malformed"
) -> Data:
    """Build a dataclass, and those in it, from an object of a file, as strictly as `StrictModel`.

    Args:
        kind: a dataclass whose annotations say what a file may hold; what is left out has its default.
        content: as `gate.parse_json` or `gate.parse_yaml` gives it; lists become tuples where the fields are.
        source: name of the file.
        error: makes the error.
        what: beginning of the message.

    Raises:
        NestvoxError: of `error`, or what the classes themselves raise.
    """
    try:
        # By way of JSON, in which a list may be a tuple and an object a dataclass without loosening the rest.
        built: Data = _adapter(cast("Hashable", kind)).validate_json(json.dumps([content]))[0]
    except ValidationError as why:
        raise error(f"{what}: {_all_told(why, inside=1)}", source) from why
    except (TypeError, ValueError, RecursionError) as why:
        raise error(f"{what}: {why}", source) from why
    return built


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    # A dataclass takes its strictness from what it stands in.
    return TypeAdapter(tuple[kind], config=_STRICT)


def _all_told(why: ValidationError, *, inside: int = 0) -> str:
    found = why.errors(include_url=False, include_context=False)
    told = "; ".join(_told(problem, inside) for problem in found[:_MOST_PROBLEMS])
    return f"{told}; and {len(found) - _MOST_PROBLEMS:,} more" if len(found) > _MOST_PROBLEMS else told


def _told(problem: Any, inside: int) -> str:
    place = ".".join(str(part)[:60] for part in problem["loc"][inside:])
    if problem["type"] == "missing":
        return f"lacks {place!r}"
    given = reprlib.repr(problem["input"])
    shown = "" if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument") else f", got {given[:60]}"
    words = problem["msg"].removeprefix("Value error, ")
    words = words[:1].lower() + words[1:]
    return f"{place}: {words}{shown}" if place else f"{words}{shown}"
