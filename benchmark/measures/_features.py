"""The pooled embeddings of images under a frozen network."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark import longwork
from benchmark.data import Split, normalise
from benchmark.errors import InputError
from models import Network

BATCH = {"cpu": 100, "cuda": 500}
"""Images of a pass: they fill a GPU, and their maps fit into the caches of a CPU."""


def embedding_of(net: Network, x: Tensor) -> Tensor:
    """Return the pooled embedding of normalised images: float32 `[B, D]`."""
    return net.features(x, preacts=False).embedding.float()


@torch.no_grad()
def embeddings(net: Network, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the embeddings of images uint8 `[N, H, W, 3]`, not augmented: float32 `[N, D]`.

    mean, std: by channel, on the network's device. The network's mode is not changed.
    """
    device, parts = mean.device, []
    with longwork.task(f"embeddings of {net.name}", len(images), "images") as task:
        for part in images.split(BATCH[device.type]):
            parts.append(embedding_of(net, normalise(part.to(device), mean, std)))
            task.advance(len(part))
    return torch.cat(parts)


def limited(split: Split, n: int, seed: int = 0) -> Split:
    """Return n images of a split, drawn by a fixed seed; all for n = 0 or more than there are.

    Raises `InputError` for a split whose images are read from files in every epoch.
    """
    if len(split.images) != len(split.labels):
        raise InputError(
            "its images are too many for the memory, and this measure needs them there; measure on another "
            "data set (targets)"
        )
    if not n or n >= len(split.labels):
        return split
    chosen = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed))[:n]
    return split.pick(chosen)
