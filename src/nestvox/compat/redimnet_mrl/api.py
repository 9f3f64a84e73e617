"""The names of redimnet-mrl, working as its README shows them.

Whoever has scripts for that project changes the import and keeps the rest:

    from nestvox.mrl import create_mrl_from_pretrained, evaluate_mrl_eer, load_audio, load_trained_mrl

What is different, and why, is in the guide "Moving over from redimnet-mrl". In short: the pretrained pooling, last
layers and hop are kept, so a model is good before any training; a frozen backbone stays in evaluation mode; every
length up to the largest is a valid `target_dim`.

Notation: B utterances, T samples at 16 kHz, D the largest dimension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from nestvox.audio.read import read
from nestvox.compat.redimnet_mrl.checkpoints import (
    CATALOGUE_NAME,
    is_theirs,
    mrl_card,
    mrl_network,
    network_of,
    read_mrl_checkpoint,
    read_state,
)
from nestvox.compat.redimnet_mrl.heads import RotationLayer, prefixes
from nestvox.corpora.trials import Trials, read_trials
from nestvox.device import find_device
from nestvox.encoders.contract import Encoder
from nestvox.encoders.registry import build
from nestvox.errors import CatalogueError, ModelError, WeightsError
from nestvox.evaluation.estimates import Settings
from nestvox.evaluation.measure import evaluate
from nestvox.gate import decode, naming, parse_json
from nestvox.heads.contract import Head
from nestvox.heads.linear import LinearHead
from nestvox.heads.moments import Moments
from nestvox.heads.rotation import Rotation, check_dims, truncation
from nestvox.heads.trained import TrainedHead
from nestvox.model.calibration import ModelCalibration
from nestvox.model.folder import CONFIG_FILE, read_head
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Progress, silent
from nestvox.schema import Size, StrictModel, Word, validated
from nestvox.scoring.cosine import prefix_cosines
from nestvox.scoring.refusals import check_trials, chosen_on_these
from nestvox.scoring.sources import system_of_scores
from nestvox.shown import shown
from nestvox.zoo.catalogue import entries, find
from nestvox.zoo.checkpoint import unwrapped
from nestvox.zoo.weights import load_encoder, load_strict

SAMPLE_RATE = 16_000
_ABOUT = "_extra_state"  # as torch names what a module adds to its state
_BEST_OF_RUN = "model"


class _About(StrictModel):
    """What `ReDimNetMRL.get_extra_state` writes."""

    encoder: dict[str, Any]
    head: dict[str, Any] | None
    mrl_dims: list[Size]
    name: Word
    card: dict[str, Any]
    training_speakers: list[Word]


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
            return super().load_state_dict({_ABOUT: self.get_extra_state(), **named}, *args, **options)
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


def load_audio(path: str | Path) -> Tensor:
    """Read a recording as (1, T) float32 at 16 kHz, mono: a batch of one, and what `torch.stack` makes (B, 1, T) of.

    Raises:
        AudioError: it cannot be used.
    """
    return torch.from_numpy(read(path, sample_rate=SAMPLE_RATE)[0])[None]


def load_pretrained_redimnet(
    model_name: str = "b2",
    train_type: str = "ptn",
    dataset: str = "vox2",
    device: str = "cpu",
    *,
    weights: str | Path | None = None,
    offline: bool = False,
) -> PretrainedReDimNet:
    """Load an official ReDimNet.

    Args:
        model_name: ``b0`` to ``b6``, ``M`` or ``S``.
        train_type: ``ptn``, ``ft_lm`` or ``ft_mix``.
        dataset: what it was trained on: ``vox2``, ``vb2`` or ``vb2+vox2+cnc``.
        device: where to run it.
        weights: a local file of the weights.
        offline: never download.

    Raises:
        CatalogueError: no such file was released.
        DownloadError: it could not be had; nothing random is put in its place.
    """
    name = _released(model_name, train_type, dataset)
    place = find_device(device)
    return PretrainedReDimNet(load_encoder(name, weights=weights, offline=offline)).to(place).eval()


def create_mrl_from_pretrained(
    model_name: str = "b2",
    train_type: str = "ptn",
    dataset: str = "vox2",
    embed_dim: int = 256,
    mrl_dims: Sequence[int] | None = None,
    device: str = "cpu",
    freeze_backbone: bool = False,
    *,
    weights: str | Path | None = None,
    offline: bool = False,
) -> ReDimNetMRL:
    """Put a nested head on an official ReDimNet; the head begins as the pretrained last layers.

    So the first 192 dimensions are the pretrained embedding before any training. `nestvox rotate` or a training recipe
    makes the shorter prefixes good.

    Args:
        model_name: ``b0`` to ``b6``, ``M`` or ``S``.
        train_type: ``ptn``, ``ft_lm`` or ``ft_mix``.
        dataset: what it was trained on: ``vox2``, ``vb2`` or ``vb2+vox2+cnc``.
        embed_dim: D.
        mrl_dims: prefix lengths; D is added if it is missing. None: 64, 128, 192 and D, as far as they are below it.
        device: where to put it.
        freeze_backbone: only the head is trainable; by default, as there, everything is.
        weights: a local file of the weights.
        offline: never download.

    Raises:
        CatalogueError: no such file was released.
        DownloadError: it could not be had; nothing random is put in its place.
        ModelError: dims beyond `embed_dim`.
    """
    small = [d for d in (64, 128, 192) if d < embed_dim]
    dims = check_dims([*small, embed_dim] if mrl_dims is None else mrl_dims, embed_dim)
    place = find_device(device)
    encoder = load_pretrained_redimnet(model_name, train_type, dataset, weights=weights, offline=offline).encoder
    model = _nested_on(encoder, dims)
    entry = find(_released(model_name, train_type, dataset))
    model.name = f"{entry.name}-mrl"
    model.card = {"licence": entry.licence, "base_model": entry.name, "training_data": entry.training_data}
    if freeze_backbone:
        model.freeze_backbone()
    return model.to(place).eval()


def _nested_on(encoder: Encoder, dims: tuple[int, ...]) -> ReDimNetMRL:
    """Put a head that begins as the last layers of `encoder` on it."""
    norm = getattr(encoder, "bn", None)
    moments = None
    if isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None and norm.running_var is not None:
        # Whatever lies beyond the pretrained size begins at directions of the pooled vector, scaled by these.
        moments = Moments.uncorrelated(norm.running_mean.double().numpy(), norm.running_var.double().numpy())
    return ReDimNetMRL(encoder, LinearHead.from_pretrained(encoder.projection(), None, dims, moments=moments), dims)


def unfreeze_backbone(model: ReDimNetMRL) -> None:
    """Make everything of a model trainable."""
    model.unfreeze_backbone()


def get_model_info(model: nn.Module, *, show: bool = True) -> dict[str, int | tuple[int, ...] | str]:
    """Print and return type, parameter counts and, of a nested model, its dimensions.

    Args:
        model: any network.
        show: print them, as redimnet-mrl does.
    """
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    info: dict[str, int | tuple[int, ...] | str] = {
        "type": type(model).__name__,
        "parameters": total,
        "trainable": trainable,
        "frozen": total - trainable,
    }
    if isinstance(model, ReDimNetMRL):
        info |= {"embed_dim": model.embed_dim, "mrl_dims": model.mrl_dims}
    if show:
        for name, value in info.items():
            print(f"{name:<10} {value:,}" if isinstance(value, int) else f"{name:<10} {value}")  # noqa: T201
    return info


def import_checkpoint(path: str | Path) -> ReDimNetMRL:
    """Rebuild the network of a redimnet-mrl checkpoint (``best.pt``) exactly as that project defines it.

    Its hop of 160 samples and the untrained layers before and in its pooling are part of it. No code in the file is
    run, and nothing else is needed: no official checkpoint, no network.

    Args:
        path: a ``.pt`` file with ``model_state_dict`` or ``state_dict``, or the bare state.

    Raises:
        WeightsError: the file is of another network, damaged, or holds more than tensors and plain values.
    """
    return _imported(*read_mrl_checkpoint(path))


def _imported(encoder: Encoder, dims: Sequence[int], card: Mapping[str, Any]) -> ReDimNetMRL:
    model = ReDimNetMRL(encoder, None, dims)
    model.card = dict(card)
    return model.freeze_backbone().eval()


def load_trained_mrl(path: str | Path, device: str = "cpu") -> ReDimNetMRL:
    """Load a trained model: a model folder, or a file that a state dict or a checkpoint of redimnet-mrl is in.

    Args:
        path: a folder that `SpeakerModel.save` or `nestvox train` wrote, with whatever head; the folder of a run, whose
            best model is loaded; ``best.pt`` of redimnet-mrl; or ``torch.save(model.state_dict(), path)`` of a model
            from here.
        device: where to put it.

    Raises:
        ModelError: a folder that holds no model.
        WeightsError: a file that is no such checkpoint.
    """
    path, place = Path(path), find_device(device)
    if not path.is_dir():
        checkpoint = read_state(path)
        if _ABOUT in checkpoint.tensors:
            return _of_own_state(checkpoint.tensors, str(path)).to(place).eval()
        return _imported(*mrl_network(checkpoint, str(path))).to(place)
    if not (path / CONFIG_FILE).is_file() and (path / _BEST_OF_RUN / CONFIG_FILE).is_file():
        path = path / _BEST_OF_RUN
    saved = SpeakerModel.from_folder(path)
    head = saved.head
    if isinstance(head, Rotation) and head.method == "truncation" and head.mean is None:
        head = None
    if head is not None and not isinstance(head, TrainedHead | Rotation):
        raise ModelError(f"{path} has a head of the kind {head.kind}; nestvox.load({str(path)!r}) takes any")
    model = ReDimNetMRL(saved.encoder, head, saved.dims)
    model.name, model.card, model.training_speakers = saved.name, dict(saved.card), saved.training_speakers
    model._calibration = ModelCalibration(saved.fingerprint, saved.thresholds, saved.llr)
    return model.to(place).eval()


def _of_own_state(tensors: Mapping[str, Tensor], source: str) -> ReDimNetMRL:
    """Rebuild a model from what `ReDimNetMRL.state_dict` gave.

    Raises:
        WeightsError: the description is damaged, or the tensors are not those of the network that it describes.
    """
    error = naming(WeightsError)
    text = decode(bytes(tensors[_ABOUT].flatten().to(torch.uint8).tolist()), source, error)
    about = validated(_About, parse_json(text, source, error), source, error)
    weights = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
    arrays = {name.removeprefix("head."): t.numpy() for name, t in tensors.items() if name.startswith("head.")}
    arrays.pop("norm.num_batches_tracked", None)
    try:
        encoder = build(about.encoder, available=sum(tensor.numel() for tensor in weights.values()))
        load_strict(encoder, weights, source)
        head = read_head(about.head, arrays)
        assert head is None or isinstance(head, TrainedHead | Rotation)
        model = ReDimNetMRL(encoder, head, about.mrl_dims)
    except ModelError as problem:
        raise WeightsError(f"{source}: {problem}") from problem
    model.name, model.card, model.training_speakers = about.name, dict(about.card), tuple(about.training_speakers)
    return model


def evaluate_mrl_eer(
    model: ReDimNetMRL | SpeakerModel,
    test_pairs: str | Path | Trials | Sequence[tuple[str, str, int]],
    mrl_dims: Sequence[int] | None = None,
    *,
    audio_dir: str | Path | None = None,
    n_bootstrap: int = 1000,
    progress: Progress = silent,
) -> dict[int, dict[str, Any]]:
    """Measure error rates at every prefix; each file is read and embedded once.

    Args:
        model: what embeds.
        test_pairs: a trial list (VoxCeleb's ``1 a.wav b.wav`` or any other that `nestvox` reads), or tuples of two
            paths and 1 or 0.
        mrl_dims: prefix lengths; None: the model's.
        audio_dir: where the paths of the pairs begin; None: the folder of the list, or the working directory.
        n_bootstrap: replicates of the interval.
        progress: told the files embedded.

    Returns:
        By length ``eer`` (a fraction), ``threshold``, and everything else of `evaluation.results.ErrorRates`, without
        which the number says nothing: interval, counts, hash of the trials, minDCF.

    Raises:
        AudioError: a file is missing or damaged; none is left out silently.
        TrialsError: not a list of labelled pairs of both classes.
    """
    trials, root = _trials_of(test_pairs, audio_dir)
    check_trials(trials)  # before the work
    speaker_model = model.to_speaker_model() if isinstance(model, ReDimNetMRL) else model
    wanted = tuple(mrl_dims or speaker_model.dims)
    names = sorted({*trials.frame["enrol"], *trials.frame["test"]})
    row = {name: number for number, name in enumerate(names)}
    vectors = np.zeros((len(names), speaker_model.embedding_dim), np.float32)
    for done, name in enumerate(names):
        vectors[done] = speaker_model.embed(root / name, dim=speaker_model.embedding_dim, normalize=False)
        progress(done + 1, len(names))
    sides = [np.array([row[name] for name in trials.frame[side]]) for side in ("enrol", "test")]
    measured = {}
    for dim, scores in prefix_cosines(vectors, sides[0], sides[1], wanted, names=names).items():
        system = system_of_scores(
            "the scores",
            trials,
            scores,
            dim=dim,
            model=speaker_model.name,
            fingerprint=speaker_model.fingerprint,
            training_speakers=speaker_model.training_speakers,
            labels=chosen_on_these(trials, speaker_model.chosen_on)[0],
        )
        rates = evaluate(system, trials, settings=Settings(n_bootstrap=n_bootstrap)).headline
        measured[dim] = {**rates.to_dict(), "threshold": rates.eer_threshold}
    return measured


def _trials_of(
    pairs: str | Path | Trials | Sequence[tuple[str, str, int]], audio_dir: str | Path | None
) -> tuple[Trials, Path]:
    if isinstance(pairs, str | Path):
        trials, root = read_trials(pairs), Path(pairs).parent
    elif isinstance(pairs, Trials):
        trials, root = pairs, Path()
    else:
        import polars as pl  # noqa: PLC0415  slow to import, and rarely needed here

        columns = list(zip(*pairs, strict=True)) or [(), (), ()]
        enrol, test, label = columns
        frame = pl.DataFrame({"enrol": list(map(str, enrol)), "test": list(map(str, test))})
        trials = Trials(
            frame.with_columns(target=pl.Series([bool(value) for value in label], dtype=pl.Boolean)), "pairs"
        )
        root = Path()
    return trials, root if audio_dir is None else Path(audio_dir)


def _released(model_name: str, train_type: str, dataset: str) -> str:
    name = f"redimnet-{model_name}-{dataset}-{train_type}"
    known = [entry.name for entry in entries() if entry.name.startswith(f"redimnet-{model_name}-")]
    if name not in known:
        released = [entry.name.split("-")[1] for entry in entries() if entry.name.startswith("redimnet-")]
        sizes = ", ".join(sorted(set(released) - {"mrl"}))
        there = f"there is {', '.join(known)}" if known else f"sizes that were released: {sizes}"
        raise CatalogueError(f"no released {shown(name)}; {there}")
    return name


def _two_dimensional(audio: Tensor) -> Tensor:
    given: Any = audio  # who has no type checker may pass an array
    if not isinstance(given, Tensor):
        raise ModelError(f"audio must be a tensor, got {type(given).__name__}; torch.from_numpy makes one of an array")
    if audio.ndim == 3 and audio.shape[1] == 1:
        return audio[:, 0]
    if audio.ndim != 2:
        raise ModelError(f"audio must be (batch, samples) or (batch, 1, samples), got {tuple(audio.shape)}")
    return audio
