"""Text helpers for all outputs: wrapping, escaping, signs, plurals."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

from benchmark.text import given_width

TERMINAL_WIDTH = 118
"""The most columns that text for the terminal takes, and what it takes where there is no terminal."""

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
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
}
_MARKDOWN = {"\\": "\\\\", "|": "\\|", "_": "\\_", "*": "\\*", "`": "\\`", "<": "&lt;"}


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters of a cell that a spreadsheet takes for a formula, or skips before one."""


def printable(text: str) -> str:
    """Replace line breaks and control characters by spaces.

    A record's reason for a failure may contain any: they would break a row of a table or steer a terminal.
    """
    return text if text.isprintable() else "".join(ch if ch.isprintable() else " " for ch in text)


def terminal_width() -> int:
    """Return the columns of the terminal that standard output goes to, at most `TERMINAL_WIDTH`.

    `COLUMNS` in the environment takes precedence, as in other programs.
    """
    width = given_width(sys.stdout)
    return min(max(width, 40), TERMINAL_WIDTH) if width else TERMINAL_WIDTH


def wrap(line: str) -> list[str]:
    """Break a line at the terminal's width; continuation lines are indented."""
    return textwrap.wrap(printable(line), terminal_width(), subsequent_indent="    ") or [""]


def capitalized(text: str) -> str:
    """Return a text with a capital first letter; the others stay as they are."""
    return text[:1].upper() + text[1:]


def escape_md(text: str) -> str:
    """Escape plain text for Markdown. A number in brackets stays readable, a link does not become one."""
    return "".join(_MARKDOWN.get(ch, ch) for ch in printable(text)).replace("](", "]\\(")


def escape_tex(text: str) -> str:
    """Escape plain text for LaTeX."""
    return "".join(_TEX.get(ch, ch) for ch in printable(text))


def csv_cell(value: Any) -> Any:
    """Return a value for a CSV file: text that a spreadsheet would take for a formula gets an apostrophe.

    Numbers stay as they are, also those in text form (`-0.31`).
    """
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def signed(x: float, digits: int = 2, kind: str = "f") -> str:
    """Format a difference with its sign: `+0.31`, `-1.20`, and `0.00` without one.

    kind: `f`, or `%` for fractions.
    """
    text = f"{x:+.{digits}{kind}}"
    return text if text.strip("+-0.%") else text[1:]


def mean_std(mean: float, std: float | None = None) -> str:
    """Format a mean as `76.04 ± 0.12`, or as `76.04` where no std is known."""
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"
