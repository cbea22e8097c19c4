"""Small image folders for tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def pixels(label: int, k: int, side: int = 20) -> np.ndarray[Any, Any]:
    """An image of smooth colours that depend on the label, uint8 `[side, side + 4, 3]`."""
    rng = np.random.default_rng(1000 * label + k)
    small = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side + 4, side), Image.Resampling.BICUBIC))


def content(image: Any, kind: str = "JPEG", **options: Any) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def write_photos(base: Path, train: int = 6, test: int = 3, classes: tuple[str, ...] = CLASSES) -> Path:
    """`base/{train,val}/<class>/*.jpg`, so many of each class. Returns `base`."""
    for part, n, first in (("train", train, 0), ("val", test, 500)):
        for label, name in enumerate(classes):
            folder = base / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for k in range(n):
                (folder / f"{k}.jpg").write_bytes(content(pixels(label, first + k)))
    return base
