"""Tables, lists, vectors and stores: how a whole file of each format is made, spoilt and read."""

from __future__ import annotations

import io
import json
import random
import tarfile
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _mutated_formats as spoil

__all__ = ["FORMATS", "Format"]

_NAMES = [f"utt{row}" for row in range(7)]
_SPEAKERS = [f"spk{row % 3}" for row in range(7)]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: e.g. ``store.json``.
        file: what is spoilt, in the folder that `make` fills.
        make: writes the whole files of a folder.
        mutate: spoils the content of `file`.
        read: reads the folder as nestvox does; it returns, or raises.
        torch: reading needs torch.
        needs: module that must be there.
        refused: the whole file is refused as well, because nestvox does not read what it holds.
    """

    name: str
    file: str
    make: Callable[[Path], None]
    mutate: spoil.Mutation
    read: Callable[[Path], object]
    torch: bool = False
    needs: str = ""
    refused: bool = False


def _vectors(rows: int = 7, dim: int = 4) -> Any:
    import numpy as np

    return np.random.default_rng(3).standard_normal((rows, dim)).astype(np.float32)


def _all(items: Iterator[Any]) -> int:
    return sum(1 for _ in items)


def _read_vectors(file: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from nestvox.extraction.formats.interchange import iter_vectors, vector_shape

        vector_shape(folder / file)
        return _all(iter_vectors(folder / file))

    return read


def text(file: str, text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / file).write_text(text, encoding="utf-8")

    return make


def _json(file: str, value: Any) -> Callable[[Path], None]:
    return text(file, json.dumps(value, indent=1))


# Stores


def _make_store(folder: Path, tap: str = "nested") -> None:
    from nestvox.extraction.store.metadata import StoreMetadata
    from nestvox.extraction.store.shard_files import ShardRows
    from nestvox.extraction.store.store import StoreWriter

    frames, cache = tap == "frames", tap == "pooled"
    metadata = StoreMetadata(
        fingerprint="f" * 16,
        model="m",
        tap=tap,
        dims=() if frames or cache else (2, 4),
        dim=4,
        dtype="float32",
        planned_rows=14 if cache else 7,
        shard_rows=14 if cache else 7,
        variants=2 if cache else 1,
        columns={"embedding": 4} if cache else {},
        plan=_plan() if cache else {},
    )
    writer = StoreWriter(folder / "store", metadata)
    names = [name for name in _NAMES for _ in range(metadata.variants)]
    speakers = [name for name in _SPEAKERS for _ in range(metadata.variants)]
    vectors = _vectors(len(names))
    rows = ShardRows(
        names,
        [vectors[: 1 + row] for row in range(len(names))] if frames else vectors,
        [f"{name}.wav" for name in names],
        speakers,
        variants=[row % 2 for row in range(14)] if cache else None,
        columns={"embedding": vectors} if cache else {},
    )
    writer.write_shard(0, rows)
    writer.finish()


def _plan() -> dict[str, Any]:
    from nestvox.extraction.cache.plan import CachePlan

    return CachePlan("f" * 16, {"architecture": "ge2e"}, variants=2).to_dict()


def _store(tap: str) -> Callable[[Path], None]:
    return lambda folder: _make_store(folder, tap)


def _read_store(folder: Path) -> object:
    _resize(folder)
    from nestvox.extraction.store.store import EmbeddingStore

    store = EmbeddingStore(folder / "store")
    if store.metadata.tap == "frames":
        return _all(store.iter_frames())
    found = store.vectors(), store.utt_ids, store.speakers, store.paths, store.variants, store.speaker_codes()
    return (
        found,
        _all(store.iter_batches(3)),
        store.mapped().take(range(len(store))),
        [store.read_shard(shard) for shard in range(len(store.metadata.shards))],
    )


def _resize(folder: Path) -> None:
    """Let store.json say the size that a spoilt shard has: what lies behind that check is to be reached as well."""
    file = folder / "store" / "store.json"
    shard = folder / "store" / "shard-000000.arrow"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["shards"][0]["size_bytes"] == shard.stat().st_size:
            return
        content["shards"][0]["size_bytes"] = shard.stat().st_size
        file.write_text(json.dumps(content), encoding="utf-8")
    except (ValueError, LookupError, TypeError, RecursionError):
        return


def _read_cache(folder: Path) -> object:
    _resize(folder)
    from nestvox.extraction.cache.feature_cache import open_cache

    cache = open_cache(folder / "store", {"seed": 0})
    return cache.gather([0], 1), cache.gather([0], tap="embedding"), cache.classes, cache.key, repr(cache)


# Tables and lists

_TABLE = "utt_id\tpath\tspeaker\tstart_s\tduration_s\tsynthetic\tsession\n" + "".join(
    f"{name}\t{name}.wav\t{speaker}\t0.5\t1.5\tfalse\ts1\n" for name, speaker in zip(_NAMES, _SPEAKERS, strict=True)
)
_PAIRS = [(_NAMES[0], _NAMES[3], 1), (_NAMES[1], _NAMES[2], 0), (_NAMES[4], _NAMES[5], 0), (_NAMES[2], _NAMES[5], 1)]


def _read_table(file: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from nestvox.corpora.utterances import read_utterances

        table = read_utterances(folder / file)
        return table.labels, table.audio_paths, table.where(speaker="spk1"), repr(table)

    return read


def _read_trials(file: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from nestvox.corpora.trials import read_trials

        trials = read_trials(folder / file)
        return trials.sha256, len(trials)

    return read


def _read_scores(file: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from nestvox.corpora.scores import read_scores

        return read_scores(folder / file)

    return read


def _parquet_table(file: str, columns: Callable[[], dict[str, Any]]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns()), folder / file)

    return make


def _pair_columns(*, scored: bool) -> dict[str, Any]:
    enrol, test, target = zip(*_PAIRS, strict=True)
    return {
        "enrol": enrol,
        "test": test,
        "score" if scored else "target": [0.5 * t for t in target] if scored else target,
    }


def _read_labels(folder: Path) -> object:
    from nestvox.extraction.formats.labels import read_labels

    return read_labels(folder / "labels.tsv", folder / "v.npz")


def _make_labels(folder: Path) -> None:
    _make_npz(folder)
    rows = "".join(f"{name}\t{speaker}\n" for name, speaker in zip(_NAMES, _SPEAKERS, strict=True))
    (folder / "labels.tsv").write_text(f"utt_id\tspeaker\n{rows}", encoding="utf-8")


# Kaldi, lhotse, NeMo, archives


def _make_kaldi(folder: Path) -> None:
    _wavs(folder, _NAMES[:3])
    (folder / "wav.scp").write_text("".join(f"rec{n} {name}.wav\n" for n, name in enumerate(_NAMES[:3])))
    (folder / "segments").write_text("".join(f"{name} rec{n} 0.0 0.2\n" for n, name in enumerate(_NAMES[:3])))
    (folder / "utt2spk").write_text("".join(f"{name} spk{n}\n" for n, name in enumerate(_NAMES[:3])))
    (folder / "spk2gender").write_text("".join(f"spk{n} f\n" for n in range(3)))


def _read_kaldi(folder: Path) -> object:
    from nestvox.corpora.prepare.kaldi import prepare_kaldi

    return prepare_kaldi(folder, root=folder)


def _wavs(folder: Path, names: list[str]) -> None:
    for name in names:
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(random.Random(name).randbytes(16_000))


_RECORDINGS = [
    {
        "id": f"rec{n}",
        "sources": [{"type": "file", "channels": [0], "source": f"rec{n}.wav"}],
        "sampling_rate": 16_000,
        "num_samples": 32_000,
        "duration": 2.0,
        "channel_ids": [0],
    }
    for n in range(3)
]
_SUPERVISIONS = [
    {
        "id": f"sup{n}",
        "recording_id": f"rec{n}",
        "start": 0.0,
        "duration": 2.0,
        "channel": 0,
        "speaker": f"spk{n}",
        "gender": "f",
        "language": "en",
    }
    for n in range(3)
]
_CUTS = [
    {
        "id": f"cut{n}",
        "start": 0.0,
        "duration": 2.0,
        "channel": 0,
        "supervisions": [_SUPERVISIONS[n]],
        "recording": _RECORDINGS[n],
        "type": "MonoCut",
    }
    for n in range(3)
]


def lines(items: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def _make_lhotse(folder: Path) -> None:
    (folder / "recordings.jsonl").write_text(lines(_RECORDINGS), encoding="utf-8")
    (folder / "supervisions.jsonl").write_text(lines(_SUPERVISIONS), encoding="utf-8")
    (folder / "cuts.jsonl").write_text(lines(_CUTS), encoding="utf-8")


def _read_lhotse(folder: Path) -> object:
    from nestvox.corpora.prepare.lhotse import prepare_lhotse

    return prepare_lhotse(folder / "recordings.jsonl", folder / "supervisions.jsonl")


def _read_cuts(folder: Path) -> object:
    from nestvox.corpora.prepare.lhotse import prepare_lhotse

    return prepare_lhotse(folder / "cuts.jsonl")


def _make_nemo(folder: Path) -> None:
    items = [
        {"audio_filepath": f"{name}.wav", "duration": 1.0, "offset": 0.5, "label": "s", "text": "x"} for name in _NAMES
    ]
    (folder / "manifest.json").write_text(lines(items), encoding="utf-8")


def _read_nemo(folder: Path) -> object:
    from nestvox.corpora.prepare.nemo import prepare_nemo

    return prepare_nemo(folder / "manifest.json")


def _make_tar(folder: Path) -> None:
    with tarfile.open(folder / "shard-000000.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, speaker in zip(_NAMES[:3], _SPEAKERS, strict=False):
            described = json.dumps({"speaker": speaker, "start_s": 0.5, "n": 3}).encode()
            for ending, content in ((".json", described), (".wav", b"RIFF" + bytes(600))):
                info = tarfile.TarInfo(f"a/{name}{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def _read_tar(folder: Path) -> object:
    from nestvox.corpora.shards import prepare_shards

    return prepare_shards([folder / "shard-000000.tar"])


def _make_list(folder: Path) -> None:
    _wavs(folder, _NAMES[:2])
    text("list.csv", "path,speaker\nutt0.wav,a\nutt1.wav,b\n")(folder)


def _read_csv_list(folder: Path) -> object:
    from nestvox.corpora.prepare.csv_list import prepare_csv

    return prepare_csv(folder / "list.csv")


def _make_bank(folder: Path) -> None:
    _wavs(folder, _NAMES[:2])
    (folder / "bank.tsv").write_text(
        "path\tcategory\tsplit\n" + "".join(f"{n}.wav\tnoise\ttrain\n" for n in _NAMES[:2])
    )


def _read_bank(folder: Path) -> object:
    from nestvox.audio.banks import NoiseBank

    return NoiseBank.from_folder(folder)


# Vectors


def _make_npy(folder: Path) -> None:
    import numpy as np

    np.save(folder / "v.npy", _vectors())


def _make_npz(folder: Path) -> None:
    import numpy as np

    np.savez(folder / "v.npz", vectors=_vectors(), ids=np.array(_NAMES))


def _make_ark(folder: Path) -> None:
    from nestvox.extraction.formats.interchange import VectorWriter
    from nestvox.extraction.store.store import VectorBatch

    with VectorWriter(folder / "v.ark") as writer:
        writer.write(VectorBatch(_NAMES, _vectors()))


def _make_text_ark(folder: Path) -> None:
    rows = zip(_NAMES, _vectors().tolist(), strict=True)
    (folder / "v.ark").write_text("".join(f"{name}  [ {' '.join(map(str, row))} ]\n" for name, row in rows))


def _make_compressed_ark(folder: Path) -> None:
    import kaldiio

    kaldiio.save_ark(str(folder / "v.ark"), {name: _vectors() for name in _NAMES}, compression_method=2)


def _vector_columns() -> dict[str, Any]:
    import pyarrow as pa

    return {"utt_id": _NAMES, "vector": pa.array(_vectors().tolist(), pa.list_(pa.float32()))}


_TRIAL_LINES = "".join(f"{target} {a} {b}\n" for a, b, target in _PAIRS)
_KALDI_TRIALS = "".join(f"{a} {b} {'target' if target else 'nontarget'}\n" for a, b, target in _PAIRS)
_SCORE_LINES = "".join(f"{a} {b} {0.25 + target}\n" for a, b, target in _PAIRS)
_FOUR = "".join(f"{a} {b} {0.25 + target} {'target' if target else 'nontarget'}\n" for a, b, target in _PAIRS)
_CSV_TABLE = _TABLE.replace("\t", ",")

FORMATS = (
    Format("table tsv", "t.tsv", text("t.tsv", _TABLE), spoil.table, _read_table("t.tsv")),
    Format("table csv", "t.csv", text("t.csv", _CSV_TABLE), spoil.table, _read_table("t.csv")),
    Format(
        "table parquet",
        "t.parquet",
        _parquet_table(
            "t.parquet", lambda: {"utt_id": _NAMES, "path": _NAMES, "speaker": _SPEAKERS, "start_s": [0.5] * 7}
        ),
        spoil.parquet,
        _read_table("t.parquet"),
    ),
    Format(
        "list csv",
        "list.csv",
        _make_list,
        spoil.table,
        _read_csv_list,
    ),
    Format("trials voxceleb", "t.txt", text("t.txt", _TRIAL_LINES), spoil.words, _read_trials("t.txt")),
    Format("trials kaldi", "trials", text("trials", _KALDI_TRIALS), spoil.words, _read_trials("trials")),
    Format(
        "trials csv", "t.csv", text("t.csv", "enrol,test,target\na,b,1\nc,d,0\n"), spoil.table, _read_trials("t.csv")
    ),
    Format(
        "trials parquet",
        "t.parquet",
        _parquet_table("t.parquet", lambda: _pair_columns(scored=False)),
        spoil.parquet,
        _read_trials("t.parquet"),
    ),
    Format("scores", "s.txt", text("s.txt", _SCORE_LINES), spoil.words, _read_scores("s.txt")),
    Format("scores of four", "s.txt", text("s.txt", _FOUR), spoil.words, _read_scores("s.txt")),
    Format(
        "scores csv", "s.csv", text("s.csv", "enrol,test,score\na,b,1.5\nc,d,0\n"), spoil.table, _read_scores("s.csv")
    ),
    Format(
        "scores parquet",
        "s.parquet",
        _parquet_table("s.parquet", lambda: _pair_columns(scored=True)),
        spoil.parquet,
        _read_scores("s.parquet"),
    ),
    Format("labels", "labels.tsv", _make_labels, spoil.table, _read_labels),
    Format("kaldi wav.scp", "wav.scp", _make_kaldi, spoil.words, _read_kaldi),
    Format("kaldi segments", "segments", _make_kaldi, spoil.words, _read_kaldi),
    Format("kaldi utt2spk", "utt2spk", _make_kaldi, spoil.words, _read_kaldi),
    Format("kaldi spk2gender", "spk2gender", _make_kaldi, spoil.words, _read_kaldi),
    Format("lhotse recordings", "recordings.jsonl", _make_lhotse, spoil.json_lines, _read_lhotse),
    Format("lhotse supervisions", "supervisions.jsonl", _make_lhotse, spoil.json_lines, _read_lhotse),
    Format("lhotse cuts", "cuts.jsonl", _make_lhotse, spoil.json_lines, _read_cuts),
    Format("NeMo", "manifest.json", _make_nemo, spoil.json_lines, _read_nemo),
    Format("tar shards", "shard-000000.tar", _make_tar, spoil.tar(spoil.json_text), _read_tar),
    Format("bank table", "bank.tsv", _make_bank, spoil.table, _read_bank),
    Format("npy", "v.npy", _make_npy, spoil.npy, _read_vectors("v.npy")),
    Format("npz", "v.npz", _make_npz, spoil.npz, _read_vectors("v.npz")),
    Format("ark", "v.ark", _make_ark, spoil.binary, _read_vectors("v.ark")),
    Format("ark text", "v.ark", _make_text_ark, spoil.words, _read_vectors("v.ark")),
    Format(
        "ark compressed",
        "v.ark",
        _make_compressed_ark,
        spoil.binary,
        _read_vectors("v.ark"),
        needs="kaldiio",
        refused=True,
    ),
    Format("scp", "v.scp", _make_ark, spoil.words, _read_vectors("v.scp")),
    Format(
        "vectors parquet",
        "v.parquet",
        _parquet_table("v.parquet", _vector_columns),
        spoil.parquet,
        _read_vectors("v.parquet"),
    ),
    Format("store.json", "store/store.json", _store("nested"), spoil.json_text, _read_store),
    Format("store shard", "store/shard-000000.arrow", _store("nested"), spoil.arrow, _read_store),
    Format("frames shard", "store/shard-000000.arrow", _store("frames"), spoil.arrow, _read_store),
    Format("cache store.json", "store/store.json", _store("pooled"), spoil.json_text, _read_cache),
    Format("cache shard", "store/shard-000000.arrow", _store("pooled"), spoil.arrow, _read_cache),
)
