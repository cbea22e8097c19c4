"""A forward pass that returns only the parts of the features that are needed."""

from __future__ import annotations

from torch import Tensor

from models import Features, Network
from models.features import joined


def features_of(net: Network, x: Tensor, parts: frozenset[str], first: int | None = None) -> Features:
    """Run the network on images `[B, 3, H, W]` and return the named parts in float32.

    The pass computes no more than these parts need.

    first: run the network on this number of rows and then on the others, in two passes; None for one pass.
    """
    if first is not None and first < len(x):
        return joined([features_of(net, rows, parts) for rows in (x[:first], x[first:])])
    if parts == {"logits"}:
        return Features(logits=net(x).float())
    return net.features(x, preacts="preacts" in parts).select(parts).float32()
