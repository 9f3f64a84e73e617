"""`nestvox rotate`: nested embeddings out of vectors that already exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, number, say, say_notes, whole_table
from nestvox.cli.outputs import write_json
from nestvox.errors import NestvoxError

if TYPE_CHECKING:
    from nestvox.extraction.rotate import RotationReport
    from nestvox.progress import Progress


def rotate(
    embeddings: Annotated[Path, typer.Argument(help="npy, npz, Parquet, kaldi ark/scp, or a store folder.")],
    out: Annotated[Path, typer.Option(help="Where the rotation is written, e.g. rotation.safetensors.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="Table with utt_id and speaker, utt2spk, or text with one speaker a line. None: PCA."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="Richest method to try: pca, discriminant, refined, or auto (all that labels allow).")
    ] = "auto",
    dims: options.Dims = None,
    rotated: options.Rotated = None,
    centre: Annotated[
        str, typer.Option(help="Subtract the mean: none (full-dimension scores stay), all, or auto (what is best).")
    ] = "none",
    seed: options.Seed = 0,
    json_out: options.Json = None,
) -> None:
    """Fit an orthogonal matrix: full-dimension scores stay as they are, and a prefix holds what was worth the most.

    With --centre the mean is subtracted too, which changes the full-dimension scores, mostly for the better.

    The table shows each prefix before and after: how well its scores agree with the full-dimension ones and, with
    labels, the equal error rate on speakers that nothing was fitted or chosen on. It says where a prefix did not gain.
    """
    from contextlib import ExitStack

    from nestvox.audio.condition import doubts
    from nestvox.cli.progress import progress_bar
    from nestvox.extraction.formats.labels import read_labels
    from nestvox.extraction.rotate import apply_rotation, rotate_vectors
    from nestvox.extraction.store.metadata import is_store
    from nestvox.extraction.store.store import EmbeddingStore

    if labels is not None and labels.exists() and labels.samefile(embeddings):
        raise NestvoxError(f"EMBEDDINGS and --labels are the same path {labels}; give another one")
    if method not in ("auto", "pca", "discriminant", "refined"):
        raise NestvoxError(f"--method {method}: expected auto, pca, discriminant or refined")
    if centre not in ("none", "all", "auto"):
        raise NestvoxError(f"--centre {centre}: expected none, all or auto")
    wanted = options.parse_dims(dims)
    speakers = None if labels is None else read_labels(labels, embeddings)
    with ExitStack() as bars:
        reading = bars.enter_context(progress_bar("read", "rows"))
        second: list[Progress] = []

        def choosing(done: int, total: int | None, /) -> None:
            if not second:  # a terminal shows one bar at a time
                bars.close()
                second.append(bars.enter_context(progress_bar("fit", "candidates")))
            second[0](done, total)

        report = rotate_vectors(
            embeddings,
            labels=speakers,
            method=method,  # type: ignore[arg-type]
            dims=wanted,
            centre=centre,  # type: ignore[arg-type]
            seed=seed,
            progress=reading,
            choosing=choosing,
        )
    report.rotation.save(out)
    if rotated is not None:
        with progress_bar("rotate", "rows") as progress:
            apply_rotation(
                report.rotation,
                embeddings,
                rotated,
                training_speakers=report.training_speakers,
                progress=progress,
            )
    write_json(json_out, report.to_dict(), told=False)
    _show(report)
    say_notes(doubts(EmbeddingStore(embeddings).conditions if is_store(embeddings) else ()))
    say(f"rotation  {out}")
    if rotated is not None:
        say(f"vectors   {rotated}")


def _show(report: RotationReport) -> None:

    labelled = bool(report.speakers)
    rates = ["EER % before", "EER % centred", "EER % after"] if labelled else []
    names = ("dim", *rates, "agreement\nbefore", "agreement\nafter")
    first = report.rotation.details.get("centred_from")
    mean = "" if first is None else ", less the mean" + (f" behind {first} dimensions" if first else "")
    shown = whole_table(
        *map(number, names), title=f"{report.rotation.method} rotation of {report.rows:,} vectors{mean}"
    )
    for row in report.prefixes:
        rates = [f"{100 * eer:.2f}" for eer in (row.eer_before, row.eer_centred, row.eer_after) if eer is not None]
        shown.add_row(str(row.dim), *rates, f"{row.kept_before:.4f}", f"{row.kept_after:.4f}")
    console().print(shown)
    if labelled:
        parts = ", ".join(f"{part} {n['speakers']} speakers / {n['rows']} rows" for part, n in report.speakers.items())
        say(f"{parts}; the table is of the report speakers, all pairs, no interval")
        say("centred: the vectors as they are, less their mean")
    say("agreement: correlation of the prefix's cosines with the full-dimension cosines")
    say(f"largest change of a full-dimension cosine: {report.full_difference:.1e}")
    say_notes(report.notes)
