"""Utterance tables and trial lists: read, made, checked against each other and against their audio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.corpora.augmented import voices_of, write_augmented
    from nestvox.corpora.check import CheckReport, Finding, check_corpus
    from nestvox.corpora.generate import PRESETS, Preset, generate_trials
    from nestvox.corpora.overlap import refuse_overlap, speaker_key
    from nestvox.corpora.prepare.cnceleb import prepare_cnceleb
    from nestvox.corpora.prepare.csv_list import prepare_csv
    from nestvox.corpora.prepare.folder import Prepared, prepare_folder
    from nestvox.corpora.prepare.kaldi import prepare_kaldi
    from nestvox.corpora.prepare.lhotse import prepare_lhotse
    from nestvox.corpora.prepare.librispeech import fetch_librispeech, prepare_librispeech
    from nestvox.corpora.prepare.nemo import prepare_nemo
    from nestvox.corpora.prepare.synthetic import prepare_synthetic
    from nestvox.corpora.prepare.voxceleb import prepare_voxceleb1, prepare_voxceleb2
    from nestvox.corpora.prepare.voxceleb_lists import fetch_trial_list
    from nestvox.corpora.prepare.voxceleb_mini import MiniVoxCeleb, prepare_voxceleb_mini
    from nestvox.corpora.profile_trials import generate_profile_trials
    from nestvox.corpora.scores import read_scores
    from nestvox.corpora.shards import prepare_shards, write_shards
    from nestvox.corpora.split import split_by_speaker
    from nestvox.corpora.trials import Trials, read_trials, write_trials
    from nestvox.corpora.utterances import UtteranceTable, read_utterances, write_utterances

__all__ = [
    "PRESETS",
    "CheckReport",
    "Finding",
    "MiniVoxCeleb",
    "Prepared",
    "Preset",
    "Trials",
    "UtteranceTable",
    "check_corpus",
    "fetch_librispeech",
    "fetch_trial_list",
    "generate_profile_trials",
    "generate_trials",
    "prepare_cnceleb",
    "prepare_csv",
    "prepare_folder",
    "prepare_kaldi",
    "prepare_lhotse",
    "prepare_librispeech",
    "prepare_nemo",
    "prepare_shards",
    "prepare_synthetic",
    "prepare_voxceleb1",
    "prepare_voxceleb2",
    "prepare_voxceleb_mini",
    "read_scores",
    "read_trials",
    "read_utterances",
    "refuse_overlap",
    "speaker_key",
    "split_by_speaker",
    "voices_of",
    "write_augmented",
    "write_shards",
    "write_trials",
    "write_utterances",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "augmented": "voices_of write_augmented",
        "check": "CheckReport Finding check_corpus",
        "generate": "PRESETS Preset generate_trials",
        "overlap": "refuse_overlap speaker_key",
        "prepare.cnceleb": "prepare_cnceleb",
        "prepare.csv_list": "prepare_csv",
        "prepare.folder": "Prepared prepare_folder",
        "prepare.kaldi": "prepare_kaldi",
        "prepare.lhotse": "prepare_lhotse",
        "prepare.librispeech": "fetch_librispeech prepare_librispeech",
        "prepare.nemo": "prepare_nemo",
        "prepare.synthetic": "prepare_synthetic",
        "prepare.voxceleb": "prepare_voxceleb1 prepare_voxceleb2",
        "prepare.voxceleb_lists": "fetch_trial_list",
        "prepare.voxceleb_mini": "MiniVoxCeleb prepare_voxceleb_mini",
        "profile_trials": "generate_profile_trials",
        "scores": "read_scores",
        "shards": "prepare_shards write_shards",
        "split": "split_by_speaker",
        "trials": "Trials read_trials write_trials",
        "utterances": "UtteranceTable read_utterances write_utterances",
    },
)
