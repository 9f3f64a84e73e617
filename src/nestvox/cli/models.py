"""`nestvox models`: what pretrained encoders there are, under which licence, and where their weights lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvox.cli import options
from nestvox.cli.console import console, say, tell, text, whole_table
from nestvox.cli.outputs import write_json
from nestvox.errors import DownloadError

if TYPE_CHECKING:
    from nestvox.model.speaker_model import SpeakerModel
    from nestvox.zoo.catalogue import CatalogueEntry

app = typer.Typer()

_Name = Annotated[str, typer.Argument(help="Name of the catalogue, as `nestvox models list` shows it.")]

_NEVER_LOADED = (
    "No released file of ReDimNet or ReDimNet2 has been loaded by the tests of nestvox, which cannot fetch them: "
    "'confirmed' means that others read the configuration out of the file, or that its published counts are met."
)
_NO_HASH = "nobody published one; that of the first use will be recorded and must agree ever after"
_CONFIG_STATUS = {
    "confirmed": "confirmed to be that of the weights, as others read it or by its counts",
    "consistent": "agrees with all published counts; what the file itself says counts",
    "unconfirmed": "a guess, which may not be the released network; what the file itself says counts",
}


@app.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    """Pretrained encoders: list, licence, weights."""
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models(json_out: options.Json = None) -> None:
    """List the catalogue by licence: size, published error rate, whether weights are here, and which to take."""
    from nestvox.zoo.cache import cached_weights
    from nestvox.zoo.catalogue import entries, other_entries

    screen = console()
    listed = entries()
    longest = max(len(entry.name) for entry in listed)
    for heading, group in _groups(listed):
        say(heading, style="bold")
        rows = whole_table(text("name"), numbers=("EER % O", "download", "here"))
        rows.columns[0].min_width = longest  # one below the other in every group
        for entry in group:
            here = "yes" if cached_weights(entry).is_file() else ""
            rows.add_row(entry.name, _published_eer(entry), _size(entry), here)
        screen.print(rows)
    for line in _advice(listed):
        screen.print(line)
    for entry in other_entries():
        here = ", here" if cached_weights(entry).is_file() else ""
        screen.print(f"No encoder: {entry.name} ({entry.licence}, {_size(entry)}{here}): {entry.description}")
    if json_out is not None:
        described = [{**entry.to_dict(), "cached": cached_weights(entry).is_file()} for entry in listed]
        write_json(json_out, described, told=False)


def _groups(listed: Sequence[CatalogueEntry]) -> list[tuple[str, list[CatalogueEntry]]]:
    """The entries by what their licence allows; those for any use first."""
    found: dict[tuple[bool, str], list[CatalogueEntry]] = {}
    for entry in listed:
        found.setdefault((bool(entry.restriction), entry.licence), []).append(entry)
    return [
        (
            f"{licence}{', NOT FOR COMMERCIAL USE' if restricted else ''}",
            sorted(group, key=lambda entry: (entry.architecture, entry.name)),
        )
        for (restricted, licence), group in sorted(found.items())
    ]


def _published_eer(entry: CatalogueEntry) -> str:
    """Error rate on VoxCeleb1-O as its makers published it; empty: they did not."""
    match = re.search(r"VoxCeleb1-O (\d+\.\d+)", entry.published)
    return f"{float(match[1]):.2f}" if match else ""


def _size(entry: CatalogueEntry) -> str:
    """What has to be downloaded; where nobody says, about what the parameters of the network need."""
    from nestvox.download import readable_size

    if entry.download_bytes is not None:
        return readable_size(entry.download_bytes)
    return f"about {readable_size(_bytes_of_parameters(entry))}" if entry.variant else ""


def _bytes_of_parameters(entry: CatalogueEntry) -> int:
    from nestvox.zoo.variants import variant

    return 4 * variant(entry.variant).parameters if entry.variant else 1 << 60


def _advice(listed: Sequence[CatalogueEntry]) -> Iterator[str]:
    from nestvox.zoo.catalogue import BEST_FIRST

    free = [entry for entry in listed if not entry.restriction and _published_eer(entry)]
    best = min(free, key=lambda entry: float(_published_eer(entry)))
    # Below one per cent, and surely the network of its configuration.
    sized = [e for e in free if float(_published_eer(e)) < 1.0 and e.config_status != "unconfirmed"]
    small = min(sized, key=lambda entry: entry.download_bytes or _bytes_of_parameters(entry))
    yield (
        "EER % O: on VoxCeleb1-O, cosine, as the makers published it; where there is none, they did not. Sizes with "
        "'about' are computed from the parameters."
    )
    first, *others = BEST_FIRST
    yield f"To begin: {first}, which comes with pip; without it, {' or '.join(others)}, as where no model is named."
    yield f"For accuracy, any use: {best.name} ({_published_eer(best)} %)."
    yield f"Small, any use: {small.name} ({_published_eer(small)} %)."
    yield "To train a head or to tune further: the -ptn of the same size, before large-margin tuning."
    yield _NEVER_LOADED
    if guessed := [entry.name for entry in listed if entry.config_status == "unconfirmed"]:
        yield f"configuration {_CONFIG_STATUS['unconfirmed']}: {', '.join(guessed)}"


def _sources(entry: CatalogueEntry) -> str:
    """Where its file can be had, in the order in which it is asked for there."""
    from nestvox.download import readable_size
    from nestvox.zoo.catalogue import WheelSource

    told = []
    for source in entry.sources:
        size = source.download_bytes if isinstance(source, WheelSource) else entry.size_bytes
        told.append(f"{source}, download {readable_size(size)}")
    return "; else ".join(told) or f"to be had from {entry.project} by hand"


@app.command()
def show(name: _Name, json_out: options.Json = None) -> None:
    """Show all that is known of one encoder: source, licence, hash, training data, published figures."""
    from nestvox.zoo.cache import cached_weights, expected_sha256, first_use_record, taken_from
    from nestvox.zoo.catalogue import find

    entry = find(name)
    recorded = expected_sha256(entry)
    hash_of_first_use = f"{recorded} (of the first use, {first_use_record(entry)})" if recorded else _NO_HASH
    target = cached_weights(entry)
    cached, origin = target.is_file(), taken_from(entry)
    rows = {
        "name": entry.name,
        "description": entry.description,
        "architecture": f"{entry.architecture}, {entry.embedding_dim} dimensions, {entry.sample_rate} Hz",
        "licence": f"{entry.licence} ({entry.licence_url})",
        "restriction": entry.restriction,
        "weights": _sources(entry),
        "sha256": entry.sha256 or hash_of_first_use,
        "configuration": _CONFIG_STATUS[entry.config_status],
        "tried": _NEVER_LOADED if entry.architecture.startswith("redimnet") else "",
        "made by": entry.project,
        "paper": entry.paper,
        "trained on": entry.training_data,
        "error rates": entry.published,
        "notes": entry.notes,
        "here": f"{target}{f', from {origin}' if origin else ''}"
        if cached
        else f"not yet; 'nestvox models fetch {entry.name}' puts it at {target}",
    }
    shown = whole_table("", "")
    shown.show_header = False
    for key, value in rows.items():
        if value:
            shown.add_row(key, value)
    console().print(shown)
    write_json(json_out, {**entry.to_dict(), "cached": cached}, told=False)


@app.command()
def fetch(
    name: _Name,
    weights: options.Weights = None,
    offline: options.Offline = False,
) -> None:
    """Put the weights of an encoder into the cache; says source, size and licence first."""
    from nestvox.cli.progress import progress_bar
    from nestvox.extras import require
    from nestvox.zoo.catalogue import find

    find(name)
    require("torch", extra="torch", purpose="converting the weights")
    from nestvox.zoo import weights as room

    with progress_bar(f"fetching {name}", "B") as progress:
        where = room.fetch(name, offline=offline, weights=weights, announce=tell, progress=progress)
    say(str(where))


@app.command()
def path(name: _Name) -> None:
    """Print where the weights of an encoder lie, and nothing else; an error when they are not here."""
    from nestvox.zoo.cache import cached_weights
    from nestvox.zoo.catalogue import find

    where = cached_weights(find(name))
    if not where.is_file():
        raise DownloadError(f"{name}: its weights are not at {where}; 'nestvox models fetch {name}' puts them there")
    say(str(where))


@app.command("import-mrl")
def import_mrl(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt, or another checkpoint of redimnet-mrl.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    name: Annotated[str, options.NAME] = "redimnet-mrl",
) -> None:
    """Rebuild a checkpoint of redimnet-mrl exactly as that project defines it, as a model folder to measure and use."""
    from nestvox.extras import require

    require("torch", extra="torch", purpose="running the network")
    from nestvox.compat.redimnet_mrl.api import get_model_info, import_checkpoint

    model = import_checkpoint(checkpoint)
    saved = model.to_speaker_model(name)
    saved.save(out)
    info = get_model_info(model, show=False)
    dims = ", ".join(map(str, model.mrl_dims))
    say(
        f"{out}: {info['parameters']:,} parameters, {info['trainable']:,} of them trained by redimnet-mrl; "
        f"dimensions {dims}; fingerprint {saved.fingerprint}"
    )


@app.command("import-voxceleb-trainer")
def import_voxceleb_trainer(
    checkpoint: Annotated[Path, typer.Argument(help="model000000057.model, or model_best.model.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    name: options.Name = None,
) -> None:
    """Rebuild a checkpoint of voxceleb_trainer's distillation: an MLPMixerSpeaker or an LSTMAutoencoder."""
    from nestvox.extras import require

    require("torch", extra="torch", purpose="running the network")
    from nestvox.compat.voxceleb_trainer.checkpoints import import_checkpoint

    model, transfer = import_checkpoint(checkpoint)
    say(str(transfer))
    _save(model, name, out)


@app.command("import-weights")
def import_weights(
    name: Annotated[str, typer.Argument(help="Name of the network in the catalogue that the weights are for.")],
    file: Annotated[Path, typer.Argument(help=".safetensors, .pt, .pth or .bin; your own, or fetched elsewhere.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    called: options.Name = None,
) -> None:
    """Make a model folder of weights of your own, which recipes and every command take in place of a name."""
    from nestvox.model.loading import load

    _save(load(name, weights=file, announce=tell), called, out)


def _save(model: SpeakerModel, name: str | None, out: Path) -> None:
    model.name = name or model.name
    model.save(out)
    say(f"{out}: {model.name}, {model.embedding_dim} dimensions, fingerprint {model.fingerprint}")


@app.command("import-onnx")
def import_onnx(
    file: Annotated[Path, typer.Argument(help="Network of WeSpeaker, 3D-Speaker or sherpa-onnx.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    front_end: Annotated[
        str | None, typer.Option(help="wespeaker, 3dspeaker or a description (.json); by default what the file says.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Name of the output that is the embedding, where the file has several.")
    ] = None,
    name: options.Name = None,
) -> None:
    """Keep an ONNX file and the front end that it was trained on together, as a model folder."""
    from nestvox.model.loading import load

    _save(load(file, front_end=front_end, output=output), name, out)
