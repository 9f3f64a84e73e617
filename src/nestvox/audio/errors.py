"""One exception per reason why an audio file cannot be used, all of which name the file; and one of augmentation."""

from __future__ import annotations

from typing import Self

from nestvox.errors import AudioError, NestvoxError


class UnreadableAudioError(AudioError):
    """The file is missing, is not audio, is of a format that is not read, or breaks while it is decoded."""


class EmptyAudioError(AudioError):
    """The file, or the part of it that was asked for, holds no samples."""


class TooShortAudioError(AudioError):
    """The audio is shorter than the minimum that was asked for."""


class NonFiniteAudioError(AudioError):
    """The file holds NaN or infinity."""


class AudioRangeError(AudioError):
    """Samples so far outside [-1, 1] that the file must hold integers stored as floats, or garbage."""


class SilentAudioError(AudioError):
    """Every sample is zero."""

    @classmethod
    def of(cls, path: object, samples: int, *, cancelled: bool = False) -> Self:
        """Return the error for so many samples, which may be the mean of channels that are not silent."""
        if cancelled:
            return cls(
                path,
                f"its channels cancel: their mean is zero in all {samples} samples; choose one (--channel; column "
                "channel of a table)",
            )
        return cls(path, f"all {samples} samples are zero")


class ChannelError(AudioError):
    """The file has no such channel."""


class SampleRateError(AudioError):
    """The sample rate in the header is not one of sound."""


class AugmentationError(NestvoxError):
    """Settings of an augmentation that make no sense, or a bank that does not hold what they ask for."""


class AudioWarning(UserWarning):
    """Audio that is used as it was given, and is probably not what the caller takes it for."""
