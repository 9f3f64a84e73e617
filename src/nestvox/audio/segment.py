"""What an utterance is as audio: a file, or a part of it, of one channel or of the mean of all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nestvox.audio.read import SAMPLE_RATE, Recording, check_channel, probe, read_recording


@dataclass(frozen=True)
class Segment:
    """Where an utterance lies, as a row of a table says; whoever reads the audio of a row reads this.

    Without `start_s` the utterance is the whole file, and `duration_s` is what somebody measured once: it says what to
    expect and cuts nothing.
    """

    path: Path  # the file, or a member of an archive
    start_s: float | None = None
    duration_s: float | None = None  # None: to the end of the file
    channel: int | None = None  # from 0 on; None: the mean of all

    @property
    def begin_s(self) -> float:
        """Where reading begins."""
        return self.start_s or 0.0

    @property
    def limit_s(self) -> float | None:
        """How much is read; None: all that follows."""
        return None if self.start_s is None else self.duration_s

    def within(self, begin_s: float, length_s: float | None) -> Segment:
        """Return a part of the same file and channel; it begins so many seconds into the file, not into this one."""
        return replace(self, start_s=begin_s, duration_s=length_s)

    def length_s(self) -> float:
        """Seconds as stated, else `left_s`; errors are those."""
        return self.duration_s if self.duration_s is not None else self.left_s()

    def left_s(self) -> float:
        """Seconds that the file has from the beginning of the segment on; below 0: it ends before.

        Raises:
            AudioError: the file cannot be opened, or has no such channel.
        """
        info = probe(self.path)
        check_channel(self.path, self.channel, info.channels)
        return info.duration_s - self.begin_s

    def read(
        self, *, sample_rate: int | None = SAMPLE_RATE, min_duration_s: float = 0.0, allow_silent: bool = False
    ) -> Recording:
        """Read it; arguments and errors are those of `audio.read`."""
        heard = read_recording(
            self.path,
            sample_rate=sample_rate,
            start_s=self.begin_s,
            duration_s=self.limit_s,
            channel=self.channel,
            min_duration_s=min_duration_s,
            allow_silent=allow_silent,
        )
        return replace(heard, expected_s=self.duration_s)
