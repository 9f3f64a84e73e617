"""A model in every form: what is written loads again, is measured, and is recommended by its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
import yaml
from typer.testing import CliRunner

import redimnet_golden as golden
from keyed_weights import keyed_weights
from nestvox.cli.app import app
from nestvox.compression import FORMS, Compression, FormRates, FormRow, compress
from nestvox.compression.table import recommended
from nestvox.corpora.overlap import speaker_key
from nestvox.corpora.utterances import as_table
from nestvox.encoders import build
from nestvox.encoders.runtime.backends import onnx_is_installed
from nestvox.errors import ModelError, NestvoxError, OverlapError
from nestvox.evaluation import Settings
from nestvox.extraction.cache.feature_cache import open_cache
from nestvox.heads import LinearHead, Rotation
from nestvox.model import SpeakerModel, load
from nestvox.training.run_log import Watch

FEW = Settings(n_bootstrap=50)
WITH_ONNX = pytest.mark.skipif(not onnx_is_installed(), reason="the extra onnx is not installed")
SMALL: dict[str, Any] = {
    "architecture": "mixer",
    "width": 32,
    "depth": 2,
    "expansion": 2,
    "groups": 2,
    "kernels": [3, 5],
    "chunk": 6,
    "embedding_dim": 16,
}


def drawn(config: dict[str, Any] = SMALL, *, head: bool = True) -> SpeakerModel:
    encoder = build(config).eval()
    encoder.load_state_dict(keyed_weights(encoder.state_dict()))
    if not head:
        return SpeakerModel(encoder, name="drawn")
    torch.manual_seed(0)
    nested = LinearHead(encoder.pooled_dim, (4, 16))
    return SpeakerModel(encoder, nested.eval(), "drawn", training_speakers=(speaker_key("nobody"),))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight speakers, three clips each, of buzzes in noise: six to measure on, two to calibrate on."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = []
    for speaker, pitch_hz in enumerate(np.geomspace(90, 300, 8)):
        for take in range(3):
            time_s = np.arange(12_000) / 16_000
            buzz = sum(np.sin(2 * np.pi * order * pitch_hz * time_s + rng.random()) / order for order in range(1, 12))
            samples = 0.05 * buzz + 0.04 * rng.standard_normal(12_000)
            soundfile.write(folder / f"{speaker}-{take}.wav", samples, 16_000)
            split = "train" if speaker >= 6 else "dev"
            rows.append((f"{speaker}-{take}", f"{speaker}-{take}.wav", f"s{speaker}", split))
    table = pl.DataFrame(rows, schema=["utt_id", "path", "speaker", "split"], orient="row")
    table.write_csv(folder / "table.tsv", separator="\t")
    heard = [row[0] for row in rows[:18]]
    pairs = [(a, b) for place, a in enumerate(heard) for b in heard[place + 1 :]]
    (folder / "trials.txt").write_text("".join(f"{int(a[0] == b[0])} {a} {b}\n" for a, b in pairs))
    return folder


@pytest.fixture(scope="module")
def found(corpus: Path) -> Compression:
    return compress(
        drawn(),
        corpus / "forms",
        trials=corpus / "trials.txt",
        table=corpus / "table.tsv",
        teacher=drawn({**SMALL, "depth": 1}, head=False),
        settings=FEW,
        n_permutations=20,
    )


@WITH_ONNX
def test_every_form_loads_and_gives_vectors_like_the_original(found: Compression, corpus: Path) -> None:
    assert [row.form for row in found.forms] == ["original", *FORMS]
    assert not found.left_out
    clips = [str(corpus / f"{speaker}-0.wav") for speaker in range(4)]
    original = drawn().embed(clips)
    # Cosines to the original: rounding, four bits, eight bits; half of the weights gone changes the most.
    least = {"float16": 0.99999, "int4": 0.95, "int8-dynamic": 0.999, "int8-static": 0.98, "sparse": 0.5, "pruned": 0.3}
    for row in found.forms[1:]:
        assert row.folder is not None
        model = load(row.folder)
        assert model.fingerprint == row.fingerprint != found.forms[0].fingerprint
        assert model.dims == (4, 16)
        assert not model.thresholds
        cosines = (model.embed(clips) * original).sum(axis=1)
        assert cosines.min() > least[row.form], row.form
        assert model.verify(clips[0], clips[1]).score == pytest.approx(
            float(model.embed(clips[0]) @ model.embed(clips[1]))
        )
        calibrated = {speaker_key("s6"), speaker_key("s7")} if row.form == "int8-static" else set()
        assert set(model.training_speakers) == {speaker_key("nobody"), *calibrated}


@WITH_ONNX
def test_sizes_are_of_the_files_and_zeros_are_counted(found: Compression) -> None:
    sizes = {}
    for row in found.forms[1:]:
        folder = Path(str(row.folder))
        sizes[row.form] = sum((folder / name).stat().st_size for name in ("config.json", "model.safetensors"))
        assert row.size_bytes == sizes[row.form]
        assert row.ratio == found.forms[0].size_bytes / row.size_bytes
        assert row.clip_ms > 0
    weights = sum(p.numel() for p in drawn().encoder.parameters())
    matrices = sum(p.numel() for p in drawn().encoder.parameters() if p.ndim >= 2)
    assert found.forms[0].parameters == found.row("sparse").parameters == weights
    nonzero = found.row("sparse").nonzero
    assert nonzero is not None
    assert nonzero <= weights - matrices // 2 + 50
    assert found.row("sparse").zipped_ratio > 1.3
    assert found.row("pruned").parameters < weights  # type: ignore[operator]
    assert found.row("int8-static").parameters is None
    assert sizes["int4"] < sizes["float16"] < found.forms[0].size_bytes


@WITH_ONNX
def test_rates_are_of_the_trials_and_differences_to_the_original(found: Compression, corpus: Path) -> None:
    listed = [line.split() for line in (corpus / "trials.txt").read_text().splitlines()]
    model = load(str(found.row("int4").folder))
    names = sorted({name for _, *pair in listed for name in pair})
    vectors = dict(zip(names, model.embed([str(corpus / f"{name}.wav") for name in names], dim=4), strict=True))
    scores = np.array([vectors[a] @ vectors[b] for _, a, b in listed])
    targets = np.array([label == "1" for label, *_ in listed])
    # The equal error rate spelled out: where the two error rates cross over all thresholds.
    gaps = [abs((scores[targets] < t).mean() - (scores[~targets] >= t).mean()) for t in scores]
    best = scores[int(np.argmin(gaps))]
    around = ((scores[targets] < best).mean() + (scores[~targets] >= best).mean()) / 2
    rates = found.row("int4").rates
    assert [rate.dim for rate in rates] == [4, 16]
    assert rates[0].eer == pytest.approx(around, abs=0.03)
    assert (rates[0].n_target, rates[0].n_nontarget) == (18, 135)
    for row in found.forms:
        for rate, first in zip(row.rates, found.forms[0].rates, strict=True):
            assert rate.eer_low <= rate.eer <= rate.eer_high
            assert rate.difference == pytest.approx(rate.eer - first.eer, abs=1e-12)
            assert rate.gap == pytest.approx(rate.eer - rate.teacher_eer)  # type: ignore[operator]
    assert {one.platform for one in found.recommendations} == {"phone", "browser", "server"}
    json.dumps(found.to_dict(), allow_nan=False)


def test_speakers_who_are_calibrated_on_are_refused_in_trials(corpus: Path, tmp_path: Path) -> None:
    given = {"trials": corpus / "trials.txt", "table": corpus / "table.tsv", "calibrate_on": tmp_path / "t.tsv"}
    frame = pl.read_csv(corpus / "table.tsv", separator="\t").drop("split")
    frame = frame.with_columns(pl.concat_str(pl.lit(f"{corpus}/"), "path").alias("path"))
    frame.write_csv(tmp_path / "t.tsv", separator="\t")
    with pytest.raises(OverlapError):
        compress(drawn(), tmp_path / "forms", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "forms").exists()


def test_what_cannot_be_is_refused_by_name_or_left_out_with_the_reason(tmp_path: Path, corpus: Path) -> None:
    ge2e = SpeakerModel(build({"architecture": "ge2e"}), name="ge2e")
    with pytest.raises(ModelError, match="ge2e cannot be written as one ONNX graph"):
        compress(ge2e, tmp_path, forms=["int8-dynamic"])
    with pytest.raises(NestvoxError, match="int8-static takes its ranges from recordings: give --calibrate-on"):
        compress(drawn(), tmp_path, forms=["int8-static"])
    with pytest.raises(NestvoxError, match="no form is called 'int2'; known: float16, int4"):
        compress(drawn(), tmp_path, forms=["int2"])
    with pytest.raises(NestvoxError, match="need both --trials and the --table"):
        compress(drawn(), tmp_path, trials=corpus / "trials.txt")
    with pytest.raises(NestvoxError, match="gap to a teacher"):
        compress(drawn(), tmp_path, teacher="ge2e")
    assert not list(tmp_path.iterdir())
    made = compress(ge2e, tmp_path)
    assert set(made.left_out) == {"int8-dynamic", "int8-static", "pruned"}
    assert "ge2e go together is not known" in made.left_out["pruned"]
    assert not made.recommendations


@WITH_ONNX
def test_a_redimnet_with_attention_keeps_its_front_end(tmp_path: Path, corpus: Path) -> None:
    network = golden.networks()["tiny1-convatt-resnet"]  # with attention
    model = SpeakerModel(golden.with_keyed_weights(network), name="tiny")
    table = as_table(corpus / "table.tsv")
    made = compress(model, tmp_path, forms=["int4", "int8-dynamic", "int8-static"], calibrate_on=table)
    clip = str(corpus / "0-0.wav")
    for row in made.forms[1:]:
        assert float(load(str(row.folder)).embed(clip) @ model.embed(clip)) > 0.9, row.form


@WITH_ONNX
def test_a_graph_is_not_made_smaller_again(found: Compression, tmp_path: Path) -> None:
    graph = load(str(found.row("int8-dynamic").folder))
    with pytest.raises(ModelError, match="graph network of drawn-int8-dynamic is a closed box"):
        compress(graph, tmp_path, forms=["float16"])
    with pytest.raises(ModelError, match="drawn-int8-dynamic has none of these forms"):
        compress(graph, tmp_path)


@WITH_ONNX
def test_a_damaged_graph_is_an_error(found: Compression) -> None:
    graph = load(str(found.row("int8-static").folder))
    damaged = graph.encoder.network.copy()
    damaged[:1000] = 7
    graph.encoder.hold(damaged.tobytes())
    with pytest.raises(ModelError, match="the graph of the model: not an ONNX network"):
        graph.embed(np.zeros(16_000, np.float32) + 0.1, sample_rate=16_000)


def test_the_command_says_what_it_found(tmp_path: Path) -> None:
    drawn().save(tmp_path / "model")
    arguments = ["compress", tmp_path / "model", "--out", tmp_path / "forms", "--forms", "float16,pruned"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--json", str(tmp_path / "found.json")])
    assert result.exit_code == 0, result.output
    assert "float16          weights of 16 bits on disk" in result.output
    assert "give --trials and --table" in result.output
    content = json.loads((tmp_path / "found.json").read_text())
    assert [row["form"] for row in content["forms"]] == ["original", "float16", "pruned"]
    assert content["rules"].keys() == {"phone", "browser", "server"}
    assert sorted(path.name for path in (tmp_path / "forms").iterdir()) == ["float16", "pruned"]


class Quiet(Watch):
    def warn(self, text: str) -> None:
        """So few clips teach little, which is said."""


def test_forms_learn_again_from_the_original(tmp_path: Path, corpus: Path) -> None:
    """Speakers 6 and 7 to train on, 0 to 2 to choose by, 3 to 5 to measure on; the head is a rotation."""
    frame = pl.read_csv(corpus / "table.tsv", separator="\t").with_columns(
        pl.concat_str(pl.lit(f"{corpus}/"), "path").alias("path"),
        split=pl.when(pl.col("speaker").is_in(["s3", "s4", "s5"])).then(pl.lit("test")).otherwise("split"),
    )
    frame.write_csv(tmp_path / "t.tsv", separator="\t")
    lines = [line.split() for line in (corpus / "trials.txt").read_text().splitlines()]
    for name, speakers in (("dev", "012"), ("test", "345")):
        kept = [line for line in lines if line[1][0] in speakers and line[2][0] in speakers]
        (tmp_path / f"{name}.txt").write_text("".join(" ".join(line) + "\n" for line in kept))
    recipe = {
        "kind": "distil",
        "model": "mixer-v2",
        "teacher": "campplus",
        "data": {"table": "t.tsv", "dev_trials": "dev.txt", "crop_s": 0.7, "variants": 1},
        "objective": {"alpha": 1, "terms": {"cosine": {}}},
        "training": {"epochs": 4, "batch_size": 6, "learning_rate": 3e-3},
        "run": {"device": "cpu"},
    }
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe))
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0]
    model = SpeakerModel(drawn(head=False).encoder, Rotation(turn, (4, 16), "turned"), "drawn")
    given: dict[str, Any] = {"forms": ["sparse", "pruned"], "redistil": tmp_path / "again.yaml", "watch": Quiet()}
    made = compress(
        model,
        tmp_path / "forms",
        trials=tmp_path / "test.txt",
        table=tmp_path / "t.tsv",
        settings=FEW,
        n_permutations=20,
        **given,
    )
    assert [row.form for row in made.forms] == ["original", "sparse", "sparse-distilled", "pruned", "pruned-distilled"]
    assert all([rate.dim for rate in row.rates] == [4, 16] for row in made.forms)
    models = {row.form: load(str(row.folder)) for row in made.forms[1:]}
    assert open_cache(tmp_path / "forms" / "targets").metadata.fingerprint == model.encoder_fingerprint
    zeros, left = (
        {name: weight == 0 for name, weight in models[form].encoder.named_parameters() if weight.ndim >= 2}
        for form in ("sparse", "sparse-distilled")
    )
    assert sum(int(one.sum()) for one in zeros.values()) > 0
    assert all(bool((left[name] | ~where).all()) for name, where in zeros.items()), "zeros stay"
    for form in ("sparse", "pruned"):
        log = (tmp_path / "forms" / f"{form}-run" / "metrics.jsonl").read_text().splitlines()
        losses = [found["epoch_loss"] for found in map(json.loads, log) if "epoch_loss" in found]
        assert losses[-1] < losses[0]
        turned = models[f"{form}-distilled"].head
        assert turned is not None
        assert np.array_equal(turned.tensors()["matrix"], model.head.tensors()["matrix"])  # type: ignore[union-attr]
        assert made.row(f"{form}-distilled").parameters == made.row(form).parameters
        assert set(models[f"{form}-distilled"].training_speakers) == {speaker_key(f"s{n}") for n in (0, 1, 2, 6, 7)}
    with pytest.raises(OverlapError):
        compress(model, tmp_path / "forms", trials=tmp_path / "dev.txt", table=tmp_path / "t.tsv", **given)
    with pytest.raises(NestvoxError, match="name one of them in --forms"):
        compress(model, tmp_path / "none", forms=["int4"], redistil=tmp_path / "again.yaml")
    with pytest.raises(NestvoxError, match="give --redistil"):
        compress(model, tmp_path / "none", set_=["training.epochs=1"])
    with pytest.raises(ModelError, match="takes pooled vectors"):
        compress(drawn(), tmp_path / "none", **given)
    assert not (tmp_path / "none").exists()


def _row(form: str, size: int, zipped: int, clip_ms: float, difference: float, p_value: float = 1.0) -> FormRow:
    rate = FormRates(
        dim=8,
        eer=0.1 + difference,
        eer_low=0.05,
        eer_high=0.2,
        difference=difference,
        difference_low=difference - 0.01,
        difference_high=difference + 0.01,
        p_value=p_value,
        teacher_eer=None,
        gap=None,
        trials_sha256="00",
        n_target=10,
        n_nontarget=10,
    )
    return FormRow(form, "", None, "ff", 1, 1, size, zipped, 1.0, 1.0, clip_ms, (rate,))


def test_recommendations_follow_their_rules() -> None:
    original = _row("original", 1000, 900, 10.0, 0.0)
    quick = _row("quick", 600, 500, 5.0, 0.004)
    small = _row("small", 100, 400, 12.0, 0.0)
    slow = _row("slow", 90, 300, 19.0, -0.001)
    slower = _row("slower", 10, 10, 21.0, 0.0)
    worse = _row("worse", 1, 1, 1.0, 0.006)
    shown = _row("shown", 1, 1, 1.0, 0.003, p_value=0.01)
    rows = [original, quick, small, slow, slower, worse, shown]
    assert {one.platform: one.form for one in recommended(rows)} == {
        "phone": "small",
        "browser": "slow",
        "server": "quick",
    }
    assert {one.form for one in recommended([original, worse, shown])} == {"original"}
    assert recommended([replace(original, rates=()), small]) == ()
