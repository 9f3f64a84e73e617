"""An encoder whose weights are an ONNX file, run by ONNX Runtime on numpy arrays. Knows no torch.

Notation: B utterances, S samples, P pooled size, D embedding size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from nestvox.errors import ModelError, WeightsError
from nestvox.schema import StrictModel

Tap = Literal["frames", "pooled", "embedding"]
Array = NDArray[np.float32]


class FileEncoder(ABC):
    """What `contract.Encoder` promises, as far as a file has it: the taps ``embedding`` and perhaps ``pooled``.

    The file's bytes are the one tensor, `network`: they are saved with a model, enter its fingerprint and are never
    changed. Each utterance is run by itself, so no padding is there to change a result.

    Attributes:
        architecture: as of an `Encoder`; likewise `sample_rate`, `min_samples`, `embedding_dim` and those with a value.
        size_bytes: of the file.
        network: (size_bytes,) uint8, read-only; empty until `hold` is given the bytes.
        trusted: the file came with nestvox, and is not tried out before it is run.
        running: what `start` made of them, once it was needed.
    """

    architecture: ClassVar[str]
    arguments: ClassVar[type[StrictModel]]
    sample_rate: int
    min_samples: int
    embedding_dim: int
    pooled_dim: int = 0
    taps: tuple[Tap, ...] = ("embedding",)
    layer_rates_hz: ClassVar[Mapping[str, float]] = {}
    forms: ClassVar[Mapping[str, str]] = {}
    half_precision = False

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.network: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self.trusted = False
        self.running: Any = None

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the JSON-serialisable constructor arguments; ``registry.build`` rebuilds from them."""

    @abstractmethod
    def start(self, content: bytes) -> Any:
        """Make what runs the file: a session, which several threads may call.

        Raises:
            ModelError: it is no such network.
        """

    @abstractmethod
    def one(self, running: Any, waveform: Array) -> Mapping[str, Array]:
        """Run one utterance (S,); (P,) and (D,) by the names of the taps.

        Raises:
            ModelError: the network fails, or gives what it does not promise.
        """

    def hold(self, content: bytes) -> Self:
        """Take the bytes of the file; returns self.

        Raises:
            ModelError: there are more or fewer than were said.
        """
        if len(content) != self.size_bytes:
            raise ModelError(f"the network has {len(content)} bytes, its configuration says {self.size_bytes}")
        self.network, self.running = np.frombuffer(content, np.uint8), None
        return self

    def take(self, tensors: Mapping[str, NDArray[Any]], source: str) -> Self:
        """Take the bytes from the tensors of a model folder; returns self.

        Args:
            tensors: ``network`` alone.
            source: of them, for messages.

        Raises:
            WeightsError: another name, type or size.
        """
        found = {name: (str(array.dtype), array.shape) for name, array in tensors.items()}
        if found != {"network": ("uint8", (self.size_bytes,))}:
            raise WeightsError(f"{source}: expected network, {self.size_bytes} bytes of an ONNX file, got {found}")
        return self.hold(tensors["network"].tobytes())

    def run(self, waveforms: Sequence[Array]) -> dict[Tap, Array]:
        """Run a batch, one utterance after the other.

        Args:
            waveforms: B arrays (S_i,) float32, mono, at `sample_rate`.

        Returns:
            By tap, (B, P) or (B, D).

        Raises:
            ModelError: an utterance below `min_samples`, no network, or as `one`; or values that are not finite.
        """
        if short := [len(waveform) for waveform in waveforms if len(waveform) < self.min_samples]:
            raise ModelError(
                f"{self.architecture} needs at least {self.min_samples / self.sample_rate:.3f} s of audio "
                f"({self.min_samples} samples), got {short[0]}"
            )
        running = self.running  # another thread may set it meanwhile, to the same
        if running is None:
            if not len(self.network):
                raise ModelError(f"{self.architecture}: built without its file, there is nothing to run")
            running = self.running = self.start(self.network.tobytes())
        rows = [self.one(running, np.ascontiguousarray(waveform, np.float32)) for waveform in waveforms]
        found = {tap: np.stack([row[tap] for row in rows]) for tap in self.taps}
        if not all(np.isfinite(array).all() for array in found.values()):
            raise ModelError(f"the {self.architecture} network gave values that are not finite")
        return found

    def state_dict(self) -> dict[str, NDArray[np.uint8]]:
        """The tensor by its name, as torch would have it."""
        return {"network": self.network}

    def parameters(self) -> Iterator[Any]:
        """None: nothing in a file learns."""
        return iter(())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "running": None}  # a session can be neither pickled nor copied
