"""Who speaks in each row of a file of vectors: by a table, by Kaldi's ``utt2spk``, or one speaker a line."""

from __future__ import annotations

from io import TextIOWrapper
from itertools import islice
from pathlib import Path

import polars as pl

from nestvox.corpora.delimited import located, name_column, read_delimited, read_parquet, refuse_float_names
from nestvox.errors import TableError
from nestvox.extraction.formats.interchange import iter_vectors
from nestvox.gate import open_regular
from nestvox.names import key_column, name_key

_BATCH_ROWS = 16_384
_TABLES = (".tsv", ".csv", ".parquet")


def read_labels(path: str | Path, source: str | Path) -> pl.Series:
    """Read the speaker of each row of `source`.

    Args:
        path: a table with the columns ``utt_id`` and ``speaker`` (TSV, CSV or Parquet; an utterance table is one), in
            any order and with more rows than needed; Kaldi's ``utt2spk``; or a text file with one speaker a line, in
            the order of the rows.
        source: the vectors; a table and ``utt2spk`` need names in it.

    Returns:
        Strings, null for rows that the table does not name (they are left out of the fit) and for empty lines.

    Raises:
        TableError: columns are missing, the source has no names, no name is in the table, or every line would be
            another speaker.
    """
    path = Path(path)
    if path.suffix.lower() not in _TABLES:
        return _of_lines(path, source)
    names = _names_of(source)
    if names is None:
        raise TableError(
            f"{source} has no names for its rows; give one speaker a line in a .txt file, in the order of the rows",
            source=path,
        )
    return _joined(names, _read_speakers(path), path, source)


def _names_of(source: str | Path) -> pl.Series | None:
    """Names of all rows as names are compared, or None where the rows have none."""
    names = pl.Series("utt_id", [], pl.String)
    for batch in iter_vectors(source, _BATCH_ROWS):
        if batch.ids is None:
            return None
        names.append(pl.Series("utt_id", batch.ids, pl.String))
    return key_column(names)


def _joined(names: pl.Series, wanted: pl.DataFrame, path: Path, source: str | Path) -> pl.Series:
    speakers = names.to_frame().join(_each_once(wanted, path), on="utt_id", how="left", maintain_order="left")[
        "speaker"
    ]
    if speakers.is_null().all():
        raise TableError(f"no utt_id of the table names a row of {source}, e.g. {names.first()!r}", source=path)
    return speakers


def _of_lines(path: Path, source: str | Path) -> pl.Series:
    """One speaker a line, or ``utt2spk``, which has a name and a speaker a line and looks the same."""
    lines = _read_lines(path)
    there = lines.drop_nulls()
    if not len(there) or not there.str.contains("[ \t]").all():
        return lines
    frame = pl.DataFrame(
        {"utt_id": there.str.extract(r"^([^ \t]+)"), "speaker": there.str.extract(r"^[^ \t]+[ \t]+(.*)$")}
    )
    keyed = pl.DataFrame([key_column(frame["utt_id"]), key_column(frame["speaker"])])
    if keyed["utt_id"].is_duplicated().any():
        return lines  # first names, as of "Ann Lee", stand more than once
    names = _names_of(source)
    if names is not None and keyed["utt_id"].is_in(names.implode()).any():
        return _joined(names, keyed, path, source)
    rows = "have no names" if names is None else f"have other names, e.g. {names.first()!r}"
    raise TableError(
        f"every line begins with another word, as in Kaldi's utt2spk, and the rows of {source} {rows}; give that of "
        "these rows, or one speaker a line in the order of the rows",
        source=path,
    )


def _read_lines(path: Path) -> pl.Series:
    """Lines as names are compared, read in blocks: ten million Python strings would need a gigabyte."""
    speakers = pl.Series("speaker", [], pl.String)
    with open_regular(path, located(TableError), missing="no such file", text=True) as raw:
        try:
            file = TextIOWrapper(raw, encoding="utf-8-sig", newline="\n")
            while block := [name_key(line) or None for line in islice(file, _BATCH_ROWS)]:
                speakers.append(pl.Series("speaker", block, pl.String))
        except UnicodeDecodeError as error:
            raise TableError(
                f"not a text file in UTF-8; labels are one speaker a line, utt2spk, or a table {', '.join(_TABLES)}",
                source=path,
            ) from error
    return speakers


def _read_speakers(path: Path) -> pl.DataFrame:
    """Columns utt_id and speaker of a table, as names are compared."""
    if path.suffix.lower() == ".parquet":
        frame = read_parquet(path, TableError)
    else:
        frame, _ = read_delimited(path, "\t" if path.suffix.lower() == ".tsv" else ",", TableError)
    missing = [column for column in ("utt_id", "speaker") if column not in frame.columns]
    if missing:
        raise TableError(f"no column {' and '.join(missing)}; labels are utt_id and speaker", source=path, line=1)
    columns = [name_column(frame[column], TableError, path) for column in ("utt_id", "speaker")]
    for column in columns:
        refuse_float_names(column, TableError, path)
    return pl.DataFrame([key_column(column).replace("", None) for column in columns])


def _each_once(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    wanted = frame.unique()
    doubled = wanted.filter(pl.col("utt_id").is_duplicated() & pl.col("utt_id").is_not_null()).sort("utt_id", "speaker")
    if len(doubled):
        name, *others = doubled["utt_id"][0], *doubled.filter(pl.col("utt_id") == doubled["utt_id"][0])["speaker"]
        raise TableError(f"utt_id {name!r} has several speakers: {', '.join(map(str, others))}", source=path)
    return wanted
