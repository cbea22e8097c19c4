"""The one error that means 'the input was wrong' (exit code 2)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: one line that says what is wrong and what is allowed. The command line prints it and exits with 2."""


def unknown(kind: str, name: str, allowed: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not among `allowed`, with the nearest names first."""
    names = list(allowed)
    return InputError(f"unknown {kind} '{name}'{hint(name, names)}; allowed: {', '.join(names) or 'none'}")


def hint(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or "" where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
