"""Files that are something else than their names say, as people find them on their disks."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nestvox.audio.archives import members_in
from nestvox.audio.read import read as read_audio
from nestvox.content import content_instead, content_instead_of
from nestvox.corpora import read_scores, read_trials, read_utterances
from nestvox.corpora.prepare.kaldi import prepare_kaldi
from nestvox.corpora.prepare.manifest import json_lines
from nestvox.errors import ModelError, NestvoxError, RecipeError, StoreError
from nestvox.extraction.formats.interchange import iter_vectors
from nestvox.extraction.formats.labels import read_labels
from nestvox.gate import naming, read_json, read_yaml
from nestvox.model.folder import read_tensors

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 17090379\n"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "an empty file"),
        (b"\n \r\n", "blanks only"),
        (LFS, "git lfs pull"),
        (b"\xef\xbb\xbf" + LFS.replace(b"\n", b"\r\n"), "git lfs pull"),
        (b"/annex/objects/SHA256E-s100--ab12.wav\n", "git annex get"),
        (b"../../.git/annex/objects/Gk/12/SHA256E-s100--ab12.wav/x", "git annex get"),
        (b"outs:\n- md5: a304afb96060aad90176268345e10355\n  path: x.pt\n", "dvc pull"),
        (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "a web page"),
        (b"\r\n\r\n  <html lang='de'>", "a web page"),
        ("<!doctype html><title>Anmelden f\u00fcr Gr\u00fc\u00dfe</title>".encode("utf-16"), "a web page"),
        ("<html><p>Zug\u00e4nge f\u00fcr Mitglieder".encode("latin-1"), "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>no</Message></Error>', "AccessDenied"),
        (b'{"error": "Invalid credentials in Authorization header"}', "Invalid credentials"),
        (b'{"message": "API rate limit exceeded", "documentation_url": "x"}', "rate limit exceeded"),
        (b'{"detail": "' + b"x" * 5000, "an error message of a server"),
        (b'{"weights": [1, 2]}', "a JSON document"),
        (b"Entry not found", "Entry not found"),
        (b"404: Not Found", "404: Not Found"),
        (b"Access to model x/y is restricted", ""),
        (gzip.compress(b"x", mtime=0), "gunzip"),
        (b"BZh91AY&SY", "bunzip2"),
        (b"\x28\xb5\x2f\xfd\x00", "unzstd"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ", "macOS"),
    ],
)
def test_what_stands_in_the_place_of_a_file_is_named(head: bytes, words: str) -> None:
    found = content_instead(head)
    assert words in found
    assert bool(found) is bool(words)


def test_files_of_the_formats_themselves_are_not_mistaken() -> None:
    array = io.BytesIO()
    np.save(array, np.zeros(100))
    for head in (
        array.getvalue(),
        b"RIFF\x24\x08\x00\x00WAVEfmt ",
        b"fLaC\x00\x00\x00\x22",
        b"OggS\x00\x02",
        b"ID3\x04\x00",
        b"PK\x03\x04",
        b"PAR1\x15\x04",
        b"ARROW1\x00\x00",
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        b"{\x00\x00\x00\x00\x00\x00\x00"
        + b'{"__metadata__":{"format":"pt"}}',  # safetensors with a header of 123 bytes
        b"\x08\x08\x12\x07pytorch",
    ):
        assert content_instead(head) == ""


def test_a_message_of_a_server_cannot_paint_the_terminal() -> None:
    found = content_instead(b'{"error": "\\u001b[31mred\\nline ' + b"x" * 200 + b'"}')
    assert "\x1b" not in found
    assert "\n" not in found
    assert len(found) < 200


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(LFS)
    assert "git lfs pull" in content_instead_of(tmp_path / "x.pt")
    assert (
        content_instead_of(tmp_path) == content_instead_of(tmp_path / "gone") == content_instead_of("/dev/zero") == ""
    )


def test_a_model_folder_with_pointers_in_place_of_its_weights_says_so(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(LFS)
    with pytest.raises(ModelError, match=r"model\.safetensors: not a safetensors file: it is a Git LFS pointer"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"PK\x03\x04\x14\x00", "Excel"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Excel"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (b"PAR1\x15\x04", "call it .parquet"),
        (pickle.dumps([1]), "pickle"),
        (gzip.compress(b"x", mtime=0), "gunzip"),
    ],
)
def test_binaries_in_place_of_a_text_are_named(tmp_path: Path, head: bytes, words: str) -> None:
    for name, read in (("t.csv", read_utterances), ("l.txt", read_trials), ("s.txt", read_scores)):
        (tmp_path / name).write_bytes(head)
        with pytest.raises(NestvoxError, match=words):
            read(tmp_path / name)


PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title>"
POINTERS = pytest.mark.parametrize(
    ("content", "words"),
    [(LFS, "git lfs pull"), (b"/annex/objects/SHA256E-s100--ab12\n", "git annex get"), (PAGE, "a web page")],
)


def _read_gate(path: Path) -> object:
    return read_json(path, naming(StoreError))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("t.csv", read_utterances),
        ("t.tsv", read_utterances),
        ("t.parquet", read_utterances),
        ("l.txt", read_trials),
        ("l.csv", read_trials),
        ("l.parquet", read_trials),
        ("s.txt", read_scores),
        ("labels.txt", lambda path: read_labels(path, "none.npy")),
        ("v.npy", lambda path: list(iter_vectors(path, 10))),
        ("v.npz", lambda path: list(iter_vectors(path, 10))),
        ("v.ark", lambda path: list(iter_vectors(path, 10))),
        ("v.scp", lambda path: list(iter_vectors(path, 10))),
        ("v.parquet", lambda path: list(iter_vectors(path, 10))),
        ("m.jsonl", lambda path: list(json_lines(path))),
        ("wav.scp", lambda path: prepare_kaldi(path.parent)),
        ("c.json", _read_gate),
        ("r.yaml", lambda path: read_yaml(path, naming(RecipeError))),
        ("a.wav", read_audio),
        ("a.flac", read_audio),
        ("a.tar", lambda path: list(members_in(path))),
    ],
)
@POINTERS
def test_every_reader_names_what_stands_in_for_its_file(
    tmp_path: Path, name: str, read: Callable[[Path], object], content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(NestvoxError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_lists_that_begin_with_such_words_are_lists(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_text("version https\noid sha256\n")
    assert len(read_trials(path)) == 2
    path.write_text("<title-1> <title-2> target\n")
    assert len(read_trials(path)) == 1
