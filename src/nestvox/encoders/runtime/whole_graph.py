"""A whole encoder as one ONNX graph, the front end inside: waveforms to pooled vectors and embeddings.

Notation: B utterances of equal length, S samples, P pooled size, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nestvox.encoders.contract import Affine, Encoder
from nestvox.encoders.registry import named
from nestvox.encoders.runtime.onnx_ends import write_affine, write_front_end, write_pooling
from nestvox.encoders.runtime.onnx_graph import EMBEDDING, POOLED, WAVEFORM, GraphWriter
from nestvox.errors import ModelError

FRONT_END, TRUNK, ENDS = "front_end/", "trunk/", "ends/"
"""What the names of the operators of each section begin with."""

# Of each architecture, what writes its network from features to frames.
_WRITERS: Mapping[str, str] = {
    "campplus": "nestvox.encoders.campplus.onnx_network:write_frames",
    "lstm_autoencoder": "nestvox.encoders.runtime.autoencoder_onnx:write_frames",
    "mixer": "nestvox.encoders.runtime.mixer_onnx:write_frames",
    "redimnet": "nestvox.encoders.redimnet.onnx_front_end:write_pooled_frames",
    "redimnet2": "nestvox.encoders.redimnet.onnx_front_end:write_pooled_frames",
}
_REDIMNET_FEATURES = "nestvox.encoders.redimnet.onnx_front_end:write_features"


def has_whole_graph(encoder: Encoder) -> bool:
    """Whether `encoder_to_onnx` knows the architecture."""
    return encoder.architecture in _WRITERS


Finish = Callable[[GraphWriter, str, Callable[[], str]], Mapping[str, tuple[str, int]]]


def encoder_to_onnx(encoder: Encoder, finish: Finish | None = None) -> bytes:
    """Write an encoder as a graph; batch and length may be any.

    Args:
        encoder: in evaluation mode, in float32.
        finish: gets the graph, the name of the pooled vectors (B, P) and what writes the embeddings (B, D) and returns
            their name; says what the graph gives: by name, the value and its size. None: ``pooled``, ``embedding``.

    Returns:
        The serialised model. Its input is ``waveform`` (B, S) at the encoder's rate.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: the encoder, or a part of it, has no such form.
    """
    if not has_whole_graph(encoder):
        raise ModelError(
            f"{encoder.architecture} cannot be written as one ONNX graph; these can: {', '.join(sorted(_WRITERS))}"
        )
    layer = encoder.projection()
    assert isinstance(layer, Affine)  # exact, of these
    graph = GraphWriter()
    graph.section = FRONT_END
    features = _features(graph, encoder)
    graph.section = TRUNK
    frames = named(_WRITERS[encoder.architecture])(graph, features, encoder)
    graph.section = ENDS
    pooled = write_pooling(graph, frames, encoder.pool)

    def embedding() -> str:
        return write_affine(graph, pooled, layer)

    outputs: Mapping[str, tuple[str, int]]
    if finish is None:
        outputs = {POOLED: (pooled, encoder.pooled_dim), EMBEDDING: (embedding(), encoder.embedding_dim)}
    else:
        outputs = finish(graph, pooled, embedding)
    return graph.finish(
        {WAVEFORM: ("batch", "samples")}, {name: (value, ("batch", size)) for name, (value, size) in outputs.items()}
    )


def _features(graph: GraphWriter, encoder: Encoder) -> str:
    """The front end, in the shape that the network takes: a plane of bands, or a line of as many channels."""
    if encoder.architecture.startswith("redimnet"):
        return str(named(_REDIMNET_FEATURES)(graph, WAVEFORM, encoder))
    features = write_front_end(graph, WAVEFORM, encoder.get_submodule("features"))
    return graph.transpose(features, 0, 2, 1, 3) if encoder.architecture == "campplus" else features
