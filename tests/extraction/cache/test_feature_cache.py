"""A feature cache: the same rows whoever makes them, killed or not; refused when anything differs."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from nestvox.audio.augment import Augmentation, Banks, augment, utterance_rng
from nestvox.audio.banks import NoiseBank, RoomBank
from nestvox.audio.errors import AugmentationError
from nestvox.audio.read import read
from nestvox.corpora.augmented import voices_of
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import AudioError, FingerprintError, StoreError
from nestvox.extraction.cache.feature_cache import FeatureCache, build_cache, cache_metadata, open_cache
from nestvox.extraction.cache.plan import CachePlan
from nestvox.extraction.settings import EmbeddingSettings
from nestvox.extraction.store.mapped_rows import MappedRows
from nestvox.extraction.store.shard_files import ShardRows
from nestvox.extraction.store.store import EmbeddingStore, StoreWriter

RATE = 16_000
QUIET = {"p_reverb": 0.0, "p_noise": 0.0, "p_channel": 0.0, "p_clip": 0.0, "p_gain": 0.0}


@dataclass
class MomentModel:
    """Moments of the waveform: whatever is done to it shows in them."""

    name: str = "moments"
    fingerprint: str = "00000000000000ff"
    encoder_fingerprint: str = "00000000000000aa"
    sample_rate: int = RATE
    min_duration_s: float = 0.1
    dims: tuple[int, ...] = (2,)
    training_speakers: tuple[str, ...] = ("key",)
    nap_s: float = 0.0
    calls: list[int] = field(default_factory=list)

    def features(self, waveforms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(self.nap_s)
        self.calls.append(len(waveforms))
        pooled = np.stack([moments(waveform) for waveform in waveforms])
        return pooled, 2 * pooled[:, :2]

    def forward(self, waveforms: Sequence[np.ndarray], *, tap: str) -> Any:
        raise AssertionError("the head and the single taps have no part in a cache")


def moments(waveform: np.ndarray) -> np.ndarray:
    x = waveform.astype(np.float64)
    return np.array([x.mean() + 1, x.std(), np.abs(x).max(), len(x) / RATE], np.float32)


def speechlike(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    draw = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * draw.uniform(100, 250) * time_s) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time_s))
    return 0.2 * tone + 0.01 * draw.standard_normal(len(time_s))


def make_table(folder: Path, count: int = 20) -> UtteranceTable:
    """Utterances of 0.3 to 1 s of ten speakers."""
    rows = []
    for number in range(count):
        seconds = float(np.random.default_rng(number).uniform(0.3, 1.0))
        soundfile.write(folder / f"{number}.wav", speechlike(number, seconds), RATE, subtype="FLOAT")
        rows.append({"utt_id": f"u{number}", "path": f"{number}.wav", "speaker": f"s{number % 10}"})
    return UtteranceTable(pl.DataFrame(rows), "table", folder)


@pytest.fixture
def table(tmp_path: Path) -> UtteranceTable:
    (tmp_path / "audio").mkdir()
    return make_table(tmp_path / "audio")


@pytest.fixture
def banks(tmp_path: Path) -> Banks:
    for name in ("noise/hiss", "noise/music", "rooms"):
        (tmp_path / name).mkdir(parents=True)
    draw = np.random.default_rng(9)
    soundfile.write(tmp_path / "noise/hiss/h.wav", 0.1 * draw.standard_normal(RATE), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "noise/music/m.wav", speechlike(99, 1.0), RATE, subtype="FLOAT")
    response = np.concatenate([[1.0], 0.2 * draw.standard_normal(2000) * np.exp(-np.arange(2000) / 400)])
    soundfile.write(tmp_path / "rooms/r.wav", response / 2, RATE, subtype="FLOAT")
    return Banks(NoiseBank.from_folder(tmp_path / "noise"), RoomBank.from_folder(tmp_path / "rooms"))


def bytes_of(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


PACE = EmbeddingSettings(batch_size=4, streams=1, threads=1, workers=2)


def test_rows_are_what_the_model_makes_of_what_was_drawn(tmp_path: Path, table: UtteranceTable, banks: Banks) -> None:
    """Made again one by one, by other means than the cache's own decoder."""
    settings = Augmentation(p_speed=0.5)
    model = MomentModel()
    cache = build_cache(
        model,
        table,
        tmp_path / "c",
        variants=3,
        augmentation=settings,
        noise=banks.noise,
        rooms=banks.rooms,
        seed=7,
        settings=replace(PACE, dtype="float32", shard_rows=6),
    )
    assert (len(cache), cache.n_variants, cache.pooled_dim, cache.embedding_dim) == (20, 3, 4, 2)
    assert cache.utt_ids == table.frame["utt_id"].to_list()
    assert cache.variants.tolist() == [0, 1, 2] * 20
    everything = replace(banks, voices=voices_of(table, sample_rate=RATE))
    speakers = set()
    for row in range(20):
        clean = read(table.audio_path(row))[0]
        np.testing.assert_array_equal(cache.gather([row])[0], moments(clean))
        assert cache.speakers[row] == f"s{row % 10}"
        for variant in (1, 2):
            rng = utterance_rng(7, f"u{row}", variant)
            rng.random()  # where a crop would lie
            treatment = settings.draw(rng)
            varied = augment(clean, treatment, everything, speaker=f"s{row % 10}")
            np.testing.assert_allclose(cache.gather([row], variant)[0], moments(varied), rtol=1e-5, atol=1e-6)
            speakers.add(f"s{row % 10}{treatment.suffix}")
            assert cache.row_speakers[3 * row + variant] == f"s{row % 10}{treatment.suffix}"
    names, labels = cache.classes
    assert set(names) == speakers | {f"s{number}" for number in range(10)}
    assert names == sorted(names)
    assert [names[label] for label in labels.ravel()] == cache.row_speakers
    # Both vectors of a row are of one forward pass.
    np.testing.assert_array_equal(cache.embedding.take(range(60)), 2 * cache.pooled.take(range(60))[:, :2])
    assert sum(model.calls) == 60 + 1  # and one to learn the sizes
    cache.verify()


def test_workers_streams_and_order_change_nothing(tmp_path: Path, table: UtteranceTable, banks: Banks) -> None:
    made = []
    for number, (workers, streams) in enumerate([(1, 1), (4, 1), (4, 3)]):
        folder = tmp_path / f"c{number}"
        build_cache(
            MomentModel(),
            table,
            folder,
            noise=banks.noise,
            rooms=banks.rooms,
            settings=replace(PACE, shard_rows=5, streams=streams, workers=workers),
        )
        made.append({name: digest for name, digest in bytes_of(folder).items() if name != "store.json"})
    assert made[0] == made[1] == made[2]
    # An utterance has the same variants in another table, too.
    half = UtteranceTable(table.frame[::-2], "half", table.root)
    settings = Augmentation(**{**QUIET, "p_clip": 1.0})
    one = build_cache(MomentModel(), table, tmp_path / "one", augmentation=settings, settings=PACE)
    two = build_cache(MomentModel(), half, tmp_path / "two", augmentation=settings, settings=PACE)
    rows = [one.utt_ids.index(name) for name in two.utt_ids]
    for variant in range(4):
        np.testing.assert_array_equal(one.gather(rows, variant), two.gather(range(10), variant))


SLOW = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_feature_cache as here
from nestvox.audio.banks import NoiseBank, RoomBank
from nestvox.audio.augment import Augmentation
folder = Path(sys.argv[2])
table = here.UtteranceTable(here.pl.read_parquet(folder / "table.parquet"), "table", folder / "audio")
here.build_cache(
    here.MomentModel(nap_s=float(sys.argv[4])), table, sys.argv[3],
    noise=NoiseBank.from_folder(folder / "noise"), rooms=RoomBank.from_folder(folder / "rooms"),
    settings=here.replace(here.PACE, shard_rows=4),
)
"""


def test_killed_runs_end_in_the_same_bytes(tmp_path: Path, table: UtteranceTable, banks: Banks) -> None:
    table.frame.write_parquet(tmp_path / "table.parquet")

    def command(out: str, nap_s: float) -> list[str]:
        return [sys.executable, "-c", SLOW, str(Path(__file__).parent), str(tmp_path), str(tmp_path / out), str(nap_s)]

    shards = replace(PACE, shard_rows=4)
    build_cache(MomentModel(), table, tmp_path / "whole", noise=banks.noise, rooms=banks.rooms, settings=shards)
    draw = np.random.default_rng(3)
    kills = 0
    for _ in range(2):
        process = subprocess.Popen(command("killed", 0.05))
        deadline = time.monotonic() + 60
        while not (tmp_path / "killed" / "store.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(float(draw.uniform(0.05, 0.3)))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    subprocess.run(command("killed", 0.0), check=True)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_a_resumed_run_makes_only_what_is_missing(tmp_path: Path, table: UtteranceTable) -> None:
    seen: list[tuple[int, int | None]] = []
    build_cache(MomentModel(), table, tmp_path / "c", settings=replace(PACE, shard_rows=5))
    before = bytes_of(tmp_path / "c")
    (tmp_path / "c" / "shard-000002.arrow").unlink()
    model = MomentModel()
    build_cache(model, table, tmp_path / "c", progress=lambda done, total: seen.append((done, total)))
    assert bytes_of(tmp_path / "c") == before
    assert sum(model.calls) == 20  # five utterances, four variants
    assert (seen[0], seen[-1]) == ((60, 80), (80, 80))


PLAN = CachePlan(
    "aa" * 8, {"n_mels": 40, "sample_rate": RATE}, 4, 3.0, {"p_reverb": 0.5, "banks": {"noise": "ab"}}, 1, 300.0,
    "float16", "cd",
)  # fmt: skip


def write_cache(path: Path, plan: CachePlan = PLAN, utterances: int = 10, seed: int = 0) -> FeatureCache:
    metadata = cache_metadata(
        plan, model="toy", utterances=utterances, pooled_dim=3, embedding_dim=2, shard_utterances=4
    )
    writer = StoreWriter(path, metadata)
    draw = np.random.default_rng(seed)
    for shard in writer.pending:
        rows = metadata.planned(shard)
        writer.write_shard(
            shard,
            ShardRows(
                [f"u{row // 4}" for row in rows],
                draw.standard_normal((len(rows), 3)),
                [f"{row // 4}.wav" for row in rows],
                [f"s{row // 8}" for row in rows],
                variants=[row % 4 for row in rows],
                columns={"embedding": draw.standard_normal((len(rows), 2))},
            ),
        )
    writer.finish()
    return FeatureCache(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"front_end": {"n_mels": 80, "sample_rate": RATE}}, r"front_end\.n_mels 40 there, 80 expected"),
        ({"variants": 5}, "variants 4 there, 5 expected"),
        ({"crop_s": None}, r"crop_s 3\.0 there, None expected"),
        ({"augmentation": {"p_reverb": 0.4, "banks": {"noise": "ab"}}}, r"augmentation\.p_reverb 0\.5 there, 0\.4"),
        ({"augmentation": {"p_reverb": 0.5, "banks": {"noise": "xy"}}}, r"augmentation\.banks\.noise 'ab' there, 'xy'"),
        ({"augmentation": {"p_reverb": 0.5}}, r"augmentation\.banks .* there, nothing expected"),
        ({"seed": 2}, "seed 1 there, 2 expected"),
        ({"max_duration_s": 60.0}, r"max_duration_s 300\.0 there, 60\.0 expected"),
        ({"dtype": "float32"}, "dtype 'float16' there, 'float32' expected"),
        ({"table_sha256": "ef"}, r"the rows of the table \(sha256 cd there, ef expected\)"),
    ],
)
def test_every_difference_is_refused_and_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    write_cache(tmp_path / "c")
    other = replace(PLAN, **change)
    assert other.key != PLAN.key
    for expected in (other, change):
        with pytest.raises(StoreError, match=named):
            open_cache(tmp_path / "c", expected)


def test_what_agrees_is_opened(tmp_path: Path) -> None:
    made = write_cache(tmp_path / "c")
    for expected in (None, PLAN, replace(PLAN, table_sha256=""), {"seed": 1, "variants": 4}):
        assert open_cache(tmp_path / "c", expected).key == PLAN.key
    assert made.plan == PLAN
    with pytest.raises(FingerprintError, match="fingerprint"):
        open_cache(tmp_path / "c", {"fingerprint": "bb" * 8, "seed": 3})
    with pytest.raises(StoreError, match="no setting 'sead'"):
        open_cache(tmp_path / "c", {"sead": 1})


def test_building_over_another_cache_is_refused(tmp_path: Path, table: UtteranceTable, banks: Banks) -> None:
    settings = Augmentation(**{**QUIET, "p_clip": 1.0})

    def build(model: MomentModel | None = None, rows: UtteranceTable = table, **changes: Any) -> None:
        build_cache(
            model or MomentModel(), rows, tmp_path / "c", **{"augmentation": settings, "settings": PACE, **changes}
        )

    build()
    before = bytes_of(tmp_path / "c")
    build()
    for change, named in (
        ({"seed": 1}, "seed 0 there, 1 expected"),
        ({"variants": 2}, "variants"),
        ({"crop_s": 2.0}, "crop_s"),
        ({"settings": replace(PACE, dtype="float32")}, "dtype"),
        ({"augmentation": replace(settings, clip_fraction=(0.1, 0.2))}, "augmentation.clip_fraction"),
        ({"noise": banks.noise}, "augmentation.banks.noise"),
        ({"rows": UtteranceTable(table.frame[:-1], "table", table.root)}, "the rows of the table"),
        ({"model": MomentModel(sample_rate=8_000)}, "sample_rate"),
    ):
        with pytest.raises((StoreError, AugmentationError), match=named):
            build(**change)
    with pytest.raises(FingerprintError, match="fingerprint"):
        build(MomentModel(encoder_fingerprint="00000000000000bb"))
    build(MomentModel(fingerprint="another head, the same encoder"))
    assert bytes_of(tmp_path / "c") == before


def test_a_shard_of_another_seed_is_noticed(tmp_path: Path) -> None:
    write_cache(tmp_path / "a")
    write_cache(tmp_path / "b", replace(PLAN, seed=2))
    stranger = (tmp_path / "b" / "shard-000001.arrow").read_bytes()
    (tmp_path / "a" / "shard-000001.arrow").write_bytes(stranger)
    with pytest.raises(StoreError, match=r"shard-000001\.arrow: corrupt shard \(it belongs to another store\)"):
        FeatureCache(tmp_path / "a")


def test_damage_is_noticed(tmp_path: Path) -> None:
    write_cache(tmp_path / "c")
    file = tmp_path / "c" / "shard-000000.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match="shard-000000"):
        FeatureCache(tmp_path / "c").verify()
    file.write_bytes(content[:-9])
    with pytest.raises(StoreError, match="shard-000000"):
        FeatureCache(tmp_path / "c")
    with pytest.raises(StoreError, match="no embedding store"):
        open_cache(tmp_path / "nowhere")


def test_a_vector_that_is_no_number_any_more_is_named(tmp_path: Path) -> None:
    write_cache(tmp_path / "c")
    cache = FeatureCache(tmp_path / "c")
    file = tmp_path / "c" / "shard-000000.arrow"
    content, kept = file.read_bytes(), np.asarray(cache.gather([1]), cache.pooled.dtype).tobytes()
    assert content.count(kept) == 1
    file.write_bytes(content.replace(kept, b"\xff" * len(kept)))  # NaN in every precision
    damaged = FeatureCache(tmp_path / "c")
    with pytest.raises(StoreError, match=f"pooled vector of {damaged.utt_ids[1]} is not finite"):
        damaged.gather([0, 1, 2])
    assert np.isfinite(damaged.gather([0, 2])).all()


def test_bad_audio_costs_all_its_variants(tmp_path: Path, table: UtteranceTable) -> None:
    for bad in (3, 4, 11):
        table.audio_path(bad).write_bytes(b"no audio")
    settings = Augmentation(**{**QUIET, "p_clip": 1.0})
    with pytest.raises(AudioError, match=r"utterance u\d+"):
        build_cache(MomentModel(), table, tmp_path / "c", augmentation=settings, settings=PACE)
    cache = build_cache(
        MomentModel(),
        table,
        tmp_path / "c",
        augmentation=settings,
        settings=replace(PACE, skip_bad=True, shard_rows=64),
    )
    good = [f"u{number}" for number in range(20) if number not in (3, 4, 11)]
    assert cache.utt_ids == good
    assert [failure.utt_id for failure in cache.metadata.failed] == ["u3", "u4", "u11"]
    np.testing.assert_allclose(cache.gather([3])[0], moments(read(table.audio_path(5))[0]), rtol=2e-3)
    again = StoreWriter(tmp_path / "c", EmbeddingStore(tmp_path / "c").metadata)
    assert (again.done_rows, again.pending) == (80, ())


def test_crops_are_stretches_of_the_recording(tmp_path: Path) -> None:
    """A ramp tells where a stretch was taken from; recordings shorter than the crop stay whole."""
    rows = []
    for number, seconds in enumerate((0.5, 4.0, 30.0)):
        ramp = np.linspace(0.1, 0.9, round(seconds * RATE))
        soundfile.write(tmp_path / f"{number}.wav", ramp, RATE, subtype="FLOAT")
        rows.append({"utt_id": f"u{number}", "path": f"{number}.wav", "speaker": f"s{number}"})
    table = UtteranceTable(pl.DataFrame(rows), "table", tmp_path)
    nothing = Augmentation(**QUIET)
    cache = build_cache(
        MomentModel(),
        table,
        tmp_path / "c",
        augmentation=nothing,
        crop_s=1.0,
        variants=12,
        settings=replace(PACE, dtype="float32", max_duration_s=10.0),
    )
    durations = np.array([[cache.gather([row], variant)[0, 3] for variant in range(12)] for row in range(3)])
    np.testing.assert_allclose(durations[0], 0.5)
    assert durations[1, 0] == pytest.approx(4.0)
    assert durations[2, 0] == pytest.approx(10.0)  # the mean of three pieces
    np.testing.assert_allclose(durations[1:, 1:], 1.0, atol=1e-4)
    for row in (1, 2):
        means = np.array([cache.gather([row], variant)[0, 0] - 1 for variant in range(1, 12)])
        assert means.min() < 0.4
        assert means.max() > 0.6
        assert len(np.unique(means.round(3))) > 8


def test_fast_variants_of_the_shortest_recordings_are_long_enough(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speechlike(0, 0.101), RATE, subtype="FLOAT")
    frame = pl.DataFrame({"utt_id": ["a"], "path": ["a.wav"], "speaker": ["s"]})
    settings = Augmentation(**{**QUIET, "p_speed": 1.0}, speeds=(1.1,))
    cache = build_cache(
        MomentModel(),
        UtteranceTable(frame, "t", tmp_path),
        tmp_path / "c",
        augmentation=settings,
        settings=replace(PACE, dtype="float32"),
    )
    assert cache.gather([0], 1)[0, 3] == pytest.approx(0.1)
    assert cache.row_speakers == ["s", "s#speed1.1", "s#speed1.1", "s#speed1.1"]


def test_nothing_is_drawn_for_a_clean_cache_which_runs_of_any_seed_share(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speechlike(0, 0.5), RATE, subtype="FLOAT")
    frame = pl.DataFrame({"utt_id": ["a"], "path": ["a.wav"], "speaker": ["s"]})
    rows, settings = UtteranceTable(frame, "t", tmp_path), replace(PACE, dtype="float32")
    build = partial(build_cache, MomentModel(), rows, variants=1, settings=settings)
    build(tmp_path / "c", seed=3)
    before = bytes_of(tmp_path / "c")
    build(tmp_path / "c", seed=4)
    assert bytes_of(tmp_path / "c") == before
    with pytest.raises(StoreError, match="speed"):
        build(tmp_path / "c", speed=0.8)

    slow = build(tmp_path / "slow", speed=0.8)
    assert slow.gather([0], 0)[0, 3] == pytest.approx(0.5 / 0.8)
    assert slow.row_speakers == ["s#speed0.8"]


def test_a_broken_bank_stops_the_run_whatever_is_skipped(tmp_path: Path, table: UtteranceTable) -> None:
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "bad.wav").write_bytes(b"no noise")
    settings = Augmentation(**{**QUIET, "p_noise": 1.0}, kinds={"noise": 1.0})
    with pytest.raises(AudioError, match=r"bad\.wav"):
        build_cache(
            MomentModel(),
            table,
            tmp_path / "c",
            augmentation=settings,
            noise=NoiseBank.from_folder(tmp_path / "n"),
            settings=replace(PACE, skip_bad=True),
        )


def test_calls_that_make_no_sense(tmp_path: Path, table: UtteranceTable) -> None:
    for changes, message in (
        ({"variants": 0}, "has 1 to 1,000 variants"),
        ({"variants": 1_000_000_000}, "has 1 to 1,000 variants, got 1,000,000,000"),
        ({"crop_s": 0.1}, "crop_s must be at least twice"),
        ({"seed": -1}, "seed"),
        ({"settings": replace(PACE, dtype="int8")}, "dtype must be"),
        ({"augmentation": Augmentation()}, "p_reverb asks for rooms"),
        ({"settings": replace(PACE, workers=0)}, "workers must be at least 1"),
    ):
        with pytest.raises((StoreError, AugmentationError), match=message):
            build_cache(MomentModel(), table, tmp_path / "c", **{"settings": PACE, **changes})


def test_one_variant_is_the_clean_recordings_with_both_vectors(tmp_path: Path, table: UtteranceTable) -> None:
    cache = build_cache(MomentModel(), table, tmp_path / "c", variants=1, settings=replace(PACE, dtype="float32"))
    assert (len(cache), cache.n_variants) == (20, 1)
    np.testing.assert_array_equal(next(cache.pooled.blocks()), [moments(read(path)[0]) for path in table.audio_paths])
    assert cache.classes[1].shape == (20, 1)


def test_a_cache_is_a_store_of_its_clean_rows(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c")
    store = EmbeddingStore(tmp_path / "c")
    assert store.index_of(["u2", "9.wav"]).tolist() == [8, 36]
    np.testing.assert_array_equal(store.take([8, 36]), cache.gather([2, 9]))
    assert store.read_shard(1).variants == [0, 1, 2, 3] * 4
    with pytest.raises(StoreError, match="has the vectors vector, embedding, not 'frames'"):
        store.mapped("frames")


def test_a_plain_store_is_no_cache(tmp_path: Path, table: UtteranceTable) -> None:
    metadata = replace(write_cache(tmp_path / "c").metadata, columns={}, variants=1, shards=(), complete=False)
    writer = StoreWriter(
        tmp_path / "plain", replace(metadata, planned_rows=1, shard_rows=1, plan={"max_duration_s": 300.0})
    )
    writer.write_shard(0, ShardRows(["u"], np.ones((1, 3)), ["p"], ["s"]))
    writer.finish()
    with pytest.raises(StoreError, match="no feature cache"):
        FeatureCache(tmp_path / "plain")
    with pytest.raises(StoreError, match="no feature cache"):
        build_cache(MomentModel(), table, tmp_path / "plain", settings=PACE)


def test_shards_must_fit_the_store(tmp_path: Path) -> None:
    metadata = cache_metadata(PLAN, model="toy", utterances=1, pooled_dim=3, embedding_dim=2)
    writer = StoreWriter(tmp_path / "c", metadata)
    names, vectors, embedding = ["u"] * 4, np.ones((4, 3)), {"embedding": np.ones((4, 2))}
    with pytest.raises(StoreError, match="4 variants and the further vectors"):
        writer.write_shard(0, ShardRows(names, vectors, columns=embedding))
    with pytest.raises(StoreError, match="4 variants and the further vectors"):
        writer.write_shard(0, ShardRows(names, vectors, variants=range(4)))
    with pytest.raises(StoreError, match=r"vectors of 2 numbers, got \(4, 3\)"):
        writer.write_shard(0, ShardRows(names, vectors, variants=range(4), columns={"embedding": vectors}))
    with pytest.raises(StoreError, match="float16"):
        writer.write_shard(0, ShardRows(names, 1e6 * vectors, variants=range(4), columns=embedding))
    with pytest.raises(StoreError, match="multiples of variants"):
        replace(metadata, shard_rows=6)


@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6),
    data=st.data(),
    dtype=st.sampled_from(["float16", "float32"]),
)
def test_gathering_is_indexing(sizes: list[int], data: st.DataObject, dtype: str) -> None:
    whole = np.random.default_rng(0).standard_normal((sum(sizes), 3)).astype(dtype)
    rows = MappedRows(np.split(whole, np.cumsum(sizes)[:-1]), 3, dtype)
    assert (rows.shape, len(rows), rows.dtype) == ((len(whole), 3), len(whole), np.dtype(dtype))
    wanted = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20)) if len(whole) else []
    taken = rows.take(wanted)
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, whole[np.array(wanted, int)].astype(np.float32))
    blocks = list(rows.blocks(2))
    assert all(len(block) <= 2 for block in blocks)
    np.testing.assert_array_equal(np.concatenate([np.empty((0, 3)), *blocks]), whole)
    with pytest.raises(StoreError, match="asked for"):
        rows.take([len(whole)])


def test_numbers_beyond_the_cache_are_refused(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c")
    assert cache.rows([9, 0], np.array([3, 1])).tolist() == [39, 1]
    for utterances, variant, named in (
        ([10], 0, "utterances 0 to 9"),
        ([-1], 0, "utterances"),
        ([0], 4, "variants 0 to 3"),
    ):
        with pytest.raises(StoreError, match=named):
            cache.gather(utterances, variant)


def test_nothing_is_loaded_before_it_is_asked_for(tmp_path: Path) -> None:
    """A cache of 64 MiB is opened and read from within a fifth of that."""
    plan = replace(PLAN, dtype="float32")
    metadata = cache_metadata(plan, model="m", utterances=2048, pooled_dim=2000, embedding_dim=48, shard_utterances=512)
    writer = StoreWriter(tmp_path / "c", metadata)
    for shard in writer.pending:
        writer.write_shard(
            shard,
            ShardRows(
                ["u"] * 2048,
                np.full((2048, 2000), shard, np.float32),
                variants=[0, 1, 2, 3] * 512,
                columns={"embedding": np.zeros((2048, 48), np.float32)},
            ),
        )
    writer.finish()
    code = (
        "import sys, numpy as np\n"
        "from nestvox.extraction.cache.feature_cache import FeatureCache\n"
        "def anonymous():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(line for line in lines if line.startswith('RssAnon')).split()[1])\n"
        "before = anonymous()\n"
        "cache = FeatureCache(sys.argv[1])\n"
        "found = cache.gather(np.arange(0, 2048, 32), 2)\n"
        "assert found[:, 5].tolist() == [n // 16 for n in range(64)]\n"
        "print(anonymous() - before)\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 13_000  # KiB
    assert sum(file.stat().st_size for file in (tmp_path / "c").iterdir()) > 64 << 20


def test_a_speaker_model_gives_both_vectors_of_one_pass() -> None:
    torch = pytest.importorskip("torch")
    from nestvox.encoders.ge2e import GE2E
    from nestvox.heads.rotation import Rotation
    from nestvox.model.speaker_model import SpeakerModel

    torch.manual_seed(0)
    encoder = GE2E()
    plain = SpeakerModel(encoder)
    turned = SpeakerModel(encoder, Rotation(np.eye(256)[::-1].copy(), (16, 256), "test"))
    assert turned.fingerprint != plain.fingerprint
    assert turned.encoder_fingerprint == plain.encoder_fingerprint == plain.fingerprint
    waveforms = [speechlike(seed, 0.5).astype(np.float32) for seed in range(3)]
    pooled, embedding = turned.features(waveforms)
    np.testing.assert_array_equal(pooled, plain.forward(waveforms, tap="pooled"))
    np.testing.assert_array_equal(embedding, plain.forward(waveforms, tap="embedding"))
