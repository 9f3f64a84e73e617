"""The one tree of exceptions. Every message says what is wrong, where, and what to do.

Commands turn any `NestvoxError` into one line on stderr and exit code 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "AudioError",
    "CatalogueError",
    "DownloadError",
    "FingerprintError",
    "MissingExtraError",
    "ModelError",
    "NestvoxError",
    "OverlapError",
    "RecipeError",
    "ScoresError",
    "StoreError",
    "TableError",
    "TrainingError",
    "TrialsError",
    "WeightsError",
    "first_of",
]


class NestvoxError(Exception):
    """Anything that is wrong with the input or the call; it survives pickling, so that workers can send it."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By default the class is called with the message alone, which constructors with other arguments refuse.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[NestvoxError], arguments: tuple[Any, ...], state: dict[str, Any]) -> NestvoxError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class AudioError(NestvoxError):
    """An audio file or array that cannot be used; `audio.read` raises one subclass per reason."""

    def __init__(self, path: object, problem: str) -> None:
        self.path = str(path)
        self.problem = problem
        super().__init__(f"{self.path}: {problem}")


class _LocatedError(NestvoxError):
    """An error in a text or table file, with the place as far as it is known."""

    def __init__(
        self,
        problem: str,
        *,
        source: str | Path | None = None,
        line: int | None = None,
        column: str | None = None,
    ) -> None:
        self.source = None if source is None else str(source)
        self.line = line
        self.column = column
        place = self.source or ""
        if line is not None:
            place += f":{line}"
        if column is not None:
            place += f" [{column}]" if place else f"[{column}]"
        super().__init__(f"{place}: {problem}" if place else problem)


class TableError(_LocatedError):
    """An utterance table that is malformed or inconsistent."""


class TrialsError(_LocatedError):
    """A trial list that is malformed, or cannot be used for what was asked."""


class ScoresError(_LocatedError):
    """Scores that are malformed, non-finite, or do not cover the trials."""


class OverlapError(NestvoxError):
    """Speakers stand both in training material and in an evaluation."""


class MissingExtraError(NestvoxError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, extra: str, purpose: str) -> None:
        self.extra = extra
        super().__init__(f"{purpose} needs the extra [{extra}]: pip install 'nestvox[{extra}]'")


class DownloadError(NestvoxError):
    """A file that could not be fetched, or is not the file that was promised."""


class CatalogueError(NestvoxError):
    """A name that the catalogue does not hold."""


class WeightsError(NestvoxError):
    """Weights that do not fit the network; the message lists every key that differs."""


class ModelError(NestvoxError):
    """A model folder or a call of a model that is wrong."""


class StoreError(NestvoxError):
    """An embedding store that is incomplete, corrupt, or made for something else."""


class FingerprintError(NestvoxError):
    """Embeddings of two different models were about to be compared."""


class RecipeError(NestvoxError):
    """A training recipe with an unknown key, or a setting that is wrong or means nothing there."""


class TrainingError(NestvoxError):
    """A training run that cannot begin, go on, or be resumed."""


def first_of(names: Sequence[str], shown: int = 8) -> str:
    """The first of many names for a message, which a long list would bury: ``a, b and 5 more``.

    Args:
        names: as they are to stand there.
        shown: how many at the most.
    """
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
