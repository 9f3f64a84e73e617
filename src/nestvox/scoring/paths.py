"""The audio file behind a name of a trial list, so that a reader can go and listen."""

from __future__ import annotations

from collections.abc import Callable

from nestvox.corpora.utterances import UtteranceTable
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.names import name_key

__all__ = ["path_in_stores", "path_in_table"]


def path_in_table(table: UtteranceTable | None) -> Callable[[str], str | None]:
    """A function from a name of the trials to its audio file; None where it is the name itself or there is no table."""

    def path_of(name: str) -> str | None:
        if table is None:
            return None
        path = str(table.audio_path(int(table.resolve([name])[0])))
        return None if path == name else path

    return path_of


def path_in_stores(*stores: EmbeddingStore) -> Callable[[str], str | None]:
    """A function from a name to its path in the first store that knows it; None where it is the name or unknown."""
    known = [
        {*map(name_key, store.utt_ids), *(name_key(path) for path in store.paths if path is not None)}
        for store in stores
    ]

    def path_of(name: str) -> str | None:
        for store, names in zip(stores, known, strict=True):
            if name_key(name) in names:
                path = store.paths[int(store.index_of([name])[0])]
                return None if path == name else path
        return None

    return path_of
