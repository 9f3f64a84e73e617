"""The names of redimnet-mrl: shapes, starting point, its checkpoints, error rates."""

from __future__ import annotations

import copy
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch
from typer.testing import CliRunner

from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.trials import read_trials
from nestvox.encoders.redimnet.redimnet import ReDimNet
from nestvox.errors import AudioError, CatalogueError, ModelError, OverlapError, TrialsError, WeightsError
from nestvox.heads.linear import LinearHead
from nestvox.heads.mlp import MlpHead
from nestvox.heads.rotation import Rotation, truncation
from nestvox.losses.margins import AamSoftmax, SubCenterAamSoftmax
from nestvox.metrics.curves import error_curve
from nestvox.metrics.rates import eer
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.threshold import Threshold
from nestvox.mrl import (
    AAMSoftmax,
    MatryoshkaLoss,
    MatryoshkaProjection,
    ReDimNetMRL,
    SubCenterAAMSoftmax,
    TripletLoss,
    create_mrl_from_pretrained,
    evaluate_mrl_eer,
    get_model_info,
    import_checkpoint,
    load_audio,
    load_pretrained_redimnet,
    load_trained_mrl,
    unfreeze_backbone,
)

CONFIG = {
    "stages_setup": [[1, 1, 1, [[3, 3]], 4], [2, 1, 1, [[3, 3]], 4]],
    "F": 24,
    "C": 4,
    "embed_dim": 24,
    "group_divisor": 4,
}
DIMS = (8, 16, 24, 32)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network as the official files hold one."""
    torch.manual_seed(0)
    network = ReDimNet(**CONFIG)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("released") / "b2-vox2-ptn.pt"
    torch.save({"model_config": CONFIG, "state_dict": network.state_dict()}, path)
    return path


@pytest.fixture
def model(released: Path) -> ReDimNetMRL:
    return create_mrl_from_pretrained("b2", "ptn", embed_dim=32, mrl_dims=DIMS, freeze_backbone=True, weights=released)


@pytest.fixture(scope="module")
def audio() -> torch.Tensor:
    return 0.1 * torch.from_numpy(np.random.default_rng(0).standard_normal((2, 16_000)).astype(np.float32))


def test_calls_of_the_readme(model: ReDimNetMRL, audio: torch.Tensor) -> None:
    full = model(audio)
    assert full.shape == (2, 32)
    assert model(audio[:, None], target_dim=8).shape == (2, 8)
    by_dim = model(audio, return_all_dims=True)
    assert {d: tuple(e.shape) for d, e in by_dim.items()} == {d: (2, d) for d in DIMS}
    for dim, embedding in by_dim.items():
        torch.testing.assert_close(embedding, full[:, :dim], rtol=0, atol=0)
        torch.testing.assert_close(model(audio, dim=dim), embedding, rtol=0, atol=0)
    assert model(audio, target_dim=5).shape == (2, 5)  # any prefix is one
    for wrong in (0, 33):
        with pytest.raises(ModelError, match="between 1 and 32"):
            model(audio, target_dim=wrong)
    with pytest.raises(ModelError, match=r"\(batch, samples\) or \(batch, 1, samples\)"):
        model(audio[None, :, None])
    with pytest.raises(ModelError, match="must be a tensor, got ndarray"):
        model(audio.numpy())


def test_what_is_left_out_means_what_it_means_there(released: Path) -> None:
    model = create_mrl_from_pretrained("b2", "ptn", weights=released)
    assert (model.embed_dim, model.mrl_dims) == (256, (64, 128, 192, 256))
    assert all(p.requires_grad for p in model.parameters() if p.numel() > 1)  # the weight of a sum of one stays 1
    for embed_dim, dims in ((512, (64, 128, 192, 512)), (128, (64, 128)), (192, (64, 128, 192)), (32, (32,))):
        assert create_mrl_from_pretrained("b2", embed_dim=embed_dim, weights=released).mrl_dims == dims


def test_begins_as_the_pretrained_network(model: ReDimNetMRL, released: Path, audio: torch.Tensor) -> None:
    official = load_pretrained_redimnet("b2", "ptn", "vox2", weights=released)
    with torch.no_grad():
        torch.testing.assert_close(model(audio, target_dim=24), official(audio[:, None]), rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing(model: ReDimNetMRL, audio: torch.Tensor) -> None:
    padded = torch.cat([audio, torch.ones(2, 3000)], dim=1)
    with torch.no_grad():
        for lengths in (torch.tensor([16_000, 16_000]), [16_000, 16_000]):
            torch.testing.assert_close(model(padded, lengths=lengths), model(audio))


def test_a_frozen_backbone_stays_as_it_is(model: ReDimNetMRL, audio: torch.Tensor) -> None:
    before = copy.deepcopy(model.encoder.state_dict())
    loss = MatryoshkaLoss(AamSoftmax(32, 5), DIMS)
    optimiser = torch.optim.SGD([p for p in [*model.parameters(), *loss.parameters()] if p.requires_grad], lr=0.1)
    model.train()
    for _ in range(3):
        optimiser.zero_grad()
        total, _ = loss(model(audio, return_all_dims=True), torch.tensor([1, 3]))
        total.backward()
        optimiser.step()
    after = model.encoder.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)  # statistics of BatchNorm too
    assert get_model_info(model)["trainable"] == sum(p.numel() for p in model.head.parameters())
    unfreeze_backbone(model)
    assert get_model_info(model)["frozen"] == 0
    model.train()
    assert model.encoder.bn.training


def test_loss_is_the_weighted_mean_and_weights_stay_with_their_dims(model: ReDimNetMRL, audio: torch.Tensor) -> None:
    base = AamSoftmax(32, 5)
    labels = torch.tensor([1, 3])
    embeddings = model(audio, return_all_dims=True)
    total, parts = MatryoshkaLoss(base, [32, 8], [3.0, 1.0])(embeddings, labels)  # not ascending
    large, small = base(embeddings[32], labels), base.at_prefix(embeddings[8], labels)
    torch.testing.assert_close(total, (3 * large + small) / 4)
    torch.testing.assert_close(parts["loss_8d"], small.detach())
    assert {key: float(value) for key, value in parts.items() if key.startswith("weight")} == {
        "weight_8d": 1.0,
        "weight_32d": 3.0,
    }
    with pytest.raises(ModelError, match="2 dims need as many weights, got 3"):
        MatryoshkaLoss(base, [8, 16], [1, 2, 3])


def test_losses_under_their_names() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(6, 32), torch.tensor([0, 0, 1, 1, 2, 2])
    for theirs, ours in (
        (AAMSoftmax(embed_dim=32, num_classes=3, easy_margin=True), AamSoftmax(32, 3, easy_margin=True)),
        (SubCenterAAMSoftmax(embed_dim=32, num_classes=3, num_subcenters=2), SubCenterAamSoftmax(32, 3, centers=2)),
    ):
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(theirs(x, labels), ours(x, labels))
        torch.testing.assert_close(theirs(x[:, :8], labels), ours.at_prefix(x[:, :8], labels))
        total, parts = MatryoshkaLoss(base_loss=theirs, mrl_dims=[8, 32], mrl_weights=[1.0, 2.0])(x, labels)
        torch.testing.assert_close(total, (ours.at_prefix(x[:, :8], labels) + 2 * ours(x, labels)) / 3)
        assert set(parts) == {"loss_8d", "loss_32d", "weight_8d", "weight_32d", "loss_total", "total_weight"}
        assert parts["total_weight"] == 3
    farther = TripletLoss(margin=0.5, mining_strategy="semi-hard")(x, labels)
    assert farther > TripletLoss(0.1, "semi-hard")(x, labels)


def test_embeddings_reach_a_criterion_as_they_are_where_that_is_asked() -> None:
    class Length(torch.nn.Module):
        def forward(self, embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return embedding.norm(dim=1).mean()

    x = torch.tensor([[3.0, 4.0, 12.0]])
    assert MatryoshkaLoss(Length(), [2, 3])(x, torch.tensor([0]))[0] == pytest.approx(1.0)
    assert MatryoshkaLoss(Length(), [2, 3], None, False)(x, torch.tensor([0]))[0] == pytest.approx((5 + 13) / 2)


def test_projection() -> None:
    head = MatryoshkaProjection(10, 8, [4]).eval()
    assert head.mrl_dims == (4, 8)
    x = torch.randn(3, 10)
    by_dim = head(x, return_all_dims=True)
    torch.testing.assert_close(by_dim[8], head.linear(x / (1 + head.bn.eps) ** 0.5))
    assert torch.equal(head(x, target_dim=4), by_dim[8][:, :4])
    with pytest.raises(ModelError, match="between 1 and 8"):
        head(x, target_dim=9)


def test_the_info_is_printed(model: ReDimNetMRL, capsys: pytest.CaptureFixture[str]) -> None:
    info = get_model_info(model)
    printed = capsys.readouterr().out
    assert f"{info['parameters']:,}" in printed
    assert "(8, 16, 24, 32)" in printed
    assert get_model_info(model, show=False) == info
    assert capsys.readouterr().out == ""


def test_what_was_never_released_is_not_made_up(released: Path) -> None:
    with pytest.raises(CatalogueError, match=r"no released redimnet-b2-vox2-ft_mix; there is .*redimnet-b2-vox2-ptn"):
        load_pretrained_redimnet("b2", "ft_mix", weights=released)
    with pytest.raises(
        CatalogueError, match=r"no released redimnet-b9-vox2-ptn; sizes that were released: M, S, b0, b1, .*b6$"
    ):
        create_mrl_from_pretrained("b9")


# --- checkpoints of redimnet-mrl ---


def golden() -> ModuleType:
    path = Path(__file__).parents[1] / "encoders" / "redimnet_golden.py"
    spec = importlib.util.spec_from_file_location("redimnet_golden", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["redimnet_golden"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def their_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, dict[str, np.ndarray]]:
    """best.pt as that project writes it, the official network's embeddings of three signals, and the signals."""
    room = golden()
    network = room.networks()[room.MRL]
    encoder = room.with_keyed_weights(network)
    state = {key: tensor.clone() for key, tensor in room.published_state(network, encoder).items()}
    path = tmp_path_factory.mktemp("theirs") / "best.pt"
    checkpoint = {
        "epoch": 14,
        "global_step": 1,
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]},
        "scheduler_state_dict": None,
        "best_val_loss": 18.0271,
        "best_eer": np.float64(0.056),
        "config": {
            "model": {"embed_dim": 256, "mrl_dims": [64, 128, 192, 256]},
            "advanced": {"model_name": "b2", "train_type": "ft_lm", "pretrained_dataset": "vox2"},
            "seed": 42,
        },
    }
    torch.save(checkpoint, path)
    return path, network.embedding, room.signals()


def test_import_is_exact(their_checkpoint: tuple[Path, np.ndarray, dict[str, np.ndarray]]) -> None:
    path, expected, signals = their_checkpoint
    model = import_checkpoint(path)
    info = get_model_info(model)
    assert (info["parameters"], info["trainable"]) == (5_016_305, 264_448)  # the figures of its authors
    assert model.mrl_dims == (64, 128, 192, 256)
    assert model.encoder.frame_rate_hz == 100  # a hop of 160 samples
    with torch.no_grad():
        got = model(torch.from_numpy(np.stack([signals["a"], signals["b"]]))[:, None]).numpy()
    assert np.abs(got - expected[:2]).max() / np.abs(expected[:2]).max() < 1e-4


def test_state_is_loaded_as_the_readme_loads_it(
    model: ReDimNetMRL, their_checkpoint: tuple[Path, np.ndarray, dict[str, np.ndarray]]
) -> None:
    path, expected, signals = their_checkpoint
    checkpoint = torch.load(path, weights_only=False)
    model.load_state_dict(checkpoint["model_state_dict"])
    model.eval()
    with torch.no_grad():
        got = model(torch.from_numpy(signals["c"])[None], target_dim=24).numpy()
    assert np.abs(got - expected[2:, :24]).max() / np.abs(expected[2]).max() < 1e-4
    assert get_model_info(model)["trainable"] == 264_448  # it was frozen before
    unfreeze_backbone(model)
    wrapped = {f"module.{key}": value for key, value in checkpoint["model_state_dict"].items()}
    model.load_state_dict(wrapped)
    assert get_model_info(model)["trainable"] > 5_000_000


def test_other_shapes_of_the_file(
    tmp_path: Path, their_checkpoint: tuple[Path, np.ndarray, dict[str, np.ndarray]]
) -> None:
    content = torch.load(their_checkpoint[0], weights_only=False)
    state = content["model_state_dict"]
    last = {key: state[key][:128] for key in ("projection.linear.weight", "projection.linear.bias")}
    small = {"model": {"embed_dim": 128, "mrl_dims": [32, 128]}}
    for number, (saved, dims) in enumerate(
        [
            (state, (64, 128, 192, 256)),
            ({"state_dict": state}, (64, 128, 192, 256)),
            ({**content, "config": None}, (64, 128, 192, 256)),
            ({**content, "config": {"model": {"mrl_dims": None}}}, (64, 128, 192, 256)),
            ({**content, "config": {"model": {"mrl_dims": [32, 64]}}}, (32, 64, 256)),
            ({"model_state_dict": state | last}, (64, 128)),
            ({"model_state_dict": state | last, "config": small}, (32, 128)),
            ({"model_state_dict": {f"module.{key}": value for key, value in state.items()}}, (64, 128, 192, 256)),
        ]
    ):
        torch.save(saved, tmp_path / f"{number}.pt")
        model = load_trained_mrl(tmp_path / f"{number}.pt")
        assert (model.mrl_dims, model.embed_dim) == (dims, dims[-1])
        assert get_model_info(model)["parameters"] == 5_016_305 - 1025 * (256 - dims[-1])


def test_files_that_are_not_theirs(tmp_path: Path, released: Path, model: ReDimNetMRL) -> None:
    with pytest.raises(WeightsError, match=r"b2-vox2-ptn\.pt: no checkpoint of redimnet-mrl"):
        import_checkpoint(released)
    with pytest.raises(WeightsError, match=r"nothing\.pt: no such weights file"):
        import_checkpoint(tmp_path / "nothing.pt")
    bare = {name: tensor for name, tensor in model.state_dict().items() if name != "_extra_state"}
    torch.save({"model_state_dict": bare}, tmp_path / "old.pt")
    with pytest.raises(WeightsError, match=r"old\.pt: the state of a model of nestvox.mrl, .*load_state_dict"):
        load_trained_mrl(tmp_path / "old.pt")
    model.load_state_dict(bare)
    torch.save(model.state_dict(), tmp_path / "own.pt")
    with pytest.raises(
        WeightsError, match=r"own\.pt: the state of a model of nestvox.mrl, .*load_trained_mrl opens it"
    ):
        import_checkpoint(tmp_path / "own.pt")
    torch.save({"backbone.backbone.stem.0.weight": torch.zeros(10, 1, 3, 3)}, tmp_path / "b0.pt")
    with pytest.raises(WeightsError, match="networks on ReDimNet b2 are rebuilt"):
        load_trained_mrl(tmp_path / "b0.pt")
    damaged = tmp_path / "best.pt"
    damaged.write_bytes(released.read_bytes()[:2000])
    with pytest.raises(WeightsError, match=r"best\.pt"):
        import_checkpoint(damaged)


def test_models_import_mrl(
    tmp_path: Path, their_checkpoint: tuple[Path, np.ndarray, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nestvox.cli.models import app

    path, expected, signals = their_checkpoint
    runner = CliRunner()
    done = runner.invoke(app, ["import-mrl", str(path), "--out", str(tmp_path / "theirs")])
    assert done.exit_code == 0, done.output
    assert "5,016,305" in done.output
    card = (tmp_path / "theirs" / "README.md").read_text()
    assert "the network beneath, redimnet-b2-vox2-ft_lm: CC-BY-4.0" in card
    assert "the pooling were never trained, the last layers by redimnet-mrl" in card
    assert "epoch 14, global_step 1, best_val_loss 18.0271, best_eer 0.056" in card
    said = {"epoch": 14, "global_step": 1, "best_val_loss": 18.0271, "best_eer": 0.056}
    assert SpeakerModel.from_folder(tmp_path / "theirs").card["checkpoint"] == said
    imported = SpeakerModel.from_folder(tmp_path / "theirs")
    assert imported.dims == (64, 128, 192, 256)
    got = imported.embed(signals["c"], dim=64)
    np.testing.assert_allclose(got, expected[2, :64] / np.linalg.norm(expected[2, :64]), atol=1e-4)
    again = load_trained_mrl(tmp_path / "theirs")
    torch.testing.assert_close(
        again(torch.from_numpy(signals["c"])[None]), import_checkpoint(path)(torch.from_numpy(signals["c"])[None])
    )


# --- files and error rates ---


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers of VoxCeleb's layout, four clips each: harmonic tones with a pitch of their own."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(1)
    lines = []
    files = {}
    for speaker in range(6):
        for clip in range(4):
            path = root / f"id1000{speaker}" / "video" / f"0000{clip}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            t = np.arange(16_000) / 16_000
            pitch = 90 + 35 * speaker + rng.normal()
            wave = sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 8)) + 0.3 * rng.standard_normal(16_000)
            soundfile.write(path, 0.05 * wave, 16_000)
            files.setdefault(speaker, []).append(path.relative_to(root).as_posix())
    for speaker in range(6):
        lines += [f"1 {files[speaker][0]} {files[speaker][k]}" for k in (1, 2, 3)]
        lines += [f"0 {files[speaker][k]} {files[(speaker + k) % 6][k]}" for k in (1, 2, 3)]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    return root


def test_error_rates_at_every_dim(model: ReDimNetMRL, corpus: Path) -> None:
    found = evaluate_mrl_eer(model=model, test_pairs=corpus / "pairs.txt", mrl_dims=[8, 24], n_bootstrap=50)
    assert list(found) == [8, 24]
    trials = [line.split() for line in (corpus / "pairs.txt").read_text().splitlines()]
    for dim, rates in found.items():
        scores = []
        for _, a, b in trials:
            with torch.no_grad():
                x, y = (model(load_audio(corpus / name), target_dim=dim)[0].double() for name in (a, b))
            scores.append(float(x @ y / x.norm() / y.norm()))
        curve = error_curve(np.array(scores), np.array([label == "1" for label, *_ in trials]))
        assert rates["eer"] == pytest.approx(eer(curve).rate, abs=1e-9)
        assert rates["threshold"] == pytest.approx(eer(curve).threshold, abs=1e-5)
        assert (rates["n_target"], rates["n_nontarget"], len(rates["trials_sha256"])) == (18, 18, 64)
        assert rates["eer_low"] <= rates["eer"] <= rates["eer_high"]
    pairs = [(str(corpus / a), str(corpus / b), int(label)) for label, a, b in trials]
    told: list[tuple[int, int | None]] = []
    again = evaluate_mrl_eer(model, pairs, [8], n_bootstrap=50, progress=lambda *at: told.append(at))
    assert again[8]["eer"] == found[8]["eer"]
    assert told == [(done, 24) for done in range(1, 25)]


def test_missing_files_are_not_left_out(model: ReDimNetMRL, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1 a.wav b.wav\n0 a.wav c.wav\n")
    with pytest.raises(AudioError, match=r"a\.wav"):
        evaluate_mrl_eer(model, tmp_path / "pairs.txt")
    with pytest.raises(TrialsError):
        evaluate_mrl_eer(model, [])


def test_a_file_by_its_path(model: ReDimNetMRL, corpus: Path) -> None:
    path = corpus / "id10000" / "video" / "00000.wav"
    embedding = model.extract_embedding(path, target_dim=16)
    assert (embedding.shape, embedding.dtype) == ((1, 16), torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(embedding, model(load_audio(path), target_dim=16))
        batch = torch.stack([load_audio(path), load_audio(path.with_name("00001.wav"))])  # as the README stacks them
        assert batch.shape == (2, 1, 16_000)
        torch.testing.assert_close(model(batch, target_dim=16)[:1], embedding, rtol=1e-4, atol=1e-5)


def test_what_a_folder_says_of_itself_is_kept(
    model: ReDimNetMRL, corpus: Path, tmp_path: Path, audio: torch.Tensor
) -> None:
    trials = corpus / "pairs.txt"
    assert model.card["licence"] == "CC-BY-4.0"
    saved = model.to_speaker_model()
    assert saved.card["base_model"] == "redimnet-b2-vox2-ptn"
    saved.training_speakers = (speaker_key("somebody"),)
    saved.thresholds = (
        Threshold(16, 0.5, "eer", 0.1, 0.1, 18, 18, read_trials(trials).sha256, "pairs.txt", (), saved.fingerprint),
    )
    saved.save(tmp_path / "mine")
    loaded = load_trained_mrl(tmp_path / "mine")
    again = loaded.to_speaker_model()
    assert (again.thresholds, again.training_speakers) == (saved.thresholds, saved.training_speakers)
    assert (again.card, again.name) == (saved.card, saved.name)
    assert again.verify(audio[0].numpy(), audio[0].numpy(), dim=16).same is True
    assert "selected" in evaluate_mrl_eer(loaded, trials, [16], n_bootstrap=40)[16]["labels"]
    with torch.no_grad():
        loaded.head.linear.bias += 1
    assert loaded.to_speaker_model().thresholds == ()  # they were of other weights
    corpus_speakers = tuple(speaker_key(f"id1000{number}") for number in range(6))
    loaded.training_speakers = corpus_speakers
    with pytest.raises(OverlapError):
        evaluate_mrl_eer(loaded, trials, [16], n_bootstrap=40)


@pytest.mark.parametrize("kind", ["rotation", "truncation", "mlp", "linear"])
def test_a_folder_with_whatever_head_is_opened(
    model: ReDimNetMRL, tmp_path: Path, audio: torch.Tensor, kind: str
) -> None:
    """What `make demo`, `nestvox rotate` and `nestvox train mlp` write."""
    encoder, size = model.encoder, 24
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((size, size)))[0]
    head: Any = {
        "rotation": lambda: Rotation(turn, (8, 16, 24), "pca"),
        "truncation": lambda: truncation(size, (8, 16, 24)),
        "mlp": lambda: MlpHead(encoder.pooled_dim, (8, 16, 24), hidden=5, norm="none"),
        "linear": lambda: LinearHead(encoder.pooled_dim, (8, 16, 24), norm="none"),
    }[kind]()
    if kind in ("mlp", "linear"):
        torch.nn.init.normal_(head.linear.weight, std=0.1)
    saved = SpeakerModel(encoder, head, name="mine", training_speakers=("key",), card={"licence": "MIT"})
    saved.save(tmp_path / "run" / "model")
    for place in (tmp_path / "run" / "model", tmp_path / "run"):
        loaded = load_trained_mrl(place)
        assert loaded.mrl_dims == (8, 16, 24)
    expected = saved.forward([clip.numpy() for clip in audio])
    with torch.no_grad():
        found = loaded(audio).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert loaded(audio, target_dim=8).shape == (2, 8)
    again = loaded.to_speaker_model()
    assert again.fingerprint == saved.fingerprint
    assert (again.training_speakers, again.card["licence"]) == (("key",), "MIT")
    # And a state dict of it says whose it is.
    torch.save(loaded.state_dict(), tmp_path / "mine.pt")
    torch.save({"model_state_dict": torch.nn.DataParallel(loaded).state_dict(), "epoch": 3}, tmp_path / "wrapped.pt")
    for name in ("mine.pt", "wrapped.pt"):
        alone = load_trained_mrl(tmp_path / name)
        assert (alone.mrl_dims, alone.name, alone.training_speakers) == ((8, 16, 24), "mine", ("key",))
        with torch.no_grad():
            assert torch.equal(alone(audio), loaded(audio))
    gradient = torch.autograd.grad(loaded(audio).sum(), next(loaded.encoder.parameters()), allow_unused=True)
    assert gradient[0] is not None


def test_a_trained_state_is_opened_with_what_was_learned(
    model: ReDimNetMRL, tmp_path: Path, audio: torch.Tensor
) -> None:
    with torch.no_grad():
        model.head.linear.weight += 0.01 * torch.randn_like(model.head.linear.weight)
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    alone = load_trained_mrl(tmp_path / "trained.pt")
    with torch.no_grad():
        assert torch.equal(alone(audio), model(audio))
    assert alone.to_speaker_model().fingerprint == model.to_speaker_model().fingerprint


@pytest.mark.parametrize(
    ("about", "told"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "nested more than 64 deep"),
        (b"\xff\xfe\x00", "save it as UTF-8"),
        (b"{}", "encoder"),
        (
            b'{"encoder": [], "head": null, "mrl_dims": [8], "name": "x", "card": {}, "training_speakers": []}',
            "encoder",
        ),
        (
            b'{"encoder": {"architecture": "redimnet", "F": 1000000000}, "head": null, "mrl_dims": [8], "name": "x", '
            b'"card": {}, "training_speakers": []}',
            "hostile.pt",
        ),
    ],
)
def test_a_hostile_state_is_refused(model: ReDimNetMRL, tmp_path: Path, about: bytes, told: str) -> None:
    state = {**model.state_dict(), "_extra_state": torch.tensor(list(about), dtype=torch.uint8)}
    torch.save(state, tmp_path / "hostile.pt")
    with pytest.raises(WeightsError, match=re.escape(told)) as caught:
        load_trained_mrl(tmp_path / "hostile.pt")
    assert "hostile.pt" in str(caught.value)


def test_saved_and_loaded(model: ReDimNetMRL, tmp_path: Path, audio: torch.Tensor) -> None:
    model.to_speaker_model("mine").save(tmp_path / "mine")
    again = load_trained_mrl(tmp_path / "mine")
    assert again.mrl_dims == DIMS
    with torch.no_grad():
        torch.testing.assert_close(again(audio), model(audio), rtol=1e-5, atol=1e-6)
    assert yaml.safe_load((tmp_path / "mine" / "README.md").read_text().split("---")[1])["library_name"] == "nestvox"
