"""Parse JSON that anyone may have written. What later code could stumble over is a `ValueError`."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MOST_DEPTH = 100
"""The deepest nesting that is read. No file of ours is deeper than ten."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LARGE_NUMBER = re.compile(r"\d[eE]\+?\d{3}|\d{300}")


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises `ValueError` for anything else: text that is too deeply nested, NaN and infinities (which are not
    JSON), and half of a surrogate pair, which cannot be printed or stored.
    """
    text = content.decode("utf-8-sig")
    parse_float = _finite if _LARGE_NUMBER.search(text) else None
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=parse_float)
        if _SURROGATE.search(text):  # most are pairs, which are characters
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        if text.count("[") + text.count("{") > MOST_DEPTH and _is_deeper(value, MOST_DEPTH):
            raise ValueError("too deeply nested")
    except RecursionError:
        raise ValueError("too deeply nested") from None
    except UnicodeEncodeError:
        raise ValueError("has half of a surrogate pair") from None
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"has {name}, which is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"has {digits[:20]}, which is too large a number")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    """Return whether lists and objects are nested more than `depth` deep."""
    level = [value]
    for _ in range(depth + 1):
        inner = [x.values() if isinstance(x, dict) else x for x in level if isinstance(x, dict | list)]
        if not inner:
            return False
        level = [x for each in inner for x in each]
    return True
