"""Damaged files: audio or a typed error, in bounded time and memory, whatever the bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# A decoder that crashes takes its process with it, so the files are read in another one.
READER = """
import random, resource, sys, time
from pathlib import Path
import numpy as np, soundfile
from nestvox.audio import probe, read
from nestvox.errors import AudioError

folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
noise = np.random.default_rng(0).standard_normal(12000)
samples = 0.3 * np.sin(0.2 * np.arange(12000)) + 0.05 * noise
wav = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW", "IMA_ADPCM"]
codings = [("WAV", s) for s in wav] + [("FLAC", "PCM_16")]
codings += [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
whole = []
for container, subtype in codings:
    soundfile.write(folder / "whole", samples, 16000, format=container, subtype=subtype)
    whole.append((folder / "whole").read_bytes())
draw = random.Random(seed)
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
audio = errors = 0
for number in range(count):
    data = bytearray(whole[number % len(whole)])
    way = draw.randrange(4)
    if way == 0:
        del data[draw.randrange(len(data)):]
    elif way == 3:
        at = draw.randrange(min(len(data), 400))
        data[at:at + 4] = b"\\xff\\xff\\xff\\x7f"
    else:
        reach = 200 if way == 1 else len(data)
        for _ in range(draw.choice([1, 4, 32])):
            data[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    path = folder / "damaged"
    path.write_bytes(data)
    start = time.monotonic()
    for part in ({}, {"start_s": 0.2, "duration_s": 0.3}):
        try:
            decoded, rate = read(path, **part)
            assert decoded.dtype == np.float32 and len(decoded) and np.isfinite(decoded).all(), number
            audio += 1
        except AudioError as error:
            assert str(path) in str(error)
            errors += 1
    try:
        probe(path)
    except AudioError:
        pass
    assert time.monotonic() - start < 5, (number, codings[number % len(whole)])
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
print(audio, errors, grown)
"""


def test_four_hundred_damaged_files(tmp_path: Path) -> None:
    command = [sys.executable, "-c", READER, str(tmp_path), "20240607", "400"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    audio, errors, grown_mib = (float(word) for word in done.stdout.split())
    assert audio + errors == 800
    assert audio > 100
    assert errors > 100
    assert grown_mib < 200
