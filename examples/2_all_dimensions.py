"""Every dimension from one forward pass: the shorter embeddings are the beginnings of the longest.

python examples/2_all_dimensions.py --checkpoint best.pt speaker.wav
"""

import torch

from nestvox.mrl import load_audio
from stand_in import arguments, model_of, recordings_of

options = arguments(__doc__)
model = model_of(options)

with torch.inference_mode():
    embeddings = model(load_audio(recordings_of(options)[0]), return_all_dims=True)
for dim, embedding in embeddings.items():
    assert torch.equal(embedding, embeddings[max(embeddings)][:, :dim])
    print(f"{dim:>4} dimensions: {tuple(embedding.shape)}")
