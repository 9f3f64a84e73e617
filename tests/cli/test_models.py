"""`nestvox models` as the user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nestvox.cli.models import app
from nestvox.errors import CatalogueError, DownloadError, WeightsError
from nestvox.zoo.cache import cached_weights
from nestvox.zoo.catalogue import CatalogueEntry, entries, find

run = CliRunner()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NESTVOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "cache"


def put_in_cache(name: str) -> Path:
    path = cached_weights(find(name))
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_list_shows_name_licence_and_size(tmp_path: Path) -> None:
    result = run.invoke(app, ["list", "--json", str(tmp_path / "models.json")])
    assert result.exit_code == 0
    for part in ("ge2e", "Apache-2.0", "15.7 MB", "NOT FOR COMMERCIAL USE"):
        assert part in result.output
    assert "?" not in result.output
    listed = json.loads((tmp_path / "models.json").read_text())
    assert [row["name"] for row in listed] == [entry.name for entry in entries()]
    assert listed[0]["cached"] is False
    assert listed[0]["sha256"] == entries()[0].sha256


@pytest.mark.parametrize("width", [80, 120])
def test_every_name_can_be_read_whole(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run.invoke(app, ["list"]).output.splitlines()
    assert max(map(len, lines)) <= width
    first = [line.split()[0] for line in lines if line.split()]
    assert all(entry.name in first for entry in entries())


def test_rows_stand_by_licence_with_what_the_makers_published() -> None:
    output = run.invoke(app, ["list"]).output
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.split()}
    assert rows["redimnet-b2-vox2-ft_lm"] == ["0.57", "20.6", "MB"]
    assert rows["redimnet2-b6-vox2-lm"] == ["0.29", "about", "49.6", "MB"]  # 4 bytes times 12,394,784
    assert rows["redimnet-b2-vox2-ptn"] == ["20.6", "MB"]  # nobody published one
    free, _, restricted = output.partition("CC-BY-NC-SA-4.0, NOT FOR COMMERCIAL USE")
    for entry in entries():
        assert f"  {entry.name} " in (restricted if entry.restriction else free)


def test_it_says_which_one_to_take_and_what_was_never_tried() -> None:
    output = " ".join(run.invoke(app, ["list"]).output.split())
    assert "To begin: campplus, which comes with pip; without it, ge2e" in output
    assert "For accuracy, any use: redimnet2-b6-vox2-lm (0.29 %)" in output  # lowest of those for any use
    assert "Small, any use: redimnet2-b1-vox2-lm (0.78 %)" in output
    assert output.count("No released file of ReDimNet or ReDimNet2 has been loaded by the tests") == 1
    shown = " ".join(run.invoke(app, ["show", "redimnet-b2-vox2-ptn"]).output.split())
    assert "has been loaded by the tests" in shown
    assert "has been loaded by the tests" not in run.invoke(app, ["show", "ge2e"]).output


def test_list_names_the_configurations_that_are_a_guess() -> None:
    _, said, names = " ".join(run.invoke(app, ["list"]).output.split()).partition("configuration a guess")
    assert said
    for name in ("redimnet-b0-vox2-ptn", "redimnet-b1-vox2-ft_lm", "redimnet-b3-vox2-ptn", "redimnet-b4-vox2-ft_lm"):
        assert name in names
    for name in ("redimnet-b2-vox2-ptn", "redimnet-M-vb2-ptn", "ge2e"):
        assert name not in names.split()


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_show_tells_everything(entry: CatalogueEntry, tmp_path: Path) -> None:
    result = run.invoke(app, ["show", entry.name, "--json", str(tmp_path / "x.json")])
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    for part in (entry.licence_url, entry.sha256, entry.training_data, entry.published, entry.paper, entry.project):
        assert part in said
    assert f"nestvox models fetch {entry.name}" in said
    assert json.loads((tmp_path / "x.json").read_text())["licence"] == entry.licence
    path = put_in_cache(entry.name)
    assert str(path) in run.invoke(app, ["show", entry.name]).output.replace("\n", "")


def test_path_prints_the_path_and_nothing_else() -> None:
    path = put_in_cache("ge2e")
    result = run.invoke(app, ["path", "ge2e"])
    assert (result.exit_code, result.output) == (0, f"{path}\n")


def test_path_of_what_is_not_here_is_an_error() -> None:
    result = run.invoke(app, ["path", "ge2e"])
    assert isinstance(result.exception, DownloadError)
    assert "nestvox models fetch ge2e" in str(result.exception)


@pytest.mark.parametrize("command", ["show", "path", "fetch"])
def test_unknown_names(command: str) -> None:
    result = run.invoke(app, [command, "ge2"])
    assert isinstance(result.exception, CatalogueError)
    assert "did you mean ge2e" in str(result.exception)


def test_fetch_offline_names_the_place(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run.invoke(app, ["fetch", "ge2e", "--offline"])
    assert isinstance(result.exception, DownloadError)
    assert str(empty_cache) in str(result.exception)


def test_fetch_from_a_file_that_is_not_there() -> None:
    result = run.invoke(app, ["fetch", "ge2e", "--weights", "nothing.whl"])
    assert isinstance(result.exception, DownloadError | WeightsError)
    assert "nothing.whl" in str(result.exception)


@pytest.mark.network
def test_fetch_says_the_licence_and_prints_only_the_path_on_stdout() -> None:
    result = run.invoke(app, ["fetch", "ge2e"])
    if isinstance(result.exception, DownloadError):
        pytest.skip(f"the weights of ge2e cannot be had here: {result.exception}")
    assert result.exit_code == 0
    assert "Apache-2.0" in result.stderr
    assert "resemblyzer 0.1.4" in result.stderr
    assert result.stdout == f"{cached_weights(find('ge2e'))}\n"
    assert run.invoke(app, ["path", "ge2e"]).output == result.stdout
    again = run.invoke(app, ["fetch", "ge2e", "--offline"])
    assert (again.exit_code, again.stderr) == (0, "")


def test_the_catalogue_works_without_torch_and_numpy() -> None:
    code = "import sys\nsys.modules['torch'] = sys.modules['numpy'] = None\nfrom nestvox.cli.models import app\napp()"
    for arguments in (["list"], ["show", "ge2e"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Apache-2.0" in done.stdout
    done = subprocess.run([sys.executable, "-c", code, "fetch", "ge2e"], capture_output=True, text=True, check=False)
    assert "nestvox[torch]" in done.stderr
