"""Values of settings: checked, and scaled to another length of the schedule."""

from __future__ import annotations

import math
from typing import Any

from benchmark.errors import InputError


def coerce(key: str, value: Any, kind: type[Any], allowed: tuple[Any, ...] | None = None) -> Any:
    """The value of the setting `key` as a `kind` (bool, int, float or str).

    A string is parsed, as it may come from the command line; an int is taken for a float; any other type must be `kind` itself.
    allowed: the only values that may be taken, None for all. Raises `InputError`, which names the key and what is allowed.
    """
    what = {bool: "true or false", int: "an int", float: "a finite float"}.get(kind, "a word")
    error = InputError(f"{key}={value!r} is not of type {kind.__name__}; allowed: {what}")
    if isinstance(value, str) and kind is not str:
        words = {"true": True, "false": False}
        try:
            value = words[value.lower()] if kind is bool else kind(value)
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
    """`max(1, round(n * epochs / published))`: a milestone or stage of a schedule in another length."""
    return max(1, round(n * epochs / published))
