"""The trials of the GPU's kernels of batch norms (models/gpu_norms.py), as rows of a table."""

from __future__ import annotations

import itertools
from typing import Any

from models.gpu_norms import Norms, Shape

BATCH = 64
MAPS = ((16, 32), (32, 32), (64, 8), (58, 16), (240, 16), (256, 32), (512, 4))
"""Channels and side of feature maps in the tables' networks."""


def measure(norms: Norms) -> list[dict[str, Any]]:
    """Try the kernels on maps of the tables' networks, with ReLU: one row for each map and form.

    A form is forward and backward in training, or forward in evaluation; with or without a shortcut.
    """
    rows = []
    for (channels, side), shortcut, training in itertools.product(MAPS, (False, True), (True, False)):
        trial = norms.attempt(Shape(BATCH * side * side, channels, shortcut, True, training))
        rows.append(
            {
                "channels": channels,
                "side": side,
                "shortcut": shortcut,
                "training": training,
                "right": trial.right,
                "pytorch_ms": trial.pytorch_ms,
                "kernel_ms": trial.kernel_ms,
                "used": trial.used,
                "error": trial.error,
            }
        )
    return rows
