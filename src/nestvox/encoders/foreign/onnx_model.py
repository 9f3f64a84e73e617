"""Speaker networks in ONNX files, as WeSpeaker, 3D-Speaker and sherpa-onnx export them. Knows no torch.

Such a file maps filter banks (B, T, M) to embeddings (B, D) and leaves the filter banks to whoever runs it. Which ones
the network was trained on does not stand in every file; the wrong window or scale costs accuracy and raises no error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvox.encoders.foreign.adapters import check_tap, checked_vector
from nestvox.encoders.foreign.onnx_check import MOST_ONNX_BYTES, check_onnx
from nestvox.encoders.front_ends.kaldi_fbank import KaldiFbank
from nestvox.errors import ModelError
from nestvox.extras import require
from nestvox.fingerprint import fingerprint_of
from nestvox.gate import naming, read_bytes, read_json
from nestvox.schema import validated_dataclass
from nestvox.shown import shown

FRONT_ENDS: Mapping[str, KaldiFbank] = {
    "3dspeaker": KaldiFbank(window="povey", scale=1.0),
    "wespeaker": KaldiFbank(window="hamming", scale=32768.0),
}
"""Filter banks by the toolkit that trained the network; both subtract the mean."""


_DESCRIPTION_SUFFIX = ".nestvox.json"
_CARD_KEYS = ("language", "licence", "output", "training_data")
# A folder that is nowhere: weights that a file keeps beside itself would be neither hashed nor saved.
_NOWHERE = "/nowhere/no external data"
_SHORTEST_S = 0.1
_USUAL_BANDS = 80
_TYPES: Mapping[str, type[np.floating[Any]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
_DYNAMIC = "export it with a batch and frames of any number (dynamic_axes of torch.onnx.export)"


@dataclass(frozen=True)
class OnnxFile:
    """A network as it stands in a file, and what is known about how to run it.

    Attributes:
        content: the file's bytes.
        front_end: the filter banks that it was trained on.
        source: the file, for messages.
        metadata: what the file says of itself.
        output: name of the output that is the embedding; None: the file has one only.
        card: lines for a model card from the description beside the file: ``licence``, ``language``, ``training_data``.
    """

    content: bytes
    front_end: KaldiFbank
    source: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    output: str | None = None
    card: Mapping[str, Any] = field(default_factory=dict)


class OnnxNetwork:
    """Audio to embedding: the filter banks and the network behind them. Several threads may call it.

    Args:
        content: an ONNX file's bytes, with all its weights.
        front_end: the filter banks that it was trained on.
        source: where it came from, for messages.
        output: name of the output that is the embedding; needed where there are several.
        threads: of one call; one, because embedding runs several side by side.

    Attributes:
        embedding_dim: D.
        metadata: what the file says of itself.
        output: as given; None where the file has one output only.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: not a network from such filter banks to embeddings, one that keeps its weights elsewhere, or one
            with several outputs and no choice; the message says what it takes and gives.
    """

    def __init__(
        self, content: bytes, front_end: KaldiFbank, source: str, *, output: str | None = None, threads: int = 1
    ) -> None:
        self.front_end = front_end
        self.source = source
        check_onnx(content, source, n_mels=front_end.n_mels)
        self._session = _session(content, source, threads)
        self.metadata = _metadata(self._session, source)
        self._input, self._type, self._bands_first = _only_input(self._session, source, front_end.n_mels)
        self._output, self.output = self._chosen(output)
        # A run on a second of noise tells the size, and at once whether the network takes such features at all.
        rate = front_end.sample_rate
        noise = 0.1 * np.random.default_rng(0).standard_normal(3 * rate)
        self.embedding_dim = 0
        self.embedding_dim = self(noise[:rate]).shape[-1]
        longer = self(noise).shape[-1]
        if longer != self.embedding_dim:
            raise ModelError(
                f"{source}: its output {self._output} has {self.embedding_dim} numbers for 1 s of audio and {longer} "
                "for 3 s, which is no embedding"
            )
        promised = self.metadata.get("output_dim", "")
        if re.fullmatch("[0-9]{1,9}", promised) and int(promised) != self.embedding_dim:
            raise ModelError(f"{source}: says that embeddings have {promised} numbers and gives {self.embedding_dim}")

    def __call__(self, waveform: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Map (S,) in [-1, 1] to (D,).

        Raises:
            ModelError: shorter than a frame, or the network fails, or gives a vector of another size.
        """
        features = self.front_end(waveform)
        given = (features.T if self._bands_first else features).astype(self._type)
        try:
            found = np.asarray(self._session.run([self._output], {self._input: given[None]})[0])
        except Exception as error:
            raise ModelError(f"{self.source}: fails on features {features.shape}: {_first_line(error)}") from error
        if found.ndim != 2 or found.shape[0] != 1 or not np.issubdtype(found.dtype, np.floating):
            raise ModelError(
                f"{self.source}: its output {self._output} has shape {found.shape} and type {found.dtype}, expected "
                "(1, size) of floating-point numbers"
            )
        vector: NDArray[np.float32] = found[0].astype(np.float32)
        return vector

    def _chosen(self, asked: str | None) -> tuple[str, str | None]:
        outputs = self._session.get_outputs()
        names = [str(node.name) for node in outputs]
        given = ", ".join(_described_node(node) for node in outputs) or "nothing"
        if asked is not None and asked not in names:
            raise ModelError(f"{self.source}: has no output {shown(asked)[:80]!r}; it gives {given}")
        if len(names) != 1 and asked is None:
            raise ModelError(
                f"{self.source}: gives {given}; say by name which one is the embedding: output= of load, --output of "
                f"'nestvox models import-onnx', or \"output\" in the description {_DESCRIPTION_SUFFIX} beside the file"
            )
        return (asked or names[0]), (None if len(names) == 1 else asked)


class OnnxModel:
    """A network in an ONNX file with its front end: a model that `extraction.embed.embed_table` takes without torch.

    Its fingerprint is that of the `SpeakerModel` which `nestvox.load` makes of the file, so stores of both compare.

    Args:
        path: the file.
        front_end: as `read_onnx` takes it.
        output: as `read_onnx` takes it.
        name: None: the name of the file.
        min_duration_s: shortest clip that it takes.
        training_speakers: keys of the speakers that it was trained on.
        threads: of one forward pass; one, because embedding runs several side by side.

    Attributes:
        fingerprint: 16 hex digits over the file and the front end.
        embedding_dim: D.
        metadata: what the file says of itself.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: as `read_onnx` and `OnnxNetwork`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        front_end: str | Path | KaldiFbank | None = None,
        output: str | None = None,
        name: str | None = None,
        min_duration_s: float = _SHORTEST_S,
        training_speakers: Sequence[str] = (),
        threads: int = 1,
    ) -> None:
        file = read_onnx(path, front_end=front_end, output=output)
        self._network = OnnxNetwork(file.content, file.front_end, file.source, output=file.output, threads=threads)
        self.path = Path(path)
        self.name = name or self.path.stem
        self.min_duration_s = min_duration_s
        self.training_speakers = tuple(training_speakers)
        self.metadata = self._network.metadata
        self.front_end = file.front_end
        self.sample_rate = file.front_end.sample_rate
        self.embedding_dim = self._network.embedding_dim
        config = {
            "encoder": {"architecture": "onnx", **encoder_config(file, self.embedding_dim, self._network.output)},
            "head": None,
        }
        self.fingerprint = fingerprint_of(config, {"encoder.network": np.frombuffer(file.content, np.uint8)})

    @property
    def dims(self) -> tuple[int, ...]:
        """Only the whole vector."""
        return (self.embedding_dim,)

    def forward(self, waveforms: Sequence[NDArray[np.floating[Any]]], *, tap: str = "nested") -> NDArray[np.float32]:
        """Embed B waveforms (S_i,) in [-1, 1], each by itself: (B, D) float32.

        Raises:
            ModelError: a tap other than ``nested`` and ``embedding``, no waveform, one shorter than a frame, or a
                result that is not finite.
        """
        check_tap(self.name, tap)
        if not len(waveforms):
            raise ModelError("forward needs at least one waveform")
        rows = []
        for waveform in waveforms:
            embedding = self._network(waveform)
            rows.append(checked_vector(embedding, self.embedding_dim, self.name, len(waveform) / self.sample_rate))
        return np.stack(rows)


def read_onnx(
    path: str | Path, *, front_end: str | Path | KaldiFbank | None = None, output: str | None = None
) -> OnnxFile:
    """Read an ONNX file and find out which filter banks it wants.

    What counts is, in this order: `front_end`; a description beside the file, NAME.nestvox.json for NAME.onnx; what the
    file says of itself, as exports for sherpa-onnx do (framework, sample_rate, normalize_samples,
    feature_normalize_type). A description is a JSON object with ``front_end``, a toolkit's name or an object with the
    fields of `KaldiFbank`, and perhaps ``output``, ``licence``, ``language`` and ``training_data`` for the model card.

    Args:
        path: the file.
        front_end: ``wespeaker``, ``3dspeaker``, filter banks of your own, or the path of a description.
        output: name of the output that is the embedding, where the file has several; None: as a description says.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: no such file, not ONNX, or a front end that is not known.
    """
    path = Path(path)
    require("onnxruntime", extra="onnx", purpose="running an ONNX file")
    content = read_bytes(path, naming(ModelError), most_bytes=MOST_ONNX_BYTES, missing="cannot be read: not there")
    check_onnx(content, str(path), n_mels=_USUAL_BANDS)
    session = _session(content, str(path), 1)
    metadata = _metadata(session, str(path))
    _only_input(session, str(path))  # before anybody looks up the filter banks of a network that takes none
    beside = path.with_name(path.stem + _DESCRIPTION_SUFFIX)
    card: dict[str, Any] = {}
    asked: Any = front_end
    if isinstance(front_end, Path) or (isinstance(front_end, str) and front_end.endswith(".json")):
        asked, card = _described(Path(front_end))
    elif beside.is_file():
        described, card = _described(beside)
        asked = described if front_end is None else front_end
    if not isinstance(asked, KaldiFbank):
        asked = _front_end(asked, metadata, path)
    if "language" in metadata:
        card.setdefault("language", [metadata["language"]])
    described_output = card.pop("output", None)
    return OnnxFile(content, asked, str(path), metadata, described_output if output is None else output, card)


def encoder_config(file: OnnxFile, embedding_dim: int, output: str | None = None) -> dict[str, Any]:
    """Return what, with the file's bytes, makes the encoder: the arguments of `onnx_encoder.OnnxEncoder`."""
    front_end = file.front_end
    shortest = max(front_end.frame_samples, round(_SHORTEST_S * front_end.sample_rate))
    return {
        "size_bytes": len(file.content),
        "embedding_dim": embedding_dim,
        "min_samples": shortest,
        "front_end": asdict(front_end),
        # Absent where there is no choice: files of one output keep the fingerprint that they always had.
        **({} if output is None else {"output": output}),
    }


def _only_input(session: Any, source: str, bands: int | None = None) -> tuple[str, type[np.floating[Any]], bool]:
    """Name and type of the input, and whether its bands stand before its frames; None: of any number of bands."""
    inputs = session.get_inputs()
    described = ", ".join(_described_node(node) for node in inputs) or "nothing"
    wanted = f"one input (batch, frames, {bands or _USUAL_BANDS}) of float32"
    wrap = f"expected {wanted}; wrap another network with from_callable"
    problem = ""
    shape = inputs[0].shape if inputs else []
    turned = len(shape) == 3 and bands is not None and shape[1] == bands and shape[2] != bands
    if len(inputs) != 1:
        problem = f"takes {described}, {wrap}"
    elif len(shape) == 2:
        problem = f"takes {described}, which is a waveform and no filter bank; {wrap}"
    elif (
        len(shape) != 3
        or inputs[0].type not in _TYPES
        or (bands is not None and not turned and isinstance(shape[2], int) and shape[2] != bands)
    ):
        problem = f"takes {described}, {wrap}"
    elif isinstance(shape[0], int) and shape[0] != 1:
        problem = f"takes {described}, which is always {shape[0]} utterances at once; {_DYNAMIC}"
    elif bands is not None and isinstance(frames := shape[2 if turned else 1], int):
        seconds = f"{(frames - 1) / 100 + 0.025:.2f} s"
        problem = f"takes {described}, which is always {frames} frames ({seconds}) and no other length; {_DYNAMIC}"
    if problem:
        raise ModelError(f"{source}: {problem}")
    return str(inputs[0].name), _TYPES[inputs[0].type], turned


def _session(content: bytes, source: str, threads: int) -> Any:
    runtime = require("onnxruntime", extra="onnx", purpose="running an ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if "xternal data" in str(error):
            raise ModelError(
                f"{source}: keeps weights in a file beside it, which no fingerprint would cover: "
                "save it with everything in one file (onnx.save without save_as_external_data)"
            ) from error
        raise ModelError(f"{source}: not an ONNX network that runs here: {_first_line(error)}") from error


def _metadata(session: Any, source: str) -> dict[str, str]:
    try:
        return dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as error:
        raise ModelError(f"{source}: damaged: what it says of itself is no text ({error})") from error


def _described(path: Path) -> tuple[str | KaldiFbank | None, dict[str, Any]]:
    words = "no description of a front end that can be read"
    content = read_json(path, lambda problem, source: ModelError(f"{source}: {words}: {problem}"), most_bytes=1 << 20)
    known = {"front_end", *_CARD_KEYS}
    if not isinstance(content, dict) or not content.keys() <= known:
        strange = f"has {', '.join(sorted(content.keys() - known))}" if isinstance(content, dict) else "is no object"
        raise ModelError(f"{path}: {strange}; a description has {', '.join(sorted(known))}")
    front_end = content.pop("front_end", None)
    if isinstance(front_end, dict):
        names = [item.name for item in fields(KaldiFbank)]
        if strange_names := sorted(front_end.keys() - set(names)):
            raise ModelError(f"{path}: front_end has {', '.join(strange_names)}; known: {', '.join(names)}")
        try:
            front_end = validated_dataclass(KaldiFbank, front_end, "front_end", naming(ModelError))
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
    elif front_end is not None and not isinstance(front_end, str):
        raise ModelError(f"{path}: front_end is a toolkit's name or an object, got {front_end!r}")
    for key, value in content.items():
        listed = value if isinstance(value, list) else [value]
        if not all(isinstance(word, str) for word in listed) or (isinstance(value, list) and key != "language"):
            raise ModelError(f"{path}: {key} is text, got {value!r:.60}")
    return front_end, content


def _front_end(asked: str | None, metadata: Mapping[str, str], path: Path) -> KaldiFbank:
    known = (asked or metadata.get("framework", "")).lower().replace("-", "")
    if known not in FRONT_ENDS:
        said = f"front_end {asked!r}" if asked else f"the file says {metadata.get('framework', 'nothing')!r}"
        names = " or ".join(repr(name) for name in FRONT_ENDS)
        raise ModelError(
            f"{path}: not known which filter banks it was trained on ({said}); give front_end={names} or a KaldiFbank "
            f"(--front-end of 'nestvox models import-onnx'), "
            f'or write {{"front_end": "wespeaker"}} into {path.stem}{_DESCRIPTION_SUFFIX} beside it'
        )
    found = FRONT_ENDS[known]
    if re.fullmatch("[0-9]{1,6}", metadata.get("sample_rate", "")):
        found = replace(found, sample_rate=int(metadata["sample_rate"]))
    if asked is not None:
        return found
    if metadata.get("normalize_samples") in ("0", "1"):
        found = replace(found, scale=1.0 if metadata["normalize_samples"] == "1" else 32768.0)
    if metadata.get("feature_normalize_type", "") not in ("", "global-mean"):
        raise ModelError(
            f"{path}: wants features normalised by {metadata['feature_normalize_type']!r}, and only 'global-mean' is "
            "known; wrap it with from_callable"
        )
    return found


def _described_node(node: Any) -> str:
    sizes = ", ".join(str(size) if isinstance(size, int | str) else "any" for size in node.shape)
    return shown(f"{node.name} ({sizes}) of {node.type.removeprefix('tensor(').removesuffix(')')}")[:200]


def _first_line(error: BaseException) -> str:
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0])[:500]
