"""The LSTM-autoencoder, a teacher for distillation: convolutions into a bottleneck, two bidirectional LSTMs, attention.

The published network was never trained to reconstruct anything: its decoder had no loss, and ended in a tanh that its
targets, of variance 1, exceed in a third of all places. Here the decoder is left out, or has a linear output and a loss
(`reconstruction_loss`).

Source: the layers of ``dimuthuanuraj/voxceleb_trainer``.

Notation: B utterances, T frames, C channels.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from nestvox.encoders.contract import Layer
from nestvox.encoders.front_ends.log_mel import NormalisedLogMel
from nestvox.encoders.pooling import ASTP
from nestvox.encoders.whole_utterances import LogMelEncoder
from nestvox.errors import ModelError
from nestvox.schema import StrictModel

_RATE_HZ = 100.0
_DROPOUT = 0.2
_DROPOUT_BETWEEN = 0.3
_VARIANCE_FLOOR = 1e-5
_N_BANDS = NormalisedLogMel.n_mels

Width = Annotated[int, Field(ge=1, le=4096)]


class _Arguments(StrictModel):
    channels: Width = 256
    bottleneck: Width = 128
    hidden: Width = 256
    depth: Annotated[int, Field(ge=1, le=16)] = 2
    embedding_dim: Width = 512
    decoder: bool = False


class LSTMAutoencoder(LogMelEncoder):
    """`frames` are the normalised states of the last LSTM at 100 Hz, `pooled` their weighted means and deviations.

    3,515,777 parameters; with the decoder, which only `reconstruction_loss` trains, 3,873,745. Layers are ``features``,
    ``bottleneck``, ``lstm1`` and so on, and with the decoder ``reconstruction``, which runs only where it is asked for.

    Args:
        channels: of the convolutions around the bottleneck.
        bottleneck: channels that enter the first LSTM.
        hidden: of every LSTM, in each direction.
        depth: number of LSTMs.
        embedding_dim: D.
        decoder: make the features again from the bottleneck.
    """

    architecture = "lstm_autoencoder"
    frame_rate_hz = _RATE_HZ
    arguments = _Arguments
    forms = {"onnx": "nestvox.encoders.runtime.autoencoder_onnx:run_with_onnx"}  # noqa: RUF012

    def __init__(
        self,
        *,
        channels: int = 256,
        bottleneck: int = 128,
        hidden: int = 256,
        depth: int = 2,
        embedding_dim: int = 512,
        decoder: bool = False,
    ) -> None:
        config = {
            "channels": channels,
            "bottleneck": bottleneck,
            "hidden": hidden,
            "depth": depth,
            "embedding_dim": embedding_dim,
            "decoder": decoder,
        }
        states = 2 * hidden
        pool = ASTP(states, bottleneck=states, per_channel=False, variance_floor=_VARIANCE_FLOOR)
        super().__init__(pool, embedding_dim, config)
        self.frames_dim = states
        self.encoder = nn.Sequential(
            *_conv(_N_BANDS, channels),
            nn.Dropout(_DROPOUT),
            *_conv(channels, channels),
            nn.Dropout(_DROPOUT),
            *_conv(channels, bottleneck),
        )
        self.decoder = None
        if decoder:
            self.decoder = nn.Sequential(
                *_conv(bottleneck, channels),
                nn.Dropout(_DROPOUT),
                *_conv(channels, channels),
                nn.Dropout(_DROPOUT),
                nn.Conv1d(channels, _N_BANDS, 3, padding=1),
            )
        # One by one, so that each gives its states.
        self.lstms = nn.ModuleList(
            nn.LSTM(states if number else bottleneck, hidden, batch_first=True, bidirectional=True)
            for number in range(depth)
        )
        self.between = nn.Dropout(_DROPOUT_BETWEEN)
        self.layer_norm = nn.LayerNorm(states)
        names = ["features", "bottleneck", *(f"lstm{number}" for number in range(1, depth + 1))]
        self.layer_rates_hz = dict.fromkeys([*names, *(["reconstruction"] if decoder else [])], _RATE_HZ)
        self.apply(_initialise)

    def trunk(self, features: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Map features (B, 80, T) to the layers and frames, (B, C, T) each."""
        bottleneck = self.encoder(features)
        kept: dict[str, Tensor] = {"bottleneck": bottleneck}
        if self.decoder is not None and "reconstruction" in layers:
            kept["reconstruction"] = self.decoder(bottleneck)
        states = bottleneck.transpose(1, 2)  # (B, T, C)
        for number, lstm in enumerate(self.lstms, start=1):
            states = lstm(self.between(states) if number > 1 else states)[0]
            kept[f"lstm{number}"] = states.transpose(1, 2)
        return {**kept, "frames": self.layer_norm(states).transpose(1, 2)}


def reconstruction_loss(reconstruction: Layer, target: Layer) -> Tensor:
    """Mean squared difference over the frames that are real.

    The features have variance 1 in each band of an utterance, so one that is zero everywhere has a loss of 1.

    Args:
        reconstruction: the layer ``reconstruction``.
        target: the layer ``features``, of the same audio, or to train against noise, of the clean recording.

    Raises:
        ModelError: the two are not of the same frames.
    """
    if reconstruction.values.shape != target.values.shape or not torch.equal(reconstruction.mask, target.mask):
        raise ModelError(
            f"a reconstruction {tuple(reconstruction.values.shape)} and its target {tuple(target.values.shape)} "
            "must be of the same frames"
        )
    squares = (reconstruction.values - target.values).square().mean(dim=1)  # (B, T)
    return squares[target.mask].mean()


def _conv(entering: int, leaving: int) -> tuple[nn.Module, ...]:
    return nn.Conv1d(entering, leaving, 3, padding=1), nn.BatchNorm1d(leaving), nn.ReLU()


def _initialise(module: nn.Module) -> None:
    """As published: Kaiming's normal for convolutions, Xavier's for the others, no bias, not even of a forget gate."""
    if isinstance(module, nn.Conv1d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
    elif not isinstance(module, nn.LSTM):
        return
    for name, parameter in module.named_parameters(recurse=False):
        if isinstance(module, nn.LSTM) and "weight" in name:
            nn.init.xavier_normal_(parameter)
        elif "bias" in name:
            nn.init.zeros_(parameter)
