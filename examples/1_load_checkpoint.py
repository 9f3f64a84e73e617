"""Load a trained nested model and embed one recording at several dimensions, from one forward pass each.

python examples/1_load_checkpoint.py --checkpoint best.pt speaker.wav
"""

from nestvox.mrl import get_model_info, load_audio
from stand_in import arguments, model_of, recordings_of

options = arguments(__doc__)
model = model_of(options)
get_model_info(model)  # prints

audio = load_audio(recordings_of(options)[0])  # (1, samples) at 16 kHz
for dim in model.mrl_dims:
    embedding = model(audio, target_dim=dim)
    print(f"{dim:>4}: {tuple(embedding.shape)}")
