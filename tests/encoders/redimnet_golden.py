"""Golden numbers of ReDimNet networks: what they are, and how they are compared.

The official networks were built from the configurations here, given weights drawn from the names and shapes of their
tensors (`keyed_weights`), and run on three generated signals. golden/redimnet.json holds
configurations, counts and a digest of all names and shapes, golden/redimnet.npz the embeddings. Where the folder of
the original numbers is at hand, names, pooled vectors and log-mel features are compared as well, and

    python tests/encoders/redimnet_golden.py FOLDER

writes the two files here from it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from keyed_weights import keyed_weights
from nestvox.encoders.contract import Encoder
from nestvox.encoders.registry import build
from nestvox.zoo.weights import load_strict

__all__ = [
    "Difference",
    "Network",
    "Outputs",
    "compare",
    "digest",
    "networks",
    "original_names",
    "outputs",
    "published_state",
    "signals",
    "with_keyed_weights",
]

GOLDEN = Path(__file__).parent / "golden"
RATE = 16_000
# The network of redimnet-mrl stands in a wrapper there, and its tensors are named, and drawn, accordingly.
MRL = "mrl-b2-sappho"
MRL_NAMES = {"bn": "projection.bn", "linear": "projection.linear"}


@dataclass(frozen=True)
class Network:
    """One golden network.

    Attributes:
        name: ``v1-*`` and ``v2-*`` are ReDimNet and ReDimNet2, ``tiny*`` are small ones with every option.
        status: how far the configuration can be trusted to be that of a release, or ``test``.
        config: with `architecture`.
        parameters: counted by the official network, as are the next two.
        tensors: of the state dictionary.
        elements: of all tensors.
        names_sha256: `digest` of the state dictionary's names and shapes.
        embedding: (3, D): of signals a and b as one batch, and of c alone.
    """

    name: str
    status: str
    config: dict[str, Any]
    parameters: int
    tensors: int
    elements: int
    names_sha256: str
    embedding: NDArray[np.float32]

    @property
    def is_large(self) -> bool:
        """Whether building and running it takes more than a second or two."""
        return self.name.startswith(
            ("v1-b3", "v1-b4", "v1-b5", "v1-b6", "v1-M", "v1-S", "v2-b3", "v2-b4", "v2-b5", "v2-b6")
        )


@dataclass(frozen=True)
class Difference:
    """Largest difference to the golden numbers, over the largest golden number; None: not at hand."""

    embedding: float
    pooled: float | None
    log_mel: float | None


def signals() -> dict[str, NDArray[np.float32]]:
    """Two signals of 3 s and one of 1.3 s: a chirp, a swelling tone, noise. (T,) float32."""

    def noise(seed: int, n: int) -> NDArray[np.float64]:
        return np.random.Generator(np.random.PCG64(seed)).standard_normal(n)

    def tone(hz: float, t: NDArray[np.float64], slope: float = 0.0) -> NDArray[np.float64]:
        return np.sin(2 * np.pi * (hz * t + 0.5 * slope * t**2))

    t, u = np.arange(48_000) / RATE, np.arange(20_800) / RATE
    a = 0.3 * tone(100, t, 2900 / 3) + 0.2 * tone(220, t) * (0.5 + 0.5 * tone(3, t)) + 0.05 * noise(1234, len(t))
    swell = 0.5 + 0.5 * np.cos(2 * np.pi * 5 * t)
    b = 0.25 * tone(2500, t, -2200 / 3) + 0.2 * tone(150, t) * swell + 0.03 * noise(4321, len(t))
    c = 0.2 * tone(200, u, 1600 / 1.3) + 0.1 * tone(330, u) + 0.02 * noise(99, len(u))
    return {name: wave.astype(np.float32) for name, wave in (("a", a), ("b", b), ("c", c))}


def digest(names: Iterable[tuple[str, Sequence[int]]]) -> str:
    """SHA-256 of the sorted names and shapes of a state dictionary."""
    lines = sorted(f"{key} {'x'.join(map(str, shape))}\n" for key, shape in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def networks() -> dict[str, Network]:
    """Every golden network by name."""
    described = json.loads((GOLDEN / "redimnet.json").read_text(encoding="utf-8"))
    with np.load(GOLDEN / "redimnet.npz") as arrays:
        return {name: Network(name=name, embedding=arrays[name], **fields) for name, fields in described.items()}


def with_keyed_weights(network: Network) -> Encoder:
    """Build a golden network with the weights that its numbers were made with, in evaluation mode."""
    encoder = build(network.config).eval()
    load_strict(encoder, keyed_weights(published_state(network, encoder)), network.name)
    return encoder


def published_state(network: Network, encoder: Encoder) -> dict[str, Tensor]:
    """State dictionary of a network under the names of the checkpoints that it is published in."""
    state: dict[str, Tensor] = encoder.state_dict()
    return {_mrl_name(key): tensor for key, tensor in state.items()} if network.name == MRL else state


def _mrl_name(key: str) -> str:
    first, rest = key.split(".", 1)
    return f"{MRL_NAMES.get(first, f'backbone.{first}')}.{rest}"


def original_names(reference: Path, name: str) -> list[list[Any]]:
    """Name, shape and type of every tensor of the official network, from the folder of the original numbers."""
    file = reference / f"{name}.keys.json.gz"
    if file.is_file():
        listed: list[list[Any]] = json.loads(gzip.decompress(file.read_bytes()))
    else:
        listed = json.loads((reference / f"{name}.json").read_text(encoding="utf-8"))["state_dict"]
    return listed


@dataclass(frozen=True)
class Outputs:
    """What a network gives: embeddings (3, D), pooled vectors (2, P) of a and b, features (1, F, T) of c."""

    embedding: NDArray[np.float32]
    pooled: NDArray[np.float32]
    log_mel: NDArray[np.float32]


def outputs(network: Network) -> Outputs:
    """Run a golden network on the signals."""
    encoder = with_keyed_weights(network)
    waves = {name: torch.from_numpy(wave) for name, wave in signals().items()}
    with torch.inference_mode():
        pair = encoder(torch.stack([waves["a"], waves["b"]]))
        single = encoder(waves["c"][None])
        log_mel = encoder.spec(waves["c"][None]).numpy()  # type: ignore[operator]
    return Outputs(torch.cat([pair.embedding, single.embedding]).numpy(), pair.pooled.numpy(), log_mel)


def compare(network: Network, found: Outputs, reference: Path | None = None) -> Difference:
    """Compare what a golden network gives.

    Args:
        network: from `networks`.
        found: its `outputs`.
        reference: folder of the original numbers, for the pooled vectors and the log-mel features.
    """

    def against(values: NDArray[np.float32], kind: str) -> float | None:
        file = None if reference is None else reference / f"{network.name}.{kind}.npy"
        return None if file is None or not file.is_file() else relative(values, np.load(file))

    return Difference(
        embedding=relative(found.embedding, network.embedding),
        pooled=against(found.pooled, "pooled"),
        log_mel=against(found.log_mel, "logmel_c"),
    )


def relative(found: NDArray[np.float32], golden: NDArray[np.float32]) -> float:
    """Largest difference over the largest golden number."""
    assert found.shape == golden.shape, f"{found.shape} instead of {golden.shape}"
    return float(np.abs(found - golden).max() / np.abs(golden).max())


def write(reference: Path) -> None:
    """Write the files of golden/ from the folder of the original numbers."""
    described, embeddings = {}, {}
    for path in sorted(reference.glob("*.json")):
        if path.name == "init_selfcheck.json":
            continue
        source = json.loads(path.read_text(encoding="utf-8"))
        names = original_names(reference, path.stem)
        config = source.get("model_config") or _mrl_config(reference)
        second = path.stem.startswith(("v2-", "tiny2-"))
        described[path.stem] = {
            "status": source["status"],
            "config": {"architecture": "redimnet2" if second else "redimnet", **config},
            "parameters": source["parameters"],
            "tensors": source["state_dict_tensors"],
            "elements": source["state_dict_elements"],
            "names_sha256": digest((key, shape) for key, shape, *_ in names),
        }
        embeddings[path.stem] = np.load(reference / f"{path.stem}.emb.npy")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(fields)}" for name, fields in described.items())
    (GOLDEN / "redimnet.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    np.savez_compressed(GOLDEN / "redimnet.npz", **embeddings)


def _mrl_config(reference: Path) -> dict[str, Any]:
    """Published in words: b2 with 10 ms frames, a layer of 512 before a pooling without context, 256 dimensions."""
    b2 = json.loads((reference / "v1-b2.json").read_text(encoding="utf-8"))["model_config"]
    changes = {"hop_length": 160, "out_channels": 512, "global_context_att": False, "embed_dim": 256}
    return {**b2, **changes}


if __name__ == "__main__":
    write(Path(sys.argv[1]))
