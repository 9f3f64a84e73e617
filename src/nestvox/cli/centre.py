"""`nestvox centre`: a model with the mean of a domain's own recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import say, say_notes
from nestvox.errors import NestvoxError

_ROUGH = 100  # recordings


def centre(
    model: Annotated[str, typer.Argument(help="Model folder, or a name that `nestvox models list` shows.")],
    on: Annotated[
        Path, typer.Option(help="Store of recordings of the domain, embedded with this model or its encoder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new model.")],
    table: options.Table = None,
    split: options.Split = None,
    store: options.Store = None,
    rotated: options.Rotated = None,
    weights: options.Weights = None,
    offline: options.Offline = False,
) -> None:
    """Put the mean of a domain's own recordings into a model; labels are not needed, nothing is trained.

    With --table (and --split) only the recordings that it names count. --store and --rotated bring embeddings of the
    encoder (--tap embedding) into the form of the new model. It is another model: the old one's thresholds and
    calibration are left out. Set new ones with `nestvox threshold`.
    """
    from nestvox.cli.progress import progress_bar
    from nestvox.extraction.domain_mean import centre as centre_model
    from nestvox.extraction.rotate import rotate_store
    from nestvox.extraction.store.store import EmbeddingStore
    from nestvox.heads.rotation import Rotation

    if (store is None) != (rotated is None):
        raise NestvoxError(
            "--store and --rotated belong together: what is brought into the new form, and where it goes"
        )
    if split is not None and table is None:
        raise NestvoxError("--split needs --table, which has that column")
    opened = EmbeddingStore(on)
    utterances = None if table is None else options.read_table(table, split)
    old = options.Running("cpu", weights=weights, offline=offline).load(model)
    found = centre_model(old, opened, table=utterances)
    assert isinstance(found.head, Rotation)
    if store is not None and rotated is not None:
        embeddings = EmbeddingStore(store)
        if embeddings.metadata.fingerprint != old.encoder_fingerprint:
            raise NestvoxError(f"--store {store} is not of the encoder of {model}; embed with it, and --tap embedding")
        with progress_bar("rotate", "rows") as bar:
            rotate_store(
                found.head,
                embeddings,
                rotated,
                fingerprint=found.fingerprint,
                model=found.name,
                training_speakers=found.training_speakers,
                progress=bar,
            )
    found.save(out)
    rows = len(opened) if utterances is None else len(utterances)
    say(f"mean of {rows} recordings in {on}")
    notes = [] if rows >= _ROUGH else [f"{rows} recordings know their mean roughly; {_ROUGH} or more are better"]
    if old.thresholds or old.llr is not None:
        notes.append(f"the thresholds and the calibration of {old.name} are not its own: set new ones")
    say_notes(notes)
    say(f"model {found.fingerprint} {out}")
    if rotated is not None:
        say(f"store {rotated}")
