"""A `SpeakerModel` with a linear or an mlp head is saved, loaded, measured and used like one with a rotation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import nestvox
from keyed_weights import keyed_weights
from nestvox.cli.app import app
from nestvox.encoders.contract import Encoder
from nestvox.encoders.ge2e import GE2E
from nestvox.encoders.redimnet.redimnet import ReDimNet
from nestvox.errors import ModelError
from nestvox.extraction.formats.interchange import iter_vectors
from nestvox.heads.contract import normalise
from nestvox.heads.linear import LinearHead
from nestvox.heads.mlp import MlpHead
from nestvox.heads.moments import Moments
from nestvox.heads.rotation import Rotation
from nestvox.heads.trained import TrainedHead
from nestvox.model.speaker_model import SpeakerModel
from nestvox.model.threshold import Threshold

RATE = 16_000
HEADS: dict[str, type[TrainedHead]] = {"linear": LinearHead, "mlp": MlpHead}
every_head = pytest.mark.parametrize("kind", HEADS)


def small_redimnet() -> Encoder:
    encoder = ReDimNet(
        F=24,
        C=4,
        block_1d_type="conv+att",
        block_2d_type="basic_resnet_fwse",
        stages_setup=[[1, 1, 2, [[3, 3]], 2], [2, 1, 1, [[3, 3]], 3], [3, 1, 1, [[3, 3]], None]],
        group_divisor=2,
        embed_dim=16,
        global_context_att=True,
    ).eval()
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    return encoder


def small_ge2e() -> Encoder:
    torch.manual_seed(11)
    encoder = GE2E()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(4.0)
    return encoder


ENCODERS = {"redimnet": small_redimnet, "ge2e": small_ge2e}


def rotation(size: int) -> Rotation:
    return Rotation(np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0], (4, 8), "pca")


def waveforms(n: int = 6, seed: int = 2) -> list[np.ndarray]:
    """Noise of different colours, so that the vectors differ."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        white = rng.standard_normal(RATE)
        made.append((0.05 * np.convolve(white, rng.standard_normal(2 + 4 * k), "same")).astype(np.float32))
    return made


@pytest.fixture(scope="module", params=list(ENCODERS))
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.set_num_threads(1)
    return ENCODERS[request.param]()


def make(encoder: Encoder, kind: str, **changes: object) -> SpeakerModel:
    """A model whose head has taken a step away from where it began."""
    torch.manual_seed(3)
    size = encoder.embedding_dim
    head = HEADS[kind].from_pretrained(encoder.projection(), rotation(size), [4, 8, size])
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    head.method = "trained"
    return SpeakerModel(encoder, head, name="small", **changes)  # type: ignore[arg-type]


@every_head
def test_before_the_first_step_it_is_the_rotated_pretrained_model(encoder: Encoder, kind: str) -> None:
    audio = waveforms()
    size = encoder.embedding_dim
    turn = rotation(size)
    bare, rotated = SpeakerModel(encoder), SpeakerModel(encoder, turn)
    moments = Moments(encoder.pooled_dim)
    moments.add(np.asarray(bare.forward(audio, tap="pooled")))
    for known in (None, moments):
        head = HEADS[kind].from_pretrained(encoder.projection(), turn, [4, 8, size], moments=known)
        model = SpeakerModel(encoder, head)
        nested, published = model.embed(audio).astype(np.float64), bare.embed(audio).astype(np.float64)
        np.testing.assert_allclose(nested @ nested.T, published @ published.T, atol=1e-6)
        for dim in (4, 8, size):
            np.testing.assert_allclose(model.embed(audio, dim=dim), rotated.embed(audio, dim=dim), atol=1e-5)


@every_head
def test_more_dims_than_the_encoder_has(encoder: Encoder, kind: str) -> None:
    audio = waveforms(12)
    bare = SpeakerModel(encoder)
    moments = Moments(encoder.pooled_dim)
    moments.add(np.asarray(bare.forward(audio, tap="pooled")))
    size = encoder.embedding_dim
    head = HEADS[kind].from_pretrained(encoder.projection(), None, [size, size + 8], moments=moments)
    model = SpeakerModel(encoder, head)
    assert model.embedding_dim == size + 8
    np.testing.assert_allclose(model.embed(audio, dim=size), bare.embed(audio), atol=1e-5)
    full = model.embed(audio)
    assert full.shape == (12, size + 8)
    # A hundredth of the energy turns a vector by a tenth of a radian.
    assert 0.9 < np.sum(full[:, :size] * bare.embed(audio), axis=1).min() < 1


@every_head
def test_nested_is_the_head_on_its_tap(encoder: Encoder, kind: str) -> None:
    model, audio = make(encoder, kind), waveforms(2)
    assert model.head is not None
    expected = model.head.transform(np.asarray(model.forward(audio, tap="pooled")))
    np.testing.assert_array_equal(model.forward(audio), expected)
    on_embedding = SpeakerModel(encoder, HEADS[kind].from_pretrained(None, rotation(encoder.embedding_dim), [4]))
    assert on_embedding.head is not None
    expected = on_embedding.head.transform(np.asarray(model.forward(audio, tap="embedding")))
    np.testing.assert_array_equal(on_embedding.forward(audio), expected)


@every_head
def test_round_trip(encoder: Encoder, kind: str, tmp_path: Path) -> None:
    model = make(encoder, kind, training_speakers=("00000000000000aa",))
    threshold = Threshold(8, 0.4, "eer", 0.1, 0.1, 10, 20, "f" * 64, "dev.txt", (), model.fingerprint)
    model.thresholds = (threshold,)
    model.save(tmp_path / "model")
    loaded = nestvox.load(tmp_path / "model", device="cpu")
    assert type(loaded.head) is HEADS[kind]
    assert loaded.fingerprint == model.fingerprint
    assert loaded.dims == (4, 8, encoder.embedding_dim)
    assert loaded.thresholds == (threshold,)
    np.testing.assert_array_equal(loaded.embed(waveforms(2)), model.embed(waveforms(2)))
    assert loaded.verify(*waveforms(2), dim=8).threshold == threshold
    loaded.save(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "calibration.json", "README.md"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert f"Head: {kind} (trained)" in (tmp_path / "model" / "README.md").read_text()


@every_head
def test_fingerprint_follows_every_tensor_of_the_head(kind: str) -> None:
    model = make(small_redimnet(), kind)
    assert isinstance(model.head, torch.nn.Module)
    before = model.fingerprint
    seen = {before}
    tensors = [tensor for tensor in model.head.state_dict().values() if tensor.is_floating_point()]
    for tensor in tensors:
        old = tensor.view(-1)[0].item()
        tensor.view(-1)[0] = old + 0.5
        seen.add(model.fingerprint)
        tensor.view(-1)[0] = old
    assert len(seen) == 1 + len(tensors)
    assert model.fingerprint == before


@every_head
def test_tampered_head(kind: str, tmp_path: Path) -> None:
    make(small_redimnet(), kind).save(tmp_path)
    path, config_path = tmp_path / "model.safetensors", tmp_path / "config.json"
    arrays, config = load_file(path), json.loads(config_path.read_text())
    weight = arrays["head.linear.weight"]

    def load_with(**changes: np.ndarray | None) -> None:
        save_file({k: v for k, v in (arrays | changes).items() if v is not None}, path)
        nestvox.load(tmp_path)

    with pytest.raises(ModelError, match="a file was changed after saving"):
        load_with(**{"head.linear.weight": weight + np.float32(1e-3)})
    with pytest.raises(ModelError, match=r"linear\.weight missing"):
        load_with(**{"head.linear.weight": None})
    with pytest.raises(ModelError, match=r"linear\.weight \(16, 1\)"):
        load_with(**{"head.linear.weight": weight[:, :1].copy()})
    save_file(arrays, path)
    nestvox.load(tmp_path)
    for change, what in (({"dims": [4, 8, 32]}, "other tensors"), ({"tap": "embedding"}, "the embedding of redimnet")):
        config_path.write_text(json.dumps(config | {"head": config["head"] | change}))
        with pytest.raises(ModelError, match=what):
            nestvox.load(tmp_path)


def test_head_of_another_encoder(encoder: Encoder) -> None:
    with pytest.raises(ModelError, match=rf"takes 33-dimensional vectors, the pooled of {encoder.architecture}"):
        SpeakerModel(encoder, LinearHead(33, [4]))


def test_training_moves_the_head_and_nothing_of_the_encoder() -> None:
    from nestvox.losses.margins import AamSoftmax
    from nestvox.losses.nested import NestedLoss

    encoder = small_redimnet()
    vectors = np.asarray(SpeakerModel(encoder).forward(waveforms(8), tap="pooled"))
    moments = Moments(encoder.pooled_dim)
    moments.add(vectors)
    head = LinearHead.from_pretrained(encoder.projection(), rotation(16), [4, 8, 16], moments=moments)
    model = SpeakerModel(encoder, head)
    pooled = torch.from_numpy(vectors)
    labels = torch.arange(8) // 2
    loss = NestedLoss(model.dims, lambda d: AamSoftmax(d, 4))
    loss.set_prototypes(torch.stack([head(pooled)[labels == s].mean(dim=0) for s in range(4)]).detach())
    before, fingerprint = model.encoder.state_dict(), model.fingerprint
    before = {name: tensor.clone() for name, tensor in before.items()}
    optimiser = torch.optim.AdamW([*head.parameters(), *loss.parameters()], lr=1e-2)
    values = []
    for _ in range(30):
        optimiser.zero_grad()
        terms = loss(head(pooled), labels)
        terms.total.backward()
        optimiser.step()
        values.append(terms.total.item())
    assert values[-1] < 0.5 * values[0]
    assert model.fingerprint != fingerprint
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.encoder.state_dict().items())


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """embed, evaluate, rotate, export and verify, as a user types them."""
    model = make(small_redimnet(), "mlp")
    model.save(tmp_path / "model")
    lines, trials = ["utt_id\tpath\tspeaker"], []
    for number, waveform in enumerate(waveforms(12)):
        soundfile.write(tmp_path / f"{number}.wav", waveform, RATE, subtype="FLOAT")
        lines.append(f"u{number}\t{number}.wav\ts{number // 3}")
        trials += [f"{int(number // 3 == other // 3)} u{number} u{other}" for other in range(number)]
    (tmp_path / "table.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "trials.txt").write_text("\n".join(trials) + "\n")
    monkeypatch.chdir(tmp_path)
    for command in (
        "embed table.tsv --model model --out store --offline",
        "evaluate --store store --trials trials.txt --bootstrap 40 --json store.json",
        "evaluate --model model --table table.tsv --trials trials.txt --bootstrap 40 --json model.json",
        "rotate store --out rotation.safetensors --method pca --rotated rotated.npy",
        "export store --out vectors.npz --dim 8",
        "verify 0.wav 1.wav --model model --dim 4",
    ):
        result = CliRunner().invoke(app, command.split())
        expected_code = 3 if command.startswith("verify") else 0  # the model holds no thresholds
        assert result.exit_code == expected_code, command + result.output + repr(result.exception)
    expected = normalise(np.vstack([model.forward([waveform]) for waveform in waveforms(12)]).astype(np.float64))
    rates = {}
    for name in ("store", "model"):
        rows = json.loads((tmp_path / f"{name}.json").read_text())["results"]
        rates[name] = {row["dim"]: row["eer"] for row in rows}
    assert sorted(rates["store"]) == [4, 8, 16]
    assert rates["store"] == rates["model"]
    rotated = np.load(tmp_path / "rotated.npy").astype(np.float64)
    np.testing.assert_allclose(normalise(rotated) @ normalise(rotated).T, expected @ expected.T, atol=1e-5)
    exported = np.vstack([batch.vectors for batch in iter_vectors(tmp_path / "vectors.npz")])
    np.testing.assert_allclose(exported, normalise(expected[:, :8]), atol=1e-5)
