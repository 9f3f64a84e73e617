"""Speaker encoders with three taps, and what a new one is built of.

Importing this package costs nothing; its names run networks and import torch when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.encoders.contract import Affine, Encoder, Layer, Taps
    from nestvox.encoders.foreign.adapters import from_callable
    from nestvox.encoders.foreign.onnx_model import OnnxModel
    from nestvox.encoders.foreign.toolkits import from_pyannote, from_speechbrain
    from nestvox.encoders.front_ends.log_mel import MelSpectrogram
    from nestvox.encoders.ge2e import GE2E
    from nestvox.encoders.lstm import LSTMAutoencoder, reconstruction_loss
    from nestvox.encoders.mixer import MLPMixer
    from nestvox.encoders.mixer_sizes import MIXERS
    from nestvox.encoders.pooling import ASTP, TSTP, Pooling
    from nestvox.encoders.redimnet.redimnet import ReDimNet
    from nestvox.encoders.registry import architectures, build
    from nestvox.encoders.whole_utterances import WholeUtteranceEncoder

__all__ = [
    "ASTP",
    "GE2E",
    "MIXERS",
    "TSTP",
    "Affine",
    "Encoder",
    "LSTMAutoencoder",
    "Layer",
    "MLPMixer",
    "MelSpectrogram",
    "OnnxModel",
    "Pooling",
    "ReDimNet",
    "Taps",
    "WholeUtteranceEncoder",
    "architectures",
    "build",
    "from_callable",
    "from_pyannote",
    "from_speechbrain",
    "reconstruction_loss",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "foreign.onnx_model": "OnnxModel",
    },
    torch={
        "contract": "Affine Encoder Layer Taps",
        "foreign.adapters": "from_callable",
        "foreign.toolkits": "from_pyannote from_speechbrain",
        "front_ends.log_mel": "MelSpectrogram",
        "ge2e": "GE2E",
        "lstm": "LSTMAutoencoder reconstruction_loss",
        "mixer": "MLPMixer",
        "mixer_sizes": "MIXERS",
        "pooling": "ASTP Pooling TSTP",
        "redimnet.redimnet": "ReDimNet",
        "registry": "architectures build",
        "whole_utterances": "WholeUtteranceEncoder",
    },
    purpose="running an encoder",
)
