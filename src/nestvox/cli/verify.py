"""`nestvox verify`: are these two recordings of the same speaker?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import say
from nestvox.cli.outputs import write_json
from nestvox.errors import ModelError, NestvoxError

if TYPE_CHECKING:
    from nestvox.audio.segment import Segment
    from nestvox.model.router import Route
    from nestvox.model.speaker_model import SpeakerModel

_DIFFERENT, _NO_VERDICT = 1, 3  # exit codes; 2 is that of every error


def verify(
    a: Annotated[Path, typer.Argument(help="First recording.")],
    b: Annotated[Path, typer.Argument(help="Second recording.")],
    model: Annotated[str | None, options.MODEL] = None,
    route: Annotated[
        str | None, typer.Option(help="Which route of the .yaml file answers; default: the first that serves.")
    ] = None,
    dim: options.Dim = None,
    operating_point: Annotated[
        str | None,
        typer.Option(help="Which stored threshold decides; default: what the model's owner named, else the strictest."),
    ] = None,
    domain: options.Domain = None,
    calibration: options.Calibration = None,
    marks: Annotated[
        list[str] | None,
        typer.Option(
            "--mark", help="What the recordings are, if not real: synthetic or augmented; may be given again."
        ),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(help="Channel of the recordings, 0 is the first; 0,1: of either; default: the mean of all."),
    ] = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    offline: options.Offline = False,
    json_out: options.Json = None,
) -> None:
    """Score two recordings and compare the score with the model's threshold.

    Exit code 0: same speaker; 1: different speakers; 3: no verdict, because nothing decides about these recordings; 2:
    the call or a file is wrong. A threshold that was set on synthetic or augmented speech, or on training speakers,
    decides about no real recording. --model may also be a .yaml file of routes; without it the model in the box
    is taken, else the best encoder at hand, campplus or else ge2e, and named.
    """
    from dataclasses import asdict

    from nestvox.audio.segment import Segment
    from nestvox.model.calibration import read_calibration

    first, second = map(Segment, (a, b), (None, None), (None, None), _pair_of_channels(channel))
    loaded, chosen = _model_for(
        first, second, model, route=route, dim=dim, running=options.Running(device, backend, weights, offline)
    )
    if chosen is not None:
        dim = chosen.length(dim)
    if calibration is not None:
        given = read_calibration(calibration)
        given.refuse_another(loaded.fingerprint)
        loaded.thresholds, loaded.llr = given.thresholds, given.llr
        loaded.familiarity = given.familiarity or loaded.familiarity
    answer = loaded.verify(first, second, dim=dim, operating_point=operating_point, domain=domain, marks=marks or ())
    if json_out is not None:
        written = {**asdict(answer), "model_named": model is not None}
        if chosen is not None:
            written = {"route": chosen.name, **written}
        write_json(json_out, written, told=False)
    verdict = {True: "same speaker", False: "different speakers", None: "no verdict"}[answer.same]
    say(verdict, style="bold")
    say(f"  score      {answer.score:+.4f} {answer.score_name} ({answer.direction}; not a probability)")
    if answer.llr is not None:
        say(f"  LLR        {answer.llr:+.3f} nats, {answer.llr_origin}")
    elif loaded.llr is not None:
        say(f"  LLR        none: {answer.llr_origin}")
    if answer.threshold is None:
        say(f"  threshold  {answer.reason}; set one on pairs of your own domain")
    else:
        unit = " nats" if answer.threshold.space.kind == "llr" else ""
        say(f"  threshold  {answer.threshold.value:+.4f}{unit}, {answer.threshold.describe()}")
    unnamed = "" if model else options.unnamed_in_words(answer.model)
    say(f"  model      {answer.model}{unnamed}, {answer.dim} dimensions, fingerprint {answer.fingerprint}")
    if chosen is not None:
        say(f"  route      {chosen.name} of {model}")
    for warning in answer.warnings:
        say(("  warning", "yellow"), f"    {warning}")
    if answer.same is not True:
        raise typer.Exit(_DIFFERENT if answer.same is False else _NO_VERDICT)


def _pair_of_channels(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    words = text.split(",")
    if len(words) > 2 or not all(word.isascii() and word.isdecimal() and len(word) < 5 for word in words):
        raise NestvoxError(f"--channel {text}: expected a number from 0 on (0 is the first channel), or two like 0,1")
    return int(words[0]), int(words[-1])


def _model_for(
    a: Segment, b: Segment, model: str | None, *, route: str | None, dim: int | None, running: options.Running
) -> tuple[SpeakerModel, Route | None]:
    """The model that answers, and its route where a file of routes was given."""
    if model is None or Path(model).suffix.lower() not in (".yaml", ".yml"):
        if route is not None:
            raise ModelError(f"--route {route} names one of several routes: give a .yaml file of routes with --model")
        return running.load(model), None
    if running.weights is not None:
        raise ModelError(f"{model} names models that have their own weights; leave out --weights")
    from nestvox.model.router import load_router

    router = load_router(model, device=running.device, backend=running.backend, offline=running.offline)
    chosen = router.choose_pair(a, b, dim=dim, route=route)
    return chosen.model, chosen
