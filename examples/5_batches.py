"""Several recordings at once, of different lengths: padding changes no result.

python examples/5_batches.py --checkpoint best.pt a.wav b.wav c.wav

For a whole corpus use `nestvox embed`, which batches, bounds memory and resumes after a kill.
"""

import torch
from torch.nn.utils.rnn import pad_sequence

from nestvox.mrl import load_audio
from stand_in import arguments, model_of, recordings_of

options = arguments(__doc__)
model = model_of(options)

waveforms = [load_audio(path)[0] for path in recordings_of(options, count=3)]
waveforms[0] = waveforms[0][: len(waveforms[0]) * 2 // 3]  # a shorter one
batch = pad_sequence(waveforms, batch_first=True)[:, None]  # (B, 1, samples), zeros behind the shorter ones
lengths = torch.tensor([len(waveform) for waveform in waveforms])

dim = min(128, model.embed_dim)
with torch.inference_mode():
    embeddings = model(batch, target_dim=dim, lengths=lengths)
    alone = model(waveforms[0][None], target_dim=dim)
print(tuple(embeddings.shape))
assert torch.allclose(embeddings[:1], alone, rtol=1e-4, atol=1e-5)
