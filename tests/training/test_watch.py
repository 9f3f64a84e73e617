"""What a run tells: a line and a record an epoch, what is left out, and why these weights are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nestvox.corpora.utterances import read_utterances
from nestvox.extraction.cache.feature_cache import open_cache
from nestvox.model.speaker_model import SpeakerModel
from nestvox.report.run_page import RUN_PAGE, write_run_page
from nestvox.training.data.batches import Seen
from nestvox.training.data.cached import CachedSource, CachedUtterances
from nestvox.training.parallel import Processes
from nestvox.training.recipe.recipe import load_recipe
from nestvox.training.run_log import EpochReport, Watch, duration_in_words
from nestvox.training.train import Trained, train

from .conftest import World, write_cache

SMALL = {"training.batch_size": "50", "training.epochs": "3", "head.dims": "[8,24]", "head.start": "pretrained"}
ALONE = Processes(0, 1, torch.device("cpu"))


class Told(Watch):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.reports: list[EpochReport] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def epoch(self, report: EpochReport) -> None:
        self.reports.append(report)


def run(encoder: SpeakerModel, world: World, out: Path, recipe: str = "linear", **changes: str) -> tuple[Trained, Told]:
    told = Told()
    found = train(load_recipe(recipe, world.settings(**{**SMALL, **changes})), out, start=encoder, watch=told)
    assert found is not None
    return found, told


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_epoch_is_told_and_logged(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    found, told = run(encoder, world, tmp_path / "run", **{"run.log_steps": "3", "training.validate_epochs": "2"})
    assert told.warnings == list(found.notes) == []
    assert [(report.epoch, report.epochs) for report in told.reports] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [sorted(report.eers) for report in told.reports] == [[8, 24], [], [8, 24], [8, 24]]
    whole = Seen(200, 200, 40, 40, 200)
    assert [report.seen for report in told.reports] == [None, whole, whole, whole]
    log = log_of(found.folder)
    epochs = [line for line in log if "epoch_loss" in line]
    assert [line["seen"]["utterances"] for line in epochs] == [200] * 3
    for report, line in zip(told.reports[1:], epochs, strict=True):
        # The mean over an epoch of four batches of 50, told after three and after one more.
        inside = [one["loss"] for one in log if "loss" in one and report.epoch - 1 < one["epoch"] < report.epoch]
        assert len(inside) >= 1
        assert line["epoch_loss"] == report.loss
        assert min(inside) - 1e-6 <= line["epoch_loss"] <= max(inside) + 1e-6
    assert told.reports[1].left_s is not None
    assert told.reports[-1].left_s == 0
    assert re.fullmatch(r"start; dev EER % 8: \d+\.\d\d, 24: \d+\.\d\d", told.reports[0].words)
    assert re.fullmatch(
        r"epoch 1 of 3; loss \d+\.\d{3}; saw all 200 utterances, all 40 speakers; \d+ s left", told.reports[1].words
    )


def test_the_epoch_loss_is_the_mean_also_after_a_kill(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    class Killed(BaseException): ...

    class Bars:
        def __call__(self, *_: str) -> Bars:
            return self

        def __enter__(self) -> object:
            return self.report

        def __exit__(self, *_: object) -> None: ...

        def report(self, done: int, total: int | None) -> None:
            if total == 600 and done > 320:  # in the second epoch, between two lines of the log
                raise Killed

    settings = {"run.log_steps": "50", "run.checkpoint_steps": "1", "training.batch_size": "40"}
    run(encoder, world, tmp_path / "whole", **settings)
    recipe = load_recipe("linear", world.settings(**{**SMALL, **settings}))
    with pytest.raises(Killed):
        train(recipe, tmp_path / "killed", start=encoder, bars=Bars())
    train(recipe, tmp_path / "killed", start=encoder, resume=True)
    losses = [[line.get("epoch_loss") for line in log_of(tmp_path / name)] for name in ("whole", "killed")]
    assert losses[0] == losses[1]
    assert sum(loss is not None for loss in losses[0]) == 3


def test_balanced_batches_cover_the_data_in_a_run(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    """The forty speakers have five clips each; one keeps two, which once ended an epoch after its only batch."""
    lines = world.table.read_text().splitlines()
    few = tmp_path / "table.tsv"
    few.write_text("\n".join(line for line in lines if not re.match(r"u07-[234]\t", line)) + "\n")
    balanced = {"data.table": str(few), "training.balanced": "{speakers: 40, utterances: 2}"}
    found, told = run(encoder, world, tmp_path / "run", **balanced)
    assert [report.seen for report in told.reports[1:]] == [Seen(197, 197, 40, 40, 240)] * 3
    assert not found.notes


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data.test": "{}"}, r"20 of 280 utterances of .*table\.tsv are in no part of the run .*, e\.g\. u52-0"),
        ({"data.dev_trials": "few"}, r"few\.txt uses 4 of 60 development utterances and 2 of 12 development speakers"),
        ({"training.balanced": "{speakers: 8, utterances: 7}"}, r"40 of 40 speakers have fewer than 7 utterances"),
    ],
)
def test_what_is_left_out_is_a_warning(
    encoder: SpeakerModel, world: World, tmp_path: Path, changes: dict[str, str], told: str
) -> None:
    (tmp_path / "few.txt").write_text("1 u40-0 u40-1\n0 u40-0 u41-0\n1 u41-0 u41-1\n0 u40-1 u41-1\n")
    changes = {key: value.replace("few", str(tmp_path / "few.txt")) for key, value in changes.items()}
    found, heard = run(encoder, world, tmp_path / "run", **{**changes, "training.epochs": "1"})
    assert len(heard.warnings) == 1
    assert re.search(told, heard.warnings[0])
    assert json.loads((found.folder / "result.json").read_text())["warnings"] == heard.warnings
    assert log_of(found.folder)[0]["warnings"] == heard.warnings
    with pytest.warns(UserWarning, match=told):  # who does not watch
        train(
            load_recipe("linear", world.settings(**{**SMALL, **changes, "training.epochs": "1"})),
            tmp_path / "again",
            start=encoder,
        )


def test_variants_of_another_speed_are_not_heard_in_batches_by_speaker(world: World) -> None:
    data = CachedUtterances.of(open_cache(world.train_cache))
    other = np.array(data.labels)
    other[:, 2] += 40
    sped = CachedUtterances(data.cache, data.utterances, (*data.names, *(f"{n}#speed0.9" for n in data.names)), other)
    source = CachedSource(sped, load_recipe("linear", ["training.balanced={speakers: 8}"]), "pooled", ALONE)
    assert source.notes == [
        "training.balanced: 200 of 600 variants are of another speed, which is another speaker, and are not heard"
    ]
    assert source.seen(0) == Seen(200, 200, 40, 40, 240)


def test_what_a_cache_left_out_counts(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    """Seen are parts of what the table has, not of what the cache has."""
    table = read_utterances(world.table).where(split="train")
    cache = write_cache(tmp_path / "cache", encoder, table.where(speaker="s03"), 1)
    data = CachedUtterances.of(open_cache(cache))
    source = CachedSource(data, load_recipe("linear"), "pooled", ALONE, of=(7, 2))
    assert source.seen(0).words == "5 of 7 utterances (71.4%), 1 of 2 speakers (50.0%)"


@pytest.mark.parametrize(
    ("recipe", "changes", "kept"),
    [
        ("linear", {"training.epochs": "0"}, r"the starting point, of 0 epochs: training\.epochs is 0"),
        (
            "linear",
            {"training.learning_rate": "3.0", "training.optimizer": "sgd", "training.epochs": "2"},
            r"the starting point, of 2 epochs: its mean EER over 8, 24 dimensions is (\S+) % on the development "
            r"trials, and the best epoch, (\d), has (\S+) % \(8: (\S+) -> \S+, 24: \S+ -> \S+\); weights must be",
        ),
        (
            "linear",
            {},
            r"epoch \d of 3 epochs: mean EER over 8, 24 dimensions (\S+) % on .* starting point (\S+) %",
        ),
        ("rotation", {}, r"the rotation \w+, which is fitted at once: there are no epochs"),
    ],
)
def test_why_these_weights_are_kept(
    encoder: SpeakerModel, world: World, tmp_path: Path, recipe: str, changes: dict[str, str], kept: str
) -> None:
    base = SMALL if recipe == "linear" else {"head.dims": "[8,24]"}
    told = Told()
    found = train(
        load_recipe(recipe, world.settings(**{**base, **changes})), tmp_path / "run", start=encoder, watch=told
    )
    assert found is not None
    match = re.match(kept, found.kept)
    assert match, found.kept
    means = {
        line["epoch"]: f"{100 * np.mean(list(line['dev_eer'].values())):.2f}"
        for line in (log_of(found.folder) if recipe == "linear" else [])
        if "dev_eer" in line
    }
    if len(match.groups()) == 2:
        assert match.groups() == (means[found.best_epoch], means[0])
    if len(match.groups()) == 4:
        start, nearest, other, _ = match.groups()
        assert (start, other) == (means[0], means[int(nearest)])
        assert float(other) == min(float(mean) for epoch, mean in means.items() if epoch)


def test_the_page_of_a_run(encoder: SpeakerModel, world: World, tmp_path: Path) -> None:
    found, _ = run(encoder, world, tmp_path / "run", **{"data.test": "{}", "run.name": "<b>mine</b>"})
    page = write_run_page(found.folder)
    assert page == found.folder / RUN_PAGE
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "<b>mine" not in text
    assert "&lt;b&gt;mine" in text
    assert "200 of 200" in text
    assert "20 of 280 utterances" in text, "warnings stand on the page"
    assert found.trials.sha256 in text
    assert f"{found.trials.n_target} target" in text
    for rate in found.rates:
        assert f">{100 * rate.best.value:.2f}<" in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    # While it goes on there is no result yet.
    (found.folder / "result.json").unlink()
    text = write_run_page(found.folder, name="mine", left_s=300).read_text()
    assert "under way: epoch 3 of 3, about 5.0 min left" in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (89, "89 s"), (91, "2 min"), (3_600, "60 min"), (12_000, "3 h 20 min")]
)
def test_a_time_in_words(seconds: float, words: str) -> None:
    assert duration_in_words(seconds) == words


def test_labels_stand_with_the_rates_of_an_epoch() -> None:
    words = EpochReport(1, 2, eers={8: 0.25}, best_epoch=1, labels=("synthetic",)).words
    assert words == "epoch 1 of 2; dev EER % SYNTHETIC 8: 25.00 (best so far)"
