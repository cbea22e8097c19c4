"""Printing: results on standard output, notes for the user on standard error."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, TextIO

from benchmark.text import given_width

INDENT = 4
"""How far the second line of a broken line is indented more than the first."""


def print_note(text: str = "") -> None:
    """Print a line for the user on standard error. Standard output is for the result."""
    print(fitted(text, sys.stderr), file=sys.stderr, flush=True)


def print_command(line: str) -> None:
    """Print a command on standard error in one line, so that it can be copied."""
    print(f"    {line}", file=sys.stderr, flush=True)


def print_text(text: str = "") -> None:
    """Print sentences on standard output, broken at a terminal's width. Tables know the width themselves."""
    print(fitted(text, sys.stdout), flush=True)


def print_json(value: Any) -> None:
    """Print JSON on standard output."""
    print(json.dumps(value, indent=1))


def fitted(text: str, stream: TextIO) -> str:
    """Return the text with lines that are too long for a terminal broken between words.

    A file or a pipe gets every line whole. A word that is too long, such as a path, stays whole too; one of
    names that are separated by commas is broken after a comma.
    """
    columns = given_width(stream) if stream.isatty() else 0
    if not columns:
        return text
    return "\n".join(piece for line in text.split("\n") for piece in _broken(line, columns))


def _broken(line: str, columns: int) -> list[str]:
    if len(line) <= columns:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + INDENT)
    room = columns - len(indent)
    words = []
    for word in re.findall(r"\s*\S+", line):
        words += [word] if len(word.strip()) <= room else re.findall(r"\s*[^,]+,?|,", word)
    lines, current = [], ""
    for word in words:
        if current.strip() and len(current) + len(word) > columns:
            lines.append(current)
            current = indent + word.lstrip()
        else:
            current += word
    return [*lines, current]
