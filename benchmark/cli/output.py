"""Printing: results on standard output, notes for the user on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any


def print_note(text: str = "") -> None:
    """Print a line for the user on standard error. Standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print JSON on standard output."""
    print(json.dumps(value, indent=1))
