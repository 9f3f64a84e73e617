"""Dummies for tests of whatever uses nestvox: tables, trials, stores, recordings and models that are made in a moment.

Nothing here needs torch, weights or a network, everything is the same for the same seed, and what is to be found (error
rates, cosines, vectors) is known without the code that finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
import soundfile
from numpy.typing import ArrayLike, NDArray

from nestvox.audio.read import SAMPLE_RATE
from nestvox.corpora.trials import Trials
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import NestvoxError
from nestvox.extraction.store.metadata import StoreMetadata
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import EmbeddingStore, StoreWriter

__all__ = ["MomentModel", "World", "make_noises", "make_store", "make_trials", "make_world"]


@dataclass(frozen=True)
class World:
    """Speakers whose table, trials, vectors and scores agree.

    Utterances are named ``u<speaker>-<take>``. The first half of the speakers is of corpus a, the others are of b; odd
    speakers have no sex.
    """

    table: UtteranceTable
    trials: Trials
    vectors: NDArray[np.float32]
    folder: Path

    def store(self, name: str = "store", **changes: Any) -> EmbeddingStore:
        """Write the vectors as a store into the folder; `changes` as in `make_store`."""
        frame = self.table.frame
        names, paths, speakers = (frame[column].to_list() for column in ("utt_id", "path", "speaker"))
        return make_store(self.folder / name, self.vectors, names, paths, speakers, **changes)

    def cosines(self, dim: int) -> NDArray[np.float64]:
        """Scores of the trials at a prefix of `dim` numbers, spelled out trial by trial."""
        row_of = {name: row for row, name in enumerate(self.table.frame["utt_id"])}
        scores = []
        for enrol, test, _ in self.trials.frame.iter_rows():
            a = self.vectors[row_of[enrol], :dim].astype(np.float64)
            b = self.vectors[row_of[test], :dim].astype(np.float64)
            scores.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        return np.array(scores)


def make_world(
    folder: str | PathLike[str],
    *,
    speakers: int = 12,
    takes: int = 6,
    dim: int = 32,
    noise: float = 1.3,
    seed: int = 11,
) -> World:
    """Make speakers as normal clouds of vectors, every target trial and a fifth of the others.

    Args:
        folder: of the table's relative paths (no audio is written), and where `World.store` writes.
        speakers: how many.
        takes: utterances of each.
        dim: numbers in a vector.
        noise: standard deviation of the takes of a speaker; that of the speakers is 1.
        seed: the same seed, the same world.
    """
    generator = np.random.default_rng(seed)
    speaker_of = np.repeat(np.arange(speakers), takes)
    names = [f"u{speaker:02}-{row % takes}" for row, speaker in enumerate(speaker_of)]
    frame = pl.DataFrame(
        {
            "utt_id": names,
            "path": [f"audio/{name}.wav" for name in names],
            "speaker": [f"s{speaker:02}" for speaker in speaker_of],
            "corpus": ["a" if speaker < speakers // 2 else "b" for speaker in speaker_of],
            "sex": [None if speaker % 2 else "f" for speaker in speaker_of],
        }
    )
    centres = generator.normal(size=(speakers, dim))
    vectors = (centres[speaker_of] + noise * generator.normal(size=(len(names), dim))).astype(np.float32)
    pairs = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names))]
    kept = [pair for pair in pairs if speaker_of[pair[0]] == speaker_of[pair[1]] or generator.random() < 0.2]
    trials = pl.DataFrame(
        {
            "enrol": [names[a] for a, _ in kept],
            "test": [names[b] for _, b in kept],
            "target": [bool(speaker_of[a] == speaker_of[b]) for a, b in kept],
        }
    )
    return World(UtteranceTable(frame, "world.tsv", Path(folder)), Trials(trials, "world.txt"), vectors, Path(folder))


def make_trials(
    eer: float, *, targets: int = 1000, nontargets: int = 1000, seed: int = 0
) -> tuple[Trials, NDArray[np.float64]]:
    """Make trials and log-likelihood ratios of which the error rates are known.

    The scores are quantiles of two normal distributions, in random order: ``N(m, 2 m)`` for targets and ``N(-m, 2 m)``
    for non-targets, which makes them calibrated. With z the normal quantile of the EER, ``m = 2 z**2``, the EER lies at
    the score 0, and the miss rate at a threshold t is ``Phi((t - m) / sqrt(2 m))``, each to within half a trial.

    Args:
        eer: between 0 and 0.5, both excluded.
        targets: trials of one speaker; no two share a speaker.
        nontargets: trials of two speakers.
        seed: of the order.

    Returns:
        The trials, and a score for each.
    """
    if not 0 < eer < 0.5:
        raise NestvoxError(f"an EER of {eer} cannot be made; give one between 0 and 0.5")
    normal = NormalDist()
    mean, spread = 2 * normal.inv_cdf(eer) ** 2, -2 * normal.inv_cdf(eer)

    def quantiles(count: int) -> NDArray[np.float64]:
        return np.array([normal.inv_cdf((number + 0.5) / count) for number in range(count)])

    scores = np.concatenate([mean + spread * quantiles(targets), -mean + spread * quantiles(nontargets)])
    order = np.random.default_rng(seed).permutation(targets + nontargets)
    other = ["a"] * targets + ["b"] * nontargets
    frame = pl.DataFrame(
        {
            "enrol": [f"s{row}a/1" for row in order],
            "test": [f"s{row}{other[row]}/2" for row in order],
            "target": order < targets,
        }
    )
    return Trials(frame, f"made with an EER of {eer:g}"), scores[order]


def make_store(
    folder: str | PathLike[str],
    vectors: ArrayLike,
    utt_ids: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    speakers: Sequence[str] | None = None,
    *,
    conditions: Sequence[str | None] | None = None,
    **changes: Any,
) -> EmbeddingStore:
    """Write vectors as a complete store.

    Args:
        folder: of the store.
        vectors: (N, D).
        utt_ids: N names; None: ``u0``, ``u1``, ...
        paths: of the recordings, N.
        speakers: N.
        conditions: of the recordings, N.
        changes: fields of `StoreMetadata`; else a nested store of float32 of a model ``tiny``, in one shard.
    """
    rows = np.asarray(vectors, np.float32)
    count, dim = rows.shape
    ids = [f"u{row}" for row in range(count)] if utt_ids is None else list(utt_ids)
    metadata: dict[str, Any] = {
        "fingerprint": "0123456789abcdef",
        "model": "tiny",
        "tap": "nested",
        "dims": (max(1, dim // 4), max(1, dim // 2), dim),
        "dim": dim,
        "dtype": "float32",
        "planned_rows": count,
        "shard_rows": count,
    }
    writer = StoreWriter(Path(folder), StoreMetadata(**metadata | changes))
    for shard in writer.pending:
        planned = writer.metadata.planned(shard)
        part = slice(planned.start, planned.stop)
        named = [None if column is None else column[part] for column in (paths, speakers, conditions)]
        writer.write_shard(shard, ShardRows(ids[part], rows[part], named[0], named[1], conditions=named[2]))
    return writer.finish()


def make_noises(
    folder: str | PathLike[str],
    durations_s: Sequence[float],
    speakers: Sequence[str] | None = None,
    *,
    sample_rate: int = SAMPLE_RATE,
    seed: int = 0,
    **columns: Sequence[Any],
) -> UtteranceTable:
    """Write white noises of a level of 0.1 as ``0.wav``, ``1.wav``, ..., and return the table of them.

    Args:
        folder: is made where it is not there.
        durations_s: one for each utterance.
        speakers: N; None: ``s0``, ``s1``, ...
        sample_rate: of the files, Hz.
        seed: the n-th noise is drawn with ``seed + n``.
        columns: more columns of the table.
    """
    names = range(len(durations_s))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, duration_s in enumerate(durations_s):
        noise = 0.1 * np.random.default_rng(seed + number).standard_normal(round(duration_s * sample_rate))
        soundfile.write(Path(folder, f"{number}.wav"), noise, sample_rate, subtype="FLOAT")
    table = {
        "utt_id": [f"u{number}" for number in names],
        "path": [f"{number}.wav" for number in names],
        "speaker": [f"s{number}" for number in names] if speakers is None else speakers,
    }
    return UtteranceTable(pl.DataFrame(table | columns), "made", Path(folder))


@dataclass
class MomentModel:
    """A model without weights whose vector of a recording is four moments of its samples.

    It does for `embed_table` and whatever else takes an `EmbeddingModel`.
    """

    fingerprint: str = "0123456789abcdef"
    name: str = "moments"
    sample_rate: int = SAMPLE_RATE
    min_duration_s: float = 0.1
    dims: tuple[int, ...] = (2, 4)
    training_speakers: tuple[str, ...] = ()

    def vector(self, waveform: NDArray[np.floating]) -> NDArray[np.float32]:
        """Mean, standard deviation, mean of the absolute values, and seconds, (4,)."""
        x = waveform.astype(np.float64)
        return np.array([x.mean(), x.std(), np.abs(x).mean(), len(x) / self.sample_rate], np.float32)

    def forward(self, waveforms: Sequence[NDArray[np.float32]], *, tap: str) -> NDArray[np.float32]:  # noqa: ARG002  one vector for every tap
        """The vectors of B waveforms, (B, 4), whatever the tap."""
        return np.stack([self.vector(waveform) for waveform in waveforms])
