"""`nestvox verify`: are these two recordings of the same speaker?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nestvox.verdict import Threshold

__all__ = ["verify"]


def verify(
    a: Annotated[Path, typer.Argument(help="First recording.")],
    b: Annotated[Path, typer.Argument(help="Second recording.")],
    model: Annotated[str, typer.Option(help="Model folder, or a name that `nestvox models list` shows.")] = "ge2e",
    dim: Annotated[int | None, typer.Option(help="Prefix length; all by default.")] = None,
    operating_point: Annotated[str, typer.Option(help="Which stored threshold to use.")] = "eer",
    weights: Annotated[Path | None, typer.Option(help="Local weights file for a catalogue name.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never fetch anything.")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the answer as JSON.")] = None,
) -> None:
    """Score two recordings and compare the score with the model's threshold.

    Exit code 0: same speaker, or no threshold to decide by; 1: different speakers.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from nestvox.atomic import write_text
    from nestvox.model import load

    loaded = load(model, weights=weights, offline=offline)
    answer = loaded.verify(a, b, dim=dim, operating_point=operating_point)
    if json_out is not None:
        write_text(json_out, json.dumps(asdict(answer), indent=2) + "\n")
    console = Console(soft_wrap=True, highlight=False)
    verdict = {True: "same speaker", False: "different speakers", None: "no verdict"}[answer.same]
    console.print(f"[bold]{verdict}[/bold]")
    console.print(f"  score      {answer.score:+.4f} {answer.score_name} ({answer.direction}; not a probability)")
    if answer.threshold is None:
        console.print(
            f"  threshold  {_why_none(loaded.thresholds, answer.dim, operating_point)}; "
            "set one on pairs of your own domain"
        )
    else:
        console.print(f"  threshold  {answer.threshold.value:+.4f}, {answer.threshold.describe()}")
    console.print(f"  model      {answer.model}, {answer.dim} dimensions, fingerprint {answer.fingerprint}")
    for warning in answer.warnings:
        console.print(f"  [yellow]warning[/yellow]    {warning}")
    if answer.same is False:
        raise typer.Exit(1)


def _why_none(thresholds: Sequence[Threshold], dim: int, operating_point: str) -> str:
    """Say what there is instead."""
    if not thresholds:
        return "none: the model holds no thresholds"
    dims = ", ".join(str(d) for d in sorted({t.dim for t in thresholds}))
    points = ", ".join(sorted({t.operating_point.split()[0] for t in thresholds}))
    return f"none for {dim} dimensions at {operating_point!r}; the model has some for {dims} at {points}"
