"""The same shards as the local engine's, made by the tasks of a Ray cluster, one shard a task.

The process that asks plans, and is the only one that writes the store; tasks get their rows of the table and the
settings, read the audio where they run, and give the finished shard back. Batches never cross shards and every choice
is in the settings, so whoever makes a shard, it holds the same numbers, as long as processors and libraries are alike.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nestvox.audio.archives import file_of
from nestvox.errors import NestvoxError
from nestvox.extraction.decoding import Decoder
from nestvox.extraction.settings import EmbeddingSettings
from nestvox.extraction.shard_job import EmbeddingModel, Network, ShardJob, StoreTap, sources_of
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import StoreWriter
from nestvox.extras import require
from nestvox.progress import Progress, silent

if TYPE_CHECKING:
    from nestvox.corpora.utterances import UtteranceTable

_ATTEMPTS = 3
_REPORT_EVERY_S = 0.5
_ANSWER_S = 10.0
# What numbers depend on; where they differ from node to node, so may the last digits of a vector. A node without av
# would take every m4a for a broken file.
_LIBRARIES = ("av", "nestvox", "numpy", "onnxruntime", "soundfile", "soxr", "torch")


class EngineError(NestvoxError):
    """A Ray cluster that cannot be reached, or that fails to do its part."""


class _Finished(NamedTuple):
    """What a task gives back; `unseen` are files of skipped utterances that its node does not have."""

    rows: ShardRows
    audio_s: float
    unseen: tuple[str, ...]
    node: str


def check(address: str | None = None) -> None:
    """Refuse, before any work, what cannot go well.

    Raises:
        EngineError: an address of the client protocol, or one beside a connection that stands already.
        MissingExtraError: Ray is not installed.
    """
    ray = _ray()
    wanted = address or os.environ.get("RAY_ADDRESS", "")
    if wanted.startswith("ray://"):
        raise EngineError(
            f"{wanted} is of Ray's client protocol, which cannot follow a task's progress: run nestvox on a machine "
            "of the cluster and give HOST:6379 of its head, or auto"
        )
    if address is not None and ray.is_initialized():
        raise EngineError(f"this process is connected to a Ray cluster already: leave out the address {address}")


def make_shards(
    model: EmbeddingModel,
    table: UtteranceTable,
    writer: StoreWriter,
    settings: EmbeddingSettings,
    *,
    address: str | None = None,
    progress: Progress = silent,
) -> tuple[int, float, int]:
    """Make the pending shards of a store on a Ray cluster.

    A connection that this process has is used and left; else one is made, to `address`, to what ``RAY_ADDRESS`` says,
    or to a cluster of this machine's own that ends with the run. Nothing is reported to Ray's makers.

    Args:
        model: goes to the workers by pickle.
        table: the workers read its files under the same paths.
        writer: of the store; only this process writes.
        settings: with the settled pace, as the local engine would follow it.
        address: ``auto``, ``local``, ``HOST:PORT``.
        progress: utterances done of all.

    Returns:
        Utterances stored, seconds of audio, and the number of tasks that the cluster has room for.

    Raises:
        AudioError: a file cannot be used, and the settings do not skip such.
        EngineError: no cluster, workers that die, or nodes that differ from this machine.
        NestvoxError: what else a task may meet, as if it had happened here.
    """
    if not writer.pending:
        return 0, 0.0, 1
    ray = _ray()
    with _cluster(ray, address):
        return _Run(ray, model, table, writer, settings).run(progress)


class _Run:
    """Hands shards to tasks and takes them back."""

    def __init__(
        self, ray: Any, model: EmbeddingModel, table: UtteranceTable, writer: StoreWriter, settings: EmbeddingSettings
    ) -> None:
        self.ray = ray
        self.writer = writer
        # Without a number in the settings, workers take the one that this process would use, not that of their machine.
        threads = settings.threads or _usual_threads()
        self.settings = replace(settings, threads=threads)
        self.table = replace(table, root=Path(os.path.abspath(table.root)))  # noqa: PTH100  symlinks stay as they are
        self.cpus = max(1, threads) * (settings.streams or 1)
        self.gpus = 1 if _on_gpu(model) else 0
        resources: dict[str, Any] = {"num_cpus": min(self.cpus, self._largest("CPU")), "num_gpus": self.gpus}
        self.task = ray.remote(**resources, max_retries=0)(_make_shard).options(num_returns="streaming")
        try:
            self.model = ray.put((model, model.fingerprint))
        except Exception as error:
            raise EngineError(
                f"the model {model.name} cannot be sent to workers: {_first_line(error)}; use the engine 'local', or a "
                "function that a module defines"
            ) from error
        self.running: dict[Any, int] = {}
        self.done_of: dict[int, int] = {}
        self.deaths: Counter[int] = Counter()
        self.rows = 0
        self.audio_s = 0.0

    def run(self, progress: Progress) -> tuple[int, float, int]:
        pending = deque(self.writer.pending)
        total = self.writer.metadata.planned_rows
        try:
            while pending or self.running:
                # One more than there is room for: none waits for this process, and a cluster that grows sees the need.
                while pending and len(self.running) <= self._room():
                    self._begin(pending.popleft())
                ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=1.0)
                for stream in ready:
                    lost = self._take(stream)
                    if lost is not None:
                        pending.appendleft(lost)
                progress(self.writer.done_rows + sum(self.done_of.values()), total)
            return self.rows, self.audio_s, self._room()
        finally:
            for stream in self.running:
                self.ray.cancel(stream, force=True)

    def _begin(self, shard: int) -> None:
        planned = self.writer.metadata.planned(shard)
        part = replace(self.table, frame=self.table.frame[planned.start : planned.stop], _lines=None)
        self.running[self.task.remote([self.model], part, self.writer.metadata.tap, self.settings, _versions())] = shard

    def _take(self, stream: Any) -> int | None:
        """Take one message of a task; a shard whose worker was lost is returned, to be begun anew."""
        shard = self.running[stream]
        try:
            message = self.ray.get(next(stream))
        except self.ray.exceptions.RayTaskError as error:
            del self.running[stream]
            if isinstance(error.cause, NestvoxError):
                raise error.cause from None
            raise EngineError(
                f"{self.writer.path}: a worker failed at {self._name(shard)}: {_last_line(error)}; what is stored so "
                "far stays. The engine 'local' shows where it fails"
            ) from error
        except (self.ray.exceptions.RayError, StopIteration) as error:
            del self.running[stream]
            self.done_of.pop(shard, None)
            self.deaths[shard] += 1
            if self.deaths[shard] < _ATTEMPTS:
                return shard
            raise EngineError(
                f"{self.writer.path}: {_ATTEMPTS} workers were lost at {self._name(shard)}: {_first_line(error)}; what "
                "is stored so far stays. Workers mostly die for want of memory: lower --streams, --batch-size or "
                "--max-duration-s, then run the same command again"
            ) from error
        if isinstance(message, int):
            self.done_of[shard] = message
            return None
        del self.running[stream]
        self.done_of.pop(shard, None)
        self._refuse_unseen(message)
        self.writer.write_shard(shard, message.rows)
        self.rows += len(message.rows.utt_ids)
        self.audio_s += message.audio_s
        return None

    def _refuse_unseen(self, message: _Finished) -> None:
        # A disk that is not mounted on one node must not become a thousand skipped utterances.
        here = [path for path in message.unseen if file_of(self.table.root / path).exists()]
        if here:
            raise EngineError(
                f"the node {message.node} does not see {len(here)} files that are here, e.g. "
                f"{self.table.root / here[0]}: put the audio under the same path on every node"
            )

    def _name(self, shard: int) -> str:
        planned = self.writer.metadata.planned(shard)
        ids = self.table.frame["utt_id"]
        return f"shard {shard} (utterances {ids[planned.start]} to {ids[planned.stop - 1]})"

    def _largest(self, resource: str) -> float:
        """Most of a resource that one node has: a task that asks for more would wait for ever."""
        sizes = [node["Resources"].get(resource, 0.0) for node in self.ray.nodes() if node["Alive"]]
        return max(sizes, default=0.0) or float("inf")

    def _room(self) -> int:
        there = self.ray.cluster_resources()
        by_cpu = there.get("CPU", 0.0) // min(self.cpus, self._largest("CPU"))
        return max(1, int(min(by_cpu, there.get("GPU", 0.0)) if self.gpus else by_cpu))


def _make_shard(
    model_ref: Sequence[Any],
    table: UtteranceTable,
    tap: StoreTap,
    settings: EmbeddingSettings,
    versions: dict[str, str],
) -> Iterator[int | _Finished]:
    """Run in a worker: yield utterances done from time to time, at last the shard.

    Args:
        model_ref: one reference to the model and its fingerprint, in a list, so that Ray does not look it up for us.
        table: the shard's rows.
        tap: of the model.
        settings: as in `ShardJob`.
        versions: of the libraries of the process that asks.
    """
    different = [
        f"{name} {versions[name]} there, {found} here" for name, found in _versions().items() if versions[name] != found
    ]
    if different:
        raise EngineError(
            f"the node {platform.node()} has other libraries than the process that asks for its work "
            f"({'; '.join(different)}): install the same everywhere, so that every node computes the same numbers"
        )
    model = _received(model_ref[0])
    shards: list[ShardRows] = []
    with closing(Decoder(sources_of(table), model, settings)) as decoder:
        job = ShardJob(Network(model, tap), decoder, table.frame, settings)
        reported = time.monotonic()
        for done in job.run({0: range(len(table))}, lambda _, rows: shards.append(rows)):
            if time.monotonic() - reported > _REPORT_EVERY_S:
                reported = time.monotonic()
                yield done
    paths = [failure.path for failure in shards[0].failed]
    unseen = tuple(path for path in paths if path is not None and not file_of(table.root / path).exists())
    yield _Finished(shards[0], job.audio_s, unseen, platform.node())


# The model of the run that this worker is part of: read once, not for every shard.
_in_worker: dict[str, EmbeddingModel] = {}


def _received(ref: Any) -> EmbeddingModel:
    key = ref.hex()
    if key not in _in_worker:
        model, fingerprint = _ray().get(ref)
        if model.fingerprint != fingerprint:
            raise EngineError(
                f"the model {model.name} reached the node {platform.node()} as {model.fingerprint} and was sent as "
                f"{fingerprint}: install the same libraries on every node"
            )
        _in_worker.clear()
        _in_worker[key] = model
    return _in_worker[key]


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Be connected, without a word on the screen or to Ray's makers."""
    if ray.is_initialized():
        yield
        return
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False} if wanted == "local" else {}
    if wanted not in ("local", "auto"):
        _refuse_silence(wanted)
    told = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = told or "0"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notices of what Ray will change some day
            ray.init(address=wanted, log_to_driver=False, logging_level="ERROR", **own)
    # Ray leaves the process where a cluster stops to answer while it connects.
    except (OSError, RuntimeError, ValueError, SystemExit) as error:
        raise _no_cluster(wanted, error) from error
    finally:
        if told is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_silence(address: str) -> None:
    """Refuse an address where nobody listens, for which Ray would wait two minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise _no_cluster(address, ValueError("not of the form HOST:PORT"))
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: BaseException) -> EngineError:
    return EngineError(
        f"no Ray cluster at {address}: {_first_line(error)}; begin one with `ray start --head`, or leave out the "
        "address for a cluster of this machine's own"
    )


def _ray() -> Any:
    return require("ray", extra="ray", purpose="embedding on a Ray cluster")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def _usual_threads() -> int:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else 0


def _on_gpu(model: EmbeddingModel) -> bool:
    parameters = getattr(getattr(model, "encoder", None), "parameters", None)
    return parameters is not None and any(parameter.device.type != "cpu" for parameter in parameters())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: BaseException) -> str:
    # Ray quotes the worker's traceback; what went wrong is at its end.
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
