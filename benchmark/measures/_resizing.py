"""Images resized as PIL does it: bilinear; where an image shrinks, with a filter as wide as a new pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.data import NORMAL, batch_flip, crops, view_for

BLOCK = 1_000
"""Images that are resized at once."""


def weights(start: Tensor, length: Tensor, inputs: int, outputs: int) -> Tensor:
    """Return the weights `[B, outputs, inputs]` of pixels start .. start + length - 1, resized to `outputs`.

    start, length: `[B]`. An output pixel at c (in input pixels, from the left edge) is the mean of the pixels
    at i + 1/2 with weights max(0, 1 - |i + 1/2 - c| / s) and s = max(1, length / outputs).
    """
    scale = length / outputs
    centre = start[:, None] + (torch.arange(outputs, device=start.device) + 0.5) * scale[:, None]
    pixel = torch.arange(inputs, device=start.device)
    distance = (pixel + 0.5 - centre[:, :, None]).abs() / scale.clamp(min=1)[:, None, None]
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])
    filtered = (1 - distance).clamp(min=0) * inside[:, None, :]
    return filtered / filtered.sum(dim=2, keepdim=True)


def crop_and_resize(images: Tensor, box: Tensor, size: int) -> Tensor:
    """Crop uint8 images `[B, H, W, 3]` at `box` `[B, 4]` (top, left, height, width), and resize the crops.

    Returns uint8 `[B, size, size, 3]`. Values are rounded half up after each axis, columns first.
    """
    columns = weights(box[:, 1], box[:, 3], images.shape[2], size)
    rows = weights(box[:, 0], box[:, 2], images.shape[1], size)
    wide = torch.einsum("bij,bhjc->bhic", columns, images.float()).add(0.5).floor()
    return torch.einsum("bij,bjwc->biwc", rows, wide).add(0.5).floor().to(torch.uint8)


def resized(images: Tensor, size: int) -> Tensor:
    """Return images `[N, H, W, 3]` at `size` by `size` pixels: as they are, if they have this size."""
    height, width = images.shape[1:3]
    if (height, width) == (size, size):
        return images
    whole, parts = torch.tensor([0, 0, height, width], device=images.device), images.split(BLOCK)
    return torch.cat([crop_and_resize(part, whole.expand(len(part), 4), size) for part in parts])


def draw_crops(n: int, side: int, generator: torch.Generator) -> Tensor:
    """Return the draws `[n, 5]` of RandomResizedCrop and a horizontal flip on images of `side` pixels."""
    return view_for("resized-crop-flip", NORMAL, side).draw(n, generator)


def draw_crops_of_files(n: int, generator: torch.Generator) -> Tensor:
    """Return the draws `[n, crops.WIDTH]` of the same crops, before the size of the images is known.

    `crops.boxes` turns them into pixels: for images of `side` by `side` pixels, those of `draw_crops`.
    """
    tries = torch.rand(n, 2 * crops.TRIES, generator=generator, dtype=torch.float64)
    corner = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    flip = torch.randint(0, 2, (n, 1), generator=generator)
    return torch.cat([tries, corner, flip], dim=1)


def random_crops(images: Tensor, draws: Tensor, size: int) -> Tensor:
    """Return the crops of `draw_crops` of images `[B, H, H, 3]`, resized to `size` and flipped."""
    return batch_flip(crop_and_resize(images, draws[:, :4], size), draws[:, 4])
