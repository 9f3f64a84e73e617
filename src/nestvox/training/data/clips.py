"""Training clips from audio files: cut, augmented, and the same ones whatever the number of workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestvox.audio.archives import file_of, member_of
from nestvox.audio.augment import Banks, Treatment, augment, utterance_rng
from nestvox.audio.channel import change_speed
from nestvox.audio.errors import SilentAudioError
from nestvox.audio.segment import Segment
from nestvox.corpora.utterances import UtteranceTable
from nestvox.errors import RecipeError
from nestvox.training.data.batches import MicroBatch, OrderedSource, WindowedOrder
from nestvox.training.data.live import LiveTeachers
from nestvox.training.data.material import augmentation_of, speeds_of
from nestvox.training.data.targets import Targets
from nestvox.training.parallel import Processes
from nestvox.training.recipe.kinds import EncoderRecipe

DEFAULT_CROP_S = 3.0
_GATHERED = 4096  # targets that are in memory at once
_PLACES = 50  # that are tried in a file with stretches of digital silence

Waveform = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class _Utterance:
    utt_id: str
    segment: Segment
    speaker: str


class AudioSource(OrderedSource):
    """Batches of clips of one length: every utterance once an epoch, at a place and with a treatment of that epoch.

    Args:
        table: training utterances.
        recipe: crop, augmentation, batch size, balance and seed.
        sample_rate: of the encoder, in Hz.
        processes: whose share is read.
        banks: noise, rooms and voices.
        teacher: embeddings of the clean utterances at every speed, where there is distillation.
        of: utterances and speakers that there are, unusable ones included; None: those of `table`.
        live: teachers that hear the clips as they were recorded.

    Attributes:
        names: of the classes, sorted; a clip of another speed is of another class.

    Raises:
        AugmentationError: settings that make no sense.
        RecipeError: batches by speaker, and other speeds, which would be other speakers.
    """

    ahead = 2

    def __init__(
        self,
        table: UtteranceTable,
        recipe: EncoderRecipe,
        sample_rate: int,
        processes: Processes,
        banks: Banks,
        *,
        teacher: Targets | None = None,
        of: tuple[int, int] | None = None,
        live: LiveTeachers | None = None,
    ) -> None:
        self.recipe = recipe
        self._live = live
        self.schedule = recipe.schedule
        self.sample_rate = sample_rate
        self.banks = banks
        self.augmentation = augmentation_of(recipe.data, banks)
        self.augmented = recipe.data.variants > 1
        self.utterances = _utterances(table)
        speeds = speeds_of(recipe.data, self.augmentation)
        suffixes = ["", *(f"#speed{speed:g}" for speed in speeds)]
        self.names = tuple(sorted({u.speaker + suffix for u in self.utterances for suffix in suffixes}))
        self._class = {name: number for number, name in enumerate(self.names)}
        super().__init__(
            recipe,
            processes,
            np.array([self._class[u.speaker] for u in self.utterances], np.int64),
            [u.utt_id for u in self.utterances],
            teacher=teacher,
            of=of,
            workers=recipe.run.workers,
        )
        if recipe.training.balanced is not None and speeds:
            raise RecipeError("training.balanced: clips of another speed are of another speaker; set p_speed to 0")
        if recipe.data.open_shards is not None:
            self.order = _windowed(self.utterances, recipe, recipe.data.open_shards)

    def drawn(self, epoch: int) -> int:
        """Nothing: a clip follows from the number of the epoch."""
        return epoch

    def begun(self, pool: Executor, drawn: int, rows: Numbers, times: Numbers) -> Callable[[], MicroBatch]:
        """Begin to decode and augment clips."""
        clips = zip(rows.tolist(), times.tolist(), strict=True)
        futures = [pool.submit(self._clip, row, drawn, before) for row, before in clips]
        return lambda: self._batch(rows, [future.result() for future in futures])

    def clip(self, row: int, epoch: int, times: int = 0) -> tuple[Waveform, str]:
        """Return the clip (S,) of one utterance in one epoch, and whose it is.

        Args:
            row: number of the utterance.
            epoch: number of the epoch.
            times: how often the batch has the utterance already; each time it is another clip.

        Raises:
            AudioError: the file cannot be used.
        """
        return self._clip(row, epoch, times)[:2]

    def _clip(self, row: int, epoch: int, times: int) -> tuple[Waveform, str, bool, float, Waveform | None]:
        """Also return whether the utterance was too short, and is repeated; its speed; and, live, the clip before."""
        utterance = self.utterances[row]
        crop_s = self.schedule.crop_s(epoch, self.recipe.data.crop_s or DEFAULT_CROP_S)
        assert crop_s is not None
        # The variant 0 of an utterance is the clean one, elsewhere.
        name = f"{utterance.utt_id}\0{times}" if times else utterance.utt_id
        draw = utterance_rng(self.recipe.seed, name, epoch + 1)
        place = float(draw.random())
        clean = self.recipe.data.clean
        augmented = self.augmented and not (clean and draw.random() < clean)
        treatment = self.augmentation.draw(draw) if augmented else None
        speed = 1.0 if treatment is None else treatment.speed
        heard_s = crop_s * speed
        samples = self._stretch(utterance, heard_s, place, draw)
        # A short utterance is repeated: padding with zeros would teach silence.
        wanted = round(heard_s * self.sample_rate)
        short = len(samples) < wanted - 1  # one sample may be lost by resampling
        samples = np.resize(samples, wanted)
        speaker = utterance.speaker
        size = round(crop_s * self.sample_rate)
        recorded = None if self._live is None else np.resize(change_speed(samples, speed), size).astype(np.float32)
        if treatment is not None:
            samples = augment(samples, treatment, self.banks, sample_rate=self.sample_rate, speaker=speaker)
            speaker += treatment.suffix
        samples = np.resize(samples, size).astype(np.float32, copy=False)
        return samples, speaker, short, speed, recorded

    def class_means(self) -> dict[str | None, Tensor]:
        """(classes, E) of each teacher, by name: means of the unit vectors that it has of the clips of a class."""
        found: dict[str | None, Tensor] = {}
        for name, (targets, row_of) in zip(self.teachers, self._taught, strict=True):
            sums: NDArray[np.float64] | None = None
            for speed, rows in row_of.items():
                suffix = Treatment(speed=speed).suffix
                classes = np.array([self._class[utterance.speaker + suffix] for utterance in self.utterances])
                for part in np.array_split(np.arange(len(rows)), -(-len(rows) // _GATHERED)):
                    vectors = targets.gather(rows[part], speed).astype(np.float64)
                    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                    sums = np.zeros((len(self.names), vectors.shape[1])) if sums is None else sums
                    np.add.at(sums, classes[part], vectors)
            found[name] = torch.from_numpy(sums).float()
        return found

    def _stretch(self, utterance: _Utterance, heard_s: float, place: float, draw: np.random.Generator) -> Waveform:
        """Read so many seconds, or all there are, at a place from 0 to 1; where there is digital silence, at another.

        Raises:
            AudioError: the file cannot be used.
        """
        segment = utterance.segment
        whole_s = segment.length_s()
        left_s = max(0.0, whole_s - heard_s)
        tries = 0
        while True:
            try:
                part = segment.within(segment.begin_s + place * left_s, min(heard_s, whole_s))
                return part.read(sample_rate=self.sample_rate).samples
            except SilentAudioError:
                tries += 1
                if not left_s or tries > _PLACES:
                    raise
                place = float(draw.random())

    def _batch(self, rows: Numbers, clips: list[tuple[Waveform, str, bool, float, Waveform | None]]) -> MicroBatch:
        heard, speakers, short, speeds, recorded = zip(*clips, strict=True)
        labels = torch.tensor([self._class[speaker] for speaker in speakers], device=self.processes.device)
        layers = None if self._live is None else self._live(self.tensor(np.stack(recorded)))
        return MicroBatch(self.tensor(np.stack(heard)), labels, self.taught(rows, speeds), sum(short), layers)


def _windowed(utterances: Sequence[_Utterance], recipe: EncoderRecipe, at_once: int) -> WindowedOrder:
    """Return the order of all utterances, a few archives at a time.

    Raises:
        RecipeError: there are no archives.
    """
    if not any(member_of(utterance.segment.path) for utterance in utterances):
        raise RecipeError("data.open_shards: the table names no archives; `nestvox data shards` writes some")
    files = [str(file_of(utterance.segment.path)) for utterance in utterances]
    shard_of = np.unique(files, return_inverse=True)[1].astype(np.int64)
    settings = (len(utterances), recipe.training.batch_size, recipe.seed, recipe.fewest)
    return WindowedOrder(*settings, shard_of=shard_of, open_shards=at_once)


def _utterances(table: UtteranceTable) -> list[_Utterance]:
    frame = table.frame
    return list(map(_Utterance, frame["utt_id"].to_list(), table.segments(), frame["speaker"].to_list()))
