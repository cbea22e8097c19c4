"""Parts of LaTeX output that tables and diffs share: network names, and a width that fits the page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tables.text import escape_tex

PACKAGES = "booktabs, graphicx"
"""What a table needs."""

_SHUFFLE = re.compile(r"ShuffleV(\d)")
_WRN = re.compile(r"wrn_(\d+)_(\d+)")
_WIDE = re.compile(r"(resnet\d+)x(\d+)")


def network_name(name: str) -> str:
    """Return a network's name as papers print it: WRN-40-2, resnet8$\\times$4, ShuffleNetV1."""
    name = _WRN.sub(r"WRN-\1-\2", _SHUFFLE.sub(r"ShuffleNetV\1", name))
    return _WIDE.sub(r"\1$\\times$\2", escape_tex(name))


def number(text: str) -> str:
    """Return a number with its std in small digits: `75.02 ± 0.19`."""
    mean, plus_minus, std = text.partition(" ± ")
    return escape_tex(mean) + (rf"{{\tiny$\pm${escape_tex(std)}}}" if plus_minus else "")


def shrunk(lines: Sequence[str]) -> list[str]:
    """Return a tabular that is scaled down to the text width if it is wider."""
    return [
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        *lines[:-1],
        lines[-1] + "}",
    ]


def note(paragraphs: Sequence[str]) -> list[str]:
    """Return paragraphs of LaTeX as a note below a table."""
    return [
        r"\par\smallskip",
        r"\begin{minipage}{\textwidth}\footnotesize\raggedright",
        "\n\\par ".join(paragraphs),
        r"\end{minipage}",
    ]
