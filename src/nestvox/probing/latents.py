"""What the layers of a frozen encoder say, run once over a table and kept in files that are mapped into memory.

The files are embedding stores of the tap ``frames``, one for each frame rate, whose channels are those of all layers of
that rate side by side: so they resume after any interruption, and are checked, as every store.

Notation: B utterances, N utterances of a table, C channels of a layer, T frames.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestvox.corpora.utterances import UtteranceTable, table_sha256
from nestvox.encoders.contract import Encoder, Taps
from nestvox.encoders.pooling import TAP
from nestvox.errors import ModelError
from nestvox.extraction.embed import embed_table
from nestvox.extraction.store.shard_files import Shard
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Bars, no_bars

FRAMES = "frames"
"""Name of the tap, where it is asked for beside the layers."""
_TRIAL_S = 1.0


class LayersAsFrames(Encoder):
    """An encoder whose frames are chosen layers of another, channels side by side; the layers have one frame rate.

    Args:
        encoder: whose layers they are, in evaluation mode.
        names: of `encoder.layer_rates_hz`, or ``frames``.

    Attributes:
        channels: C of each layer by name.

    Raises:
        ModelError: a layer that it has not, or layers of different frame rates.
    """

    architecture = "layers"

    def __init__(self, encoder: Encoder, names: Sequence[str]) -> None:
        super().__init__()
        rates = rates_of(encoder)
        if strange := [name for name in names if name not in rates]:
            raise ModelError(f"{encoder.architecture} has no layer {strange[0]!r}; there is {', '.join(rates)}")
        if len({rates[name] for name in names}) != 1:
            raise ModelError(f"layers of different frame rates: {', '.join(names)}")
        self.encoder = encoder
        self.names = tuple(names)
        self.sample_rate = encoder.sample_rate
        self.frame_rate_hz = rates[self.names[0]]
        self.min_samples = encoder.min_samples
        trial = torch.zeros(1, max(self.min_samples, round(_TRIAL_S * self.sample_rate)))
        with torch.inference_mode():
            self.channels = {name: values.shape[1] for name, (values, _) in self._each(trial, None).items()}
        self.frames_dim = self.pooled_dim = self.embedding_dim = sum(self.channels.values())
        self.pool = TAP(self.frames_dim)

    def config(self) -> dict[str, Any]:
        """Return the layers, and what the encoder is made of."""
        return {"encoder": {"architecture": self.encoder.architecture, **self.encoder.config()}, "layers": self.names}

    def forward(self, audio: Tensor, lengths: Tensor | None = None, *, layers: Collection[str] = ()) -> Taps:
        """Run the encoder once; see `Encoder.forward`."""
        lengths = self.check_input(audio, lengths, layers)
        values, masks = zip(*self._each(audio, lengths).values(), strict=True)
        frames, mask = torch.cat(values, dim=1), masks[0]
        pooled = self.pool(frames, mask)
        return Taps(frames, mask, pooled, pooled)

    def _each(self, audio: Tensor, lengths: Tensor | None) -> dict[str, tuple[Tensor, Tensor]]:
        taps = self.encoder(audio, lengths, layers=[name for name in self.names if name != FRAMES])
        found = {name: (layer.values, layer.mask) for name, layer in taps.layers.items()}
        found[FRAMES] = taps.frames, taps.frame_mask
        return {name: found[name] for name in self.names}


def rates_of(encoder: Encoder) -> dict[str, float]:
    """Frame rates of all layers by name, from input to output, ``frames`` last; none of a closed box."""
    if FRAMES not in encoder.taps:
        return {}
    return {**encoder.layer_rates_hz, FRAMES: encoder.frame_rate_hz}


@dataclass(frozen=True, eq=False)
class LayerFrames:
    """The frames of one layer for N utterances.

    Attributes:
        name: of the layer.
        frame_rate_hz: frames per second.
        utterances: N arrays (T_i, C) of float16, views of files.
    """

    name: str
    frame_rate_hz: float
    utterances: Sequence[NDArray[np.float16]]

    @property
    def channels(self) -> int:
        """C."""
        return int(self.utterances[0].shape[1])

    def statistics(self) -> NDArray[np.float32]:
        """Means and unbiased deviations over the frames of each utterance, (N, 2 C); that of one frame is 0."""
        found = np.zeros((len(self.utterances), 2 * self.channels), np.float32)
        for row, frames in zip(found, self.utterances, strict=True):
            wide = np.asarray(frames, np.float32)
            row[: self.channels] = wide.mean(axis=0)
            if len(wide) > 1:
                row[self.channels :] = wide.std(axis=0, ddof=1)
        return found


def cache_layers(
    model: SpeakerModel,
    table: UtteranceTable,
    folder: Path,
    layers: Sequence[str] | None = None,
    *,
    bars: Bars = no_bars,
) -> dict[str, LayerFrames]:
    """Run an encoder once over a table and keep what its layers say, or open what an earlier call kept.

    Args:
        model: whose encoder; its head takes no part.
        table: utterances, N.
        folder: of all such caches; each has a folder of its own there, named after what it is of.
        layers: names; None: all, and ``frames`` where the encoder has none.
        bars: shows the runs.

    Returns:
        Layers by name; utterances in the order of the table.

    Raises:
        ModelError: a layer that the encoder has not, or a closed box.
        AudioError, StoreError: as `extraction.embed.embed_table`.
    """
    rates = rates_of(model.encoder)
    if not rates:
        raise ModelError(f"{model.name} is a closed box: it shows no frames that could be probed")
    asked = list(layers or model.encoder.layer_rates_hz or [FRAMES])
    if strange := [name for name in asked if name not in rates]:
        raise ModelError(f"{model.name} has no layer {strange[0]!r}; there is {', '.join(rates)}")
    found: dict[str, LayerFrames] = {}
    for rate, group in groupby(sorted(asked, key=lambda name: (rates[name], asked.index(name))), key=rates.__getitem__):
        view = SpeakerModel(LayersAsFrames(model.encoder, list(group)), name=model.name, backend="eager")
        place = folder / f"{view.fingerprint}-{table_sha256(table.frame)[:12]}"
        place.parent.mkdir(parents=True, exist_ok=True)
        with bars(f"layers of {model.name} at {rate:g} Hz", "utterances") as progress:
            store = embed_table(view, table, place, tap="frames", dtype="float16", progress=progress)
        found |= _opened(store, view.encoder)  # type: ignore[arg-type]
    return {name: found[name] for name in asked}


def _opened(store: EmbeddingStore, view: LayersAsFrames) -> dict[str, LayerFrames]:
    views: list[NDArray[Any]] = []
    for record in store.metadata.shards:
        views += Shard(store.path / record.name, store.metadata).frames(store.metadata.dim)
    found, start = {}, 0
    for name, size in view.channels.items():
        parts = [frames[:, start : start + size] for frames in views]
        found[name] = LayerFrames(name, view.frame_rate_hz, parts)
        start += size
    return found


def codes_of(speakers: Sequence[str]) -> NDArray[np.int64]:
    """Number speakers from 0, in the order of their names."""
    names: Mapping[str, int] = {name: number for number, name in enumerate(sorted(set(speakers)))}
    return np.array([names[speaker] for speaker in speakers], np.int64)
