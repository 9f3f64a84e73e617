"""Who answers which request, and that two models' embeddings are never compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra [torch] is not installed")

import torch
import yaml

from nestvox.encoders.ge2e import GE2E
from nestvox.errors import FingerprintError, ModelError
from nestvox.heads.rotation import truncation
from nestvox.model.router import Route, Router, load_router, noisier_than, shorter_than
from nestvox.model.speaker_model import SpeakerModel

pytestmark = pytest.mark.filterwarnings("ignore:cut to")  # encoders without a head stand for nested models

RATE = 16_000


def network(seed: int) -> SpeakerModel:
    torch.manual_seed(seed)
    return SpeakerModel(GE2E(), name=f"model{seed}")


@pytest.fixture(scope="module")
def models() -> list[SpeakerModel]:
    return [network(seed) for seed in range(3)]


def speech(snr_db: float, duration_s: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    n = round(RATE * duration_s)
    talks = np.arange(n) % (RATE // 2) < RATE // 4
    return (0.1 * (rng.standard_normal(n) * talks + rng.standard_normal(n) * 10 ** (-snr_db / 20))).astype(np.float32)


CLEAN, NOISY = speech(40.0), speech(0.0)


@pytest.fixture(scope="module")
def router(models: list[SpeakerModel]) -> Router:
    small, large, noise = models
    return Router(
        [Route("noise", noise, when=noisier_than(15)), Route("small", small, up_to_dim=64), Route("large", large)]
    )


@pytest.mark.parametrize(
    ("audio", "dim", "expected"),
    [(CLEAN, 32, "small"), (CLEAN, 64, "small"), (CLEAN, 65, "large"), (CLEAN, None, "large"), (NOISY, 32, "noise")],
)
def test_who_answers(router: Router, audio: np.ndarray, dim: int | None, expected: str) -> None:
    embedding = router.embed(audio, dim=dim)
    model = next(route.model for route in router.routes if route.name == expected)
    assert (embedding.route, embedding.fingerprint) == (expected, model.fingerprint)
    np.testing.assert_array_equal(embedding.vector, model.embed(audio, dim=dim))


def test_name_beats_condition(router: Router) -> None:
    assert router.embed(CLEAN, dim=32, route="noise").route == "noise"
    with pytest.raises(ModelError, match="no route 'fast'; there is noise, small, large"):
        router.embed(CLEAN, route="fast")
    with pytest.raises(ModelError, match="serves up to 64 dimensions, asked for 128"):
        router.embed(CLEAN, dim=128, route="small")


def test_models_are_never_compared(router: Router) -> None:
    first, second = router.embed(CLEAN, dim=32), router.embed(NOISY, dim=32)
    with pytest.raises(FingerprintError, match=r"route small .* route noise"):
        first.score(second)
    with pytest.raises(FingerprintError, match="16 dimensions"):
        first.score(router.embed(CLEAN, dim=16))
    assert first.score(first) == pytest.approx(1.0, abs=1e-6)


def test_one_model_answers_for_both_recordings(router: Router, models: list[SpeakerModel]) -> None:
    mixed = router.verify(CLEAN, NOISY, dim=32)
    assert mixed.fingerprint == models[0].fingerprint  # the first route for any recording
    assert mixed.score == models[0].verify(CLEAN, NOISY, dim=32).score
    assert router.verify(NOISY, NOISY, dim=32).fingerprint == models[2].fingerprint
    assert router.verify(CLEAN, NOISY, route="large").fingerprint == models[1].fingerprint


def test_nobody_serves(models: list[SpeakerModel]) -> None:
    only_noise = Router([Route("noise", models[0], when=noisier_than(15)), Route("short", models[1], up_to_dim=8)])
    with pytest.raises(ModelError, match="no route serves 32 dimensions of this recording"):
        only_noise.embed(CLEAN, dim=32)
    with pytest.raises(ModelError, match="no route serves the full size"):
        only_noise.verify(CLEAN, NOISY)


def test_a_limited_route_that_is_named_answers_within_its_limit(models: list[SpeakerModel]) -> None:
    nested = SpeakerModel(models[0].encoder, truncation(256, (16, 48, 256)))
    router = Router(
        [Route("small", nested, up_to_dim=64), Route("plain", models[1], up_to_dim=64), Route("all", nested)]
    )
    assert router.embed(CLEAN, route="small").dim == 48  # the longest within 64 that it was made for
    assert router.embed(CLEAN, route="small", dim=60).dim == 60
    assert router.embed(CLEAN, route="plain").dim == 64
    assert router.embed(CLEAN, route="all").dim == 256
    assert router.verify(CLEAN, NOISY, route="small").score == nested.verify(CLEAN, NOISY, dim=48).score
    with pytest.raises(ModelError, match="up to 64 dimensions, asked for 65"):
        router.verify(CLEAN, NOISY, route="small", dim=65)
    with pytest.raises(ModelError, match="dim must be between 1 and 256"):
        router.embed(CLEAN, route="all", dim=0)


def test_short_recordings(models: list[SpeakerModel]) -> None:
    router = Router([Route("short", models[0], when=shorter_than(1.5)), Route("any", models[1])])
    assert router.embed(speech(40.0, 1.0)).route == "short"
    assert router.embed(CLEAN).route == "any"


def test_refused_routers(models: list[SpeakerModel]) -> None:
    with pytest.raises(ModelError, match="got none"):
        Router([])
    with pytest.raises(ModelError, match="got a"):
        Router([Route("a", models[0]), Route("a", models[1])])


def test_a_file_of_routes(tmp_path: Path, models: list[SpeakerModel]) -> None:
    for number, model in enumerate(models):
        model.save(tmp_path / f"m{number}")
    routes = [
        {"name": "noise", "model": "m2", "when": {"snr_below_db": 15}},
        {"name": "small", "model": "m0", "up_to_dim": 64},
        {"name": "large", "model": "m1"},
    ]
    path = tmp_path / "routes.yaml"
    path.write_text(yaml.safe_dump({"routes": routes}))
    router = load_router(path, device="cpu")
    assert [route.model.fingerprint for route in router.routes] == [models[i].fingerprint for i in (2, 0, 1)]
    assert router.embed(CLEAN, dim=16).route == "small"
    assert router.embed(NOISY, dim=16).route == "noise"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("routes: 3", "one key, routes"),
        ("routes:\n- {name: a}", r"routes\[0\]: needs name and model"),
        ("routes:\n- {name: a, model: m, upto: 3}", "may have up_to_dim and when"),
        ("routes:\n- {name: a, model: ge2e, up_to_dim: 0}", "up_to_dim: input should be greater"),
        ("[", "not YAML"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(text)
    with pytest.raises(ModelError, match=message):
        load_router(path)


@pytest.mark.parametrize("when", [{"language": 3}, {"snr_below_db": "low"}, {"snr_below_db": True}, [], "noisy"])
def test_conditions_that_are_refused(tmp_path: Path, models: list[SpeakerModel], when: object) -> None:
    models[0].save(tmp_path / "m")
    path = tmp_path / "routes.yaml"
    path.write_text(yaml.safe_dump({"routes": [{"name": "a", "model": "m", "when": when}]}))
    with pytest.raises(ModelError, match=r"routes\[0\]"):
        load_router(path, device="cpu")
