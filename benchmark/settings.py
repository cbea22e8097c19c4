"""Values of settings: checked, and scaled to another length of the schedule."""

from __future__ import annotations

import math
from typing import Any

from benchmark.errors import InputError
from benchmark.text import decimal, whole

_NUMBERS = {int: whole, float: decimal}
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}


def coerce(key: str, value: Any, kind: type[Any], allowed: tuple[Any, ...] | None = None) -> Any:
    """Return the value of the setting `key` as a `kind` (bool, int, float or str).

    A string is parsed, because it may come from the command line. An int is accepted as a float. Any other
    value must be of type `kind`.

    allowed: the only values that are accepted; None for all.

    Raises `InputError` for any other value.
    """
    error = InputError(f"{key}={value!r} is not {_EXPECTED[kind]}")
    if isinstance(value, str) and kind is not str:
        words = {"true": True, "false": False}
        try:
            value = words[value.lower()] if kind is bool else _NUMBERS[kind](value)
        except (ValueError, KeyError):
            raise error from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise error from None
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise error
    if allowed is not None and value not in allowed:
        raise InputError(f"{key}={value!r} is not allowed; allowed: {', '.join(map(str, allowed))}")
    return value


def scaled(n: int, epochs: int, published: int) -> int:
    """Scale a milestone, or the length of a stage, from a schedule of `published` epochs to one of `epochs`.

    Returns `max(1, round(n * epochs / published))`.
    """
    return max(1, round(n * epochs / published))
