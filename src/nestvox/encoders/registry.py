"""From the name of an architecture to its class; a class is imported when it is first built."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from nestvox.encoders.file_encoder import FileEncoder
from nestvox.errors import ModelError
from nestvox.extras import require
from nestvox.gate import naming
from nestvox.schema import validated

if TYPE_CHECKING:
    from nestvox.encoders.contract import Encoder

_WITHOUT_TORCH = {
    "graph": "nestvox.encoders.graph:GraphEncoder",
    "onnx": "nestvox.encoders.foreign.onnx_encoder:OnnxEncoder",
}
_CLASSES = _WITHOUT_TORCH | {
    "campplus": "nestvox.encoders.campplus.campplus:CAMPPlus",
    "ecapa": "nestvox.encoders.ecapa:ECAPA",
    "ge2e": "nestvox.encoders.ge2e:GE2E",
    "log_mel": "nestvox.encoders.bands:LogMelBands",
    "lstm_autoencoder": "nestvox.encoders.lstm:LSTMAutoencoder",
    "lyra": "nestvox.encoders.lyra:Lyra",
    "mimi": "nestvox.encoders.mimi:Mimi",
    "mixer": "nestvox.encoders.mixer:MLPMixer",
    "redimnet": "nestvox.encoders.redimnet.redimnet:ReDimNet",
    "redimnet2": "nestvox.encoders.redimnet.redimnet2:ReDimNet2",
}

_SOMEWHAT_MORE = 20_000_000


def architectures() -> tuple[str, ...]:
    """Names that `build` knows, sorted."""
    return tuple(sorted(_CLASSES))


def named(place: str) -> Any:
    """Import what is called ``module:name``."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def encoder_class(name: Any) -> type[Encoder]:
    """Return the class of an architecture.

    Raises:
        MissingExtraError: torch is not installed, and the architecture is no file for ONNX Runtime.
        ModelError: there is none of this name.
    """
    if not isinstance(name, str) or name not in _CLASSES:
        raise ModelError(f"unknown encoder architecture {str(name)[:80]!r}; known: {', '.join(architectures())}")
    if name not in _WITHOUT_TORCH:
        require("torch", extra="torch", purpose=f"running the network {name}")
    found: type[Encoder] = named(_CLASSES[name])
    return found


def is_file_encoder(encoder: Any) -> TypeGuard[FileEncoder]:
    """Whether ONNX Runtime runs it from a file, so that nothing of it is torch's."""
    return isinstance(encoder, FileEncoder)


def build(config: Mapping[str, Any], *, available: int | None = None) -> Encoder:
    """Build an encoder with random weights; one that is a file, empty.

    Args:
        config: `architecture`, and the constructor's arguments as `Encoder.config` gives them.
        available: numbers in the file that the weights are to come from. Where the configuration describes a network
            of many more, nothing is allocated. None: there is no such file.

    Raises:
        MissingExtraError: as `encoder_class`.
        ModelError: no or an unknown architecture, an argument that it does not take, or a network that is far larger
            than what is available.
    """
    arguments = dict(config)
    name = arguments.pop("architecture", None)
    kind = encoder_class(name)
    if kind.arguments is not None:
        validated(kind.arguments, arguments, f"encoder {name}", naming(ModelError))

    def make() -> Encoder:
        try:
            encoder = kind(**arguments)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ModelError(f"encoder {name}: the configuration does not fit: {error}") from error
        except RuntimeError as error:  # torch's own words for sizes that no tensor has
            raise ModelError(f"encoder {name}: the configuration describes no network: {error}") from error
        return encoder

    if available is not None:
        needed = arguments["size_bytes"] if name in _WITHOUT_TORCH else _numbers(make)
        # Somewhat more is left to strict loading, which lists what is missing.
        if needed > 2 * available + _SOMEWHAT_MORE:
            raise ModelError(
                f"encoder {name}: the configuration describes a network of {needed:,} numbers, the file holds "
                f"{available:,}"
            )
    return make()


def _numbers(make: Callable[[], Encoder]) -> int:
    import torch  # noqa: PLC0415  an extra

    with torch.device("meta"):  # a sketch: shapes without memory
        return sum(tensor.numel() for tensor in make().state_dict().values())
