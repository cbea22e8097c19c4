"""Features of which only some parts are kept.

`Features` has a field for every part. Here, a tensor that is not kept is None, although its type says
`Tensor`: a method reads only the parts that its `needs` name, and those are always there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from models import Features, Network

ABSENT: Any = None
"""A part that is not kept."""


def features_with(
    *,
    stem: Tensor = ABSENT,
    stages: tuple[Tensor, ...] = (),
    preacts: tuple[Tensor, ...] = (),
    embedding: Tensor = ABSENT,
    logits: Tensor = ABSENT,
) -> Features:
    """Return features with the given parts only."""
    return Features(stem, stages, preacts, embedding, logits)


def select(features: Features, parts: frozenset[str]) -> Features:
    """Return the named parts in float32. The others are dropped, so that their memory can be freed."""
    return features_with(
        stem=features.stem.float() if "stem" in parts else ABSENT,
        stages=tuple(x.float() for x in features.stages) if "stages" in parts else (),
        preacts=tuple(x.float() for x in features.preacts) if "preacts" in parts else (),
        embedding=features.embedding.float() if "embedding" in parts else ABSENT,
        logits=features.logits.float() if "logits" in parts else ABSENT,
    )


def features_of(net: Network, x: Tensor, parts: frozenset[str]) -> Features:
    """Run the network on images `[B, 3, H, W]` and return the named parts in float32.

    The pass computes no more than these parts need.
    """
    if parts == {"logits"}:
        return features_with(logits=net(x).float())
    return select(net.features(x, preacts="preacts" in parts), parts)


def rows_of(features: Features, rows: slice) -> Features:
    """Return the features of some images of the batch, as views; absent parts stay absent."""
    return features_with(
        stem=ABSENT if features.stem is None else features.stem[rows],
        stages=tuple(x[rows] for x in features.stages),
        preacts=tuple(x[rows] for x in features.preacts),
        embedding=ABSENT if features.embedding is None else features.embedding[rows],
        logits=ABSENT if features.logits is None else features.logits[rows],
    )
