"""The data set `pictures`: drawings of ten shapes at 64 pixels, computed when they are asked for.

It stands in for a folder of photographs where nothing may be downloaded (the `quick` profile of ImageNet's
tables). A picture is one shape in one colour, turned, of any size and anywhere, on a background of another
colour with a random pattern of waves. It is computed from integers and IEEE arithmetic by NumPy.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.data.datasets import DATASETS, Dataset, DatasetInfo, Split

NAME = "pictures"
SIZE = 64
TRAIN, TEST = 1_000, 300
CLASSES = ("disc", "ring", "square", "frame", "triangle", "cross", "stripes", "squares", "half", "dots")

Array = np.ndarray[Any, Any]


def inside(kind: int, x: Array, y: Array) -> Array:
    """Return which points of the plane belong to a shape, which fills about -1..1 in both directions."""
    radius, side = np.hypot(x, y), np.maximum(abs(x), abs(y))
    frame = side < 0.85
    shapes = (
        radius < 0.9,
        (radius > 0.55) & (radius < 1.0),
        frame,
        frame & (side > 0.5),
        (y > -0.6) & (y < 1.0 - 1.9 * abs(x)),
        (side < 1.0) & (np.minimum(abs(x), abs(y)) < 0.28),
        frame & (np.floor(3 * x) % 2 == 0),
        frame & ((np.floor(2.4 * x) + np.floor(2.4 * y)) % 2 == 0),
        (radius < 1.0) & (y > 0),
        np.hypot((1.5 * x) % 1 - 0.5, (1.5 * y) % 1 - 0.5) < np.where(side < 1.0, 0.3, 0.0),
    )
    return shapes[kind]


def draw(kind: int, rng: np.random.Generator) -> Array:
    """Return a picture of a shape, uint8 `[64, 64, 3]`."""
    v, u = np.mgrid[:SIZE, :SIZE] * (2 / (SIZE - 1)) - 1
    colours = rng.uniform(0, 1, (2, 3))
    while np.abs(colours[0] - colours[1]).sum() < 0.8:
        colours = rng.uniform(0, 1, (2, 3))
    waves = np.zeros((SIZE, SIZE, 3))
    for _ in range(3):
        fx, fy, phase = rng.uniform(-8, 8), rng.uniform(-8, 8), rng.uniform(0, 6.28)
        waves += np.sin(fx * u + fy * v + phase)[..., None] * rng.uniform(-0.08, 0.08, 3)
    angle, scale, (left, top) = rng.uniform(0, 6.28), rng.uniform(0.35, 0.7), rng.uniform(-0.3, 0.3, 2)
    c, s = np.cos(angle) / scale, np.sin(angle) / scale
    x, y = c * (u - left) + s * (v - top), c * (v - top) - s * (u - left)
    image = np.where(inside(kind, x, y)[..., None], colours[0] + 0.5 * waves, colours[1] + waves)
    image += rng.normal(0, 0.03, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


@functools.cache
def _split(n: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(CLASSES)
    images = np.stack([draw(int(k), rng) for k in labels])
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _load(_folder: Path) -> Dataset:
    return Dataset(NAME, _split(TRAIN, 0), _split(TEST, 1), CLASSES)


DATASETS[NAME] = DatasetInfo(
    name=NAME,
    title="drawings of ten shapes",
    num_classes=len(CLASSES),
    train_images=TRAIN,
    test_images=TEST,
    # of the training images; a test recomputes them
    mean=(0.4926, 0.4903, 0.5119),
    std=(0.2995, 0.2998, 0.3026),
    disk_bytes=0,
    load=_load,
    size=SIZE,
)
