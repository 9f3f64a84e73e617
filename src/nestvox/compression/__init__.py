"""A model in fewer bits or with fewer weights, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestvox.lazy import lazily

if TYPE_CHECKING:
    from nestvox.compression.box import BoxMade, make_box
    from nestvox.compression.compressing import compress
    from nestvox.compression.forms import FORMS, Form
    from nestvox.compression.table import Compression, FormRates, FormRow, Recommendation

__all__ = [
    "FORMS",
    "BoxMade",
    "Compression",
    "Form",
    "FormRates",
    "FormRow",
    "Recommendation",
    "compress",
    "make_box",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "box": "BoxMade make_box",
        "compressing": "compress",
        "forms": "FORMS Form",
        "table": "Compression FormRates FormRow Recommendation",
    },
)
