"""The strong view: crop, flip, two operations of RandAugment, and Cutout.

The operations are those of Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced
Search Space (2020), with the ranges that Sohn et al., FixMatch (2020) gives for them. Every image draws two
operations, each with a magnitude that is uniform in its range. Both are always applied, and may be the same.

    identity                no change
    autocontrast            each channel is stretched to 0..255
    equalize                each channel gets a flat histogram
    brightness, colour, contrast, sharpness
                            (1 - f) * degenerate + f * image, f in 0.05..0.95; the degenerate image is black,
                            grey, the mean grey, or smoothed
    posterize               the highest 4 to 7 bits of a value are kept
    solarize                values from a threshold in 0..256 on are inverted
    rotate                  by -30..30 degrees about the centre
    shear x, shear y        a row (column) is moved by -0.3..0.3 of its distance from the top (left) edge
    shift x, shift y        by -0.3..0.3 of the side

Their values are those of PIL (ImageOps, ImageEnhance, and Image.transform by nearest neighbour with black
outside), here for a whole batch at once. Cutout then sets a square to the data set's mean; its side is 0..0.5
of the image's, its centre is anywhere in the image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.views import PAD, RawBatch, View, batch_crop, batch_flip

OPERATIONS = (
    "identity",
    "autocontrast",
    "equalize",
    "brightness",
    "contrast",
    "posterize",
    "solarize",
    "colour",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "shift_x",
    "shift_y",
)
ANGLE, SHEAR, SHIFT = math.radians(30), 0.3, 0.3  # largest magnitudes; SHIFT and CUTOUT in sides of the image
FACTOR = (0.05, 0.95)  # range of the factor of a blend
CUTOUT = 0.5
GREY = (19595, 38470, 7471)  # weights of red, green and blue in a grey value, of 65536
_LEVELS = 256


def augment(images: Tensor, operation: Tensor, u: Tensor) -> Tensor:
    """Apply one operation to each image.

    images: integers 0..255, int64 `[B, 3, H, W]`.
    operation: index in `OPERATIONS`, `[B]`.
    u: the magnitude as a share 0..1 of its range, float64 `[B]`.
    """
    images = _change_values(images, operation, u)
    images = _blend_with_neighbours(images, operation, u)
    return _move(images, operation, u)


def _is(operation: Tensor, *names: str) -> Tensor:
    """Whether each image has one of these operations: bool `[B, 1, 1]`."""
    chosen = torch.zeros_like(operation, dtype=torch.bool)
    for name in names:
        chosen = chosen | (operation == OPERATIONS.index(name))
    return chosen.view(-1, 1, 1)


def _factor(u: Tensor) -> Tensor:
    """The factor of a blend, in the precision in which PIL blends: float32 `[B, 1, 1]`."""
    low, high = FACTOR
    return (low + (high - low) * u).float().view(-1, 1, 1)


def _blend(degenerate: Tensor, image: Tensor, factor: Tensor) -> Tensor:
    """Return the integers of `(1 - factor) * degenerate + factor * image`, rounded down."""
    return (degenerate + factor * (image - degenerate)).long()


def _grey(images: Tensor) -> Tensor:
    """`[B, 3, H, W]` -> `[B, H, W]`."""
    total = sum(images[:, channel] * weight for channel, weight in enumerate(GREY))
    assert isinstance(total, Tensor)
    return (total + 32768) // 65536


def _change_values(images: Tensor, operation: Tensor, u: Tensor) -> Tensor:
    """Apply the operations that change a value by a table of 256 entries for each image and channel."""
    batch, channels, height, width = images.shape
    flat = images.view(batch, channels, -1)
    level = torch.arange(_LEVELS, device=images.device)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)

    # not `255 / x`, which torch computes by way of the reciprocal of x
    scale = torch.full_like(high, 255, dtype=torch.float64) / (high - low).clamp(min=1)
    stretched = (level * scale - low * scale).long().clamp(0, 255)
    autocontrast = torch.where(high > low, stretched, level)

    histogram = images.new_zeros(batch, channels, _LEVELS).scatter_add_(2, flat, torch.ones_like(flat))
    size = (height * width - histogram.gather(2, high)) // 255  # pixels for each value after equalizing
    below = histogram.cumsum(2) - histogram
    flattened = ((below + size // 2) // size.clamp(min=1)).clamp(0, 255)
    equalize = torch.where(size > 0, flattened, level)

    factor = _factor(u)
    mean = (_grey(images).double().mean(dim=(1, 2)) + 0.5).long().view(-1, 1, 1)
    dropped = 2 ** (4 - (4 * u).long()).view(-1, 1, 1)  # 16, 8, 4 or 2 values become one
    threshold = (_LEVELS * u).view(-1, 1, 1)
    tables = {
        "autocontrast": autocontrast,
        "equalize": equalize,
        "brightness": _blend(torch.zeros_like(level), level, factor),
        "contrast": _blend(mean, level, factor),
        "posterize": level // dropped * dropped,
        "solarize": torch.where(level < threshold, level, 255 - level),
    }
    table = level.expand(batch, channels, _LEVELS)
    for name, values in tables.items():
        table = torch.where(_is(operation, name), values, table)
    return table.gather(2, flat).view_as(images)


def _blend_with_neighbours(images: Tensor, operation: Tensor, u: Tensor) -> Tensor:
    """Apply colour and sharpness, whose degenerate images depend on the other channels or pixels."""
    grey = _grey(images)[:, None].expand_as(images)
    around = F.avg_pool2d(images.double(), 3, stride=1, divisor_override=1)  # sums over 3x3
    smooth = images.clone()  # the border is not smoothed
    smooth[..., 1:-1, 1:-1] = ((around + 4 * images[..., 1:-1, 1:-1]) / 13 + 0.5).long()
    degenerate = torch.where(_is(operation, "colour")[..., None], grey, smooth)
    blended = _blend(degenerate, images, _factor(u)[..., None])
    return torch.where(_is(operation, "colour", "sharpness")[..., None], blended, images)


def _move(images: Tensor, operation: Tensor, u: Tensor) -> Tensor:
    """Apply the geometric operations: each pixel is read at the position that an affine map gives."""
    batch, channels, height, width = images.shape
    sign = 2 * u - 1  # the magnitude as a share -1..1 of the largest one

    def if_is(name: str, value: Tensor, otherwise: float) -> Tensor:
        return torch.where(_is(operation, name)[:, 0, 0], value, otherwise).view(-1, 1, 1)

    cos, sin = if_is("rotate", (ANGLE * sign).cos(), 1.0), if_is("rotate", (ANGLE * sign).sin(), 0.0)
    shear_x, shear_y = (if_is(name, SHEAR * sign, 0.0) for name in ("shear_x", "shear_y"))
    shift_x = if_is("shift_x", SHIFT * width * sign, 0.0)
    shift_y = if_is("shift_y", SHIFT * height * sign, 0.0)
    # (column, row) of a pixel's centre -> where it is read; a positive angle is counter-clockwise
    to_column = (cos, shear_x - sin, shift_x + width / 2 * (1 - cos) + height / 2 * sin)
    to_row = (sin + shear_y, cos, shift_y + height / 2 * (1 - cos) - width / 2 * sin)
    x = torch.arange(width, device=images.device).view(1, 1, -1)
    y = torch.arange(height, device=images.device).view(1, -1, 1)
    column, row = (
        (_fixed(a) * x + _fixed(b) * y + _fixed(c + (a + b) / 2)) >> 16 for a, b, c in (to_column, to_row)
    )
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    position = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    index = position.view(batch, 1, -1).expand(-1, channels, -1)
    moved = images.reshape(batch, channels, -1).gather(2, index).view_as(images)
    return moved * inside[:, None]


def _fixed(value: Tensor) -> Tensor:
    """Return the integer nearest to 65536 times the value. With these, positions are exact on any device."""
    return (65536 * value + 0.5).floor().long()


def cutout(images: Tensor, size: Tensor, centre: Tensor) -> Tensor:
    """Set a square of each normalised image to 0, the data set's mean.

    images: `[B, 3, H, W]`.
    size: the square's side as a share of H, `[B]`.
    centre: row and column of its centre as shares of H and W, `[B, 2]`.
    """

    def covered(axis: int, length: int) -> Tensor:
        pixels = torch.arange(length, device=images.device) + 0.5
        return (pixels - length * centre[:, axis, None]).abs() < images.shape[2] * size[:, None] / 2

    rows, columns = covered(0, images.shape[2]), covered(1, images.shape[3])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _draw(n: int, generator: torch.Generator) -> Tensor:
    """`[n, 10]` in 0..1: row and column offset, flip, twice an operation and its magnitude, size and centre
    of Cutout."""
    return torch.rand(n, 10, generator=generator, dtype=torch.float64)


def _make(raw: RawBatch, draws: Tensor, _normal: Tensor) -> Tensor:
    offsets = (draws[:, :2] * (2 * PAD + 1)).long()
    cropped = batch_crop(batch_flip(raw.images, (draws[:, 2] < 0.5).long()), offsets)
    images = cropped.permute(0, 3, 1, 2).long().contiguous()
    for k in (3, 5):
        images = augment(images, (draws[:, k] * len(OPERATIONS)).long(), draws[:, k + 1])
    view = raw.normalise(images.to(torch.uint8).permute(0, 2, 3, 1))
    return cutout(view, CUTOUT * draws[:, 7], draws[:, 8:]).contiguous(memory_format=torch.channels_last)


STRONG = View("strong", 1, draw=_draw, make=_make)
"""A crop and flip of its own, two operations of RandAugment, and Cutout (MLLD)."""
