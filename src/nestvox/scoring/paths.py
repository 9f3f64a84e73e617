"""The audio file behind a name of a trial list, so that a reader can go and listen."""

from __future__ import annotations

from collections.abc import Callable

from nestvox.corpora.utterances import UtteranceTable
from nestvox.extraction.store.store import EmbeddingStore


def path_in_table(table: UtteranceTable | None) -> Callable[[str], str | None]:
    """A function from a name of the trials to its audio file; None where it is the name itself or there is no table."""

    def path_of(name: str) -> str | None:
        if table is None:
            return None
        path = str(table.audio_path(int(table.resolve([name])[0])))
        return None if path == name else path

    return path_of


def path_in_store(store: EmbeddingStore) -> Callable[[str], str | None]:
    """A function from a name that the store knows to its path; None where it is the name."""

    def path_of(name: str) -> str | None:
        path = store.paths[int(store.index_of([name])[0])]
        return None if path == name else path

    return path_of
