"""Released ReDimNet checkpoints: what the catalogue says of them, and files as they lie on a server."""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
import io
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from keyed_weights import keyed_weights
from nestvox.cli.models import app
from nestvox.encoders.redimnet.redimnet import ReDimNet
from nestvox.errors import CatalogueError, DownloadError, ModelError, WeightsError
from nestvox.zoo import weights as room
from nestvox.zoo.cache import cached_weights, first_use_record
from nestvox.zoo.catalogue import CatalogueEntry, UrlSource, entries, find, parse
from nestvox.zoo.variants import variant
from nestvox.zoo.weights import fetch, load_encoder, load_encoder_with_report

RELEASED = [entry for entry in entries() if entry.architecture.startswith("redimnet")]
CONFIG: dict[str, Any] = {
    "F": 12,
    "C": 2,
    "block_1d_type": "fc",
    "stages_setup": [(1, 1, 1, [(3, 3)], 2), (2, 1, 1, [(3, 3)], None)],  # tuples, as pickles may hold
    "group_divisor": 1,
    "embed_dim": 8,
    "spec_params": {"time_mask_width": (0, 5)},
}


# What the catalogue says


def test_the_catalogue_holds_every_released_file(reference_dir: Path) -> None:
    with (reference_dir / "catalogue.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    by_url = {str(source): entry for entry in RELEASED for source in entry.sources}
    assert by_url.keys() == {row["url"] for row in rows}
    for row in rows:
        entry = by_url[row["url"]]
        assert entry.sha256 == row["sha256"], entry.name
        assert entry.size_bytes == (int(row["size_bytes"]) if row["size_bytes"] else None), entry.name
        if row["file"] != "best_2025-12-10_07-20.pt":
            assert entry.file_name == row["file"]
            assert entry.name.endswith(row["file"].removesuffix(".pt"))
        assert entry.config_status == row["config_status"].split()[0], entry.name
        for rate in filter(None, (row["vox1_O_eer"], row["vox1_E_eer"], row["vox1_H_eer"], row["asnorm_vox1_OEH"])):
            assert rate in entry.published, entry.name
        assert ("VoxBlink2" in entry.training_data) == ("VoxBlink2" in row["training_data"]), entry.name
        counted = row["parameters_counted"].rstrip("?")
        if counted.isdigit():
            assert variant(entry.variant).parameters == int(counted), entry.name


def test_released_files_in_numbers() -> None:
    counts = collections.Counter(entry.architecture for entry in RELEASED)
    assert counts == {"redimnet": 19, "redimnet2": 21}
    assert len({entry.sources for entry in RELEASED}) == len(RELEASED)


@pytest.mark.parametrize("entry", RELEASED, ids=lambda entry: entry.name)
def test_voxblink_is_said_to_be_non_commercial(entry: CatalogueEntry) -> None:
    lineage = "VoxBlink2" in entry.training_data
    assert lineage == ("vb2" in entry.name)
    assert lineage == entry.restriction.startswith("NON-COMMERCIAL")
    assert lineage == (entry.licence == "CC-BY-NC-SA-4.0")


def test_configurations_that_are_a_guess_say_so() -> None:
    assert find("redimnet-b0-vox2-ft_lm").config_status == "unconfirmed"
    assert find("redimnet-b2-vox2-ft_lm").config_status == "confirmed"
    assert find("redimnet-b6-vox2-ft_lm").config_status == "consistent"
    shown = " ".join(CliRunner().invoke(app, ["show", "redimnet-b0-vox2-ft_lm"], env={"COLUMNS": "200"}).output.split())
    assert "a guess, which may not be the released network" in shown
    assert "nobody published one" in shown


def test_families_share_fields_and_entries_may_differ() -> None:
    text = """
    [families.voice]
    architecture = "redimnet"
    description = "d"
    licence = "MIT"
    licence_url = "https://example.org"
    project = "p"
    paper = "p"
    training_data = "t"
    sample_rate = 16000
    embedding_dim = 192
    published = "none"
    [one]
    family = "voice"
    variant = "redimnet-b0"
    sources = [{ kind = "url", url = "https://example.org/a/b%2Bc.pt" }]
    licence = "CC0-1.0"
    """
    one = parse(text, "x.toml")["one"]
    assert (one.file_name, one.licence, one.config_status, one.sha256) == ("b+c.pt", "CC0-1.0", "unconfirmed", "")
    assert one.config["F"] == 60
    assert one.download_bytes is None
    with pytest.raises(CatalogueError, match=r"x\.toml \[one\] family: 'voices' is not among voice"):
        parse(text.replace('family = "voice"', 'family = "voices"'), "x.toml")
    with pytest.raises(CatalogueError, match=r"lacks 'sources\.0\.url\.url'"):
        parse(text.replace(', url = "https://example.org/a/b%2Bc.pt"', ""), "x.toml")
    with pytest.raises(CatalogueError, match="config_status: input should be 'confirmed'"):
        parse(text + 'config_status = "sure"', "x.toml")


# Files on a server


def released(seed: int = 0, **config: Any) -> tuple[bytes, ReDimNet]:
    """A checkpoint as released, and the network that is in it."""
    settings = {**CONFIG, **config}
    network = ReDimNet(**settings).eval()
    network.load_state_dict(keyed_weights(network.state_dict()))
    with torch.no_grad():
        network.linear.bias += seed
    stream = io.BytesIO()
    torch.save({"model_config": settings, "state_dict": network.state_dict()}, stream)
    return stream.getvalue(), network


class Release:
    """What lies at the address, and how often it was asked for."""

    def __init__(self) -> None:
        self.content = b""
        self.status = 200
        self.asked = 0
        self.url = ""


@pytest.fixture
def release(serve: Callable[[type[BaseHTTPRequestHandler]], str]) -> Release:
    state = Release()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            state.asked += 1
            if state.status != 200:
                self.send_error(state.status)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(state.content)))
            self.end_headers()
            self.wfile.write(state.content)

    state.url = f"{serve(Handler)}/voice.pt"
    return state


@pytest.fixture
def entry(release: Release, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    """An entry without a published hash, whose configuration is not that of the file; and an empty cache."""
    made = dataclasses.replace(find("redimnet-M-vb2-ptn"), name="voice", sources=(UrlSource(url=release.url),))
    monkeypatch.setattr(room, "find", lambda name: made)
    return made


def silent(message: str) -> None:
    pass


def test_the_network_is_built_from_what_the_file_says(entry: CatalogueEntry, release: Release) -> None:
    release.content, network = released()
    said: list[str] = []
    encoder, report = load_encoder_with_report("voice", announce=said.append)
    assert encoder.config() == network.config()
    assert encoder.config()["F"] == 12
    assert report.complete
    assert len(report.loaded) == len(network.state_dict())
    assert not encoder.training
    wave = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 5_000)).astype(np.float32))
    assert torch.equal(encoder(wave).embedding, network(wave).embedding)
    assert any("NON-COMMERCIAL" in line and "VoxBlink2" in line for line in said)
    assert any(release.url in line and "CC-BY-NC-SA-4.0" in line for line in said)


def test_the_restriction_is_said_at_every_use(entry: CatalogueEntry, release: Release) -> None:
    release.content, _ = released()
    load_encoder("voice", announce=silent)
    said: list[str] = []
    load_encoder("voice", announce=said.append, offline=True)
    assert len(said) == 1
    assert said[0].startswith("voice: NON-COMMERCIAL")
    assert release.asked == 1


def test_an_unknown_hash_is_recorded_at_first_use_and_must_agree(entry: CatalogueEntry, release: Release) -> None:
    release.content, _ = released()
    sha256 = hashlib.sha256(release.content).hexdigest()
    said: list[str] = []
    path = fetch("voice", announce=said.append)
    record = first_use_record(entry)
    assert record.parent == path.parent
    assert record.read_text() == f"{sha256}  voice.pt\n"
    assert any(sha256 in line for line in said)
    with safe_open(path, "pt") as file:
        assert file.metadata()["source_sha256"] == sha256
    assert not (path.parents[1] / "downloads" / "voice.pt").exists()  # the pickle is not kept
    path.unlink()
    assert fetch("voice", announce=silent) == path  # the same file again
    path.unlink()
    release.content, _ = released(seed=1)
    with pytest.raises(DownloadError, match=rf"expected {sha256}"):
        fetch("voice", announce=silent)
    assert not path.exists()
    assert record.read_text().split()[0] == sha256


def test_a_local_file_must_agree_with_the_record_too(entry: CatalogueEntry, release: Release, tmp_path: Path) -> None:
    release.content, _ = released()
    fetch("voice", announce=silent).unlink()
    other = tmp_path / "other.pt"
    other.write_bytes(released(seed=1)[0])
    with pytest.raises(DownloadError, match=r"which it had at first use \(recorded in .*voice.*\.sha256\)"):
        fetch("voice", weights=other, announce=silent)
    other.write_bytes(release.content)
    assert fetch("voice", weights=other, announce=silent, offline=True).is_file()


def test_a_local_file_that_belies_the_entry_is_told(entry: CatalogueEntry, tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "b6-vb2+vox2_v0-lm.pt"
    file.write_bytes(released()[0])
    load_encoder("voice", weights=file, announce=said.append)
    beginnings = ("voice: NON-COMMERCIAL", f"voice: {file.name} is the name", f"voice: {file} describes")
    assert [line.startswith(beginning) for line, beginning in zip(said, beginnings, strict=True)] == [True] * 3
    assert "weights of redimnet2-b6-vb2+vox2_v0-lm, licence CC-BY-NC-SA-4.0; NON-COMMERCIAL" in said[1]
    assert "the catalogue's differs in " in said[2]
    assert {"C", "F", "stages_setup"} <= set(said[2].rsplit(" in ")[1].split(", "))


def test_a_page_instead_of_the_file_is_not_recorded(entry: CatalogueEntry, release: Release) -> None:
    release.content = b"<html>please accept our licence</html>"
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        fetch("voice", announce=silent)
    assert not first_use_record(entry).exists()
    release.content, _ = released()
    assert fetch("voice", announce=silent).is_file()


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_told_with_what_to_do(entry: CatalogueEntry, release: Release, status: int) -> None:
    release.status = status
    with pytest.raises(DownloadError, match=rf"voice: cannot download {release.url}: the server answers {status}"):
        load_encoder("voice", announce=silent)
    assert not cached_weights(entry).exists()


def test_offline_names_the_address_and_the_way_round(entry: CatalogueEntry, release: Release) -> None:
    with pytest.raises(DownloadError, match="offline") as error:
        fetch("voice", offline=True, announce=silent)
    assert release.url in str(error.value)
    assert "--weights FILE" in str(error.value)
    assert release.asked == 0


def test_a_file_that_the_user_brings_is_read_as_it_says(entry: CatalogueEntry, tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(released(embed_dim=4)[0])
    encoder = load_encoder("voice", weights=tmp_path / "mine.pt", announce=silent)
    assert encoder.embedding_dim == 4


def test_a_file_that_says_what_nobody_knows_is_refused(entry: CatalogueEntry, tmp_path: Path) -> None:
    _, network = released()
    torch.save({"model_config": {**CONFIG, "wings": 2}, "state_dict": network.state_dict()}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="unknown key 'wings'"):
        load_encoder("voice", weights=tmp_path / "x.pt", announce=silent)
    torch.save({"model_config": [1], "state_dict": network.state_dict()}, tmp_path / "y.pt")
    with pytest.raises(WeightsError, match="model_config must be a dictionary, found list"):
        load_encoder("voice", weights=tmp_path / "y.pt", announce=silent)
    torch.save({"model_config": {"F": torch.zeros(1)}, "state_dict": network.state_dict()}, tmp_path / "z.pt")
    with pytest.raises(WeightsError, match="model_config holds more than plain values"):
        load_encoder("voice", weights=tmp_path / "z.pt", announce=silent)


def test_a_training_checkpoint_with_numbers_of_numpy_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dataclasses.replace(find("redimnet-mrl"), config=ReDimNet(**CONFIG).config())
    monkeypatch.setattr(room, "find", lambda name: made)
    network = released()[1]
    wrapped = {
        f"{'projection' if key.startswith(('bn.', 'linear.')) else 'backbone'}.{key}": tensor
        for key, tensor in network.state_dict().items()
    }
    checkpoint = {"epoch": 14, "best_eer": np.float64(0.056), "model_state_dict": wrapped, "config": {"a": [1]}}
    torch.save(checkpoint, tmp_path / "best.pt")
    encoder, report = load_encoder_with_report("redimnet-mrl", weights=tmp_path / "best.pt", announce=silent)
    assert report.layout == "mrl"
    wave = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 5_000)).astype(np.float32))
    assert torch.equal(encoder(wave).embedding, network(wave).embedding)
