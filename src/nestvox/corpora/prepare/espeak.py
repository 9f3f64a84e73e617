"""Run by `synthetic` as a process of its own, once a speaker: espeak-ng speaks sentences into wav files.

The library keeps hidden state (noise, flutter) from one sentence to the next and offers no way to reset it, so a new
process for every speaker is what makes the audio the same whenever it is made. This file is run by its path and
imports the standard library and the wheel that carries the library and its data; nothing of nestvox.

Standard input is one JSON object: ``voice`` (text of an espeak-ng voice file) and ``sentences``, each with ``text``,
``path``, ``words_per_minute``, ``pitch``, ``intonation`` (0 to 100, 50 as the voice file says) and ``gain_db``.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import sys
import tempfile
import wave
from pathlib import Path
from typing import Any

# Names and numbers of espeak-ng's public header, speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak(job: dict[str, Any]) -> None:
    """Write one mono 16-bit wav file a sentence, at the library's own sample rate.

    Raises:
        RuntimeError: the library refuses to start, the voice, or a sentence, or it stays silent.
    """
    import espeakng_loader  # noqa: PLC0415  # an optional wheel: `synthetic` has asked for it by its extra

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    sample_rate = library.espeak_Initialize(
        ctypes.c_int(_OUTPUT_SYNCHRONOUS),
        ctypes.c_int(0),
        str(espeakng_loader.get_data_path()).encode(),
        ctypes.c_int(_INITIALIZE_DONT_EXIT),
    )
    if sample_rate <= 0:
        raise RuntimeError("espeak-ng does not start")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else breath and roughness take their noise from the clock

    spoken = array.array("h")

    def collect(samples: Any, count: int, _events: Any) -> int:
        if samples and count:
            spoken.frombytes(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _CALLBACK(collect)  # kept alive here: the library holds only the pointer
    library.espeak_SetSynthCallback(callback)
    with tempfile.TemporaryDirectory() as folder:
        voice = Path(folder) / "voice"
        voice.write_text(job["voice"], encoding="utf-8")
        if library.espeak_SetVoiceByFile(str(voice).encode()) != 0:
            raise RuntimeError("espeak-ng does not take the voice")
    for sentence in job["sentences"]:
        del spoken[:]
        for parameter, value in (
            (_PARAMETER_RATE, sentence["words_per_minute"]),
            (_PARAMETER_PITCH, sentence["pitch"]),
            (_PARAMETER_RANGE, sentence["intonation"]),
        ):
            library.espeak_SetParameter(ctypes.c_int(parameter), ctypes.c_int(value), ctypes.c_int(0))
        text = sentence["text"].encode() + b"\0"
        status = library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, ctypes.c_uint(_CHARS_UTF8), None, None)
        library.espeak_Synchronize()
        if status != 0 or not any(spoken):
            raise RuntimeError(f"espeak-ng does not speak {sentence['text']!r} (status {status})")
        _write(Path(sentence["path"]), spoken, sample_rate, sentence["gain_db"])


def _write(path: Path, samples: array.array[int], sample_rate: int, gain_db: float) -> None:
    factor = 10.0 ** (gain_db / 20.0)
    scaled = array.array("h", (max(-32768, min(32767, round(factor * sample))) for sample in samples))
    if sys.byteorder == "big":
        scaled.byteswap()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            with wave.open(file, "wb") as handle:
                handle.setnchannels(1)
                handle.setsampwidth(2)
                handle.setframerate(sample_rate)
                handle.writeframes(scaled.tobytes())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    speak(json.load(sys.stdin))
