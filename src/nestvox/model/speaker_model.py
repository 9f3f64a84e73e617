"""`SpeakerModel`: an encoder, a head and its thresholds, as one thing that is saved and used."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from nestvox.arrays import as_numbers
from nestvox.audio.errors import AudioWarning
from nestvox.audio.given import Audio, heard, recordings_of
from nestvox.encoders.file_encoder import Tap
from nestvox.encoders.registry import is_file_encoder
from nestvox.encoders.runtime.backends import Backend, Precision, check_way
from nestvox.errors import ModelError
from nestvox.extras import require
from nestvox.fingerprint import fingerprint_of, versions_of
from nestvox.heads.contract import FloatArray, Head, normalise, truncate, warn_of_cut
from nestvox.model.calibration import LlrCalibration, ModelCalibration
from nestvox.model.card import render_card
from nestvox.model.familiarity import Familiarity
from nestvox.model.folder import read_model, write_model
from nestvox.model.storage import Storage, learnt, pack, unpack
from nestvox.model.threshold import Threshold, Verification
from nestvox.model.verify import verify_pair
from nestvox.threads import side_by_side

if TYPE_CHECKING:
    import torch

    from nestvox.encoders.contract import Encoder, Taps

_Step = TypeVar("_Step")
ModelTap = Literal["frames", "pooled", "embedding", "nested"]


@dataclass(repr=False)
class SpeakerModel:
    """An encoder, a head and a calibration per dimension.

    Attributes:
        encoder: the network, in evaluation mode; or a `FileEncoder` in its place, with which nothing needs torch.
        head: maps a tap of the encoder to the nested embedding; None: the encoder's own embedding.
        name: for people; the fingerprint is what identifies.
        truncate_dim: prefix length that `embed` and `verify` use when none is given; None: all.
        thresholds: decision thresholds, per dimension, operating point, domain and duration class.
        llr: maps from its cosines to log likelihood ratios, per dimension; None: `verify` gives none.
        training_speakers: keys (`corpora.overlap.speaker_key`) of the speakers that the head was fitted or tuned on.
        card: further lines for the model card: ``licence``, ``language``, ``results``...
        backend: how the encoder is run: ``eager`` as it is, ``fused`` arranged for torch, ``onnx`` by ONNX Runtime on a
            CPU, ``auto`` the fastest that is installed; see `encoders.runtime.inference`. It changes vectors
            by rounding, and nothing that is saved.
        precision: of all behind the front end: ``float32``; ``bfloat16`` or ``float16`` where the device computes in
            them; ``auto`` is bfloat16 where it does and scores stay within 1e-3. Nothing that is saved changes.
        familiarity: what recordings it was trained on, of which `verify` tells others; None: nobody measured it.
    """

    encoder: Encoder
    head: Head | None = None
    name: str = "unnamed"
    truncate_dim: int | None = None
    thresholds: tuple[Threshold, ...] = ()
    training_speakers: tuple[str, ...] = ()
    card: dict[str, Any] = field(default_factory=dict)
    backend: Backend = "auto"
    precision: Precision = "float32"
    llr: LlrCalibration | None = None
    familiarity: Familiarity | None = None

    def __post_init__(self) -> None:
        if not is_file_encoder(self.encoder):
            self.encoder.eval()
        if self.head is not None:
            self._check_tap(self.head.tap)
            size = self.encoder.pooled_dim if self.head.tap == "pooled" else self.encoder.embedding_dim
            if size != self.head.input_dim:
                raise ModelError(
                    f"the head takes {self.head.input_dim}-dimensional vectors, the {self.head.tap} of "
                    f"{self.encoder.architecture} has {size}"
                )
        if self.truncate_dim is not None:
            self.check_dim(self.truncate_dim)
        check_way(self.backend, self.precision)
        self._fingerprint: tuple[tuple[object, ...], str] | None = None
        self._arranged: tuple[tuple[object, ...], Encoder] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # What was derived for the tensors of this process is neither sent along nor believed in another.
        return {**self.__dict__, "_fingerprint": None, "_arranged": None}

    def __repr__(self) -> str:
        head = "" if self.head is None else f" + {self.head.kind}"
        dims = ", ".join(map(str, self.dims))
        return f"SpeakerModel({self.name!r}, {self.encoder.architecture}{head}, dims ({dims}), {self.fingerprint})"

    @property
    def sample_rate(self) -> int:
        """Of the input, in Hz."""
        return self.encoder.sample_rate

    @property
    def min_duration_s(self) -> float:
        """Shortest clip that the encoder takes, in seconds."""
        return self.encoder.min_samples / self.encoder.sample_rate

    @property
    def embedding_dim(self) -> int:
        """Full size of the nested embedding."""
        return self.encoder.embedding_dim if self.head is None else self.head.dims[-1]

    @property
    def dims(self) -> tuple[int, ...]:
        """Prefix lengths that the model was made for; an encoder without a head promises its full size only."""
        return (self.encoder.embedding_dim,) if self.head is None else self.head.dims

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the configuration and every weight; thresholds and names do not enter."""
        version = (id(self.head), *versions_of(self.head), *versions_of(self.encoder))
        if self._fingerprint is None or self._fingerprint[0] != version:
            self._fingerprint = version, fingerprint_of(self._config_of_parts(), self._arrays())
        return self._fingerprint[1]

    @property
    def encoder_fingerprint(self) -> str:
        """The fingerprint of the encoder without the head; it tells whose pooled vectors and embeddings are whose."""
        return self.fingerprint if self.head is None else SpeakerModel(self.encoder).fingerprint

    @property
    def chosen_on(self) -> tuple[str, ...]:
        """Hashes of the trials that its thresholds were set on or that its card says its head was chosen on."""
        return tuple(sorted({t.trials_sha256 for t in self.thresholds} | set(self.card.get("chosen_on", ()))))

    def check_dim(self, dim: int | None) -> int:
        """Return the prefix length that `dim` means (None: `truncate_dim`, else the full size).

        Raises:
            ModelError: below 1 or above the full size.
        """
        chosen = dim if dim is not None else self.truncate_dim or self.embedding_dim
        if not 1 <= chosen <= self.embedding_dim:
            raise ModelError(f"dim must be between 1 and {self.embedding_dim}, got {chosen}; made for {self.dims}")
        return chosen

    def forward(
        self, waveforms: Sequence[Audio], *, tap: ModelTap = "nested", sample_rate: float | None = None
    ) -> FloatArray | list[FloatArray]:
        """Run one batch through the network, once.

        Args:
            waveforms: B recordings, each as `embed` takes one; usually arrays (S_i,), mono, in [-1, 1].
            tap: ``nested`` is the head's output at full size (every prefix is in it), else an encoder tap.
            sample_rate: of arrays, in Hz; None: the model's.

        Returns:
            (B, D) float32; for ``frames`` a list of (T_i, C) arrays.

        Raises:
            AudioError: a recording that cannot be used, e.g. one shorter than `min_duration_s`.
            ModelError: no waveform, or a tap that the encoder has not.
        """
        if tap != "nested":
            self._check_tap(tap)
        heard_ones = [self._heard(waveform, sample_rate) for waveform in waveforms]
        if tap == "frames":
            taps = self._taps(heard_ones)
            return _over_time(taps.frames, taps.frame_mask)
        if tap == "nested" and self.head is not None:
            return self.head.transform(*self._vectors(heard_ones, self.head.tap))
        (found,) = self._vectors(heard_ones, "pooled" if tap == "pooled" else "embedding")
        return found

    def layers(
        self, waveforms: Sequence[Audio], names: Collection[str] | None = None, *, sample_rate: float | None = None
    ) -> dict[str, list[FloatArray]]:
        """Run one batch through the encoder as it is written, once, for what its layers say over time.

        Args:
            waveforms: B recordings, as `forward` takes them.
            names: of layers; None: all, from input to output. `encoder.layer_rates_hz` lists them, with their frames
                per second.
            sample_rate: of arrays, in Hz; None: the model's.

        Returns:
            By name, a list of B arrays (T_i, C) float32.

        Raises:
            AudioError: a recording that cannot be used.
            ModelError: no waveform, a layer that the encoder has not, or an encoder that is a closed box.
        """
        self._check_tap("frames")
        wanted = tuple(self.encoder.layer_rates_hz if names is None else names)
        taps = self._taps([self._heard(waveform, sample_rate) for waveform in waveforms], wanted)
        return {name: _over_time(layer.values, layer.mask) for name, layer in taps.layers.items()}

    def features(self, waveforms: Sequence[NDArray[np.floating[Any]]]) -> tuple[FloatArray, FloatArray]:
        """Run one batch through the encoder, once, for both vectors that a head can be trained on.

        Args:
            waveforms: B arrays (S_i,), mono, at the model's rate, in [-1, 1].

        Returns:
            The pooled vectors (B, P) and the encoder's own embeddings (B, D), both float32; no head is applied.

        Raises:
            AudioError: an array that cannot be used, e.g. one shorter than `min_duration_s`.
            ModelError: no waveform, or an encoder without these taps.
        """
        self._check_tap("pooled")
        pooled, embedding = self._vectors([self._heard(w, self.sample_rate) for w in waveforms], "pooled", "embedding")
        return pooled, embedding

    def _check_tap(self, tap: str) -> None:
        if tap not in self.encoder.taps:
            raise ModelError(
                f"{self.name} gives embeddings only and has no tap {tap!r}: the {self.encoder.architecture} network is "
                f"a closed box; use {' or '.join(self.encoder.taps)}"
            )

    def _vectors(self, waveforms: Sequence[NDArray[np.float32]], *taps: Tap) -> list[NDArray[np.float32]]:
        """One forward pass, and of it the taps of these names, (B, P) or (B, D)."""
        if is_file_encoder(self.encoder):
            if not waveforms:
                raise ModelError("forward needs at least one waveform")
            if self.precision not in ("float32", "auto"):
                raise ModelError(f"{self.encoder.architecture} runs in float32 only, not in {self.precision}")
            rows = self.encoder.run(waveforms)
            return [rows[tap] for tap in taps]
        found = self._taps(waveforms)
        return [_numpy(getattr(found, tap)) for tap in taps]

    def _taps(self, waveforms: Sequence[NDArray[np.floating[Any]]], layers: Collection[str] = ()) -> Taps:
        if not len(waveforms):
            raise ModelError("forward needs at least one waveform")
        torch = require("torch", extra="torch", purpose="running an encoder")
        device = self._device()
        lengths = torch.tensor([len(w) for w in waveforms], dtype=torch.int64)
        audio = torch.zeros(len(waveforms), int(lengths.max()))
        for row, waveform in zip(audio, waveforms, strict=True):
            row[: len(waveform)] = torch.as_tensor(waveform, dtype=torch.float32)
        network = self.encoder if layers else self._network()
        with torch.inference_mode():
            taps: Taps = network(audio.to(device), lengths, layers=layers)
        return taps

    def embed(
        self,
        audio: Audio | Sequence[Audio],
        *,
        dim: int | None = None,
        normalize: bool = True,
        sample_rate: float | None = None,
    ) -> NDArray[np.float32]:
        """Embed one recording, or a list of them, each on its own.

        For many files use ``nestvox embed``, which batches, resumes and bounds memory.

        Args:
            audio: a path, an open binary file, an array or tensor (S,), (S, C) or (C, S) of floats in [-1, 1] or of
                integers as files hold them, a pair of these and their rate, or a list of any of these.
            dim: prefix length; None: `truncate_dim`, else the full size.
            normalize: scale to unit length after truncation, as a cosine needs it.
            sample_rate: of arrays without a rate, in Hz. None: the model's, with an `AudioWarning` where the signal
                contradicts it.

        Returns:
            (dim,) float32 for one recording, (N, dim) for a list.

        Raises:
            AudioError: a file or an array cannot be used.
            ModelError: `dim` is out of range.
        """
        items, single = recordings_of(audio)
        vectors = self._embedded(items, self.check_dim(dim), 1, normalize, sample_rate)
        return vectors[0] if single else vectors

    def encode(
        self,
        audio: Audio | Sequence[Audio],
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        normalize_embeddings: bool = True,
        truncate_dim: int | None = None,
        sample_rate: float | None = None,
    ) -> NDArray[np.float32]:
        """`embed` in batches, with the arguments that sentence-transformers has for it.

        Args:
            audio: as `embed` takes it.
            batch_size: recordings of one forward pass; it changes vectors by rounding.
            show_progress_bar: draw a bar on stderr; None: for more than one batch, on a terminal.
            normalize_embeddings: scale to unit length, which there is off by default.
            truncate_dim: prefix length; None: the model's `truncate_dim`, else the full size.
            sample_rate: of arrays without a rate, in Hz; None: the model's.

        Returns:
            (dim,) float32 for one recording, (N, dim) for a list.

        Raises:
            AudioError: a file or an array cannot be used.
            ModelError: `truncate_dim` is out of range, or `batch_size` below 1.
        """
        if batch_size < 1:
            raise ModelError(f"batch_size must be at least 1, got {batch_size}")
        items, single = recordings_of(audio)
        bar = show_progress_bar if show_progress_bar is not None else len(items) > batch_size and sys.stderr.isatty()
        size = self.check_dim(truncate_dim)
        vectors = self._embedded(items, size, batch_size, normalize_embeddings, sample_rate, bar=bar)
        return vectors[0] if single else vectors

    def similarity(self, first: FloatArray, second: FloatArray) -> NDArray[np.float64]:
        """Cosines of every row of one array with every row of another; a prefix is compared as it is given.

        Args:
            first: (N, dim), or (dim,) for one.
            second: (M, dim), or (dim,).

        Returns:
            (N, M) in [-1, 1].

        Raises:
            ModelError: arrays of other shapes or of different dim, what is no finite real number, or a row of zeros.
        """
        rows = [
            np.atleast_2d(as_numbers(v, "numbers of a similarity", ndim=None, error=ModelError))
            for v in (first, second)
        ]
        if any(array.ndim != 2 for array in rows) or rows[0].shape[1] != rows[1].shape[1]:
            shapes = " and ".join(str(np.shape(vectors)) for vectors in (first, second))
            raise ModelError(f"similarity takes (N, dim) and (M, dim) with one dim, got {shapes}")
        if not all(array.any(axis=1).all() for array in rows):
            raise ModelError("similarity is of directions: a row is all zeros")
        cosines: NDArray[np.float64] = np.clip(normalise(rows[0]) @ normalise(rows[1]).T, -1.0, 1.0)
        return cosines

    def _embedded(
        self,
        items: Sequence[Audio],
        dim: int,
        batch_size: int,
        normalize: bool,
        sample_rate: float | None,
        *,
        bar: bool = False,
    ) -> NDArray[np.float32]:
        """Prefixes (N, dim) of recordings, batches of which run side by side, each in one thread on a CPU."""
        warn_of_cut(dim, self.dims, stacklevel=3)
        full = np.zeros((len(items), self.embedding_dim), np.float32)
        with side_by_side(self._device()) as run:
            starts = range(0, len(items), batch_size)
            done = run(lambda start: self.forward(items[start : start + batch_size], sample_rate=sample_rate), starts)
            pairs = zip(starts, done, strict=True)
            for start, vectors in _with_bar(pairs, len(starts)) if bar else pairs:
                full[start : start + batch_size] = vectors
        return np.asarray(truncate(full, dim) if normalize else full[:, :dim], np.float32)

    def verify(
        self,
        a: Audio,
        b: Audio,
        *,
        dim: int | None = None,
        operating_point: str | None = None,
        domain: str | None = None,
        sample_rate: float | None = None,
        marks: Sequence[str] = (),
    ) -> Verification:
        """Score two recordings and compare the score with a stored threshold.

        `choose_threshold` says which: the owner's choice, else the strictest; none from speech of another kind.

        Args:
            a: one recording, as `embed` takes it.
            b: likewise.
            dim: prefix length; None: `truncate_dim`, else the full size.
            operating_point: of the threshold, by its first word (``eer``, ``far``) or in full; None: see above.
            domain: of the threshold; None: that of the owner's choice, else the only one.
            sample_rate: of arrays without a rate, in Hz; None: the model's, with a warning in the answer where the
                signal contradicts it.
            marks: what the recordings are, if not real: ``synthetic``, ``augmented``.

        Raises:
            AudioError: a file or an array cannot be used.
            ModelError: `dim` is out of range, several domains have such a threshold, or a mark that is none.
            FingerprintError: the threshold or the calibration is of another model.
        """
        return verify_pair(
            self, a, b, dim=dim, operating_point=operating_point, domain=domain, sample_rate=sample_rate, marks=marks
        )

    def save(self, folder: str | Path, *, storage: Storage = "float32", network_apart: bool = False) -> None:
        """Write config.json, model.safetensors, calibration.json and the model card README.md.

        A model that stands there already is replaced, all of it or, where the call is stopped or fails, nothing.

        Args:
            folder: new, or of a model.
            storage: of the weights; in fewer bits than float32 only those that lose nothing by it, as
                `compression.compress` makes them.
            network_apart: write an encoder that is an ONNX file as ``model.onnx``, which other programs run too.

        Raises:
            ModelError: the folder holds something else, e.g. a README.md that is no model card of ours, or weights that
                have no place in such storage; or `network_apart` of another encoder.
            OSError: it cannot be written.
        """
        if network_apart and not is_file_encoder(self.encoder):
            raise ModelError(f"the {self.encoder.architecture} network of {self.name} is no ONNX file")
        arrays = self._arrays()
        packed = pack(arrays, storage, learnt(self.encoder, self.head))
        if storage != "float32" and any(not np.array_equal(arrays[k], v) for k, v in unpack(packed).items()):
            raise ModelError(f"the weights of {self.name} are not exact in {storage}; `nestvox compress` rounds them")
        said = {"name": self.name, "fingerprint": self.fingerprint, **self._config_of_parts()}
        chosen = {"truncate_dim": self.truncate_dim, "training_speakers": [*self.training_speakers], "card": self.card}
        decisions = ModelCalibration(self.fingerprint, self.thresholds, self.llr, familiarity=self.familiarity)
        write_model(folder, said | chosen, packed, decisions, self.model_card(), network_apart=network_apart)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            ModelError: not a model folder, or its weights are not those that it was saved with.
            WeightsError: tensors are missing, unexpected or mis-shaped.
        """
        return read_model(folder, cls)

    def model_card(self) -> str:
        """README.md in the form that Hugging Face reads: YAML front matter, then Markdown."""
        return render_card(
            name=self.name,
            fingerprint=self.fingerprint,
            encoder=self.encoder.architecture,
            sample_rate=self.sample_rate,
            head=None if self.head is None else self.head.config(),
            dims=self.dims,
            thresholds=self.thresholds,
            card=self.card,
        )

    def to(self, device: str | torch.device) -> Self:
        """Move the encoder to a device; returns self. The bytes of a file have none, and stay on the CPU."""
        if not is_file_encoder(self.encoder):
            self.encoder.to(device)
        return self

    def _network(self) -> Encoder:
        """What runs: the encoder, or its form for inference, made anew when a weight has changed."""
        from nestvox.encoders.runtime.inference import for_inference  # noqa: PLC0415  imports torch

        if self.backend == "eager" and self.precision == "float32":
            return self.encoder
        version = (self.backend, self.precision, self.encoder.training, *versions_of(self.encoder))
        arranged = self._arranged  # another thread may replace it meanwhile
        if arranged is None or arranged[0] != version:
            arranged = version, for_inference(self.encoder, backend=self.backend, precision=self.precision)
            self._arranged = arranged
        return arranged[1]

    def _heard(self, item: Audio, sample_rate: float | None) -> NDArray[np.float32]:
        """One recording as the encoder takes it; what speaks against a rate that nobody gave is a warning."""
        recording, doubts = heard(
            item, to_hz=self.sample_rate, sample_rate=sample_rate, min_duration_s=self.min_duration_s
        )
        for doubt in doubts:
            warnings.warn(doubt, AudioWarning, stacklevel=4)
        return recording.samples

    def _device(self) -> torch.device | None:
        if is_file_encoder(self.encoder):
            return None
        return next(itertools.chain(self.encoder.parameters(), self.encoder.buffers())).device

    def _config_of_parts(self) -> dict[str, Any]:
        return {
            "encoder": {"architecture": self.encoder.architecture, **self.encoder.config()},
            "head": None if self.head is None else {**self.head.config(), "kind": self.head.kind},
        }

    def _arrays(self) -> dict[str, FloatArray]:
        arrays = {f"encoder.{key}": _saved(value) for key, value in self.encoder.state_dict().items()}
        if self.head is not None:
            arrays |= {f"head.{key}": value for key, value in self.head.tensors().items()}
        return arrays


def _with_bar(steps: Iterable[_Step], total: int) -> Iterable[_Step]:
    from rich.console import Console  # noqa: PLC0415  only who asks for a bar needs it
    from rich.progress import track  # noqa: PLC0415

    return track(steps, "embedding", total=total, console=Console(stderr=True))


def _over_time(values: torch.Tensor, masks: torch.Tensor) -> list[FloatArray]:
    return [_numpy(frames[:, mask].T) for frames, mask in zip(values, masks, strict=True)]


def _numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().to("cpu").float().numpy()
    return array


def _saved(tensor: torch.Tensor | NDArray[Any]) -> NDArray[Any]:
    if isinstance(tensor, np.ndarray):
        return tensor
    # Counters and masks stay whole numbers; weights are float32 wherever and in whatever precision they run.
    return _numpy(tensor) if tensor.is_floating_point() else tensor.detach().cpu().numpy()
