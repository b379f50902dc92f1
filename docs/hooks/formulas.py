"""The formulas of the documents, written in LaTeX between dollar signs, as MathML, which browsers draw by
themselves."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
NAMESPACE = ' xmlns="http://www.w3.org/1998/Math/MathML"'


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Draw what the extension `arithmatex` has marked."""
    return FORMULA.sub(
        lambda found: drawn(html.unescape(found[2]), "block" if found[1] == "div" else "inline"), content
    )


def drawn(formula: str, display: str) -> str:
    """MathML of a formula in LaTeX. HTML knows the namespace without its address."""
    return convert(formula, display=display).replace(NAMESPACE, "")
