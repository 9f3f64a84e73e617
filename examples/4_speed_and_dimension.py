"""What a smaller dimension saves: storage, scoring and search. Not extraction: the network runs whole either way.

python examples/4_speed_and_dimension.py --checkpoint best.pt speaker.wav
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from nestvox.mrl import load_audio
from stand_in import arguments, model_of, recordings_of

GALLERY = 50_000


def milliseconds(work: Callable[[], object], times: int = 3) -> float:
    """Shortest of several runs."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
    return min(taken)


options = arguments(__doc__)
model = model_of(options)
audio = load_audio(recordings_of(options)[0])
generator = np.random.default_rng(0)

print(f"{'dim':>4} {'extract, ms':>12} {'search in 50,000, ms':>21} {'bytes each, float16':>20}")
with torch.inference_mode():
    for dim in model.mrl_dims:
        gallery = generator.standard_normal((GALLERY, dim)).astype(np.float32)
        query = generator.standard_normal(dim).astype(np.float32)
        extract = milliseconds(lambda dim=dim: model(audio, target_dim=dim))
        search = milliseconds(lambda gallery=gallery, query=query: np.argmax(gallery @ query))
        print(f"{dim:>4} {extract:>12.1f} {search:>21.2f} {2 * dim:>20}")
