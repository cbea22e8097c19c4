"""The pooled embeddings of images under a frozen network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmark.data import Split, normalise
from benchmark.measures._resizing import resized
from models import Network

BATCH = {"cpu": 100, "cuda": 500}
"""Images of a pass: they fill a GPU, and their maps fit into the caches of a CPU."""


class Progress:
    """Counts passes of images through the network, and tells how many of all are done."""

    def __init__(self, total: float, tell: Callable[[int, int], None], done: float = 0.0) -> None:
        self.total, self.done, self._tell = total, done, tell

    def add(self, passes: float) -> None:
        self.done += passes
        self._tell(round(self.done), round(self.total))


def embedding_of(net: Network, x: Tensor) -> Tensor:
    """Return the pooled embedding of normalised images: float32 `[B, D]`."""
    return net.features(x, preacts=False).embedding.float()


def at_size(split: Split, size: int) -> Split:
    """Return a split whose images are resized to `size` by `size` pixels, if they are held.

    Those that are read in batches stay as they are: `embeddings` resizes them.
    """
    return replace(split, images=resized(split.images, size)) if split.is_held else split


@torch.no_grad()
def embeddings(
    net: Network,
    split: Split,
    mean: Tensor,
    std: Tensor,
    *,
    size: int = 0,
    done: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """Return the embeddings of a split's images, not augmented: float32 `[N, D]`.

    mean, std: by channel, on the network's device. The network's mode is not changed.
    size: side in pixels to which images of another size are resized; 0 for none.
    done: is called with the number of images of each pass.

    Images in files are read in batches in their test form, and never held together.
    """
    device, parts = mean.device, []
    split = at_size(split, size) if size else split
    for images in split.batches(BATCH[device.type]):
        part = resized(images.to(device), size) if size else images.to(device)
        parts.append(embedding_of(net, normalise(part, mean, std)))
        done(len(part))
    return torch.cat(parts)


def limited(split: Split, n: int, seed: int = 0) -> Split:
    """Return n images of a split, drawn by a fixed seed; all for n = 0 or more than there are."""
    if not n or n >= len(split.labels):
        return split
    chosen = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed))[:n]
    return split.pick(chosen)
