"""What a run is made from: tables, trials, speakers that must not meet, and feature caches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import polars as pl

from nestvox.audio.augment import Augmentation, Banks
from nestvox.audio.banks import NoiseBank, RoomBank
from nestvox.audio.read import SAMPLE_RATE
from nestvox.corpora.augmented import voices_of
from nestvox.corpora.trials import read_trials
from nestvox.corpora.utterances import UNLABELLED, UtteranceTable, read_utterances
from nestvox.errors import RecipeError, StoreError
from nestvox.extraction.cache.feature_cache import CacheTap, FeatureCache, build_cache, open_cache
from nestvox.extraction.cache.plan import refuse_difference
from nestvox.extraction.settings import EmbeddingSettings
from nestvox.heads.pairs import LabelledPairs
from nestvox.model.speaker_model import SpeakerModel
from nestvox.progress import Bars, Progress, no_bars
from nestvox.training.checkpoint import Origin, Progressed, refuse_other_start
from nestvox.training.data.cached import CachedUtterances
from nestvox.training.data.development import Development, keep_apart
from nestvox.training.data.targets import Targets, cached_rows
from nestvox.training.parallel import Processes
from nestvox.training.recipe.kinds import LoopRecipe, Recipe
from nestvox.training.recipe.sections import AugmentedData, Data, FeatureData, HeadData, TaughtData


@dataclass(frozen=True, eq=False)
class Material:
    """Training utterances and development trials of a run, checked.

    Attributes:
        train: the training utterances; none where only a cache was given.
        train_cache: their features; none where nothing needs them.
        dev: the development trials.
        dev_cache: features of their utterances.
        teacher: what a distillation learns from, of the training utterances; none without one.
        labels: what every figure of the run must be shown with.
        speakers: of training and development.
        notes: what of the data is left out, a sentence each.
    """

    train: UtteranceTable | None
    train_cache: FeatureCache | None
    dev: Development
    dev_cache: FeatureCache | None
    teacher: Targets | None
    labels: tuple[str, ...]
    speakers: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> tuple[int, int]:
        """Training utterances and speakers that there are, those included that are left out as unusable."""
        if self.train is not None:
            return len(self.train), self.train.frame["speaker"].n_unique()
        assert self.train_cache is not None
        return len(self.train_cache) + len(self.train_cache.metadata.failed), len(set(self.train_cache.speakers))

    @property
    def usable(self) -> UtteranceTable:
        """The training utterances without those that a cache left out."""
        assert self.train is not None
        skipped = [] if self.train_cache is None else [one.utt_id for one in self.train_cache.metadata.failed]
        skipped += [] if self.teacher is None else list(self.teacher.failed)
        kept = self.train.frame.filter(~pl.col("utt_id").is_in(skipped)) if skipped else self.train.frame
        return replace(self.train, frame=kept, _lines=None)

    @property
    def n_train(self) -> int:
        """Training utterances that are learned from."""
        return len(self.cached().utterances) if self.train is None else len(self.usable)

    def cached(self) -> CachedUtterances:
        """Take the training utterances of the cache."""
        assert self.train_cache is not None
        names = None if self.train is None else self.usable.frame["utt_id"].to_list()
        return CachedUtterances.of(self.train_cache, names)

    def dev_pairs(self, tap: CacheTap) -> LabelledPairs:
        """Return the development trials on cached vectors of the clean utterances."""
        cache = self.dev_cache
        assert cache is not None
        return self.dev.pairs(lambda names: cache.gather(cached_rows(cache, names), 0, tap=tap))

    def origins(self, start: SpeakerModel | None, fingerprint: str) -> list[Origin]:
        """What a run on this material begins with, and is resumed with only.

        Args:
            start: the model that it begins with; None: random weights.
            fingerprint: of the encoder and its head.
        """
        named = "random weights" if start is None else start.name
        found = [Origin("start", fingerprint, f"{named} ({fingerprint})"), *_given(self.dev, self.train)]
        if self.train_cache is not None:
            cache = self.train_cache
            words = f"{cache.path} ({len(cache):,} utterances in {cache.n_variants} variants, {cache.key})"
            found.append(Origin("data.cache", cache.key, words))
        taught = {} if self.teacher is None else {"teacher": self.teacher, **self.teacher.others}
        for name, one in taught.items():
            if one.cache is not self.train_cache:
                found.append(Origin(name, one.fingerprint, f"{one.name} ({one.fingerprint})"))
        return found

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        start: SpeakerModel | None,
        teacher: SpeakerModel | None,
        folder: Path,
        processes: Processes,
        *,
        teachers: Mapping[str, SpeakerModel] = MappingProxyType({}),
        bars: Bars = no_bars,
        before: Progressed | None = None,
    ) -> Material:
        """Read tables and trials, keep speakers apart, and open or make the caches that the recipe needs.

        Args:
            recipe: the section `data`.
            start: the encoder, of which the features are; None: nothing pretrained, so that there are no features.
            teacher: whose embeddings a distillation learns from, where that is another model.
            folder: of the run, where missing caches are made.
            processes: the first one makes what is missing.
            teachers: more of them, by name.
            bars: for the display.
            before: how far the run is that is resumed; None: it begins.

        Raises:
            AugmentationError: settings of the augmentation that make no sense, or that there is nothing for.
            OverlapError: two of training, development and test share speakers.
            RecipeError: something that the recipe has to name is missing.
            StoreError: a cache that is not complete, of another encoder, lacks utterances, has other speakers, or
                was made otherwise than the recipe says.
            TrainingError: the run that is resumed began with other trials or utterances.
        """
        data, features = recipe.data, recipe.features or FeatureData()
        if data.dev_trials is None:
            raise RecipeError(
                "data.dev_trials is missing: the labelled list that the best weights are chosen on, of speakers who "
                "are not trained on"
            )
        unnamed = data.unlabelled if isinstance(data, TaughtData) else None
        whole = _joined(data.table, unlabelled=unnamed is not None)
        train = None if whole is None else _trained_on(whole, data.train, unnamed)
        given = None if features.cache is None else _opened(features.cache, start)
        if given is not None and start is not None and isinstance(data, HeadData):
            _refuse_other_making(data, given, start.sample_rate)
        given_dev = given if features.dev_cache is None else _opened(features.dev_cache, start)
        dev_whole = _joined(data.dev_table) or whole
        dev_table = _dev_table(data, dev_whole, given_dev if features.dev_cache is not None else None)
        if train is None and (given is None or teacher is not None):
            raise RecipeError("data.table is missing: an utterance table with the training utterances")
        trials = read_trials(data.dev_trials)
        dev = Development.of(dev_table, trials)
        speakers = _speakers_apart(data, train, given, dev_table, [whole, dev_whole])
        if features.dev_cache is None and given_dev is not None and not set(dev.utt_ids) <= set(given_dev.utt_ids):
            given_dev = None
        speeds: tuple[float, ...] = ()
        if train is not None and isinstance(data, AugmentedData) and (given is None or not isinstance(data, HeadData)):
            # Wrong settings are told before hours of work.
            speeds = speeds_of(data, augmentation_of(data, banks_of(data, train, SAMPLE_RATE)))
        if before is not None:  # said of these, and not of the caches that are made of them
            refuse_other_start(folder, before, replace(before, start=list(map(asdict, _given(dev, train)))))

        def made(
            model: SpeakerModel, table: UtteranceTable, part: str, path: Path | None = None, **options: Any
        ) -> FeatureCache:
            shared, path = path, folder / "cache" / part if path is None else path
            if processes.first and not (shared and _serves(shared, table, options.get("speed", 1.0))):
                with bars(f"features ({part})", "rows") as progress:
                    _make(recipe, model, table, path, progress, **options)
            processes.wait()
            return _opened(path, model)

        if start is not None and given is None:
            assert train is not None
            given = made(start, train, "train", variants=recipe.variants, skip_bad=features.skip_bad)
        if start is not None and given_dev is None:
            named = replace(dev_table, frame=dev_table.frame[dev.utterances], _lines=None)
            given_dev = made(start, named, "dev", dtype="float32")
        taught = None
        if isinstance(recipe, LoopRecipe) and recipe.loss.distill and given is not None and teacher is None:
            taught = Targets(given, given.metadata.model, given.metadata.fingerprint)
        asked = start if teacher is None else teacher
        if asked is not None and train is not None and (taught is not None or teacher is not None):
            skips = data.skip_bad if isinstance(data, TaughtData) else features.skip_bad
            heard = {name: partial(made, model, train, skip_bad=skips) for name, model in teachers.items()}
            more = {name: _taught(recipe, teachers[name], None, speeds, heard[name], name) for name in teachers}
            taught = _taught(recipe, asked, taught, speeds, partial(made, asked, train, skip_bad=skips))
            taught = replace(taught, others=more)
        labels = {*dev_table.labels, *(() if given_dev is None else given_dev.metadata.labels)}
        notes = [
            *_rows_in_no_part(recipe, whole, dev_whole),
            *_unusable(train, given, {} if taught is None else taught.failed),
            *dev.notes,
        ]
        return cls(train, given, dev, given_dev, taught, tuple(sorted(labels)), speakers, tuple(notes))


def _given(dev: Development, train: UtteranceTable | None) -> list[Origin]:
    """Trials and training utterances, as origins of a run."""
    trials = dev.trials
    words = f"{trials.source} ({len(trials):,} trials, {trials.sha256[:12]})"
    found = [Origin("data.dev_trials", trials.sha256, words)]
    if train is not None:
        digest = hashlib.sha256()
        for row in train.frame.select("utt_id", "path", "speaker").iter_rows():
            digest.update("\t".join(row).encode() + b"\n")
        speakers = train.frame["speaker"].n_unique()
        words = f"{len(train):,} training utterances of {speakers:,} speakers in {train.source}"
        found.append(Origin("data.table", digest.hexdigest(), f"{words} ({digest.hexdigest()[:12]})"))
    return found


def _taught(
    recipe: Recipe,
    teacher: SpeakerModel,
    own: Targets | None,
    speeds: Sequence[float],
    made: Callable[..., FeatureCache],
    name: str = "",
) -> Targets:
    """Compute, or find, what a teacher says of the clean utterances at every speed; `own` where it is there already."""
    part = f"teacher-{name}" if name else "teacher"
    if own is None:
        size = sum(parameter.numel() for parameter in teacher.encoder.parameters())
        cache = made(part, _targets_folder(recipe, name))
        own = Targets(cache, teacher.name, teacher.fingerprint, size, teacher.head)
    at_speeds = {
        speed: made(f"{part}-speed{speed:g}", _targets_folder(recipe, name, speed), speed=speed)
        for speed in (() if isinstance(recipe.data, HeadData) else speeds)
    }
    return replace(own, at_speeds=at_speeds, encoder=teacher.encoder)


def _targets_folder(recipe: Recipe, teacher: str = "", speed: float = 1.0) -> Path | None:
    """Where several runs look for what a teacher says; other teachers and speeds, and random weights, are beside it."""
    shared = recipe.data.targets if isinstance(recipe.data, TaughtData) else None
    if shared is None:
        return None
    drawn = isinstance(recipe, LoopRecipe) and recipe.teacher_order == "random"
    name = shared.name + (f"-{teacher}" if teacher else "") + (f"-random-{recipe.seed}" if drawn else "")
    return shared.with_name(name if speed == 1 else f"{name}-speed{speed:g}")


def _trained_on(table: UtteranceTable, where: dict[str, str], unlabelled: dict[str, str] | None) -> UtteranceTable:
    """Rows that are trained on; those that need no speaker come last, and only they may have none."""
    train = _part(table, where, "train")
    if unlabelled is None:
        return train
    nameless = train.frame["speaker"].str.starts_with(UNLABELLED)
    if nameless.any():
        first = train.frame["utt_id"].filter(nameless)[0]
        raise RecipeError(
            f"data.train: {int(nameless.sum()):,} rows have no speaker, e.g. {first}; name them by data.unlabelled"
        )
    more = _part(table, unlabelled, "unlabelled")
    return replace(train, frame=pl.concat([train.frame, more.frame]).unique("utt_id", maintain_order=True), _lines=None)


def _joined(paths: Sequence[Path], *, unlabelled: bool = False) -> UtteranceTable | None:
    tables = [read_utterances(path, unlabelled=unlabelled) for path in paths]
    if len(tables) < 2:
        return tables[0] if tables else None
    frames = [
        table.frame.with_columns(pl.Series("path", [str(path) for path in table.audio_paths], pl.String))
        for table in tables
    ]
    return UtteranceTable(
        pl.concat(frames, how="diagonal_relaxed"), " + ".join(table.source for table in tables), tables[0].root
    )


def _part(table: UtteranceTable, where: dict[str, str], part: str, *, may_be_empty: bool = False) -> UtteranceTable:
    found = table.where(**where)
    if not len(found) and not may_be_empty:
        raise RecipeError(f"data.{part}: no utterance of {table.source} has {where or 'a row'}; say what marks them")
    return found


def _speakers_apart(
    data: Data,
    train: UtteranceTable | None,
    cache: FeatureCache | None,
    dev: UtteranceTable,
    tables: Sequence[UtteranceTable | None],
) -> tuple[str, ...]:
    """Refuse speakers who stand in two parts, and return those of training and development."""
    trained = cache.speakers if train is None and cache is not None else []
    if train is not None:
        trained = train.frame["speaker"].to_list()
    if len(set(trained)) == 1:
        raise RecipeError(
            f"data.train: every training utterance is of the speaker {trained[0]}; telling speakers apart takes two or "
            "more"
        )
    chosen_by = dev.frame["speaker"].unique().to_list()
    keep_apart(trained, chosen_by, _tested(tables, data.test))
    if train is not None and cache is not None:
        _refuse_other_speakers(cache, train)
    return tuple(sorted({*trained, *chosen_by}))


def _dev_table(data: Data, whole: UtteranceTable | None, cache: FeatureCache | None) -> UtteranceTable:
    if whole is not None:
        return _part(whole, data.dev, "dev")
    if cache is not None:
        return _table_of(cache)
    raise RecipeError("data.table is missing: an utterance table with the training and development utterances")


def _refuse_other_making(data: HeadData, cache: FeatureCache, sample_rate: int) -> None:
    """Refuse a cache that was made otherwise than the recipe says, as far as it says anything."""
    plan = cache.plan
    expected: dict[str, Any] = {}
    if data.variants != HeadData().variants:
        expected["variants"] = data.variants
    if data.crop_s is not None:
        expected["crop_s"] = data.crop_s
    banks = dict(plan.augmentation.get("banks", {}))
    if data.noise is not None:
        banks["noise"] = NoiseBank.from_folder(data.noise, sample_rate=sample_rate).fingerprint
    if data.rooms is not None:
        banks["rooms"] = RoomBank.from_folder(data.rooms, sample_rate=sample_rate).fingerprint
    if data.augmentation or data.noise is not None or data.rooms is not None:
        expected["augmentation"] = {**plan.augmentation, **data.augmentation, "banks": banks}
    refuse_difference(str(cache.path), plan, expected)


def _tested(tables: Sequence[UtteranceTable | None], where: dict[str, str]) -> list[str]:
    """Speakers of the rows that the result will be reported on, of the tables for training and for development."""
    found: set[str] = set()
    for number, table in enumerate(tables):
        # A table for development alone need not say which of its rows are for testing.
        if table is not None and where and (not number or where.keys() <= set(table.frame.columns)):
            found.update(_part(table, where, "test", may_be_empty=True).frame["speaker"].to_list())
    return sorted(found)


def _rows_in_no_part(recipe: Recipe, whole: UtteranceTable | None, dev_whole: UtteranceTable | None) -> list[str]:
    """Rows of the table that are for none of training, development and test: a split with another name, perhaps."""
    if whole is None:
        return []
    data = recipe.data
    unlabelled = data.unlabelled if isinstance(data, TaughtData) else None
    parts = {"train": data.train, "test": data.test} | ({} if unlabelled is None else {"unlabelled": unlabelled})
    parts |= {"dev": data.dev} if dev_whole is whole else {}
    used = pl.concat([whole.where(**where).frame["utt_id"] for part, where in parts.items() if where or part != "test"])
    left = whole.frame.filter(~pl.col("utt_id").is_in(used.implode()))
    if not len(left):
        return []
    said = ", ".join(f"data.{part} {where}" for part, where in parts.items())
    return [
        f"{len(left):,} of {len(whole):,} utterances of {whole.source} are in no part of the run ({said}), e.g. "
        f"{left['utt_id'][0]}"
    ]


def _unusable(train: UtteranceTable | None, cache: FeatureCache | None, untaught: Mapping[str, str]) -> list[str]:
    """Training utterances that the cache, or those of the teachers, left out."""
    failed = {} if cache is None else {failure.utt_id: failure.reason for failure in cache.metadata.failed}
    failed = {**untaught, **failed}
    if train is not None:
        failed = {name: failed[name] for name in train.frame["utt_id"] if name in failed}
    if not failed:
        return []
    total = len(train) if train is not None else len(failed) + (0 if cache is None else len(cache))
    name, reason = next(iter(failed.items()))
    lost = ""
    if train is not None:
        kept = train.frame.filter(~pl.col("utt_id").is_in(list(failed)))["speaker"].n_unique()
        if n_lost := train.frame["speaker"].n_unique() - kept:
            lost = f", and with them {n_lost:,} speakers whole"
    return [
        f"{len(failed):,} of {total:,} training utterances are left out as unusable{lost}, e.g. {name}: {reason}; "
        f"{'store.json of the targets' if cache is None else cache.path / 'store.json'} names them all"
    ]


def _refuse_other_speakers(cache: FeatureCache, table: UtteranceTable) -> None:
    """The labels that are learned stand in the cache: they must be those of the table, which were kept apart."""
    there = dict(zip(cache.utt_ids, cache.speakers, strict=True))
    names = zip(table.frame["utt_id"].to_list(), table.frame["speaker"].to_list(), strict=True)
    other = [(name, speaker) for name, speaker in names if there.get(name, speaker) != speaker]
    if other:
        name, speaker = other[0]
        raise StoreError(
            f"{cache.path} has other speakers than {table.source} for {len(other)} utterances, e.g. {there[name]} for "
            f"{name}, which is of {speaker} now: make the cache anew"
        )


def _table_of(cache: FeatureCache) -> UtteranceTable:
    frame = pl.DataFrame(
        {
            "utt_id": cache.utt_ids,
            "path": [
                path or name for path, name in zip(cache.store.paths[:: cache.n_variants], cache.utt_ids, strict=True)
            ],
            "speaker": cache.speakers,
        }
    )
    return UtteranceTable(frame, str(cache.path), cache.path)


def _opened(path: Path, model: SpeakerModel | None) -> FeatureCache:
    return open_cache(path, None if model is None else {"fingerprint": model.encoder_fingerprint})


def banks_of(data: AugmentedData, table: UtteranceTable, sample_rate: int) -> Banks:
    """Open the noise, the rooms and the voices (of the training utterances) that augmentation draws from."""
    return Banks(
        None if data.noise is None else NoiseBank.from_folder(data.noise, sample_rate=sample_rate),
        None if data.rooms is None else RoomBank.from_folder(data.rooms, sample_rate=sample_rate),
        voices_of(table, sample_rate=sample_rate),
    )


def augmentation_of(data: AugmentedData, banks: Banks) -> Augmentation:
    """Return how training audio is varied.

    Raises:
        AugmentationError: an unknown setting, one that makes no sense, or one that the banks have nothing for.
    """
    augmentation = Augmentation.for_banks(banks, **data.augmentation)
    if data.variants > 1:
        augmentation.check_banks(banks)
    return augmentation


def speeds_of(data: AugmentedData, augmentation: Augmentation) -> tuple[float, ...]:
    """Other speeds at which training audio is heard."""
    return augmentation.speeds if data.variants > 1 and augmentation.p_speed else ()


def _serves(path: Path, table: UtteranceTable, speed: float) -> bool:
    """Whether a finished clean cache, which other runs share, has every row of a table: by its name and its file's."""
    try:
        cache = FeatureCache(path)
    except StoreError:
        return False  # it is made, gone on with, or refused by those who make caches
    if cache.n_variants != 1 or cache.plan.augmentation != ({} if speed == 1 else {"speed": speed}):
        return False
    there = {name: Path(file or "").name for name, file in zip(cache.utt_ids, cache.store.paths, strict=True)}
    there |= {one.utt_id: Path(one.path or "").name for one in cache.metadata.failed}
    return all(there.get(name) == Path(file).name for name, file in table.frame.select("utt_id", "path").iter_rows())


def _make(
    recipe: Recipe,
    model: SpeakerModel,
    table: UtteranceTable,
    path: Path,
    progress: Progress,
    *,
    variants: int = 1,
    dtype: Literal["float16", "float32"] = "float16",
    skip_bad: bool = False,
    speed: float = 1.0,
) -> None:
    """Make a cache in the run's folder, or complete the one that an earlier call began."""
    banks, augmentation, crop_s = Banks(), None, None
    if isinstance(recipe.data, AugmentedData) and variants > 1:
        banks = banks_of(recipe.data, table, model.sample_rate)
        augmentation, crop_s = augmentation_of(recipe.data, banks), recipe.data.crop_s
    build_cache(
        model,
        table,
        path,
        variants=variants,
        augmentation=augmentation,
        noise=banks.noise,
        rooms=banks.rooms,
        crop_s=crop_s,
        speed=speed,
        seed=recipe.seed,
        settings=EmbeddingSettings(dtype=dtype, skip_bad=skip_bad, workers=recipe.run.workers),
        progress=progress,
    )
