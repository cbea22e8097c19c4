"""Parse JSON that anyone may have written. What later code could stumble over is a `ValueError`."""

from __future__ import annotations

import json
import math
import re
from typing import Any

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
