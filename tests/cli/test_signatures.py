"""A command calls one public function whose arguments have the names and the defaults of its options."""

from __future__ import annotations

import importlib
import inspect
import operator
from collections.abc import Callable
from typing import Any

import pytest

from nestvox.cli.app import commands

COMMANDS = dict(commands())

# What only a terminal has, on any command: how `nestvox.load` is called, and a file beside what is printed.
TERMINAL = frozenset({"device", "backend", "precision", "weights", "offline", "json_out"})
# What only Python has, on any function: whom it tells.
PYTHON = frozenset({"self", "progress", "bars", "announce", "load"})

# Fields of `Settings`, and what `read_steps` makes `Steps` of: one object each in Python.
SETTINGS = "p_target c_miss c_fa n_bootstrap seed"
STEPS = "score_norm cohort top_k calibration"

# Fields of `EmbeddingSettings`, likewise.
EMBEDDING = "batch_size dtype max_duration_s skip_bad streams threads workers"

# Command to its function, to what else only the terminal has, and to what else only Python has.
PUBLIC: dict[str, tuple[str, str, str]] = {
    "embed": ("extraction.embed:embed_table", "channel split", ""),
    "cache": (
        "extraction.cache.feature_cache:build_cache",
        f"augment rir shard_utterances split {EMBEDDING}",
        "augmentation rooms settings speed",
    ),
    "export": ("extraction.formats.interchange:export_store", "onnx", ""),
    "rotate": ("extraction.rotate:rotate_vectors", "out rotated", "choosing"),
    "ablate": (
        "ablation.ablating:ablate",
        f"confidence list_ show {SETTINGS}",
        "settings watch",
    ),
    "search-students": ("ablation.searching:search_students", "", "watch"),
    "train": ("training.train:train", "list_ set_ show", "start teacher watch"),
    "distil": ("training.train:train", "list_ set_ show", "start teacher watch"),
    "inspect": ("inspection.inspect:inspect_model", "channel files", "clips folder lengths_s"),
    "bench": ("inspection.bench:bench_model", "", ""),
    "verify": ("model.speaker_model:SpeakerModel.verify", "calibration channel model route", "sample_rate"),
    "diarize": ("diarization.diarize_files:diarize", "", ""),
    "diarize-score": ("diarization.score:score_diarization", "", "labels"),
    "data check": ("corpora.check:check_corpus", "", ""),
    "data trials": ("corpora.generate:generate_trials", "fmt out preset profiles split", ""),
    "data split": ("corpora.split:split_by_speaker", "out", ""),
    "data shards": ("corpora.shards:write_shards", "", ""),
    "data augment": (
        "corpora.augmented:write_augmented",
        "bank_split noise rir settings split trials_file",
        "augmentation banks",
    ),
    "data describe": ("corpora.trials:read_trials", "paths", "path"),
    "data prepare folder": ("corpora.prepare.folder:prepare_folder", "out synthetic", ""),
    "data prepare csv": ("corpora.prepare.csv_list:prepare_csv", "out synthetic", ""),
    "data prepare voxceleb1": (
        "corpora.prepare.voxceleb:prepare_voxceleb1",
        "mini n_speakers out seed synthetic",
        "journal",
    ),
    "data prepare voxceleb2": (
        "corpora.prepare.voxceleb:prepare_voxceleb2",
        "mini n_speakers out seed synthetic",
        "journal",
    ),
    "data prepare voxceleb-mini": ("corpora.prepare.voxceleb_mini:prepare_voxceleb_mini", "out", ""),
    "data prepare librispeech": ("corpora.prepare.librispeech:prepare_librispeech", "out synthetic", "journal"),
    "data prepare cnceleb": ("corpora.prepare.cnceleb:prepare_cnceleb", "out synthetic trials_out", "journal"),
    "data prepare kaldi": ("corpora.prepare.kaldi:prepare_kaldi", "out synthetic", ""),
    "data prepare lhotse": ("corpora.prepare.lhotse:prepare_lhotse", "out synthetic", ""),
    "data prepare parquet": ("corpora.prepare.parquet:prepare_parquet", "out synthetic", ""),
    "data prepare nemo": ("corpora.prepare.nemo:prepare_nemo", "out synthetic", ""),
    "data prepare webdataset": ("corpora.shards:prepare_shards", "out synthetic", "root"),
    "centre": ("extraction.domain_mean:centre", "out rotated split store", "name"),
    "models fetch": ("zoo.weights:fetch", "", ""),
    "plan": ("metrics.plan:plan_study", "pilot_scores pilot_table pilot_trials", ""),
}
PUBLIC |= {
    "plan enrol": (
        "evaluation.enrolment:plan_enrolment",
        "allow_overlap clips lengths model split store table",
        "classes counts crops durations_s labels sessions speakers vectors",
    ),
    "evaluate": (
        "evaluation.measure:evaluate",
        f"allow_overlap conditions baseline csv figure_format figures model report "
        f"scores store {SETTINGS} detail_dim eer_at_corner interval {STEPS} thresholds",
        "labels given settings system",
    ),
    "compare": (
        "evaluation.comparing:compare",
        f"confidence csv figure_format figures report systems {SETTINGS}",
        "a b more names settings speakers",
    ),
    "probe": (
        "probing.ladder:probe",
        "adapt choice_split epochs fit_split layers leaky rungs seed",
        "probing",
    ),
    "compress": ("compression.compressing:compress", SETTINGS, "settings watch"),
    "calibrate": (
        "evaluation.llr_fit:calibrate",
        f"model out scores store {STEPS.replace('calibration', '')}",
        "steps system",
    ),
    "threshold": (
        "evaluation.set_threshold:threshold",
        f"by_duration c_fa c_miss duration_edges eer far frr model out p_target scores store {STEPS}",
        "classes rule steps system",
    ),
}
# A default that the command finds out otherwise.
OWN_DEFAULT = {("plan", "clusters"), ("plan", "correlation")}
# Commands that are several calls, or only print: every one of them is a page of the guide.
NO_FUNCTION = frozenset(
    {
        "data fetch",
        "demo",
        "models import-mrl",
        "models import-onnx",
        "models import-voxceleb-trainer",
        "models import-weights",
        "models list",
        "models path",
        "models show",
    }
)


def function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(f"nestvox.{module}")
    return operator.attrgetter(name)(found)  # type: ignore[no-any-return]


def test_every_command_has_its_function() -> None:
    assert set(COMMANDS) == PUBLIC.keys() | NO_FUNCTION


@pytest.mark.parametrize("name", PUBLIC)
def test_options_are_arguments(name: str) -> None:
    path, terminal, python = PUBLIC[name]
    options = {param.name: param.default for param in COMMANDS[name].params}
    arguments = inspect.signature(function(path)).parameters
    assert options.keys() - arguments.keys() - TERMINAL == set(terminal.split())
    assert arguments.keys() - options.keys() - PYTHON == set(python.split())
    for argument in options.keys() & arguments.keys() - TERMINAL:
        default = arguments[argument].default
        if default is not inspect.Parameter.empty and (name, argument) not in OWN_DEFAULT:
            assert (options[argument] or None) == (default or None), argument
