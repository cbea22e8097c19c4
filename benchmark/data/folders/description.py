"""What `NAME/dataset.toml` may say about an image folder. Without it, everything is read from the images.

size = 64               side of the training images in pixels (default 64)
mean = [0.48, 0.45, 0.40]
std = [0.28, 0.27, 0.28]
classes = ["cat", "dog"]    class folders in the order of their labels; others are left out
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.data.datasets import Channels
from benchmark.errors import InputError, unknown
from benchmark.user_files import NOT_TOML

FILE = "dataset.toml"
SIZE = 64
SIZES = range(8, 1025)


@dataclass(frozen=True)
class Description:
    """How the images of a folder become a data set."""

    size: int = SIZE
    """Side of the training images in pixels."""

    mean: Channels | None = None
    """Mean of pixel values in 0..1; None: computed from the training images."""

    std: Channels | None = None
    """Standard deviation of pixel values in 0..1; None: computed from the training images."""

    classes: tuple[str, ...] = ()
    """Class folders in the order of their labels; empty: all, in alphabetical order."""


def read_description(base: Path) -> Description:
    """Return what the `dataset.toml` of a folder says. Raises `InputError` for a wrong one."""
    path = base / FILE
    if not path.is_file():
        return Description()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, *NOT_TOML) as error:
        raise InputError(f"{path}: {error}") from error
    for key in raw:
        if key not in ("size", "mean", "std", "classes"):
            raise unknown(f"setting in {path}:", key, ("size", "mean", "std", "classes"))
    size = raw.get("size", SIZE)
    if not isinstance(size, int) or isinstance(size, bool) or size not in SIZES:
        raise InputError(f"{path}: size = {size!r} is not allowed; allowed: {SIZES[0]} to {SIZES[-1]} pixels")
    return Description(
        size=size,
        mean=_channels(path, raw, "mean", lowest=0.0),
        std=_channels(path, raw, "std", lowest=0.001),
        classes=_classes(path, raw.get("classes", [])),
    )


def _channels(path: Path, raw: dict[str, Any], key: str, lowest: float) -> Channels | None:
    if key not in raw:
        return None
    value = raw[key]
    numbers = (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(v, int | float) and not isinstance(v, bool) and lowest <= v <= 1 for v in value)
    )
    if not numbers:
        raise InputError(f"{path}: {key} must be three numbers from {lowest:g} to 1, such as [0.5, 0.5, 0.5]")
    first, second, third = map(float, value)
    return first, second, third


def _classes(path: Path, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise InputError(f"{path}: classes must be a list of names of class folders")
    if repeated := sorted({v for v in value if value.count(v) > 1}):
        raise InputError(f"{path}: classes has {repeated[0]} twice; every class once")
    return tuple(value)
