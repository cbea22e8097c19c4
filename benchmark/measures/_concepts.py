"""Pixel entropy, concept sets, and how well the concept sets of two views agree.

From the text of DLKD; its code stops at sigma (benchmark/measures/entropy.py).

    entropy of a pixel   H_i = log sigma_i + log(2 pi e) / 2, of the Gaussian noise that pixel i bears (nats)
    mean entropy         mean over the pixels of an image
    concept set          pixels with H_i below the image's mean: the network keeps their values
    IoU                  |intersection| / |union| of the concept sets of two views of an image
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CONSTANT_TERM = 0.5 * math.log(2 * math.pi * math.e)
"""Entropy of a Gaussian of standard deviation 1, in nats: 1.419."""


def entropy_map(sigma: Tensor) -> Tensor:
    """Return H `[N, H, W]` in nats from sigma `[N, H, W]`."""
    return sigma.log() + CONSTANT_TERM


def mean_entropy(entropy: Tensor) -> Tensor:
    """Return the mean entropy of each image, float64 `[N]`, from H `[N, H, W]`."""
    return entropy.double().mean(dim=(1, 2))


def concept_set(entropy: Tensor) -> Tensor:
    """Return the pixels whose entropy is below their image's mean, bool `[N, H, W]`.

    Empty where all pixels have the same entropy.
    """
    lowest, highest = entropy.amin(dim=(1, 2)), entropy.amax(dim=(1, 2))
    below = entropy.double() < mean_entropy(entropy)[:, None, None]
    return below & (lowest < highest)[:, None, None]  # a mean is rounded, also that of equal numbers


def turned_back(maps: Tensor, quarters: int) -> Tensor:
    """Turn the maps `[N, H, W]` of images that were turned by `torch.rot90(image, quarters)` back."""
    return torch.rot90(maps, -quarters, (1, 2))


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Return the IoU of two concept sets of each image, float64 `[N]`, from two bool `[N, H, W]`.

    NaN where both are empty.
    """
    both, either = (one & other).sum(dim=(1, 2)), (one | other).sum(dim=(1, 2))
    return both.double() / either.double()
