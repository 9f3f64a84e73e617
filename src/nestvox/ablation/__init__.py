"""Many training runs: a declared matrix that differs in one thing, or a search for the best within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.ablation.ablating import ablate
    from nestvox.ablation.controls import controls_of
    from nestvox.ablation.costs import Costs
    from nestvox.ablation.outcome import Ablation, ArmRow, Measured
    from nestvox.ablation.page import ablation_figures, write_ablation
    from nestvox.ablation.pareto import Front, pareto_front
    from nestvox.ablation.searching import Drawn, StudentSearch, search_students
    from nestvox.ablation.study import Arm, Plan, Study, load_study, shipped_studies

__all__ = [
    "Ablation",
    "Arm",
    "ArmRow",
    "Costs",
    "Drawn",
    "Front",
    "Measured",
    "Plan",
    "StudentSearch",
    "Study",
    "ablate",
    "ablation_figures",
    "controls_of",
    "load_study",
    "pareto_front",
    "search_students",
    "shipped_studies",
    "write_ablation",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "controls": "controls_of",
        "outcome": "Ablation ArmRow Measured",
        "page": "ablation_figures write_ablation",
        "pareto": "Front pareto_front",
        "study": "Arm Plan Study load_study shipped_studies",
    },
    torch={
        "ablating": "ablate",
        "costs": "Costs",
        "searching": "Drawn StudentSearch search_students",
    },
    purpose="training",
)
