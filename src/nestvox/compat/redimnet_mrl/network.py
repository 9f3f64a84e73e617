"""The networks of redimnet-mrl under its names: an encoder with a nested head, and the layers that make one.

Notation: B utterances or vectors, T samples at 16 kHz, P input size of a head, D the largest dimension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from nestvox.audio.read import read
from nestvox.compat.redimnet_mrl.checkpoints import CATALOGUE_NAME, is_theirs, mrl_card, network_of
from nestvox.device import find_device
from nestvox.encoders.contract import Encoder
from nestvox.errors import ModelError
from nestvox.heads.contract import Head
from nestvox.heads.rotation import Rotation, check_dims, truncation
from nestvox.heads.trained import TrainedHead
from nestvox.model.calibration import ModelCalibration
from nestvox.model.speaker_model import SpeakerModel
from nestvox.zoo.checkpoint import unwrapped

ABOUT = "_extra_state"  # as torch names what a module adds to its state


class PretrainedReDimNet(nn.Module):
    """A pretrained encoder that is called as redimnet-mrl calls the official network.

    Args:
        encoder: with its weights.

    Attributes:
        encoder: the same.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, audio: Tensor) -> Tensor:
        """Embed audio (B, T) or (B, 1, T) as (B, D), not normalised."""
        embedding: Tensor = self.encoder(_two_dimensional(audio)).embedding
        return embedding


class ReDimNetMRL(nn.Module):
    """An encoder whose embedding has prefixes that are embeddings.

    Args:
        encoder: with its weights.
        head: from a tap of the encoder to D numbers: a trained head or a rotation; None: the encoder's own embedding is
            nested, as that of an imported checkpoint is.
        mrl_dims: prefix lengths, D last.

    Attributes:
        encoder, head: the same.
        mrl_dims: ascending.
        embed_dim: D.
        name: for people.
        card: licence and origin of the weights, and what else `SpeakerModel.card` holds.
        training_speakers: keys of the speakers that it was trained on, as far as they are known.

    Raises:
        ModelError: dims that the embedding does not have.
    """

    def __init__(
        self, encoder: Encoder, head: TrainedHead | RotationLayer | Rotation | None, mrl_dims: Sequence[int]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = RotationLayer(head) if isinstance(head, Rotation) else head
        self.embed_dim = encoder.embedding_dim if head is None else head.dims[-1]
        self.mrl_dims = check_dims(mrl_dims, self.embed_dim)
        self.name = CATALOGUE_NAME
        self.card: dict[str, Any] = {}
        self.training_speakers: tuple[str, ...] = ()
        self._calibration: ModelCalibration | None = None  # holds as long as the weights are those

    def forward(
        self,
        audio: Tensor,
        return_all_dims: bool = False,
        target_dim: int | None = None,
        *,
        dim: int | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor | dict[int, Tensor]:
        """Embed a batch in one pass.

        Args:
            audio: (B, T) or (B, 1, T) float32 in [-1, 1].
            return_all_dims: give every length of `mrl_dims`.
            target_dim: prefix length, 1 to D; None: D.
            dim: another name of `target_dim`.
            lengths: (B,) samples of each utterance where the batch is padded; padding changes no result.

        Returns:
            (B, target_dim), not normalised (normalise before comparing), or a dictionary of them by length.

        Raises:
            ModelError: another shape, too short audio, or a length that the embedding does not have.
        """
        taps = self.encoder(_two_dimensional(audio), None if lengths is None else torch.as_tensor(lengths))
        full: Tensor = taps.embedding if self.head is None else self.head(getattr(taps, self.head.tap))
        return prefixes(full, self.mrl_dims, return_all_dims, target_dim if target_dim is not None else dim)

    def freeze_backbone(self) -> Self:
        """Leave only the projection trainable; the backbone's statistics stay as they are in training too."""
        self.encoder.requires_grad_(False)
        for module in self._projection():
            module.requires_grad_(True)
        return self.train(self.training)

    def unfreeze_backbone(self) -> Self:
        """Make everything trainable."""
        self.requires_grad_(True)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; what is frozen stays in evaluation mode, so that its batch statistics cannot drift."""
        super().train(mode)
        if mode:
            projection = {id(module) for module in self._projection()}
            for module in self.encoder.modules():
                own = list(module.parameters(recurse=False))
                if id(module) not in projection and not any(p.requires_grad for p in own):
                    module.training = False
        return self

    def extract_embedding(
        self, audio_path: str | Path, target_dim: int | None = None, device: str | torch.device | None = None
    ) -> Tensor:
        """Embed one file, whole, on `device` (None: where the model is).

        Returns:
            (1, target_dim) float32 on the CPU, not normalised.

        Raises:
            AudioError: the file cannot be used.
            ModelError: a length that the embedding does not have.
        """
        if device is not None:
            self.to(find_device(device))
        training = self.training
        self.eval()
        place = next(self.parameters()).device
        with torch.inference_mode():
            audio = torch.from_numpy(read(audio_path, sample_rate=self.encoder.sample_rate)[0])[None]
            embedding: Tensor = self(audio.to(place), target_dim=target_dim)
        self.train(training)
        return embedding.float().cpu().clone()

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Load weights; those of a redimnet-mrl checkpoint turn this model into that project's network.

        Its network is another one than `create_mrl_from_pretrained` builds here: other sizes, another hop, untrained
        layers before and in the pooling. So encoder and head are replaced, and optimisers have to be made anew. What
        was frozen stays so. Names that DataParallel or torch.compile put before those of the network are taken off.
        """
        named = unwrapped(state_dict)
        if not is_theirs(named):
            return super().load_state_dict({ABOUT: self.get_extra_state(), **named}, *args, **options)
        place, frozen = next(self.parameters()).device, self._is_frozen()
        theirs = network_of(named, "state_dict")
        self.encoder, self.head = theirs.to(place), None
        self.card, self.training_speakers = mrl_card({}), ()
        self.embed_dim = theirs.embedding_dim
        self.mrl_dims = (*(d for d in self.mrl_dims if d < self.embed_dim), self.embed_dim)
        if frozen:
            self.freeze_backbone()
        self.train(self.training)
        return nn.modules.module._IncompatibleKeys([], [])

    def get_extra_state(self) -> Tensor:
        """What a state dict says of its network, as bytes of JSON, so that `load_trained_mrl` can open it alone."""
        head = self._saved_head()
        about = {
            "encoder": {"architecture": self.encoder.architecture, **self.encoder.config()},
            "head": None if head is None else {**head.config(), "kind": head.kind},
            "mrl_dims": list(self.mrl_dims),
            "name": self.name,
            "card": self.card,
            "training_speakers": list(self.training_speakers),
        }
        return torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """The network is there already; names and card stay as they are."""

    def _saved_head(self) -> Head | None:
        return self.head.rotation if isinstance(self.head, RotationLayer) else self.head

    def to_speaker_model(self, name: str | None = None) -> SpeakerModel:
        """Return it as a `SpeakerModel`, which is saved, embeds tables and verifies; weights are shared.

        Thresholds of the folder that it was loaded from come along, unless it has been trained since.
        """
        head = self._saved_head() or truncation(self.embed_dim, self.mrl_dims)
        model = SpeakerModel(
            self.encoder, head, name or self.name, training_speakers=self.training_speakers, card=dict(self.card)
        )
        if self._calibration is not None and self._calibration.fingerprint == model.fingerprint:
            model.thresholds, model.llr = self._calibration.thresholds, self._calibration.llr
        return model

    def _is_frozen(self) -> bool:
        """Whether nothing but the projection learns."""
        projection = {id(p) for module in self._projection() for p in module.parameters()}
        return not any(p.requires_grad for p in self.encoder.parameters() if id(p) not in projection)

    def _projection(self) -> list[nn.Module]:
        """What redimnet-mrl calls the projection: the head, or the last layers of an imported network."""
        if self.head is not None:
            return [self.head]
        last = [getattr(self.encoder, name, None) for name in ("bn", "linear", "bn2")]
        return [module for module in last if isinstance(module, nn.Module)]


class MatryoshkaProjection(nn.Module):
    """Batch norm and a linear layer, whose output has prefixes; it begins at random.

    The head of `create_mrl_from_pretrained` is a `heads.linear.LinearHead`, which begins as the pretrained last layers.

    Args:
        input_dim: P, of the pooled vector.
        max_embed_dim: D.
        mrl_dims: prefix lengths; D is added if it is missing.

    Raises:
        ModelError: dims beyond D.
    """

    def __init__(self, input_dim: int, max_embed_dim: int, mrl_dims: Sequence[int]) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.max_embed_dim = max_embed_dim
        self.mrl_dims = check_dims(mrl_dims, max_embed_dim)
        self.bn = nn.BatchNorm1d(input_dim)
        self.linear = nn.Linear(input_dim, max_embed_dim)

    def forward(
        self, x: Tensor, return_all_dims: bool = False, target_dim: int | None = None
    ) -> Tensor | dict[int, Tensor]:
        """Map (B, P) to (B, target_dim), or to a dictionary of every length; see `ReDimNetMRL.forward`."""
        return prefixes(self.linear(self.bn(x)), self.mrl_dims, return_all_dims, target_dim)


def prefixes(
    full: Tensor, dims: tuple[int, ...], return_all_dims: bool, target_dim: int | None
) -> Tensor | dict[int, Tensor]:
    """Cut (B, D) to one length or to all.

    Args:
        full: the whole embedding.
        dims: prefix lengths, D last.
        return_all_dims: give every length of `dims`.
        target_dim: one length, 1 to D; None: D.

    Raises:
        ModelError: a length that the embedding does not have.
    """
    if return_all_dims:
        return {d: full[:, :d] for d in dims}
    if target_dim is None:
        return full
    if not 1 <= target_dim <= dims[-1]:
        raise ModelError(f"target_dim must be between 1 and {dims[-1]}, got {target_dim}")
    return full[:, :target_dim]


class RotationLayer(nn.Module):
    """nested = embedding @ matrix, or with the rotation's mean: embedding at unit length @ matrix - mean.

    Args:
        rotation: the head; a rotation is fitted and not trained, so the layer has no parameters.

    Attributes:
        rotation: the same.
        tap: of the encoder, which the layer takes.
        dims: prefix lengths.
        matrix: (D, D) float64, the rotation's.
        mean: (D,) float64, the rotation's; None: it has none.
    """

    tap: ClassVar[Literal["embedding"]] = "embedding"
    matrix: Tensor
    mean: Tensor | None

    def __init__(self, rotation: Rotation) -> None:
        super().__init__()
        self.rotation = rotation
        self.dims = rotation.dims
        self.register_buffer("matrix", torch.from_numpy(rotation.matrix.copy()))
        self.register_buffer("mean", None if rotation.mean is None else torch.from_numpy(rotation.mean.copy()))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (B, D) to (B, D), not normalised."""
        if self.mean is None:
            return vectors @ self.matrix.to(vectors.dtype)
        unit = nn.functional.normalize(vectors, dim=1, eps=0)
        return unit @ self.matrix.to(vectors.dtype) - self.mean.to(vectors.dtype)


def _two_dimensional(audio: Tensor) -> Tensor:
    given: Any = audio  # who has no type checker may pass an array
    if not isinstance(given, Tensor):
        raise ModelError(f"audio must be a tensor, got {type(given).__name__}; torch.from_numpy makes one of an array")
    if audio.ndim == 3 and audio.shape[1] == 1:
        return audio[:, 0]
    if audio.ndim != 2:
        raise ModelError(f"audio must be (batch, samples) or (batch, 1, samples), got {tuple(audio.shape)}")
    return audio
