"""Colour jitter, grey and blur of a batch, each image with its own random draws (MoCo-v2, SimCLR, SEED).

Pixel values are in 0..1, and after every operation are cut to it. With grey = 0.299 R + 0.587 G + 0.114 B:

    brightness f    f x
    contrast f      f x + (1 - f) m, m the mean grey of the image
    saturation f    f x + (1 - f) grey
    hue h           the hue, in turns, moves by h
    grey            all three channels become grey
    blur sigma      a Gaussian of this standard deviation in pixels; outside, the edge is mirrored

The results are those of torchvision's functions for tensors. PIL, which the papers' code uses, rounds to
integers after every operation.

Shapes: images float32 `[B, 3, H, W]`, factors `[B]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_RED, _GREEN, _BLUE = 0.2989, 0.587, 0.114  # as torchvision has them


def _column(values: Tensor) -> Tensor:
    return values.to(torch.float32).view(-1, 1, 1, 1)


def to_grey(images: Tensor) -> Tensor:
    """`[B, 3, H, W]` -> `[B, 1, H, W]`."""
    red, green, blue = images.split(1, dim=1)
    return _RED * red + _GREEN * green + _BLUE * blue


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (_column(factor) * images).clamp(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    f = _column(factor)
    return (f * images + (1 - f) * to_grey(images).mean(dim=(1, 2, 3), keepdim=True)).clamp(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    f = _column(factor)
    return (f * images + (1 - f) * to_grey(images)).clamp(0, 1)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Move the hue by `turn` `[B]`, in turns: -0.5..0.5.

    With V the largest and D the difference of the largest and the smallest channel, channel c of the result
    is V - D * clamp(min(k, 4 - k), 0, 1), k = (n_c + 6 hue) mod 6, n = 5, 3, 1 for red, green and blue.
    """
    red, green, blue = images.split(1, dim=1)
    largest, smallest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    spread = largest - smallest
    divisor = torch.where(spread > 0, spread, 1.0)
    sixths = torch.where(
        largest == red,
        (green - blue) / divisor,
        torch.where(largest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    moved = sixths + 6 * _column(turn)
    k = torch.cat([moved + 5, moved + 3, moved + 1], dim=1).remainder(6.0)
    return (largest - spread * torch.minimum(k, 4 - k).clamp(0, 1)).clamp(0, 1)


def jitter(images: Tensor, factors: Sequence[Tensor], order: Tensor) -> Tensor:
    """Apply brightness, contrast, saturation and hue in the order of each image.

    factors: those of the four operations. order: the operations 0 to 3 of each image, int64 `[B, 4]`.
    """
    operations = (brightness, contrast, saturation, hue)
    for position in range(len(operations)):
        out = images
        for k, (operation, factor) in enumerate(zip(operations, factors, strict=True)):
            now = (order[:, position] == k).view(-1, 1, 1, 1)
            out = torch.where(now, operation(images, factor), out)
        images = out
    return images


def _gaussian(sigma: Tensor, size: int, radius: int) -> Tensor:
    """Weights `[B, size, size]` that blur along one axis; outside, the edge is mirrored (without repeating
    it)."""
    distance = torch.arange(-radius, radius + 1, device=sigma.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (distance / sigma.to(torch.float32).view(-1, 1)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    at = torch.arange(size, device=sigma.device)
    weights = torch.zeros(len(sigma), size, size, device=sigma.device)
    for k in range(2 * radius + 1):
        read = (at + k - radius).abs()
        read = size - 1 - (size - 1 - read).abs()
        weights[:, at, read] += kernel[:, k : k + 1]
    return weights


def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each image by a Gaussian of its own.

    radius: pixels on each side that the kernel covers, less than the side of the image.
    """
    rows, columns = (_gaussian(sigma, side, radius) for side in images.shape[2:])
    across = torch.einsum("bij,bchj->bchi", columns, images)
    return torch.einsum("bij,bcjw->bciw", rows, across)
