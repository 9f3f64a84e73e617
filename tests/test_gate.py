"""Files from outside: what they may be, and JSON and YAML that harm nobody."""

from __future__ import annotations

import json
import math
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from nestvox.errors import ModelError
from nestvox.gate import naming, open_regular, parse_json, parse_yaml, read_bytes, read_json, read_text, read_yaml
from nestvox.schema import Count, StrictModel, validated

ERROR = naming(ModelError)

LAUGHS = "a: &a [l, l, l, l, l, l, l, l, l]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

BAD_JSON = {
    "nested": "[" * 100_000,
    "nested and closed": "[" * 100_000 + "]" * 100_000,
    "nested objects": '{"a":' * 100_000,
    "many digits": f'{{"a": {"1" * 6000}}}',
    "many digits below zero": f"-{'1' * 41}",
    "NaN": '{"a": NaN}',
    "Infinity": "[-Infinity]",
    "overflow": "1e999",
    "a key twice": '{"a": 1, "b": {"c": 1, "c": 1}}',
    "half a pair": r'"\ud800"',
    "NUL": r'{"a\u0000b": 1}',
    "not closed": '{"a": 1',
    "two values": "1 2",
    "nothing": "",
}

BAD_YAML = {
    "nested": "[" * 100_000,
    "nested blocks": "- " * 5000,
    "laughs": LAUGHS,
    "within itself": "a: &a [*a]",
    "many digits": f"a: {'1' * 6000}",
    "nan": "a: .nan",
    "inf": "- -.inf",
    "overflow": "a: 1.0e+999",
    "a key twice": "a: 1\nb: 2\na: 3",
    "object": "!!python/object/apply:os.system [true]",
    "bytes": "a: !!binary aGVsbG8=",
    "set": "a: !!set {x}",
    "date": "a: !!timestamp 2001-01-01",
    "no integer": "a: !!int _",
    "no truth": "a: !!bool maybe",
    "two documents": "a: 1\n---\nb: 2",
    "list as a key": "? [1]\n: 2",
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_harmful_json_is_our_error_and_names_the_file(name: str) -> None:
    with pytest.raises(ModelError, match=r"^config\.json:3: not (usable )?JSON"):
        parse_json(BAD_JSON[name], "config.json:3", ERROR)


@pytest.mark.parametrize("name", BAD_YAML)
def test_harmful_yaml_is_our_error_and_names_the_file(name: str) -> None:
    with pytest.raises(ModelError, match=r"^r\.yaml: not (usable )?YAML"):
        parse_yaml(BAD_YAML[name], "r.yaml", ERROR)


@pytest.mark.parametrize(
    "value", [{"a": [1, -2.5e-3, None, True, 'ü [{\\" \u2028'], "": {}}, [[[]]], 3, "\\u0000", 10**39]
)
def test_good_json_is_what_it_says(value: Any) -> None:
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only), "x", ERROR) == value


def test_depth_counts_brackets_outside_of_text() -> None:
    assert parse_json("[" * 64 + "]" * 64, "x", ERROR)
    assert parse_json(json.dumps(["[" * 1000, '\\"[[' * 1000]), "x", ERROR, most_depth=1)
    with pytest.raises(ModelError, match="more than 64 deep"):
        parse_json("[" * 65 + "]" * 65, "x", ERROR)


def test_good_yaml_is_what_it_says() -> None:
    value = {"a": [1, -2.5, None, True, "é"], "b": {"c": {1: "x"}}, "date": "2024-02-30", "f": math.pi}
    assert parse_yaml(yaml.safe_dump(value), "x", ERROR) == value
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2}\nc: *a\nd: 2024-01-01", "x", ERROR) == {
        "a": {"x": 1},
        "b": {"x": 2},
        "c": {"x": 1},
        "d": "2024-01-01",
    }


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to("fifo")
    for path in ("fifo", "socket", "link", ".", "none", "none/x", "a\0b", "x" * 300):
        with pytest.raises(ModelError):
            open_regular(tmp_path / path, ERROR)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(ModelError, match=f"{device}: a device, not a regular file"):
            read_json(device, ERROR)
    listening.close()


def test_size_has_a_limit_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ModelError, match=r"large\.json: larger than the"):
        read_json(path, ERROR)
    with pytest.raises(ModelError, match=r"large\.json: larger than the"):
        read_yaml(path, ERROR)
    path.write_bytes(b"12345")
    assert read_bytes(path, ERROR, most_bytes=5) == b"12345"
    with pytest.raises(ModelError, match="larger than the 4 bytes"):
        read_bytes(path, ERROR, most_bytes=4)


def test_text_is_utf8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("ü\r\n", encoding="utf-8-sig", newline="")
    assert read_text(path, ERROR) == "ü\r\n"
    path.write_text("ü", encoding="utf-16")
    with pytest.raises(ModelError, match="UTF-16"):
        read_text(path, ERROR)
    path.write_bytes(b"a\nb\xff")
    with pytest.raises(ModelError, match="line 2"):
        read_text(path, ERROR)


class _Shape(StrictModel):
    n: Count
    x: float


@pytest.mark.parametrize(
    "content",
    [
        {"n": True, "x": 1.0},
        {"n": "1", "x": 1.0},
        {"n": 1.0, "x": 1.0},
        {"n": 2**54, "x": 1.0},
        {"n": 1, "x": "1"},
        {"n": 1, "x": True},
        {"n": 1, "x": math.nan},
        {"n": 1},
        {"n": 1, "x": 1.0, "y": 1},
        [1, 1.0],
        None,
    ],
)
def test_models_are_strict(content: Any) -> None:
    assert validated(_Shape, {"n": 1, "x": 1}, "f.json", ERROR) == _Shape(n=1, x=1.0)
    with pytest.raises(ModelError, match=r"^f\.json: malformed: "):
        validated(_Shape, content, "f.json", ERROR)
