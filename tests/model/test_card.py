"""The model card: front matter that parses, and no error rate without its trials."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from nestvox.model.card import render_card
from nestvox.model.threshold import Threshold

ROWS = [
    {
        "dim": dim,
        "eer": eer,
        "eer_low": eer - 0.01,
        "eer_high": eer + 0.02,
        "min_dcf": 0.4,
        "p_target": 0.05,
        "n_target": 250,
        "n_nontarget": 251,
        "trials_sha256": "0123456789abcdef" * 4,
        "trials_source": "trials: test | list.txt",
        "labels": labels,
    }
    for dim, eer, labels in ((16, 0.1234, ["synthetic"]), (64, 0.0817, []))
]
THRESHOLD = Threshold(64, 0.4321, "eer", 0.05, 0.06, 100, 200, "f" * 64, "dev.txt", ("synthetic",))


def render(**changes: Any) -> str:
    arguments: dict[str, Any] = {
        "name": "voice: nested",
        "fingerprint": "00000000000000aa",
        "encoder": "ge2e",
        "sample_rate": 16_000,
        "head": {"kind": "rotation", "method": "refined"},
        "dims": (16, 64, 256),
        "thresholds": (THRESHOLD,),
        "card": {
            "licence": "Apache-2.0",
            "training_data": "VoxCeleb1, VoxCeleb2",
            "head_data": "9 utterances of 3 speakers",
            "language": ["en", "no"],
            "results": ROWS,
        },
    }
    return render_card(**arguments | changes)


def parts(card: str) -> tuple[dict[str, Any], str]:
    assert card.startswith("---\n")
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.mark.parametrize(("head", "dims"), [(None, (256,)), ({"kind": "linear"}, (256,))])
def test_what_is_not_nested_is_not_called_so(head: Any, dims: tuple[int, ...]) -> None:
    front, body = parts(render(head=head, dims=dims, name="plain", card={}, thresholds=()))
    assert "matryoshka" not in front["tags"]
    assert "A nested speaker embedding" not in body
    assert "It is not nested" in body
    front, body = parts(render())
    assert "matryoshka" in front["tags"]
    assert "A nested speaker embedding" in body


def test_front_matter_is_what_the_hub_reads() -> None:
    front, _ = parts(render())
    assert front["library_name"] == "nestvox"
    assert front["license"] == "apache-2.0"
    assert "license_name" not in front
    assert front["language"] == ["en", "no"], "the string, though no is false in YAML"
    (index,) = front["model-index"]
    assert index["name"] == "voice: nested"
    for row, result in zip(ROWS, index["results"], strict=True):
        (metric,) = result["metrics"]
        assert (metric["type"], metric["value"]) == ("eer", row["eer"])
        assert metric["args"]["interval"] == [row["eer_low"], row["eer_high"]]
        assert str(row["dim"]) in metric["name"]
        dataset = result["dataset"]
        assert dataset["args"] == {key: row[key] for key in ("n_target", "n_nontarget", "trials_sha256")}
        assert ("synthetic" in dataset["name"]) == bool(row["labels"])


def test_every_rate_stands_with_interval_trials_and_labels() -> None:
    _, body = parts(render())
    table = [line for line in body.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert len(table) == len(ROWS)
    assert "| 16 | 12.34 (11.34 to 14.34) | 0.400 (0.05) | 250 / 251 |" in table[0]
    assert "| 64 | 8.17 (7.17 to 10.17) | 0.400 (0.05) | 250 / 251 |" in table[1]
    assert table[0].endswith("| synthetic |")
    assert table[1].endswith("| - |")
    for line in table:
        assert "0123456789ab" in line
        assert line.replace("\\|", "").count("|") == 7, "a bar in a name must not make a column"


def test_thresholds_say_where_they_come_from() -> None:
    _, body = parts(render())
    (line,) = [line for line in body.splitlines() if "cosine 0.4321" in line]
    for part in ("64 dimensions", "eer", "dev.txt", "100 target", "200 non-target", "ffffffffffff", "synthetic"):
        assert part in line
    assert "5.00% false alarms, 6.00% misses" in line


def test_use_data_and_licence() -> None:
    _, body = parts(render())
    assert "16, 64 or 256" in body
    assert "Encoder `ge2e`, input mono at 16000 Hz, fingerprint `00000000000000aa`" in body
    assert "- Encoder: VoxCeleb1, VoxCeleb2." in body
    assert "- Head: rotation (refined), fitted on 9 utterances of 3 speakers." in body
    assert "Weights: Apache-2.0." in body


@pytest.mark.parametrize(("licence", "known"), [("CC-BY-NC-SA-4.0", True), ("My own: terms", False)])
def test_licence(licence: str, known: bool) -> None:
    front, _ = parts(render(card={"licence": licence}))
    assert front["license"] == (licence.lower() if known else "other")
    assert front.get("license_name") == (None if known else licence)


def test_bare_card() -> None:
    front, body = parts(render(card={}, head=None, thresholds=(), dims=(256,)))
    assert (front["license"], front["license_name"]) == ("other", "unknown")
    assert "model-index" not in front
    assert "language" not in front
    assert "## Error rates" not in body
    assert "## Thresholds" not in body
    assert "- Encoder: not stated." in body
    assert "- Head" not in body
