"""Mixup (Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018, arXiv 1710.09412), as a part of a recipe.

    x = share x_i + (1 - share) x_j,    share ~ Beta(alpha, alpha), one for each batch

Image i of a batch is mixed with the next one, j = i + 1 (the last with the first). Images come in random
order, so the pairs are random, as those of a permutation are. The shares come from the run's seed and the
epoch alone: all methods of a seed, and their teacher, see the same mixed images. The cross-entropy is mixed
in the same way, share CE(z, y_i) + (1 - share) CE(z, y_j).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

NAME = "mixup"
"""The name of the shares among the draws of a batch."""


def draw_shares(n: int, alpha: float, seed: int) -> Tensor:
    """Return n shares, float32 `[n, 1]`. A batch uses the share of its first image."""
    shares = np.random.default_rng(seed).beta(alpha, alpha, size=(n, 1))
    return torch.from_numpy(shares.astype(np.float32))


def mixed(images: Tensor, share: Tensor) -> Tensor:
    """Mix every image `[B, 3, H, W]` with the next one. share: scalar, or `[B, 1, 1, 1]`."""
    out = share * images + (1 - share) * images.roll(-1, 0)
    return out.contiguous(memory_format=torch.channels_last)


def partners(labels: Tensor) -> Tensor:
    """Return the labels `[B]` of the images that are mixed in."""
    return labels.roll(-1, 0)
