"""RandomResizedCrop and a horizontal flip, drawn before the image's size is known.

A crop has 0.08..1 of the image's area and a ratio of 3/4..4/3, as torchvision draws it. `boxes` turns the
draws into pixels, for images that are held in memory and for those that are read from files.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TRIES = 10
"""Of this many random crops the first that fits into the image is used."""

WIDTH = 2 * TRIES + 3
"""Draws of a crop and a flip: area and ratio of each try, row, column, and the flip."""

COPIES = 3
"""Rotated copies of an image: by 90, 180 and 270 degrees."""

SMALLEST_AREA, LARGEST_RATIO = 0.08, 4 / 3


def draw_crop(n: int, generator: torch.Generator) -> Tensor:
    """Return the draws of n crops and flips, float32 `[n, WIDTH]` in 0..1; the last is 0 or 1."""
    draws = torch.rand(n, WIDTH, generator=generator)
    draws[:, -1] = draws[:, -1].round()
    return draws


def draw_rotated_crops(n: int, generator: torch.Generator) -> Tensor:
    """Return a coin (0 or 1) for each of n images, then the crop and flip of each rotated copy.

    float32 `[n, 1 + COPIES * WIDTH]`; see `copy_draws`.
    """
    coin = torch.rand(n, 1, generator=generator).round()
    return torch.cat([coin, *(draw_crop(n, generator) for _ in range(COPIES))], dim=1)


def copy_draws(draws: Tensor, copy: int) -> Tensor:
    """Return the crop and flip `[n, WIDTH]` of a rotated copy (0, 1 or 2)."""
    return draws[:, 1 + copy * WIDTH : 1 + (copy + 1) * WIDTH]


def boxes(draws: Tensor, height: int | Tensor, width: int | Tensor) -> Tensor:
    """Return top, left, height and width of crops in pixels, int64 `[n, 4]`.

    draws: `[n, WIDTH]`.
    height, width: of the images, one for all or `[n]`.

    If no try fits, the crop is the largest one in the middle that keeps to the ratios, as in torchvision.
    """
    n, device = len(draws), draws.device
    draws = draws.double()  # so that every device rounds to the same pixel
    height, width = (torch.as_tensor(side, device=device).expand(n)[:, None] for side in (height, width))
    u = draws[:, : 2 * TRIES].view(n, TRIES, 2)
    area = height * width * (SMALLEST_AREA + (1 - SMALLEST_AREA) * u[..., 0])
    ratio = torch.exp(math.log(LARGEST_RATIO) * (2 * u[..., 1] - 1))
    wide, high = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    first, some = fits.long().argmax(dim=1, keepdim=True), fits.any(dim=1, keepdim=True)
    most_wide = torch.minimum(width, (height * LARGEST_RATIO).round().long())
    most_high = torch.minimum(height, (width * LARGEST_RATIO).round().long())
    wide = torch.where(some, wide.gather(1, first), most_wide)
    high = torch.where(some, high.gather(1, first), most_high)
    top = torch.where(some, (draws[:, -3:-2] * (height - high + 1)).long(), (height - high) // 2)
    left = torch.where(some, (draws[:, -2:-1] * (width - wide + 1)).long(), (width - wide) // 2)
    return torch.cat([top, left, high, wide], dim=1)
