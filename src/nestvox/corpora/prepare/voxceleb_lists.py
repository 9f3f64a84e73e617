"""The official trial lists of VoxCeleb1, downloaded from their publisher.

O are the pairs of the 40 test speakers, E those of all 1,251, H those of one nationality and sex; the "cleaned" lists
leave out trials whose labels are wrong. VoxCeleb2 has no list of its own. Where the hash of a file is not known, that
of the first download is written beside it and must be met from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nestvox.atomic import write_text
from nestvox.download import Announce, announce_on_stderr, download, file_sha256
from nestvox.errors import DownloadError
from nestvox.gate import naming, read_text
from nestvox.progress import Progress, silent

URL = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta"
LICENCE = "CC-BY-4.0"


@dataclass(frozen=True)
class TrialList:
    """A list at its publisher: the name of its file there, and the hash of that where it is known."""

    file: str
    sha256: str | None = None


TRIAL_LISTS = {
    "voxceleb1-e": TrialList("list_test_all.txt"),
    "voxceleb1-e-cleaned": TrialList("list_test_all2.txt"),
    "voxceleb1-h": TrialList("list_test_hard.txt"),
    "voxceleb1-h-cleaned": TrialList("list_test_hard2.txt"),
    "voxceleb1-o": TrialList("veri_test.txt", "303b2b657042a27bf465d4c8aa84e12765373cdc01046665241ccd5783bd5976"),
    "voxceleb1-o-cleaned": TrialList(
        "veri_test2.txt", "0bc0a0fe3e557f1a75fb71e566d862d460709e80a4fe28e80e49bc0ab3a536ea"
    ),
}
"""The lists by name."""


def fetch_trial_list(
    name: str,
    folder: str | Path,
    *,
    offline: bool = False,
    announce: Announce = announce_on_stderr,
    progress: Progress = silent,
    url: str = URL,
) -> Path:
    """Download one list into a folder, unless it is there and right.

    Args:
        name: one of `TRIAL_LISTS`.
        folder: made if absent.
        offline: do not touch the network; an error if it were needed.
        announce: told what is downloaded, from where, and under which licence, before it begins.
        progress: called with bytes.
        url: folder of a mirror.

    Raises:
        DownloadError: no such list, it cannot be had, or it is not the one that it was.
    """
    if name not in TRIAL_LISTS:
        raise DownloadError(f"no list {name!r}; there are {', '.join(TRIAL_LISTS)}")
    listed = TRIAL_LISTS[name]
    destination = Path(folder) / listed.file
    record = destination.with_name(destination.name + ".sha256")
    recorded = read_text(record, naming(DownloadError), most_bytes=4096).split()[:1] if record.exists() else []
    expected = listed.sha256 or (recorded[0] if recorded else None)
    download(
        f"{url}/{listed.file}",
        destination,
        sha256=expected,
        size=None,
        what=f"trial list {name}",
        licence=LICENCE,
        offline=offline,
        announce=announce,
        progress=progress,
    )
    if expected is None:
        write_text(record, f"{file_sha256(destination)}  {listed.file}\n")
    return destination
