"""Figures, tables and pages of what was measured.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.report.page import render_html, write_figures, write_html, write_json

__all__ = ["render_html", "write_figures", "write_html", "write_json"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "render_html": "page",
        "write_figures": "page",
        "write_html": "page",
        "write_json": "page",
    },
)
