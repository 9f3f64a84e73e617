"""Are two recordings of one speaker? By hand as redimnet-mrl's README does it, and with a threshold that was measured.

python examples/3_verification.py --checkpoint best.pt a.wav b.wav
"""

import torch
from torch.nn.functional import cosine_similarity

from nestvox.mrl import load_audio
from stand_in import arguments, model_of, recordings_of

options = arguments(__doc__)
model = model_of(options)
first, second = recordings_of(options, count=2)[:2]
dim = min(128, model.embed_dim)

with torch.inference_mode():
    similarity = cosine_similarity(
        model(load_audio(first), target_dim=dim), model(load_audio(second), target_dim=dim)
    ).item()
print(f"similarity {similarity:.3f}")

# A fixed 0.6 is right for no model in particular. A model folder holds thresholds that were set on trials, and says on
# which; `nestvox threshold` sets one on pairs of your own. Without any there is no verdict.
answer = model.to_speaker_model().verify(first, second, dim=dim)
assert abs(answer.score - similarity) < 1e-4
print({True: "same speaker", False: "different speakers", None: "no verdict: the model has no threshold"}[answer.same])
