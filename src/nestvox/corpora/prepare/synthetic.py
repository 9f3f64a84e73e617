"""A corpus for machines without speech and without a network: sentences spoken by espeak-ng.

Corpus: `espeak-ng`; wav, mono, 22,050 Hz; every row carries ``synthetic`` true, so that every number measured on it
does. A speaker is a voice of the formant synthesiser with its own formants, pitch, roughness, breath and pace; a
session changes pitch, pace and level a little, as another day does. A speaker keeps to one language. Half of the
speakers of either sex are `train`, a quarter `dev`, a quarter `test`. The sentences are ours and given away (CC0-1.0).

It shows that the machinery runs; it says nothing about human voices.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from nestvox.atomic import names_in, write_text
from nestvox.audio.read import probe
from nestvox.audio.write import whole_length
from nestvox.corpora.delimited import located
from nestvox.corpora.generate import written_with_trials
from nestvox.corpora.utterances import UtteranceTable, read_utterances
from nestvox.errors import TableError
from nestvox.extras import require
from nestvox.gate import read_json
from nestvox.progress import Progress, silent

CORPUS = "espeak-ng"
LICENCE = "CC0-1.0"
_CHILD = Path(__file__).with_name("espeak.py")
_RECIPE = "synthetic.json"

# Subject, predicate, place: every combination is a sentence of about four seconds.
_PHRASES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "de": (
        ("Der alte Gärtner", "Meine jüngere Schwester", "Ein müder Reisender", "Die Lehrerin aus dem Norden"),
        ("erzählt eine lange Geschichte", "sucht seit gestern einen Schlüssel", "kauft frisches Brot und Käse"),
        ("am Rand des Marktes.", "vor dem kleinen Bahnhof.", "unter den hohen Bäumen.", "im Haus am Fluss."),
    ),
    "en-us": (
        ("The old gardener", "My younger sister", "A tired traveller", "The teacher from the north"),
        ("is telling a very long story", "has been looking for a key", "buys fresh bread and some cheese"),
        ("at the edge of the market.", "near the small station.", "under the tall trees.", "by the river."),
    ),
    "es": (
        ("El viejo jardinero", "Mi hermana menor", "Un viajero cansado", "La maestra del norte"),
        ("cuenta una historia muy larga", "busca una llave desde ayer", "compra pan fresco y algo de queso"),
        ("al borde del mercado.", "cerca de la estación.", "bajo los árboles altos.", "en la casa del río."),
    ),
    "fr": (
        ("Le vieux jardinier", "Ma petite sœur", "Un voyageur fatigué", "La maîtresse du nord"),
        ("raconte une très longue histoire", "cherche une clef depuis hier", "achète du pain frais et du fromage"),
        ("au bord du marché.", "près de la petite gare.", "sous les grands arbres.", "devant la rivière."),
    ),
    "it": (
        ("Il vecchio giardiniere", "Mia sorella minore", "Un viaggiatore stanco", "La maestra del nord"),
        ("racconta una storia molto lunga", "cerca una chiave da ieri", "compra pane fresco e del formaggio"),
        ("ai margini del mercato.", "vicino alla stazione.", "sotto gli alberi alti.", "nella casa sul fiume."),
    ),
}

LANGUAGES: tuple[str, ...] = tuple(sorted(_PHRASES))
"""Languages, by espeak-ng's names, that there are sentences for."""


@dataclass(frozen=True)
class _Recipe:
    """What the audio depends on; it lies beside the table so that another call does not mix two corpora."""

    seed: int
    speakers: int
    sessions: int
    utterances: int
    languages: tuple[str, ...]


def prepare_synthetic(
    folder: str | Path,
    *,
    speakers: int = 60,
    sessions: int = 3,
    utterances: int = 3,
    languages: Sequence[str] = LANGUAGES,
    seed: int = 0,
    n_target: int = 250,
    n_nontarget: int = 250,
    progress: Progress = silent,
) -> UtteranceTable:
    """Speak a corpus into `folder`: audio, ``utterances.tsv``, ``trials_dev.txt`` and ``trials_test.txt``.

    The same arguments give the same bytes on the same kind of machine (the synthesiser computes in floating point).
    A call that was interrupted goes on with the first speaker who is not complete; a finished folder is only read.

    Args:
        folder: where the corpus goes; made if absent.
        speakers: number of voices, at least 16, so that every split has two of either sex.
        sessions: sessions of each speaker.
        utterances: utterances of each session, each about four seconds.
        languages: names out of `LANGUAGES`; speakers take them in turn.
        seed: of voices, sentences and sessions.
        n_target: target trials of dev and of test.
        n_nontarget: non-target trials of dev and of test.
        progress: called with speakers done and their number.

    Returns:
        The table, `synthetic` true in every row.

    Raises:
        MissingExtraError: the wheel with espeak-ng is not installed (extra ``demo``).
        TableError: an argument is out of range, `folder` holds a corpus of other arguments, or espeak-ng fails.
    """
    folder = Path(folder)
    recipe = _checked(_Recipe(seed, speakers, sessions, utterances, tuple(languages)), folder)
    table_path = folder / "utterances.tsv"
    if table_path.is_file():
        return read_utterances(table_path)
    require("espeakng_loader", extra="demo", purpose="speech synthesis")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _RECIPE, json.dumps(asdict(recipe), indent=2) + "\n")

    rows: list[dict[str, object]] = []
    progress(0, speakers)
    for index in range(speakers):
        own = _speaker_rows(recipe, index)
        job: dict[str, object] = {"voice": _voice(recipe, index), "sentences": _sentences(recipe, index, own, folder)}
        if any(whole_length(folder / str(row["path"])) is None for row in own):
            _speak(job, folder)
        for row in own:
            row["duration_s"] = round(probe(folder / str(row["path"])).duration_s, 3)
        rows.extend(own)
        progress(index + 1, speakers)
    table = UtteranceTable(pl.DataFrame(rows).sort("utt_id"), source=str(table_path), root=folder)
    return written_with_trials(table, table_path, n_target=n_target, n_nontarget=n_nontarget, seed=seed)


def _checked(recipe: _Recipe, folder: Path) -> _Recipe:
    unknown = sorted(set(recipe.languages) - set(LANGUAGES))
    if unknown or not recipe.languages:
        raise TableError(f"no sentences for {', '.join(unknown) or 'no language'}; there are {', '.join(LANGUAGES)}")
    # Of sixteen, dev and test get two of either sex: fewer leave no non-target trial within one sex.
    if recipe.speakers < 16 or recipe.sessions < 1 or recipe.utterances < 1:
        raise TableError(
            f"{recipe.speakers} speakers, {recipe.sessions} sessions, {recipe.utterances} utterances: "
            "at least 16 speakers, one session and one utterance are needed for three splits with trials"
        )
    beside = folder / _RECIPE
    if beside.is_file():
        before = read_json(beside, located(TableError))
        if before != json.loads(json.dumps(asdict(recipe))):
            raise TableError("holds speech made with other arguments; choose another folder", source=beside)
    elif folder.is_dir() and names_in(folder):
        raise TableError("is not empty and holds no synthetic corpus; choose another folder", source=folder)
    return recipe


def _random(recipe: _Recipe, *what: object) -> random.Random:
    # Seeded with text: Python hashes that with SHA-512, the same in every process and on every machine.
    return random.Random("/".join(map(str, ("nestvox", recipe.seed, *what))))  # noqa: S311  # no secret is made


def _speaker_rows(recipe: _Recipe, index: int) -> list[dict[str, object]]:
    speaker = f"espeak{index:03d}"
    # Sex alternates, and of eight neighbours four are train, two dev and two test, one of either sex each.
    split = ("train", "train", "dev", "test")[index // 2 % 4]
    return [
        {
            "utt_id": f"{speaker}-s{session}-u{number}",
            "path": f"audio/{speaker}/s{session}-u{number}.wav",
            "speaker": speaker,
            "session": f"{speaker}-s{session}",
            "split": split,
            "duration_s": 0.0,
            "sex": "mf"[index % 2],
            "language": recipe.languages[index // 8 % len(recipe.languages)],
            "corpus": CORPUS,
            "licence": LICENCE,
            "synthetic": True,
        }
        for session, number in itertools.product(range(recipe.sessions), range(recipe.utterances))
    ]


def _voice(recipe: _Recipe, index: int) -> str:
    """Text of an espeak-ng voice file: formant scales in per cent, pitch range in Hz.

    Vocal tracts of women are about 15 % shorter than those of men, so their formants lie higher by as much
    (Fant, Acoustic Theory of Speech Production, 1960); pitch centres on 115 and 205 Hz.
    """
    draw = _random(recipe, "voice", index)
    female = index % 2 == 1
    tract = draw.gauss(112.0 if female else 96.0, 4.0)
    pitch = draw.gauss(205.0 if female else 115.0, 25.0 if female else 15.0)
    language = recipe.languages[index // 8 % len(recipe.languages)]
    lines = [
        f"name speaker{index}",
        f"language {language}",
        f"gender {'female' if female else 'male'}",
        f"pitch {round(0.82 * pitch)} {round(draw.uniform(1.15, 1.5) * pitch)}",
        f"roughness {draw.randint(0, 4)}",
        f"flutter {draw.randint(1, 5)}",
        f"consonants {draw.randint(70, 120)}",
    ]
    for formant in range(1, 6):
        scale = round(tract + draw.gauss(0.0, 5.0))
        lines.append(f"formant {formant} {scale} {draw.randint(80, 110)} {draw.randint(80, 140)}")
    if draw.random() < 0.5:
        lines.append("breath " + " ".join(str(draw.randint(0, 3)) for _ in range(8)))
    return "\n".join(lines) + "\n"


def _sentences(recipe: _Recipe, index: int, rows: Sequence[dict[str, object]], folder: Path) -> list[dict[str, object]]:
    draw = _random(recipe, "pace", index)
    words_per_minute, intonation = draw.randint(145, 190), draw.randint(30, 70)
    subjects, predicates, places = _PHRASES[recipe.languages[index // 8 % len(recipe.languages)]]
    texts = [" ".join(parts) for parts in itertools.product(subjects, predicates, places)]
    _random(recipe, "texts", index).shuffle(texts)
    sentences: list[dict[str, object]] = []
    for number, row in enumerate(rows):
        day = _random(recipe, "session", row["session"])
        sentences.append(
            {
                "text": texts[number % len(texts)],
                "path": str(folder / str(row["path"])),
                "words_per_minute": round(words_per_minute * day.uniform(0.93, 1.07)),
                "pitch": day.randint(42, 58),
                "intonation": intonation,
                "gain_db": round(day.uniform(-12.0, 0.0), 2),
            }
        )
    return sentences


def _speak(job: dict[str, object], folder: Path) -> None:
    # -P: the child's own folder stays off its path, where modules could hide those of the standard library.
    child = subprocess.run(
        [sys.executable, "-P", str(_CHILD)], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if child.returncode != 0:
        reason = child.stderr.strip().splitlines()[-1:] or [f"it ended with status {child.returncode}"]
        raise TableError(f"espeak-ng could not speak: {reason[0]}", source=folder)
