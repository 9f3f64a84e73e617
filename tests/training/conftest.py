"""A tiny encoder with random weights, and feature caches of vectors that have speakers in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch

from nestvox.corpora.trials import Trials, write_trials
from nestvox.corpora.utterances import UtteranceTable, write_utterances
from nestvox.encoders.redimnet.redimnet import ReDimNet
from nestvox.extraction.cache.feature_cache import cache_metadata
from nestvox.extraction.cache.plan import CachePlan
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import StoreWriter
from nestvox.model.speaker_model import SpeakerModel

TINY: dict[str, Any] = {
    "F": 24,
    "C": 4,
    "block_1d_type": "conv+att",
    "block_2d_type": "convnext_like",
    "stages_setup": [[1, 1, 1, [[3, 3]], 2], [2, 1, 2, [[3, 3]], None], [3, 1, 1, [[3, 3]], 3]],
    "group_divisor": 2,
    "embed_dim": 24,
    "global_context_att": True,
}
TRAIN, DEV, TEST = range(40), range(40, 52), range(52, 56)
TAKES, VARIANTS = 5, 3


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small networks gain nothing from a second thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def encoder() -> SpeakerModel:
    """A ReDimNet with 24 dimensions, its embedding an affine function of the pooled vector."""
    torch.manual_seed(5)
    network = ReDimNet(**TINY)
    with torch.no_grad():  # statistics that are not those of a new layer
        network.bn.running_mean.normal_(0, 0.3)
        network.bn.running_var.uniform_(0.5, 2.0)
    return SpeakerModel(network.eval(), name="tiny", training_speakers=("encoder key",), card={"licence": "MIT"})


@dataclass(frozen=True)
class World:
    """Where the material of a run is."""

    table: Path
    trials: Path
    train_cache: Path
    dev_cache: Path

    def settings(self, **changes: str) -> list[str]:
        given = {
            "data.table": self.table,
            "data.dev_trials": self.trials,
            "data.cache": self.train_cache,
            "data.dev_cache": self.dev_cache,
            "run.device": "cpu",
        }
        return [f"{key}={value}" for key, value in {**given, **changes}.items()]


@pytest.fixture(scope="session")
def world(encoder: SpeakerModel, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    parts = {"train": TRAIN, "dev": DEV, "test": TEST}
    rows = [
        {"utt_id": f"u{s:02}-{t}", "path": f"{s}/{t}.wav", "speaker": f"s{s:02}", "split": split}
        for split, speakers in parts.items()
        for s in speakers
        for t in range(TAKES)
    ]
    table = UtteranceTable(pl.DataFrame(rows), "table.tsv", folder)
    write_utterances(table, folder / "table.tsv")
    names = [(s, f"u{s:02}-{t}") for s in DEV for t in range(TAKES)]
    pairs = [(a, b, x == y) for k, (x, a) in enumerate(names) for y, b in names[k + 1 :]]
    schema = {"enrol": pl.String, "test": pl.String, "target": pl.Boolean}
    write_trials(Trials(pl.DataFrame(pairs, schema, orient="row"), "dev"), folder / "dev.txt", "voxceleb")
    write_cache(folder / "train", encoder, table.where(split="train"), VARIANTS)
    write_cache(folder / "dev", encoder, table.where(split="dev"), 1, dtype="float32")
    return World(folder / "table.tsv", folder / "dev.txt", folder / "train", folder / "dev")


def write_cache(
    path: Path,
    encoder: SpeakerModel,
    table: UtteranceTable,
    variants: int,
    *,
    dtype: str = "float16",
    fingerprint: str | None = None,
) -> Path:
    """Pooled vectors in which speakers differ along directions that the embedding mostly ignores."""
    size = encoder.encoder.pooled_dim
    mixing = np.random.default_rng(3).standard_normal((10, size)) / 3
    names, speakers, pooled, numbers = [], [], [], []
    for name, speaker in zip(table.frame["utt_id"], table.frame["speaker"], strict=True):
        voice = np.random.default_rng(int(speaker[1:])).standard_normal(10) @ mixing
        draw = np.random.default_rng(int(name[1:3]) * 100 + int(name[4:]))
        session = 0.8 * draw.standard_normal(10) @ mixing
        for variant in range(variants):
            names.append(name)
            speakers.append(speaker)
            numbers.append(variant)
            pooled.append(voice + session + 0.6 * draw.standard_normal(size))
    affine = encoder.encoder.projection()
    matrix = np.stack(pooled)
    plan = CachePlan(fingerprint or encoder.encoder_fingerprint, variants=variants, dtype=dtype)
    metadata = cache_metadata(
        plan,
        model=encoder.name,
        utterances=len(table),
        pooled_dim=size,
        embedding_dim=encoder.encoder.embedding_dim,
        shard_utterances=len(table),
    )
    writer = StoreWriter(path, metadata)
    writer.write_shard(
        0,
        ShardRows(
            names,
            matrix,
            names,
            speakers,
            variants=numbers if variants > 1 else None,
            columns={"embedding": matrix @ affine.weight.T + affine.bias},
        ),
    )
    writer.finish()
    return path
