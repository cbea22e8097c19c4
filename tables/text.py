"""Text helpers for all outputs: wrapping, escaping, signs, plurals."""

from __future__ import annotations

import textwrap

TERMINAL_WIDTH = 118

_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
}
_MARKDOWN = {"|": "\\|", "_": "\\_", "*": "\\*", "<": "&lt;"}


def wrap(line: str) -> list[str]:
    """Break a line at the terminal's width; continuation lines are indented."""
    return textwrap.wrap(line, TERMINAL_WIDTH, subsequent_indent="    ") or [""]


def escape_md(text: str) -> str:
    """Escape plain text for Markdown."""
    return "".join(_MARKDOWN.get(ch, ch) for ch in text)


def escape_tex(text: str) -> str:
    """Escape plain text for LaTeX."""
    return "".join(_TEX.get(ch, ch) for ch in text)


def signed(x: float, digits: int = 2, kind: str = "f") -> str:
    """Format a difference with its sign: `+0.31`, `-1.20`, and `0.00` without one.

    kind: `f`, or `%` for fractions.
    """
    text = f"{x:+.{digits}{kind}}"
    return text if text.strip("+-0.%") else text[1:]


def mean_std(mean: float, std: float | None = None) -> str:
    """Format a mean as `76.04 ± 0.12`, or as `76.04` where no std is known."""
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"
