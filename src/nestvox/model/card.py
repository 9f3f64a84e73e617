"""The model card: README.md of a model folder, as Hugging Face reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from nestvox.model.threshold import Threshold

_THRESHOLDS = "## Thresholds"
_AFTER_THRESHOLDS = "## Training"

# Identifiers that the hub knows; any other licence goes under "other" with its name beside it.
_HUB_LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0",
    "CC0-1.0": "cc0-1.0",
}


def render_card(
    *,
    name: str,
    fingerprint: str,
    encoder: str,
    sample_rate: int,
    head: Mapping[str, Any] | None,
    dims: Sequence[int],
    thresholds: Sequence[Threshold],
    card: Mapping[str, Any],
) -> str:
    """Return the card: YAML front matter, use, dimensions, error rates with their trials, training data, licence.

    Args:
        name: of the model.
        fingerprint: of the model.
        encoder: architecture.
        sample_rate: of the input, in Hz.
        head: `Head.config()`, or None.
        dims: prefix lengths.
        thresholds: as stored with the model.
        card: ``licence``, ``base_model``, ``training_data``, ``head_data`` (what the head was fitted on),
            ``language`` (list), ``results`` (list of dicts with dim, eer, eer_low, eer_high, min_dcf, p_target,
            n_target, n_nontarget, trials_sha256, trials_source, labels).
    """
    licence = str(card.get("licence", "unknown"))
    front: dict[str, Any] = {
        "library_name": "nestvox",
        "pipeline_tag": "audio-classification",
        "tags": ["speaker-verification", "speaker-embedding", *(["matryoshka"] if _is_nested(head, dims) else [])],
        "license": _HUB_LICENCES.get(licence, "other"),
    }
    if front["license"] == "other":
        front["license_name"] = licence
    if card.get("language"):
        front["language"] = list(card["language"])
    results = list(card.get("results", ()))
    if results:
        front["model-index"] = [{"name": name, "results": [_hub_result(row) for row in results]}]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {name}",
        "",
        _kind_of(head, dims),
        f"Encoder `{encoder}`, input mono at {sample_rate} Hz, fingerprint `{fingerprint}`.",
        "",
        "```python",
        "import nestvox",
        "",
        'model = nestvox.load("PATH_TO_THIS_FOLDER")',
        f'embedding = model.embed("a.wav", dim={dims[0]})',
        f'print(model.verify("a.wav", "b.wav", dim={dims[-1]}))',
        "```",
        "",
    ]
    if results:
        lines += [
            "## Error rates",
            "",
            "| dim | EER % (95 % interval) | minDCF (p_target) | targets / non-targets | trials | labels |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['dim']} | {100 * row['eer']:.2f} ({100 * row['eer_low']:.2f} to {100 * row['eer_high']:.2f}) "
            f"| {row['min_dcf']:.3f} ({row['p_target']:g}) | {row['n_target']} / {row['n_nontarget']} "
            f"| {_cell(row['trials_source'])} `{row['trials_sha256'][:12]}` | {', '.join(row['labels']) or '-'} |"
            for row in results
        ]
        lines.append("")
    lines += _threshold_lines(thresholds)
    lines += [_AFTER_THRESHOLDS, ""]
    lines.append(f"- Encoder: {card.get('training_data', 'not stated')}.")
    if head is not None:
        lines.append(
            f"- Head: {head['kind']} ({head.get('method', '-')}), fitted on {card.get('head_data', 'not stated')}."
        )
    lines += ["", "## Licence", "", f"Weights: {licence}.", ""]
    return "\n".join(lines)


def replace_thresholds(card: str, thresholds: Sequence[Threshold]) -> str:
    """Return a card that `render_card` made with other thresholds on it; a card of another form comes back as it is.

    Args:
        card: text of README.md.
        thresholds: as stored with the model.
    """
    before, heading, after = card.partition(f"\n{_AFTER_THRESHOLDS}\n")
    if not heading:
        return card
    before = before.split(f"\n{_THRESHOLDS}\n")[0]
    lines = _threshold_lines(thresholds)
    return "\n".join([before, *lines]) + heading + after


def _threshold_lines(thresholds: Sequence[Threshold]) -> list[str]:
    if not thresholds:
        return []
    lines = [_THRESHOLDS, "", "A threshold holds for its own dimension and for speech like its trials.", ""]
    lines += [f"- {t.dim} dimensions: {t.space} {t.value:.4f}, {t.describe()}." for t in thresholds]
    return [*lines, ""]


def _is_nested(head: Mapping[str, Any] | None, dims: Sequence[int]) -> bool:
    """Whether prefixes of the vector were made to be embeddings: by a head, and more than the whole one."""
    return head is not None and len(dims) > 1


def _kind_of(head: Mapping[str, Any] | None, dims: Sequence[int]) -> str:
    if _is_nested(head, dims):
        prefixes = _listed(dims)
        return f"A nested speaker embedding: every prefix of {prefixes} dimensions, normalised again, is an embedding."
    return (
        f"A speaker embedding of {dims[-1]} dimensions. It is not nested: nobody made its prefixes to be embeddings, "
        "so use all of it, or give it a head that is nested (`nestvox rotate`, `nestvox train`)."
    )


def _listed(dims: Sequence[int]) -> str:
    *first, last = [str(d) for d in dims]
    return f"{', '.join(first)} or {last}" if first else last


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _hub_result(row: Mapping[str, Any]) -> dict[str, Any]:
    labels = f" ({', '.join(row['labels'])})" if row["labels"] else ""
    return {
        "task": {"type": "audio-classification", "name": "Speaker verification"},
        "dataset": {
            "type": "custom",
            "name": f"{row['trials_source']}{labels}",
            "args": {name: row[name] for name in ("n_target", "n_nontarget", "trials_sha256")},
        },
        "metrics": [
            {
                "type": "eer",
                "name": f"EER at {row['dim']} dimensions",
                "value": float(row["eer"]),
                "args": {"interval": [float(row["eer_low"]), float(row["eer_high"])]},
            }
        ],
    }
