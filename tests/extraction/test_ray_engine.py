"""The Ray engine: the local engine's bytes, whoever made the shards and whatever became of the workers.

Most of it runs against a stand-in for Ray that does everything in this process, one message at a time; the slow tests
run clusters of this machine's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from nestvox.corpora.utterances import UtteranceTable, write_utterances
from nestvox.encoders.foreign.adapters import CallableModel, from_callable
from nestvox.errors import AudioError, MissingExtraError, NestvoxError, StoreError
from nestvox.extraction import ray_engine
from nestvox.extraction.embed import embed_table, run_embedding
from nestvox.extraction.ray_engine import EngineError
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.testing import make_noises

RATE = 16_000
SOURCE = Path(__file__).resolve().parents[2] / "src" / "nestvox"


def moments_model(function: Callable[[np.ndarray], np.ndarray] | None = None) -> CallableModel:
    def moments(audio: np.ndarray) -> np.ndarray:  # nested, so that pickle takes it along
        return np.array([audio.mean(), audio.std(), np.abs(audio).mean()])

    return from_callable(function or moments, sample_rate=RATE, name="moments", embedding_dim=3)


def noises(folder: Path, count: int, *, longest_s: float = 1.0) -> UtteranceTable:
    return make_noises(folder, list(np.random.default_rng(11).uniform(0.2, longest_s, count)), ["s"] * count)


@pytest.fixture
def table(tmp_path: Path) -> UtteranceTable:
    return noises(tmp_path, 30)


def sha256s(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


# A stand-in for Ray


class LostError(Exception):
    pass


class TaskError(Exception):
    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
        super().__init__(f"a traceback\n{type(cause).__name__}: {cause}")


class Reference:
    def __init__(self, value: Any) -> None:
        self.value = value

    def hex(self) -> str:
        return f"{id(self):x}"


class StandIn:
    """What the engine asks of Ray; `deaths` says how often the worker of a task, by number, is lost."""

    exceptions = SimpleNamespace(RayError=LostError, RayTaskError=TaskError)

    def __init__(self) -> None:
        self.begun: list[tuple[Any, ...]] = []
        self.options: dict[str, Any] = {}
        self.deaths: dict[str, int] = {}
        self.on_the_way: Callable[..., tuple[Any, ...]] = lambda *arguments: arguments
        self.cancelled = 0
        self.most_running = 0

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        alive = {"Alive": True, "Resources": {"CPU": 2.0}}
        return [alive, alive, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def put(self, value: Any) -> Reference:
        return Reference(value)

    def get(self, item: Any) -> Any:
        if isinstance(item, Reference):
            return item.value
        if isinstance(item, BaseException):
            raise item
        return item

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        self.options = options
        return lambda function: SimpleNamespace(
            options=lambda **_: SimpleNamespace(remote=lambda *arguments: self._begin(function, arguments))
        )

    def _begin(self, function: Any, arguments: tuple[Any, ...]) -> Iterator[Any]:
        self.begun.append(arguments)
        return self._messages(function, self.on_the_way(*arguments))

    def _messages(self, function: Any, arguments: tuple[Any, ...]) -> Iterator[Any]:
        first = arguments[1].frame["utt_id"][0]
        if self.deaths.get(first, 0):
            self.deaths[first] -= 1
            yield 1
            yield LostError("The worker died unexpectedly")
            return
        try:
            yield from function(*arguments)
        except Exception as error:
            yield TaskError(error)

    def wait(self, streams: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        self.most_running = max(self.most_running, len(streams))
        return streams[-1:], streams[:-1]  # never the order in which they were begun

    def cancel(self, stream: Any, *, force: bool) -> None:
        self.cancelled += 1


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(ray_engine, "_ray", lambda: stand_in)
    monkeypatch.setattr(ray_engine, "_REPORT_EVERY_S", 0.0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return stand_in


def both(tmp_path: Path, table: UtteranceTable, **options: Any) -> None:
    for engine in ("local", "ray"):
        embed_table(moments_model(), table, tmp_path / engine, engine=engine, **options)
    assert sha256s(tmp_path / "local") == sha256s(tmp_path / "ray")
    assert len(sha256s(tmp_path / "ray")) > 2


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_bytes_are_those_of_the_local_engine(
    tmp_path: Path, table: UtteranceTable, ray: StandIn, batch_size: int
) -> None:
    both(tmp_path, table, shard_rows=8, batch_size=batch_size, max_duration_s=0.5)
    assert len(ray.begun) == 4
    assert ray.most_running == 4  # four processors, one more task than there is room for, and four shards


def test_also_where_audio_is_skipped(tmp_path: Path, table: UtteranceTable, ray: StandIn) -> None:
    (tmp_path / "3.wav").write_bytes(b"no audio")
    (tmp_path / "17.wav").unlink()
    for number in (28, 29):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(RATE), RATE)
    both(tmp_path, table, shard_rows=7, batch_size=2, skip_bad=True)
    assert [failure.utt_id for failure in EmbeddingStore(tmp_path / "ray").metadata.failed] == [
        "u3",
        "u17",
        "u28",
        "u29",
    ]


def test_what_is_there_is_not_made_again(tmp_path: Path, table: UtteranceTable, ray: StandIn) -> None:
    embed_table(moments_model(), table, tmp_path / "s", shard_rows=8, batch_size=2)
    before = sha256s(tmp_path / "s")
    (tmp_path / "s" / "shard-000002.arrow").unlink()
    reports: list[tuple[int, int | None]] = []
    _, run = run_embedding(
        moments_model(), table, tmp_path / "s", engine="ray", progress=lambda *done: reports.append(done)
    )
    assert [arguments[1].frame["utt_id"].to_list() for arguments in ray.begun] == [[f"u{row}" for row in range(16, 24)]]
    assert sha256s(tmp_path / "s") == before
    assert (run.engine, run.rows, run.resumed_rows, run.tasks) == ("ray", 8, 22, 4)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert {done for done, _ in reports} == {22, 24, 26, 28, 30}  # batches of two, not only whole shards
    assert {total for _, total in reports} == {30}
    run_embedding(moments_model(), table, tmp_path / "s", engine="ray")
    assert len(ray.begun) == 1


def test_a_task_asks_for_what_its_threads_need(tmp_path: Path, table: UtteranceTable, ray: StandIn) -> None:
    embed_table(moments_model(), table, tmp_path / "a", engine="ray", streams=2, threads=1)
    assert ray.options == {"num_cpus": 2, "num_gpus": 0, "max_retries": 0}
    embed_table(moments_model(), table, tmp_path / "b", engine="ray", streams=4, threads=2)
    assert ray.options["num_cpus"] == 2  # no node has eight, and the task must not wait for ever
    assert ray.begun[-1][3].threads == 2


def test_lost_workers_are_replaced(tmp_path: Path, table: UtteranceTable, ray: StandIn) -> None:
    ray.deaths = {"u0": 2, "u16": 1}
    both(tmp_path, table, shard_rows=8, batch_size=2)
    assert len(ray.begun) == 4 + 3


def test_but_not_without_end(tmp_path: Path, table: UtteranceTable, ray: StandIn) -> None:
    ray.deaths = {"u8": 3}
    message = r"3 workers were lost at shard 1 \(utterances u8 to u15\).*died unexpectedly.*stored so far stays"
    with pytest.raises(EngineError, match=message):
        embed_table(moments_model(), table, tmp_path / "s", shard_rows=8, engine="ray")
    stored = [name for name in sha256s(tmp_path / "s") if name.endswith(".arrow")]
    assert 0 < len(stored) < 4
    embed_table(moments_model(), table, tmp_path / "s", engine="ray")
    assert len(ray.begun) == 6 + 4 - len(stored)


def test_errors_are_those_of_the_task(tmp_path: Path, table: UtteranceTable, ray: StandIn) -> None:
    (tmp_path / "9.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"9\.wav: .*utterance u9.*--skip-bad") as caught:
        embed_table(moments_model(), table, tmp_path / "s", shard_rows=8, engine="ray")
    assert caught.value.path == str(tmp_path / "9.wav")
    assert ray.cancelled > 0

    def clumsy(audio: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("no frames")

    # What a network does with one recording is that recording's failure, what happens around it the worker's.
    with pytest.raises(NestvoxError, match=r"0\.wav: the network moments fails on it: ZeroDivisionError: no frames"):
        embed_table(moments_model(clumsy), table, tmp_path / "t", engine="ray")
    ray.on_the_way = lambda model, part, tap, settings, *rest: (model, part, tap, None, *rest)
    message = r"a worker failed at shard \d \(utterances u\d+ to u\d+\): AttributeError: "
    with pytest.raises(EngineError, match=message):
        embed_table(moments_model(), table, tmp_path / "u", engine="ray")


def test_a_node_without_the_audio_is_no_reason_to_skip(tmp_path: Path, table: UtteranceTable, ray: StandIn) -> None:
    ray.on_the_way = lambda model, part, *rest: (model, replace(part, root=tmp_path / "not mounted"), *rest)
    with pytest.raises(EngineError, match=r"does not see \d files that are here, e\.g\. .*\.wav"):
        embed_table(moments_model(), table, tmp_path / "s", shard_rows=8, engine="ray", skip_bad=True)
    assert [name for name in sha256s(tmp_path / "s") if name.endswith(".arrow")] == []


def test_nodes_have_the_same_libraries_and_model(tmp_path: Path, table: UtteranceTable, ray: StandIn) -> None:
    for library in ("soxr", "av"):  # without av, or with another one, m4a reads otherwise or not at all
        ray.on_the_way = lambda model, part, tap, settings, versions, name=library: (
            model,
            part,
            tap,
            settings,
            {**versions, name: "0.1"},
        )
        with pytest.raises(EngineError, match=rf"other libraries.*{library} 0\.1 there"):
            embed_table(moments_model(), table, tmp_path / "s", engine="ray")
    ray.on_the_way = lambda model, *rest: ([Reference((moments_model(), "another"))], *rest)
    with pytest.raises(EngineError, match="was sent as another"):
        embed_table(moments_model(), table, tmp_path / "s", engine="ray")


def test_models_that_cannot_travel_are_told(
    tmp_path: Path, table: UtteranceTable, ray: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(value: Any) -> None:
        raise TypeError("cannot pickle '_thread.lock' object")

    monkeypatch.setattr(ray, "put", refuse)
    with pytest.raises(EngineError, match="moments cannot be sent to workers: cannot pickle"):
        embed_table(moments_model(), table, tmp_path / "s", engine="ray")


def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, table: UtteranceTable, ray: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(engine: Any, address: str | None = None) -> None:
        embed_table(moments_model(), table, tmp_path / "s", engine=engine, ray_address=address)

    with pytest.raises(StoreError, match="unknown engine 'spark'; known: local, ray"):
        embed("spark")
    with pytest.raises(StoreError, match="means nothing to the engine 'local'"):
        embed("local", "auto")
    with pytest.raises(EngineError, match="connected to a Ray cluster already"):
        embed("ray", "auto")
    with pytest.raises(EngineError, match=r"ray://host:10001 is of Ray's client protocol"):
        embed("ray", "ray://host:10001")
    monkeypatch.setenv("RAY_ADDRESS", "ray://other:10001")
    with pytest.raises(EngineError, match="ray://other:10001"):
        embed("ray")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1:1", "refused"), ("nonsense", "not of the form HOST:PORT"), ("host:99999", "")]
)
def test_addresses_without_a_cluster_are_told_at_once(
    tmp_path: Path, table: UtteranceTable, ray: StandIn, monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    began = time.perf_counter()
    with pytest.raises(EngineError, match=f"no Ray cluster at {address}: .*{reason}.*ray start --head"):
        embed_table(moments_model(), table, tmp_path / "s", engine="ray", ray_address=address)
    assert time.perf_counter() - began < 15  # Ray itself takes two minutes and ends the process


def test_without_ray_the_extra_is_named(tmp_path: Path, table: UtteranceTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"Ray cluster needs the extra \[ray\]"):
        embed_table(moments_model(), table, tmp_path / "s", engine="ray")


def test_nothing_else_knows_ray() -> None:
    naming = {
        file.relative_to(SOURCE).as_posix() for file in SOURCE.rglob("*.py") if '"ray"' in file.read_text("utf-8")
    }
    assert {name for name in naming if "extraction/ray_engine" not in name} <= {"cli/embed.py", "extraction/embed.py"}
    code = "import sys, nestvox.extraction.embed, nestvox.cli.embed; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Clusters

SILENT = ("ray", "raylet", "dashboard", "gcs")


@pytest.fixture(scope="module")
def ge2e(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from nestvox.encoders.ge2e import GE2E
    from nestvox.model.speaker_model import SpeakerModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ge2e") / "model"
    SpeakerModel(GE2E(), name="random").save(folder)
    return folder


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("nestvox")), "embed", *map(str, arguments)]


def nestvox_embed(*arguments: object, **environment: str) -> str:
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | environment
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False, env=env, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stderr.lower().splitlines() if not line.startswith("embedding: ")]
    assert not any(word in line for line in said for word in SILENT), done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_clusters_make_the_same_files_as_one_machine(tmp_path: Path, ge2e: Path) -> None:
    table = noises(tmp_path, 40)
    (tmp_path / "7.wav").write_bytes(b"no audio")
    write_utterances(table, tmp_path / "table.tsv")
    options = (tmp_path / "table.tsv", "--model", ge2e, "--skip-bad", "--shard-rows", 8, "--batch-size", 4)
    nestvox_embed(*options, "--out", tmp_path / "local")
    expected = sha256s(tmp_path / "local")
    report = tmp_path / "report.json"
    said = nestvox_embed(*options, "--out", tmp_path / "own", "--engine", "ray", "--json", report)
    assert sha256s(tmp_path / "own") == expected
    assert len(expected) == 6
    assert "engine       ray, room for" in said
    assert json.loads(report.read_text())["engine"] == "ray"

    # Killed when some shards are there, and continued by the same command.
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        command(*options, "--out", killed, "--engine", "ray"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(8000):
        if list(killed.glob("shard-*.arrow")) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list(killed.glob("shard-*.arrow")))
    assert there > 0
    said = nestvox_embed(*options, "--out", killed, "--engine", "ray")
    assert sha256s(killed) == expected
    assert there == 5 or f"({min(40, 8 * there)} were there already)" in said


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_cluster_that_is_there_is_used_and_left(tmp_path: Path, ge2e: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    table = noises(tmp_path, 30)
    write_utterances(table, tmp_path / "table.tsv")
    embed_table(moments_model(), table, tmp_path / "local", shard_rows=8, batch_size=2)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        embed_table(moments_model(), table, tmp_path / "ray", shard_rows=8, batch_size=2, engine="ray")
        assert sha256s(tmp_path / "ray") == sha256s(tmp_path / "local")

        marker = tmp_path / "died"

        def mortal(audio: np.ndarray) -> np.ndarray:
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return np.array([audio.mean(), audio.std(), np.abs(audio).mean()])

        # The trial happens here, where nobody may die.
        marker.touch()
        embed_table(moments_model(mortal), table, tmp_path / "again", shard_rows=8, batch_size=2)
        (tmp_path / "again" / "shard-000001.arrow").unlink()
        marker.unlink()
        embed_table(moments_model(mortal), table, tmp_path / "again", engine="ray")
        assert marker.exists()
        assert sha256s(tmp_path / "again") == sha256s(tmp_path / "local")

        (tmp_path / "20.wav").write_bytes(b"no audio")
        with pytest.raises(AudioError, match=r"20\.wav: .*utterance u20") as caught:
            embed_table(moments_model(), table, tmp_path / "bad", shard_rows=8, batch_size=2, engine="ray")
        assert caught.value.path == str(tmp_path / "20.wav")
        assert ray.is_initialized()

        address = ray.get_runtime_context().gcs_address
        options = (tmp_path / "table.tsv", "--model", ge2e, "--engine", "ray", "--skip-bad")
        nestvox_embed(*options, "--out", tmp_path / "a", "--ray-address", address)
        nestvox_embed(*options, "--out", tmp_path / "b", RAY_ADDRESS=address)
        assert sha256s(tmp_path / "a") == sha256s(tmp_path / "b")
        assert ray.is_initialized()
    finally:
        ray.shutdown()
