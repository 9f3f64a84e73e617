"""What the values of a recipe may be, and what all its sections have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from nestvox.errors import NestvoxError
from nestvox.home import expand_home

__all__ = [
    "MOST_DIMS",
    "MOST_EPOCHS",
    "MOST_LISTED",
    "MOST_SAMPLES",
    "MOST_VARIANTS",
    "Crop",
    "Dim",
    "Dims",
    "Epoch",
    "Epochs",
    "Factor",
    "Fraction",
    "Paths",
    "Place",
    "Positive",
    "PositiveFactor",
    "Real",
    "Samples",
    "Section",
    "Text",
    "Where",
    "Whole",
    "kind_or",
]


def _number(value: object) -> object:
    """Refuse true and false, which would pass for 1 and 0; a YAML number without a point (1e-3) is text."""
    if isinstance(value, bool):
        raise ValueError(f"a number is expected, got {str(value).lower()}")
    return value


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number)]

# Beyond these no machine has anything to gain, and a slip of the pen would take it for itself.
MOST_EPOCHS = 100_000
MOST_SAMPLES = 1_000_000
MOST_DIMS = 65_536
MOST_VARIANTS = 1_000
MOST_CROP_S = 600.0
MOST_LISTED = 1_000
_MOST_PATH = 4_096
_MOST_FACTOR = 1e6

Positive = Annotated[Whole, Field(gt=0, le=1_000_000_000)]
Samples = Annotated[Whole, Field(gt=0, le=MOST_SAMPLES)]
Dim = Annotated[Whole, Field(gt=0, le=MOST_DIMS)]
Dims = Annotated[tuple[Dim, ...], Field(max_length=64)]
Epoch = Annotated[Whole, Field(ge=0, le=MOST_EPOCHS)]
Epochs = Annotated[Real, Field(ge=0, le=MOST_EPOCHS)]
Crop = Annotated[Real, Field(gt=0, le=MOST_CROP_S)]
Factor = Annotated[Real, Field(ge=0, le=_MOST_FACTOR)]
PositiveFactor = Annotated[Real, Field(gt=0, le=_MOST_FACTOR)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Text = Annotated[str, Field(max_length=1_000)]
Where = Annotated[dict[Text, Text], Field(max_length=100)]


def _listed(value: object) -> object:
    """One path stands for a list of one."""
    return [value] if isinstance(value, str | Path) else value


def _at_home(path: Path) -> Path:
    if len(str(path)) > _MOST_PATH:
        raise ValueError(f"a path of {len(str(path)):,} characters; there may be {_MOST_PATH:,}")
    try:
        return expand_home(path)
    except NestvoxError as error:  # ~nobody
        raise ValueError(str(error)) from error


# A shell does not expand the ~ in --set data.noise=~/noise.
Place = Annotated[Path, AfterValidator(_at_home)]
Paths = Annotated[tuple[Place, ...], BeforeValidator(_listed), Field(max_length=MOST_LISTED)]


class Section(BaseModel):
    """Part of a recipe: an unknown key is an error, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def refuse_idle(self, reason: str, *keys: str) -> None:
        """Refuse settings that are not their default and that nothing looks at, so that nobody believes they do.

        Args:
            reason: why nothing does.
            keys: names here, with points for those of sections below.

        Raises:
            PydanticCustomError: of the type ``idle``; its context names the first.
        """
        for key in keys:
            *sections, name = key.split(".")
            place: Any = self
            for section in sections:
                place = getattr(place, section)
            if getattr(place, name) != type(place).model_fields[name].get_default(call_default_factory=True):
                raise PydanticCustomError("idle", "{key} means nothing here: {reason}", {"key": key, "reason": reason})


def kind_or(default: str) -> BeforeValidator:
    """Say the kind of a section that leaves it out."""
    return BeforeValidator(lambda value: {"kind": default, **value} if isinstance(value, dict) else value)
