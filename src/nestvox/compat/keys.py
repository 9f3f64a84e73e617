"""The keys of another project's configuration, and what becomes of each: honoured, said to need nothing, or refused.

A project has a table of `Key` by name; the words of each entry are those of its guide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nestvox.errors import RecipeError

_MOST_SHOWN = 80  # characters of a value


@dataclass
class Draft:
    """What the keys have said so far."""

    source: str
    recipe: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)

    def put(self, key: str, value: Any) -> None:
        """Set `section.name` of the recipe."""
        section, _, name = key.rpartition(".")
        place = self.recipe.setdefault(section, {}) if section else self.recipe
        place[name] = value

    def refuse(self, key: str, value: Any, reason: str) -> RecipeError:
        """Return the error that says why a value cannot be honoured."""
        return RecipeError(f"{self.source}: {key}: {brief(value)} cannot be honoured: {reason}")


Rule = Callable[[Draft, Any], None]


@dataclass(frozen=True)
class Key:
    """What one key of the configuration becomes, and in which words the migration table says it."""

    becomes: str
    rule: Rule


def to(key: str, change: Callable[[Any], Any] = lambda value: value) -> Key:
    """The same in a recipe, under this name there."""
    return Key(f"`{key}`", lambda draft, value: draft.put(key, change(value)))


def chosen(key: str, names: Mapping[str, str]) -> Key:
    """One of several words, each of which a recipe has another for."""

    def rule(draft: Draft, value: Any) -> None:
        if value not in names:
            raise draft.refuse(key, value, f"there is {', '.join(names)}")
        draft.put(key, names[value])

    return Key(f"`{key}`: {', '.join(f'{a} is {b}' for a, b in names.items())}", rule)


def kept(name: str, becomes: str) -> Key:
    """Remembered, for what is decided by several keys at the end."""
    return Key(becomes, lambda draft, value: draft.said.update({name: value}))


def needless(reason: str, *, unless: Sequence[Any] = ()) -> Key:
    """Needs nothing; said only where the value asks for something."""

    def rule(draft: Draft, value: Any) -> None:
        if value not in (None, False, *unless):
            draft.notes.append(f"{{key}} = {value!r}: {reason}")

    return Key(f"nothing to do: {reason}", rule)


def refused_unless(fine: Sequence[Any], reason: str) -> Key:
    """Honoured where it is one of a few values."""

    def rule(draft: Draft, value: Any) -> None:
        if value not in fine:
            raise draft.refuse("{key}", value, reason)

    return Key(f"refused unless {' or '.join(str(value) for value in fine)}: {reason}", rule)


def apply(key: Key, draft: Draft, name: str, value: Any, check: Callable[[str, Any], Any]) -> None:
    """Let one key of a file say what it says.

    Args:
        key: its entry.
        draft: where it says it.
        name: of the key, for messages and notes.
        value: as YAML gives it.
        check: returns the value as the key takes it, or raises a ValueError that says what is expected.

    Raises:
        RecipeError: the value is of another kind, or cannot be honoured.
    """
    before = len(draft.notes)
    try:
        key.rule(draft, check(name, value))
    except RecipeError as error:
        raise RecipeError(str(error).replace("{key}", name)) from None
    except ValueError as error:
        raise RecipeError(f"{draft.source}: {name} = {brief(value)}: {error}") from None
    draft.notes[before:] = [note.replace("{key}", name) for note in draft.notes[before:]]


def checked(kinds: Mapping[str, TypeAdapter[Any]], key: str, value: Any) -> Any:
    """Return a value as its key takes it.

    Args:
        kinds: what the keys take that are decided on together with others.
        key: of another one the value is returned as it is.
        value: as YAML gives it.

    Raises:
        ValueError: it is of another kind or out of range; the text says what is expected.
    """
    if (adapter := kinds.get(key)) is None:
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(str(part) for part in detail["loc"] if isinstance(part, int))
        raise ValueError(f"{f'number {place}: ' if place else ''}{detail['msg']}") from error


def brief(value: Any) -> str:
    """A value as Python writes it, cut short."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."
