r"""Every nested head on one encoder, beside what it has to beat: the whole table, with intervals and paired tests.

    for split in train dev test; do nestvox cache ../shared/speech/utterances.tsv --split $split --model campplus \\
        --variants 1 --dtype float32 --out features/$split; done
    python3 benchmarks/heads_table.py features
    python3 benchmarks/heads_table.py features --model linear=runs/linear/model --model linear@64=runs/linear64/model
    python3 benchmarks/heads_table.py features --on test --keep discriminant
    python3 benchmarks/heads_table.py features --questions
    python3 benchmarks/heads_table.py demo-output/store  # embeddings alone, parts by the table's column `split`

Rows: the encoder cut as it is (truncation) and less its mean (centred), a random rotation, PCA, the discriminant order
and its refinement, each without a mean, with one, and with one behind the prefix length that is best on dev; LDA by
cosine, two-covariance PLDA (shrinkage chosen on dev); and heads that `nestvox train` left, `NAME@DIM` trained for that
one length. Everything is fitted on features/train (and features/extra with --extra) and chosen on the development
trials; --on test reads the test trials, with what dev chose. --questions answers, on dev: how many training speakers,
another corpus than was fitted on, the price of nesting, bytes a voice, the mean of a domain.

Without FEATURES, or where there are none, it says what to make and ends.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from nestvox.corpora.trials import Trials, read_trials
from nestvox.corpora.utterances import UtteranceTable, read_utterances
from nestvox.extraction.cache.feature_cache import FeatureCache
from nestvox.extraction.store.metadata import is_store
from nestvox.extraction.store.store import EmbeddingStore
from nestvox.heads.choose import WEIGHTS, choose_rotation
from nestvox.heads.contract import normalise
from nestvox.heads.pairs import LabelledPairs
from nestvox.heads.rotation import Centre, Rotation, Scatter, centred, default_dims, discriminant, truncation
from nestvox.metrics import eer, error_curve
from nestvox.metrics.bootstrap import speaker_bootstrap
from nestvox.metrics.compare import compare_scores, rank_identically
from nestvox.metrics.influence import Clusters, eer_influence, logit_interval
from nestvox.model.folder import CONFIG_FILE, read_head, read_tensors
from nestvox.scoring.speakers import trial_speakers
from nestvox.scoring.system import prefix_cosines

Floats = NDArray[np.float64]
Scores = dict[int, Floats]
SHRINKAGES = (0.001, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True, eq=False)
class Clips:
    """Vectors of some utterances: of both taps, with the speakers and corpora."""

    embedding: Floats
    pooled: NDArray[np.float32]
    speakers: list[str]
    corpora: NDArray[np.str_]

    def part(self, rows: NDArray[Any]) -> Clips:
        """Return some of them."""
        speakers = np.asarray(self.speakers)[rows].tolist()
        return Clips(self.embedding[rows], self.pooled[rows], speakers, self.corpora[rows])

    def and_(self, other: Clips) -> Clips:
        """Return both."""
        return Clips(
            np.concatenate([self.embedding, other.embedding]),
            np.concatenate([self.pooled, other.pooled]),
            self.speakers + other.speakers,
            np.concatenate([self.corpora, other.corpora]),
        )


@dataclass(frozen=True, eq=False)
class Lists:
    """A trial list on its clips."""

    clips: Clips
    trials: Trials
    enrol: NDArray[np.int64]
    test: NDArray[np.int64]
    targets: NDArray[np.bool_]
    clusters: Clusters
    sides: tuple[NDArray[np.int64], NDArray[np.int64]]

    def cosines(self, vectors: NDArray[Any], dims: Sequence[int]) -> Scores:
        """Score every trial by prefixes of the clips' vectors."""
        return prefix_cosines(vectors, self.enrol, self.test, dims)

    def pairs(self, rows: NDArray[np.bool_] | None = None) -> LabelledPairs:
        """Return the trials, or some, on the embeddings."""
        kept = np.ones(len(self.targets), bool) if rows is None else rows
        vectors = self.clips.embedding.astype(np.float32)
        return LabelledPairs(vectors, self.enrol[kept], self.test[kept], self.targets[kept])

    def corpus(self) -> NDArray[np.str_]:
        """Of each trial; both sides are of one."""
        return self.clips.corpora[self.enrol]


def read_clips(folder: Path, part: str, table: UtteranceTable, variant: int = 0) -> tuple[Clips, list[str]]:
    """Clips of a part, and their names: of the cache folder/part, or of a store of embeddings by the table's split."""
    corpora = dict(table.frame.select("utt_id", "corpus").iter_rows()) if "corpus" in table.frame.columns else {}
    if is_store(folder):
        rows = table.where(split=part).frame
        names, speakers = rows["utt_id"].to_list(), rows["speaker"].to_list()
        store = EmbeddingStore(folder)
        embedding = store.take(store.index_of(names))
        pooled = embedding
    else:
        cache = FeatureCache(folder / part)
        names, speakers, numbers = cache.utt_ids, cache.speakers, np.arange(len(cache))
        embedding, pooled = (cache.gather(numbers, variant, tap=tap) for tap in ("embedding", "pooled"))
    corpus = np.asarray([str(corpora.get(name, "")) for name in names])
    return Clips(embedding.astype(np.float64), pooled, speakers, corpus), names


def read_lists(folder: Path, part: str, table: UtteranceTable, trials: Path) -> Lists:
    """The clips of a part with its trial list."""
    clips, names = read_clips(folder, part, table)
    place = {name: row for row, name in enumerate(names)}
    listed = read_trials(trials)
    known = table.frame["utt_id"].to_list()
    sides = [
        np.asarray([place[known[row]] for row in table.resolve(listed.frame[side])], np.int64)
        for side in ("enrol", "test")
    ]
    who = trial_speakers(listed, [], table=table)
    targets = listed.frame["target"].to_numpy().astype(bool)
    return Lists(clips, listed, sides[0], sides[1], targets, Clusters(who.enrol, who.test), (who.enrol, who.test))


def rate(scores: Floats, targets: NDArray[np.bool_]) -> float:
    return float(eer(error_curve(scores, targets)).rate)


# --- what is fitted ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class System:
    """Something fitted: clips to scores at its dims."""

    score: Callable[[Lists], Scores]
    said: str = ""
    eers: Mapping[int, float] = field(default_factory=dict)


def of_head(head: Any, said: str = "") -> System:
    def score(lists: Lists) -> Scores:
        given = lists.clips.pooled if head.tap == "pooled" else lists.clips.embedding
        return lists.cosines(head.transform(given), head.dims)

    return System(score, said)


def rotations(train: Clips, dev: Lists, dims: Sequence[int]) -> dict[str, System]:
    """Truncation, centred, random, and every method with each use of the mean."""
    size, found = train.embedding.shape[1], {}
    mean = normalise(train.embedding).mean(axis=0)
    drawn = Rotation(np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0], tuple(dims), "random")
    plain = truncation(size, dims)
    found = {
        "truncation": of_head(plain),
        "centred": of_head(centred(plain, mean)),
        "random": of_head(drawn),
        "random, centred": of_head(centred(drawn, mean)),
    }
    vectors = train.embedding.astype(np.float32)
    pairs = dev.pairs()
    refined = choose_rotation(vectors, train.speakers, pairs, dims=dims, weights=(1.0,))["refined"].rotation
    uses: dict[Centre, str] = {"none": "", "all": ", centred", "auto": ", auto"}
    for centre, words in uses.items():
        fits = choose_rotation(vectors, train.speakers, pairs, dims=dims, method="discriminant", centre=centre)
        firsts = {"none": (size,), "all": (0,), "auto": (0, *refined.dims)}[centre]  # the matrix is the same for all
        places = [centred(refined, mean, first) for first in firsts]
        kept = {name: fits[name].rotation for name in ("pca", "discriminant")}
        kept["refined"] = min(places, key=lambda head: sum(pairs.eers(head).values()))
        for name, head in kept.items():
            said = {key: head.details[key] for key in ("weight", "centred_from") if key in head.details}
            found[name + words] = of_head(head, json.dumps(said))
    return found


def lda(train: Clips, dev: Lists, dims: Sequence[int]) -> dict[str, System]:
    """LDA by cosine and PLDA on it: centred unit vectors, shrinkage of S_w towards a sphere chosen on dev."""
    mean = normalise(train.embedding).mean(axis=0)
    unit = normalise(train.embedding) - mean

    def matrices(vectors: Floats, shrinkage: float) -> tuple[Floats, Floats]:
        between, within = moments(vectors, train.speakers)
        sphere = np.trace(within) / len(within) * np.eye(len(within))
        values, axes = scipy.linalg.eigh(between, (1 - shrinkage) * within + shrinkage * sphere)
        return np.maximum(values[::-1], 1e-6), axes[:, ::-1]

    def cosine(shrinkage: float) -> System:
        axes = matrices(unit, shrinkage)[1]
        return System(
            lambda lists: lists.cosines((normalise(lists.clips.embedding) - mean) @ axes, dims),
            f"shrinkage {shrinkage}",
        )

    def plda(shrinkage: float) -> System:
        axes = matrices(unit, shrinkage)[1]

        def score(lists: Lists) -> Scores:
            found = {}
            for dim in dims:
                short = normalise(unit @ axes[:, :dim]) * np.sqrt(dim)
                middle = short.mean(axis=0)
                spread, inside = matrices(short - middle, shrinkage)
                given = normalise((normalise(lists.clips.embedding) - mean) @ axes[:, :dim]) * np.sqrt(dim)
                found[dim] = two_covariance((given - middle) @ inside, spread, lists.enrol, lists.test)
            return found

        return System(score, f"shrinkage {shrinkage}")

    return {name: best_on(dev, map(make, SHRINKAGES)) for name, make in (("LDA", cosine), ("PLDA", plda))}


def moments(vectors: Floats, speakers: Sequence[str]) -> tuple[Floats, Floats]:
    """S_b and S_w of vectors as they are (`Scatter` would bring them to unit length), every speaker in S_b."""
    _, codes, counts = np.unique(np.asarray(speakers), return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(sums, codes, vectors)
    means = sums / counts[:, None]
    apart = vectors - means[codes]
    within = apart.T @ apart / (len(vectors) - len(counts))
    return np.cov(means, rowvar=False) - within * np.mean(1 / counts), within


def two_covariance(x: Floats, spread: Floats, enrol: NDArray[np.int64], test: NDArray[np.int64]) -> Floats:
    """Log likelihood ratio, but for a constant, where S_w is the identity and S_b the diagonal `spread`."""
    total = spread + 1
    cross = spread / (total**2 - spread**2)
    own = ((x**2) @ (spread**2 / (total * (total**2 - spread**2)))) / 2
    return np.asarray(np.einsum("nd,nd->n", x[enrol] * cross, x[test]) - own[enrol] - own[test])


def best_on(dev: Lists, systems: Iterator[System]) -> System:
    def mean_eer(system: System) -> float:
        return float(np.mean([rate(scores, dev.targets) for scores in system.score(dev).values()]))

    return min(systems, key=mean_eer)


def trained(given: Sequence[str]) -> dict[str, Any]:
    """Heads that `nestvox train` left, by name."""
    found = {}
    for text in given:
        name, _, folder = text.partition("=")
        config = json.loads((Path(folder) / CONFIG_FILE).read_text())
        tensors = {key[5:]: value for key, value in read_tensors(Path(folder)).items() if key.startswith("head.")}
        found[name] = read_head(config["head"], tensors)
    return found


def one_length_each(found: dict[str, System], given: Sequence[str]) -> None:
    """Add trained heads; those of one length each become one row."""
    alone: dict[str, dict[int, Any]] = {}
    for name, head in trained(given).items():
        base, _, dim = name.partition("@")
        if dim:
            alone.setdefault(base, {})[int(dim)] = head
        else:
            found[name] = of_head(head)
    for base, heads in alone.items():

        def score(lists: Lists, heads: dict[int, Any] = heads) -> Scores:
            return {dim: of_head(head).score(lists)[dim] for dim, head in sorted(heads.items())}

        found[f"{base}, one length each"] = System(score)


# --- what is printed --------------------------------------------------------------------------------------------------


def cell(scores: Floats, lists: Lists, *, interval: bool) -> str:
    curve = error_curve(scores, lists.targets)
    found = eer(curve).rate
    shown = f"{100 * found:.2f}"
    if not interval:
        return shown
    low, high = logit_interval(found, lists.clusters.standard_error(eer_influence(curve)), lists.clusters.size)
    return f"{shown} [{100 * low:.2f}, {100 * high:.2f}]"


def miss_at(scores: Floats, lists: Lists, far: float) -> tuple[float, float, float]:
    """Miss rate where this share of the non-targets is accepted, with its bootstrap interval over speakers."""
    found = speaker_bootstrap(scores, lists.targets, *lists.sides, p_fa=(far,), n_replicates=1000)
    at = float(error_curve(scores, lists.targets).p_miss_at([far])[0])
    return at, float(found.p_miss_low[0]), float(found.p_miss_high[0])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("\n| " + " | ".join(header) + " |\n|---|" + "---:|" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def show(found: Mapping[str, System], lists: Lists, dims: Sequence[int], *, interval: bool) -> dict[str, Scores]:
    scored, rows = {}, []
    for name, system in found.items():
        scored[name] = system.score(lists)
        cells = [cell(scored[name][d], lists, interval=interval) if d in scored[name] else "" for d in dims]
        rows.append([name, *cells, system.said])
    table(["EER, %", *map(str, dims), "chosen"], rows)
    print(
        f"\n{lists.targets.sum()} target and {(~lists.targets).sum()} non-target trials of {lists.clusters.size} "
        f"speakers, sha256 `{lists.trials.sha256[:16]}`"
    )
    return scored


def paired(
    scored: Mapping[str, Scores], lists: Lists, dims: Sequence[int], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Each of `names` less truncation, less the centred encoder (as long, and whole), less the first of `names`."""
    rows, found = [], []
    full = max(dims)
    for name in names:
        for dim in dims:
            against = {
                "truncation": ("truncation", dim),
                "centred": ("centred", dim),
                "centred full": ("centred", full),
                names[0]: (names[0], dim),
            }
            cells = []
            for title, (other, at) in against.items():
                a, b = scored[other][at], scored[name][dim]
                if rank_identically(a, b) or (title == "centred full" and dim == full):
                    cells.append("")
                    continue
                figure = compare_scores(a, b, lists.targets, *lists.sides).eer
                values = [100 * value for value in (figure.difference, figure.studentised_low, figure.studentised_high)]
                cells.append("{:+.2f} [{:+.2f}, {:+.2f}], p {:.4f}".format(*values, figure.p_value))
                found.append({"name": name, "dim": dim, "against": title, **figure._asdict()})
            rows.append([name, str(dim), *cells])
    table(["head", "dim", "less truncation", "less centred", "less centred, full size", f"less {names[0]}"], rows)
    return found


def per_corpus(scored: Mapping[str, Scores], lists: Lists, shown: Sequence[tuple[str, int]]) -> None:
    corpora, rows = lists.corpus(), []
    for corpus in sorted(set(corpora)):
        mask = corpora == corpus
        if min((lists.targets & mask).sum(), (~lists.targets & mask).sum()) < 30:
            continue
        cells = [f"{100 * rate(scored[name][dim][mask], lists.targets[mask]):.2f}" for name, dim in shown]
        rows.append([corpus, f"{(lists.targets & mask).sum()} / {(~lists.targets & mask).sum()}", *cells])
    table(["corpus", "trials", *(f"{name}, {dim}" for name, dim in shown)], rows)


# --- questions, on dev ------------------------------------------------------------------------------------------------


def mean_and_range(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.2f} ({100 * min(values):.2f} to {100 * max(values):.2f})"


def chosen(train: Clips, pairs: LabelledPairs, dims: Sequence[int], method: str, **more: Any) -> Any:
    vectors = train.embedding.astype(np.float32)
    return choose_rotation(vectors, train.speakers, pairs, dims=dims, method=method, centre="auto", **more)  # type: ignore[arg-type]


def how_many_speakers(train: Clips, dev: Lists, dims: Sequence[int]) -> None:
    """Speakers with two clips or more, drawn three times; the last row has those with one clip as well."""
    names, counts = np.unique(np.asarray(train.speakers), return_counts=True)
    several, rows = names[counts >= 2], []
    for size in (100, 300, len(several), len(names)):
        eers: dict[str, list[dict[int, float]]] = {"discriminant": [], "refined": []}
        for seed in range(3 if size < len(several) else 1):
            drawn = names if size == len(names) else np.random.default_rng(seed).permutation(several)[:size]
            found = chosen(train.part(np.isin(train.speakers, drawn)), dev.pairs(), dims, "refined")
            for method, kept in eers.items():
                kept.append(found[method].eers)
        for method, kept in eers.items():
            rows.append([f"{size}", method, *(mean_and_range([one[dim] for one in kept]) for dim in dims)])
    table(["speakers", "method", *map(str, dims)], rows)


def another_corpus(train: Clips, dev: Lists, dims: Sequence[int], method: str) -> None:
    """Trials of one corpus with a head that was fitted on all, on all others, and with the mean of that corpus."""
    rows, corpora = [], dev.corpus()
    everything = chosen(train, dev.pairs(), dims, method)[method].rotation
    for corpus in sorted(set(corpora)):
        mask = corpora == corpus
        there = train.corpora == corpus
        if min((dev.targets & mask).sum(), (~dev.targets & mask).sum()) < 100 or there.sum() < 10:
            continue
        pairs, others = dev.pairs(mask), train.part(~there)
        apart = chosen(others, dev.pairs(~mask), dims, method)
        head, plain = apart[method].rotation, apart["centred"].rotation
        cells = [[100 * pairs.eers(one)[d] for d in (64, max(dims))] for one in (plain, everything, head)]
        own = normalise(train.part(there).embedding)
        first = head.details.get("centred_from", head.input_dim)
        moved: list[str] = []
        for count in (10, 30, 100, 1000):
            if len(own) < count:
                moved.append("")
                continue
            drawn = [np.random.default_rng(seed).permutation(len(own))[:count] for seed in range(5)]
            got = [
                pairs.eers(centred(head, own[rows_].mean(axis=0), 0 if first == head.input_dim else first))
                for rows_ in drawn
            ]
            full = [pairs.eers(centred(plain, own[rows_].mean(axis=0))) for rows_ in drawn]
            moved.append(
                f"{100 * np.mean([e[64] for e in got]):.2f} / {100 * np.mean([e[max(dims)] for e in full]):.2f}"
            )
        rows.append([f"{corpus} ({there.sum()})", *(f"{a:.2f} / {b:.2f}" for a, b in cells), *moved])
    heads = ["centred, of others", f"{method}, of all", f"{method}, of others"]
    table(["corpus (clips)", *heads, *(f"mean of {n}" for n in (10, 30, 100, 1000))], rows)
    print(f"\nAt 64 / at {max(dims)}; the last columns: {method} of others at 64, centred encoder at {max(dims)}.")


def price_of_nesting(train: Clips, dev: Lists, dims: Sequence[int]) -> None:
    """The discriminant order with the weight and the mean that are best for one length alone."""
    scatter = Scatter(train.embedding.shape[1])
    scatter.add(train.embedding, train.speakers)
    pairs = dev.pairs()
    orders = [discriminant(scatter, weight, dims) for weight in WEIGHTS]
    firsts = (0, *truncation(scatter.size, dims).dims)
    every = [pairs.eers(centred(order, scatter.mean(), first)) for order in orders for first in firsts]
    together = min(every, key=lambda eers: sum(eers.values()))
    rows = [
        ["one order for all", *(f"{100 * together[dim]:.2f}" for dim in dims)],
        ["one for each length", *(f"{100 * min(eers[dim] for eers in every):.2f}" for dim in dims)],
    ]
    table(["discriminant", *map(str, dims)], rows)


def bytes_a_voice(head: Any, lists: Lists) -> None:
    """Prefixes as float32, as int8 (a scale each, which the cosine does not need), and as signs."""
    nested = np.asarray(head.transform(lists.clips.embedding), np.float64)
    rows = []
    for size in (8, 16, 24, 32, 64):
        cells = []
        for dim, stored in ((size // 4, "float"), (size, "int8"), (size * 8, "sign")):
            if dim > nested.shape[1] or dim < 2:
                cells.append("")
                continue
            prefix = normalise(nested[:, :dim])
            if stored == "int8":
                prefix = np.round(127 * prefix / np.abs(prefix).max(axis=1, keepdims=True))
            elif stored == "sign":
                prefix = np.where(prefix < 0, -1.0, 1.0)
            cells.append(f"{100 * rate(lists.cosines(prefix, [dim])[dim], lists.targets):.2f} ({dim})")
        rows.append([str(size), *cells])
    table(["bytes", "float32 (dim)", "int8 (dim)", "1 bit (dim)"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, nargs="?", default=Path("features"))
    parser.add_argument("--speech", type=Path, default=Path("../shared/speech"))
    parser.add_argument("--extra", type=Path, metavar="TABLE", help="fit on FEATURES/extra too, of this table")
    parser.add_argument("--variants", action="store_true", help="fit on FEATURES/augmented, all variants, instead")
    parser.add_argument(
        "--on", default="dev", help="dev, test, or the name of another cache, with --table and --trials"
    )
    parser.add_argument("--table", type=Path)
    parser.add_argument("--trials", type=Path)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--keep", action="append", default=[], help="row that is held against the baselines")
    parser.add_argument("--method", default="refined", choices=("pca", "discriminant", "refined"))
    parser.add_argument("--questions", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (options.features / "train").is_dir() and not is_store(options.features):
        print(f"{options.features}/train is not there; make it with these commands:\n{__doc__}")
        return
    spoken = read_utterances(options.speech / "utterances.tsv")
    train = read_clips(options.features, "train", spoken)[0]
    if options.variants:
        count = FeatureCache(options.features / "augmented").n_variants
        parts = [read_clips(options.features, "augmented", spoken, variant)[0] for variant in range(count)]
        train = parts[0]
        for part in parts[1:]:
            train = train.and_(part)
    if options.extra is not None:
        train = train.and_(read_clips(options.features, "extra", read_utterances(options.extra))[0])
    dev = read_lists(options.features, "dev", spoken, options.speech / "trials_dev.txt")
    dims = default_dims(train.embedding.shape[1])
    print(f"{len(train.speakers)} clips of {len(set(train.speakers))} training speakers, {dims[-1]} dimensions")
    if options.questions:
        how_many_speakers(train, dev, dims)
        another_corpus(train, dev, dims, options.method)
        price_of_nesting(train, dev, dims)
        bytes_a_voice(chosen(train, dev.pairs(), dims, options.method)[options.method].rotation, dev)
        return
    found = rotations(train, dev, dims) | lda(train, dev, dims)
    one_length_each(found, options.model)
    lists = dev
    if options.on != "dev":
        shown = spoken if options.table is None else read_utterances(options.table)
        trials = options.trials or options.speech / f"trials_{options.on}.txt"
        lists = read_lists(options.features, options.on, shown, trials)
    scored = show(found, lists, dims, interval=True)
    keep = options.keep or ["refined, auto"]
    rows = paired(scored, lists, dims, keep)
    per_corpus(scored, lists, [("truncation", 64), ("centred", dims[-1]), *((name, 64) for name in keep)])
    for name, dim in (("truncation", dims[-1]), ("centred", dims[-1]), *((name, dim) for name in keep for dim in dims)):
        at, low, high = miss_at(scored[name][dim], lists, 0.001)
        print(f"\nmisses at FAR 0.1 %, {name} at {dim}: {100 * at:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
