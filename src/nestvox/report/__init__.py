"""Figures, tables and pages of what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.report.comparison_page import comparison_figures, render_comparison, write_comparison
    from nestvox.report.page import (
        evaluation_figures,
        evaluation_tables,
        render_html,
        write_figures,
        write_html,
        write_json,
        write_tables,
    )
    from nestvox.report.run_page import write_run_page

__all__ = [
    "comparison_figures",
    "evaluation_figures",
    "evaluation_tables",
    "render_comparison",
    "render_html",
    "write_comparison",
    "write_figures",
    "write_html",
    "write_json",
    "write_run_page",
    "write_tables",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "comparison_page": "comparison_figures render_comparison write_comparison",
        "page": "evaluation_figures evaluation_tables render_html write_figures write_html write_json write_tables",
        "run_page": "write_run_page",
    },
)
