"""A forward pass that returns only the parts of the features that are needed."""

from __future__ import annotations

from torch import Tensor

from models import Features, Network


def features_of(net: Network, x: Tensor, parts: frozenset[str]) -> Features:
    """Run the network on images `[B, 3, H, W]` and return the named parts in float32.

    The pass computes no more than these parts need.
    """
    if parts == {"logits"}:
        return Features(logits=net(x).float())
    return net.features(x, preacts="preacts" in parts).select(parts).float32()
