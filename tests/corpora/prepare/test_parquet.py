"""Audio inside Parquet files: written where lists expect it, streamed, resumed, and never outside of its folder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from nestvox.corpora.prepare.parquet import prepare_parquet
from nestvox.errors import TableError

arrow = pytest.importorskip("pyarrow", reason="the extra [parquet] is not installed")
parquet = pytest.importorskip("pyarrow.parquet")


def clip(seconds: float, kind: str = "WAV") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, 0.1 * np.ones(round(16_000 * seconds)), 16_000, format=kind)
    return stream.getvalue()


def written(folder: Path, columns: dict[str, list[Any]], name: str = "a.parquet") -> Path:
    parquet.write_table(arrow.table(columns), folder / name)
    return folder / name


def test_a_mirror_of_voxceleb_lies_as_its_lists_say(tmp_path: Path) -> None:
    ids = ["id10270+5r0dWxy17C8+00001", "id10270+5r0dWxy17C8+00002", "id10271+1gtz-CUIygI+00001"]
    cells = [{"bytes": clip(0.5 + n), "path": f"{n}.wav"} for n in range(3)]
    found = prepare_parquet([written(tmp_path, {"audio": cells, "id": ids})], tmp_path / "wav", corpus="vox1")
    frame = found.table.frame
    assert frame["path"].to_list() == [f"{name.replace('+', '/')}.wav" for name in ids]
    assert frame["speaker"].to_list() == ["id10270", "id10270", "id10271"]
    assert frame["duration_s"].to_list() == pytest.approx([0.5, 1.5, 2.5])
    assert (tmp_path / "wav" / frame["path"][1]).read_bytes() == cells[1]["bytes"]


def test_what_cannot_be_used_is_skipped_and_listed_and_nothing_leads_out(tmp_path: Path) -> None:
    cells = [clip(1, "FLAC"), b"", b"no audio", clip(1)]
    names = ["../../etc/x", "b", "c", "d d"]
    path = written(tmp_path, {"sound": cells, "who": ["s1", "s2", "s3", "s4"], "name": names})
    found = prepare_parquet([path], tmp_path / "out", audio_column="sound", speaker_column="who", id_column="name")
    assert found.table.frame["path"].to_list() == ["etc/x.flac", "d_d.wav"]
    assert found.table.frame["speaker"].to_list() == ["s1", "s4"]
    assert len(found.skipped) == 2
    assert {file.name for file in tmp_path.iterdir()} == {"a.parquet", "out"}


def test_a_second_run_writes_only_what_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, {"audio": [clip(1), clip(1.5)], "id": ["a+1", "b+1"]})
    prepare_parquet([path], tmp_path / "out")
    first, second = tmp_path / "out/a/1.wav", tmp_path / "out/b/1.wav"
    before = first.stat().st_mtime_ns
    second.unlink()
    prepare_parquet([path], tmp_path / "out")
    assert first.stat().st_mtime_ns == before
    assert second.read_bytes() == clip(1.5)


def test_what_is_no_such_file_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, {"audio": [clip(1)], "text": ["hello"]})
    with pytest.raises(TableError, match="no column speaker and no id; there is audio, text"):
        prepare_parquet([path], tmp_path / "out")
    with pytest.raises(TableError, match="no column sound; there is audio, text"):
        prepare_parquet([path], tmp_path / "out", audio_column="sound", speaker_column="text")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(TableError, match="not a readable Parquet file"):
        prepare_parquet([tmp_path / "b.parquet"], tmp_path / "out")
    twice = written(tmp_path, {"audio": [clip(1), clip(1)], "id": ["a+1", "a+1"]}, "c.parquet")
    with pytest.raises(TableError, match="have the name a/1"):
        prepare_parquet([twice], tmp_path / "out")
