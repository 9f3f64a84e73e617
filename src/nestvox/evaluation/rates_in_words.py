"""Error rates as people read them, and rows of them as a table for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nestvox.evaluation.results import ErrorRates


def percent(rate: float, digits: int = 2) -> str:
    """A fraction in per cent: 0.05177 is ``5.18``."""
    return f"{100 * rate:.{digits}f}"


def percent_interval(row: ErrorRates) -> str:
    """Equal error rate and its interval in per cent: ``5.18 [4.28, 6.06]``, or ``0.00 [none]``."""
    low, high = row.eer.ends
    return f"{percent(row.eer.value)} {interval_in_words(100 * low, 100 * high, 2)}"


def interval_in_words(low: float, high: float, digits: int) -> str:
    """Both ends in brackets; ``[none]`` where they are one: then no draw of the speakers changes the figure at all."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]" if low < high else "[none]"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], below: Sequence[str]) -> str:
    """A table in HTML, with sentences below it; every text is escaped."""
    head = "".join(f"<th>{escape(text)}</th>" for text in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    said = "".join(f"<p>{escape(text)}</p>" for text in below)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{said}"
