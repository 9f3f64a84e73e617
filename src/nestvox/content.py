"""What a file holds that is not what its name says: pointers, web pages, error messages, archives. Knows no torch.

Half of all "damaged" binary files are none: somebody has the text that stands in for the file in a repository, or the
page that a server sent in its place.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

HEAD_BYTES = 4096
"""Bytes from the beginning of a file that are enough to tell."""

_NOT_IT = "not the file itself"
_LONGEST_POINTER = 1024  # bytes, by the specification of Git LFS
# Texts that stand in for a file, by how they begin.
_TEXTS = (
    (
        re.compile(r"version https?://(?:git-lfs\.github\.com|hawser\.github\.com|git-media\.io)/spec/"),
        f"a Git LFS pointer, {_NOT_IT}: fetch the file with 'git lfs pull'",
    ),
    (
        re.compile(r"(?:\.\./)*(?:/|\.git/)?annex/objects/\S"),
        f"a git-annex pointer, {_NOT_IT}: fetch the file with 'git annex get'",
    ),
    (
        re.compile(r"(?:md5: .*\n)?(?:outs|deps):\s*\n\s*-\s"),
        f"a DVC pointer, {_NOT_IT}: fetch the file with 'dvc pull'",
    ),
    (
        re.compile(
            r"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype html|html|head|body|script|title|meta)(?=[\s/>])",
            re.I | re.S,
        ),
        f"a web page (HTML), perhaps of a login, {_NOT_IT}: open its address in a browser, log in or accept the "
        "licence there, and download the file itself",
    ),
)
_XML_ERROR = re.compile(r"(?:<\?xml[^>]*>\s*)?<error>.*?<code>([^<]{1,80})", re.I | re.S)
_BARE_ERROR = re.compile(
    r"((?:error\W*)?(?:\d{3}\b.{0,40}|(?:entry |repository |file )?not found|access (?:is )?denied|forbidden|"
    r"unauthori[sz]ed|invalid (?:username|credentials|token).*|bad (?:request|gateway|credentials)|service unavailable|"
    r"internal server error|too many requests|rate limit.*|gateway time-?out))[.!]?\Z",
    re.I,
)
_ERROR_KEYS = ("error", "errors", "message", "detail", "error_description", "msg", "reason")
# Magic numbers of what files are packed in, with the tool that unpacks them.
_PACKED = (
    (b"\x1f\x8b", "a gzip archive: unpack it (gunzip) first"),
    (b"BZh", "a bzip2 archive: unpack it (bunzip2) first"),
    (b"\xfd7zXZ\x00", "an xz archive: unpack it (unxz) first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it (unzstd) first"),
    (b"\x04\x22\x4d\x18", "an lz4 archive: unpack it (unlz4) first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!\x1a\x07", "a rar archive: unpack it first"),
    (b"\x00\x05\x16\x07", "the resource fork that macOS puts beside a file ('._NAME'): use the file itself"),
)
# What begins no text that anybody writes, and what to do where a text is wanted.
_NO_TEXT = (
    *_PACKED,
    (b"PK\x03\x04", "a ZIP archive, as Excel's .xlsx, .npz and .pt are: export a table as CSV (UTF-8) first"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word file: export it as CSV (UTF-8) first"),
    (b"\x93NUMPY", "a NumPy array, no text"),
    (b"PAR1", "a Parquet file: call it .parquet"),
    (b"ARROW1\0", "an Arrow file, no text"),
    (b"SQLite format 3\0", "an SQLite database: export its table as CSV first"),
    (b"%PDF-", "a PDF, no text"),
    (b"\x80\x02", "a Python pickle, which is never opened"),
    (b"\x80\x03", "a Python pickle, which is never opened"),
    (b"\x80\x04", "a Python pickle, which is never opened"),
    (b"\x80\x05", "a Python pickle, which is never opened"),
)
_JSON = re.compile(r'[{\[]\s*(?:["{\[\]}\d-]|true|false|null)')
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def content_instead(head: bytes) -> str:
    """Say what a file is in place of the binary file that its name promises.

    For every binary format: weights, ONNX, NumPy, Parquet, Arrow, audio. Ask only where the format's own reader refuses
    the file.

    Args:
        head: its first bytes, `HEAD_BYTES` of them or all.

    Returns:
        The end of a sentence that begins with "it is", with what to do; empty: nothing that is known.
    """
    if not head.strip():
        return f"{'a file of blanks only' if head else 'an empty file'}: fetch it again"
    for magic, words in _PACKED:
        if head.startswith(magic):
            return words
    text = _text(head)
    if text is None:
        return ""  # binary
    for pattern, words in _TEXTS:
        if pattern.match(text):
            return words
    if message := _error_message(text):
        return f"an error message of a server ({_short(message)}), {_NOT_IT}: fetch it again"
    return f"a JSON document, {_NOT_IT}" if _JSON.match(text) else ""


def content_instead_of(path: str | Path) -> str:
    """Say the same of a file on the disk; empty also where it cannot be read.

    Args:
        path: of a regular file; anything else is not opened.
    """
    path = Path(path)
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as handle:
            return content_instead(handle.read(HEAD_BYTES))
    except OSError:
        return ""


def or_else(path: str | Path, words: str) -> str:
    """What is wrong with a binary file that its reader refuses: what it is instead, or else the reader's own words.

    Args:
        path: of a regular file.
        words: end of a message, used where nothing is known of what the file is.
    """
    instead = content_instead_of(path)
    return f"it is {instead}" if instead else words


def stand_in(head: bytes) -> str:
    """Say what a file that should be a text is in its place: a pointer of a repository, a page of a server, a binary.

    A pointer has few lines of few words, as a list of trials has, so ask before the text is read. Unlike
    `content_instead` this knows only what no list, table or configuration begins with.

    Args:
        head: its first bytes, `HEAD_BYTES` of them or all.

    Returns:
        As `content_instead`.
    """
    for magic, words in _NO_TEXT:
        if head.startswith(magic):
            return words
    text = _text(head)
    if text is None or not (text.startswith("<") or len(text) < _LONGEST_POINTER):
        return ""
    if words := next((words for pattern, words in _TEXTS if pattern.match(text)), ""):
        return words
    message = _XML_ERROR.match(text)
    return f"an error message of a server ({_short(message[1])}), {_NOT_IT}: fetch it again" if message else ""


def _text(head: bytes) -> str | None:
    """The head as text without blanks around it; None: it is binary."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = head.decode(encoding, errors="replace")
    # One character may be cut in two at the end; web pages in other encodings have more that are strange.
    strange = text.count("\ufffd")
    if _CONTROLS.search(text) or strange > 1 + len(text) // 20:
        return None
    return text.strip()


def _error_message(text: str) -> str:
    """What a server says in place of a file, in any of the forms that servers have; empty: it is none."""
    for pattern in (_XML_ERROR, _BARE_ERROR):
        if match := pattern.match(text):
            return match[1]
    if not text.startswith("{"):
        return ""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        # Longer than the head, or cut: the key in front is enough.
        match = re.match(r'\{\s*"(?:error|errors|message|detail)"\s*:\s*"?([^"{}\[\]]{0,80})', text)
        return (match[1].strip() or "no words") if match else ""
    found = [content[key] for key in _ERROR_KEYS if content.get(key)]
    return str(found[0]) if found else ""


def _short(words: str) -> str:
    line = " ".join(_CONTROLS.sub(" ", words).split())
    return line if len(line) <= 80 else f"{line[:77]}..."
