"""`nestvox verify`: are these two recordings of the same speaker?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.errors import ModelError

if TYPE_CHECKING:
    from nestvox.model import SpeakerModel
    from nestvox.routing import Route
    from nestvox.verdict import Threshold

__all__ = ["verify"]


def verify(
    a: Annotated[Path, typer.Argument(help="First recording.")],
    b: Annotated[Path, typer.Argument(help="Second recording.")],
    model: Annotated[
        str,
        typer.Option(help="Model folder, .onnx file, name that `nestvox models list` shows, or .yaml file of routes."),
    ] = "ge2e",
    route: Annotated[
        str | None, typer.Option(help="Which route of the .yaml file answers; default: the first that serves.")
    ] = None,
    dim: Annotated[
        int | None, typer.Option(help="Prefix length; by default all, or all that the route is for.")
    ] = None,
    operating_point: Annotated[
        str | None, typer.Option(help="Which stored threshold to use; default: eer, or the only one there is.")
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="Material that the threshold was set on, as you called it.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Thresholds and calibration of this file instead of the model's own.")
    ] = None,
    require_threshold: Annotated[
        bool, typer.Option("--require-threshold", help="No threshold to decide by is an error, exit code 2.")
    ] = False,
    weights: Annotated[Path | None, typer.Option(help="Local weights file for a catalogue name.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never fetch anything.")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the answer as JSON.")] = None,
) -> None:
    """Score two recordings and compare the score with the model's threshold.

    Exit code 0: same speaker, or no threshold to decide by; 1: different speakers. Whoever lets somebody in by it needs
    --require-threshold.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from nestvox.atomic import write_text
    from nestvox.model_calibration import read_calibration

    loaded, chosen = _model_for(a, b, model, route=route, dim=dim, weights=weights, offline=offline)
    if chosen is not None:
        dim = chosen.length(dim)
    if calibration is not None:
        given = read_calibration(calibration)
        given.refuse_another(loaded.fingerprint)
        loaded.thresholds, loaded.llr = given.thresholds, given.llr
    point = operating_point or _usual_point(loaded.thresholds, loaded.check_dim(dim), domain)
    answer = loaded.verify(a, b, dim=dim, operating_point=point, domain=domain)
    if require_threshold and answer.threshold is None:
        reason = _why_none(loaded.thresholds, answer.dim, point, domain)
        raise ModelError(f"nothing decides about these recordings: threshold {reason}; set one for them")
    if json_out is not None:
        written = asdict(answer) if chosen is None else {"route": chosen.name, **asdict(answer)}
        write_text(json_out, json.dumps(written, indent=2) + "\n")
    console = Console(soft_wrap=True, highlight=False)
    verdict = {True: "same speaker", False: "different speakers", None: "no verdict"}[answer.same]
    console.print(f"[bold]{verdict}[/bold]")
    console.print(f"  score      {answer.score:+.4f} {answer.score_name} ({answer.direction}; not a probability)")
    if answer.llr is not None:
        console.print(f"  LLR        {answer.llr:+.3f} nats, {answer.llr_origin}", markup=False)
    elif loaded.llr is not None:
        console.print(f"  LLR        none: {answer.llr_origin}", markup=False)
    if answer.threshold is None:
        reason = _why_none(loaded.thresholds, answer.dim, point, domain)
        console.print(f"  threshold  {reason}; set one on pairs of your own domain")
    else:
        unit = " nats" if answer.threshold.space.kind == "llr" else ""
        console.print(f"  threshold  {answer.threshold.value:+.4f}{unit}, {answer.threshold.describe()}", markup=False)
    console.print(f"  model      {answer.model}, {answer.dim} dimensions, fingerprint {answer.fingerprint}")
    if chosen is not None:
        console.print(f"  route      {chosen.name} of {model}", markup=False)
    for warning in answer.warnings:
        console.print(f"  [yellow]warning[/yellow]    {warning}")
    if answer.same is False:
        raise typer.Exit(1)


def _model_for(
    a: Path, b: Path, model: str, *, route: str | None, dim: int | None, weights: Path | None, offline: bool
) -> tuple[SpeakerModel, Route | None]:
    """The model that answers, and its route where a file of routes was given."""
    if Path(model).suffix.lower() not in (".yaml", ".yml"):
        if route is not None:
            raise ModelError(f"--route {route} names one of several routes: give a .yaml file of routes with --model")
        from nestvox.loading import load

        return load(model, weights=weights, offline=offline), None
    if weights is not None:
        raise ModelError(f"{model} names models that have their own weights; leave out --weights")
    from nestvox.routing import load_router

    chosen = load_router(model, offline=offline).choose_pair(a, b, dim=dim, route=route)
    return chosen.model, chosen


def _usual_point(thresholds: Sequence[Threshold], dim: int, domain: str | None) -> str:
    """``eer`` where there is one, else the only operating point."""
    points = {t.operating_point for t in thresholds if t.dim == dim and (domain is None or t.domain == domain)}
    return points.pop() if "eer" not in points and len(points) == 1 else "eer"


def _why_none(thresholds: Sequence[Threshold], dim: int, operating_point: str, domain: str | None) -> str:
    """Say what there is instead."""
    if not thresholds:
        return "none: the model holds no thresholds"
    dims = ", ".join(map(str, sorted({t.dim for t in thresholds if t.dim is not None})))
    points = ", ".join(sorted({t.operating_point.split()[0] for t in thresholds}))
    domains = ", ".join(sorted({t.domain for t in thresholds if t.domain}))
    asked = f"{operating_point!r}" + (f" for {domain!r}" if domain is not None else "")
    there = f"the model has some for {dims} at {points}" + (f", for {domains}" if domains else "")
    return f"none for {dim} dimensions at {asked}; {there}"
