"""The names of redimnet-mrl, working as its README shows them.

Whoever has scripts for that project changes the import and keeps the rest:

    from nestvox.mrl import create_mrl_from_pretrained, evaluate_mrl_eer, load_audio, load_trained_mrl

What is different, and why, is in the guide "Moving over from redimnet-mrl". In short: the pretrained pooling, last
layers and hop are kept, so a model is good before any training; a frozen backbone stays in evaluation mode; every
length up to the largest is a valid `target_dim`.

Notation: B utterances, T samples at 16 kHz, D the largest dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nestvox.audio.read import read
from nestvox.compat.redimnet_mrl.checkpoints import (
    mrl_network,
    read_mrl_checkpoint,
    read_state,
)
from nestvox.compat.redimnet_mrl.network import ABOUT, PretrainedReDimNet, ReDimNetMRL
from nestvox.corpora.trials import Trials, read_trials
from nestvox.device import find_device
from nestvox.encoders.contract import Encoder
from nestvox.encoders.registry import build
from nestvox.errors import CatalogueError, ModelError, WeightsError
from nestvox.evaluation.estimates import Settings
from nestvox.evaluation.measure import evaluate
from nestvox.gate import decode, naming, parse_json
from nestvox.heads.linear import LinearHead
from nestvox.heads.moments import Moments
from nestvox.heads.rotation import Rotation, check_dims
from nestvox.heads.trained import TrainedHead
from nestvox.model.calibration import ModelCalibration
from nestvox.model.folder import CONFIG_FILE, read_head
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Progress, silent
from nestvox.schema import Size, StrictModel, Word, validated
from nestvox.scoring.refusals import check_trials, chosen_on_these
from nestvox.scoring.sources import system_of_scores
from nestvox.scoring.system import prefix_cosines
from nestvox.shown import shown
from nestvox.zoo.catalogue import entries, find
from nestvox.zoo.weights import load_encoder, load_strict

SAMPLE_RATE = 16_000
_BEST_OF_RUN = "model"


class _About(StrictModel):
    """What `ReDimNetMRL.get_extra_state` writes."""

    encoder: dict[str, Any]
    head: dict[str, Any] | None
    mrl_dims: list[Size]
    name: Word
    card: dict[str, Any]
    training_speakers: list[Word]


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
        if ABOUT in checkpoint.tensors:
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
    text = decode(bytes(tensors[ABOUT].flatten().to(torch.uint8).tolist()), source, error)
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
