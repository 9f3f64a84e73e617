"""The tiny encoder and the caches of the training tests, and a study on them that runs in a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra [torch] is not installed")

from nestvox.model.speaker_model import SpeakerModel
from training.conftest import World, encoder, one_thread, world  # noqa: F401  fixtures


@pytest.fixture(scope="session")
def study(
    world: World,  # noqa: F811
    encoder: SpeakerModel,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., dict[str, Any]]:
    """A study of two arms with two seeds; changed where a test says."""
    start = tmp_path_factory.mktemp("start") / "model"
    encoder.save(start)

    def made(**changes: Any) -> dict[str, Any]:
        base = {
            "kind": "linear",
            "start": str(start),
            "data": {
                "table": str(world.table),
                "dev_trials": str(world.trials),
                "cache": str(world.train_cache),
                "dev_cache": str(world.dev_cache),
            },
            "head": {"dims": [8, 24]},
            "training": {"epochs": 1, "batch_size": 100, "learning_rate": 0.02},
            "run": {"device": "cpu"},
        }
        return {
            "name": "tiny",
            "base": base,
            "factors": {"rate": {"low": {"training.learning_rate": 0.004}}},
            "seeds": [0, 1],
            **changes,
        }

    return made


@pytest.fixture(scope="session")
def quick() -> dict[str, Any]:
    """Few replicates: what they are of is held elsewhere."""
    from nestvox.evaluation.estimates import Settings

    return {"settings": Settings(n_bootstrap=100), "n_permutations": 50}
