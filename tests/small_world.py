"""A small world of speakers whose trials, scores, table and store agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.extraction.store.metadata import StoreMetadata
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import EmbeddingStore, StoreWriter

N_SPEAKERS, PER_SPEAKER, DIM = 12, 6, 32


@dataclass(frozen=True)
class World:
    """Utterances u<speaker>-<take>; speakers 0 to 5 are of corpus a, the others of b; odd speakers have no sex."""

    table: UtteranceTable
    trials: Trials
    vectors: np.ndarray
    folder: Path

    def store(self, name: str = "store", **changes: object) -> EmbeddingStore:
        frame = self.table.frame
        metadata = {
            "fingerprint": "0123456789abcdef",
            "model": "tiny",
            "tap": "nested",
            "dims": (8, 16, 32),
            "dim": DIM,
            "dtype": "float32",
            "planned_rows": len(frame),
            "shard_rows": len(frame),
        } | changes
        writer = StoreWriter(self.folder / name, StoreMetadata(**metadata))
        rows = ShardRows(frame["utt_id"].to_list(), self.vectors, frame["path"].to_list(), frame["speaker"].to_list())
        writer.write_shard(0, rows)
        return writer.finish()

    def cosines(self, dim: int) -> np.ndarray:
        """Scores spelled out, trial by trial."""
        row_of = {name: row for row, name in enumerate(self.table.frame["utt_id"])}
        scores = []
        for enrol, test, _ in self.trials.frame.iter_rows():
            a = self.vectors[row_of[enrol], :dim].astype(np.float64)
            b = self.vectors[row_of[test], :dim].astype(np.float64)
            scores.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        return np.array(scores)


def small_world(folder: Path) -> World:
    generator = np.random.default_rng(11)
    speakers = np.repeat(np.arange(N_SPEAKERS), PER_SPEAKER)
    names = [f"u{speaker:02}-{row % PER_SPEAKER}" for row, speaker in enumerate(speakers)]
    frame = pl.DataFrame(
        {
            "utt_id": names,
            "path": [f"audio/{name}.wav" for name in names],
            "speaker": [f"s{speaker:02}" for speaker in speakers],
            "corpus": ["a" if speaker < 6 else "b" for speaker in speakers],
            "sex": [None if speaker % 2 else "f" for speaker in speakers],
        }
    )
    centres = generator.normal(size=(N_SPEAKERS, DIM))
    vectors = (centres[speakers] + 1.3 * generator.normal(size=(len(speakers), DIM))).astype(np.float32)
    pairs = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names))]
    kept = [pair for pair in pairs if speakers[pair[0]] == speakers[pair[1]] or generator.random() < 0.2]
    trials = Trials(
        pl.DataFrame(
            {
                "enrol": [names[a] for a, _ in kept],
                "test": [names[b] for _, b in kept],
                "target": [bool(speakers[a] == speakers[b]) for a, b in kept],
            }
        ),
        "world.txt",
    )
    return World(UtteranceTable(frame, "world.tsv", folder), trials, vectors, folder)
