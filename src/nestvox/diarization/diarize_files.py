"""A list of recordings to a folder of RTTM: each file appears whole or not at all, and a stopped run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestvox.atomic import write_text
from nestvox.audio.segment import Segment
from nestvox.diarization.one_recording import THRESHOLDS, By, DiarizationSettings, diarize_segment
from nestvox.diarization.turn_files import read_turns, write_turns
from nestvox.diarization.turns import Turn, by_speaker, length_s, united
from nestvox.errors import AudioError, NestvoxError
from nestvox.extras import require
from nestvox.gate import is_file, naming, read_json
from nestvox.locking import locked
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Progress, silent

JOB_FILE = "diarization.json"


@dataclass(frozen=True)
class DiarizedFile:
    """One recording.

    Attributes:
        file: its name, without folder and suffix, spaces as underscores; its turns are in FILE.rttm.
        path: where it lies.
        duration_s: of the recording.
        speech_s: in which somebody speaks.
        speakers: that were found.
        overlap_s: in which several speak.
        taken_s: that it took; None: it was there from a run before.
        problem: why it has no turns; empty: it has been heard.
    """

    file: str
    path: str
    duration_s: float
    speech_s: float = 0.0
    speakers: int = 0
    overlap_s: float = 0.0
    taken_s: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Diarization:
    """What became of a list of recordings.

    Attributes:
        files: in the order given.
        model: name of the model that tells speakers.
        fingerprint: of it.
        settings: how speakers were found.
    """

    files: tuple[DiarizedFile, ...]
    model: str
    fingerprint: str
    settings: DiarizationSettings

    @property
    def real_time_factor(self) -> float | None:
        """Seconds taken for a second of audio, over the files of this run; None: all were there."""
        heard = [file for file in self.files if file.taken_s is not None]
        length = sum(file.duration_s for file in heard)
        return sum(file.taken_s or 0.0 for file in heard) / length if length else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "settings": self.settings.to_dict(),
            "real_time_factor": self.real_time_factor,
            "files": [asdict(file) for file in self.files],
        }


def diarize(
    model: SpeakerModel,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    segmentation: By = "network",
    step_s: float = 1.0,
    threshold: float | None = None,
    speakers: int | None = None,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
    dim: int | None = None,
    channel: int | None = None,
    skip_bad: bool = False,
    offline: bool = False,
    announce: Callable[[str], None] | None = None,
    progress: Progress = silent,
) -> Diarization:
    """Find who speaks when in recordings, and write an RTTM file for each.

    A run that was stopped goes on with the files that have none yet; `out` remembers model and settings, and refuses
    others.

    Args:
        model: tells speakers; its encoder has frames.
        files: recordings; their names without folder and suffix differ.
        out: folder of FILE.rttm, made where it is missing.
        segmentation: ``network``: segmentation-3.0, also where several speak at once; ``vad``: voice activity alone.
        step_s: from one chunk of ten seconds to the next; longer is faster and less sure.
        threshold: largest mean cosine distance of two clusters of windows that are one speaker; None: the one that is
            known for the model's encoder.
        speakers: in each file, exactly; None: as many as are found.
        min_speakers: at least.
        max_speakers: at most.
        dim: prefix of the model's vectors; None: the model's.
        channel: of the files, from 0 on; None: the mean of all.
        skip_bad: go on where a file cannot be read, and say so, instead of stopping.
        offline: never download the weights of the segmentation.
        announce: told about a download; None: stderr.
        progress: seconds of audio done of all.

    Raises:
        AudioError: a file cannot be read, and `skip_bad` is off.
        ModelError: the model has no frames.
        NestvoxError: files of one name, settings that are none, or a folder of other settings.
    """
    require("torch", extra="torch", purpose="finding who spoke when")
    fewest, most = _bounds(speakers, min_speakers, max_speakers)
    if threshold is None:
        threshold = THRESHOLDS.get(model.name)
        if threshold is None:
            raise NestvoxError(f"no threshold is known for {model.name}: give one, between 0 and 2 (campplus: 0.65)")
    settings = DiarizationSettings(
        threshold=threshold, segmentation=segmentation, step_s=step_s, fewest=fewest, most=most
    )
    paths = [Path(file) for file in files]
    names = _names(paths)
    out = Path(out)
    job = {"model": model.fingerprint, "dim": model.check_dim(dim), "channel": channel, **settings.to_dict()}
    with locked(out, wait_s=0.0, folder=True):
        _begin(out, job)
        network = None
        if segmentation == "network":
            from nestvox.diarization.pyannet import load_segmentation  # noqa: PLC0415  imports torch

            network = load_segmentation(offline=offline, announce=announce)
        lengths = [_length_s(Segment(path, channel=channel), skip_bad) for path in paths]
        total, done, rows = sum(lengths), 0.0, []
        for path, name, whole_s in zip(paths, names, lengths, strict=True):
            target = out / f"{name}.rttm"
            begun, before = time.monotonic(), done

            def report(part: int, of: int | None, before: float = before, whole_s: float = whole_s) -> None:
                progress(round(before + whole_s * part / (of or 1)), round(total))

            if is_file(target):
                rows.append(_row(name, path, whole_s, read_turns(target), None))
            else:
                segment = Segment(path, channel=channel)
                try:
                    turns = diarize_segment(model, network, segment, name, settings, dim=dim, progress=report)
                except AudioError as error:
                    if not skip_bad:
                        raise
                    rows.append(DiarizedFile(name, str(path), whole_s, problem=error.problem))
                    continue
                write_turns(target, turns)
                rows.append(_row(name, path, whole_s, turns, time.monotonic() - begun))
            done += whole_s
            progress(round(done), round(total))
    return Diarization(tuple(rows), model.name, model.fingerprint, settings)


def _bounds(speakers: int | None, fewest: int | None, most: int | None) -> tuple[int, int | None]:
    if speakers is None:
        return fewest or 1, most
    if fewest is not None or most is not None:
        raise NestvoxError("give the number of speakers, or the fewest and the most, not both")
    return speakers, speakers


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of recordings as RTTM can hold them."""
    names = ["_".join(path.stem.split()) or "_" for path in paths]
    if not names:
        raise NestvoxError("no recording is given")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise NestvoxError(f"two of the files would be one {twice}.rttm; rename one of them, or give another folder")
    return names


def _begin(out: Path, job: dict[str, Any]) -> None:
    """Remember what the folder is for, or hold it against that."""
    file = out / JOB_FILE
    text = json.dumps(job, indent=1, sort_keys=True) + "\n"
    if not is_file(file):
        if any(out.glob("*.rttm")):
            raise NestvoxError(f"{out} holds RTTM files that no run of this command made; give a folder of its own")
        write_text(file, text)
        return
    before = read_json(file, naming(NestvoxError), most_bytes=1 << 20)
    now = json.loads(text)
    if before != now:
        differing = [key for key in now if not isinstance(before, dict) or before.get(key) != now[key]]
        raise NestvoxError(f"{out} was made with other settings ({', '.join(differing)}); give another folder")


def _length_s(segment: Segment, skip_bad: bool) -> float:
    try:
        return max(0.0, segment.length_s())
    except AudioError:
        if not skip_bad:
            raise
        return 0.0


def _row(name: str, path: Path, duration_s: float, turns: Sequence[Turn], taken_s: float | None) -> DiarizedFile:
    speakers = by_speaker(turns)
    speech_s = length_s(united(turn.stretch for turn in turns))
    several_s = _several_s([stretch for stretches in speakers.values() for stretch in stretches])
    return DiarizedFile(name, str(path), duration_s, speech_s, len(speakers), several_s, taken_s)


def _several_s(stretches: Sequence[tuple[float, float]]) -> float:
    """Seconds that lie in two or more stretches."""
    edges = sorted([(begin, 1) for begin, _ in stretches] + [(end, -1) for _, end in stretches])
    total, open_, last = 0.0, 0, 0.0
    for place, step in edges:
        total += (place - last) * (open_ > 1)
        open_, last = open_ + step, place
    return total
