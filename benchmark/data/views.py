"""Views: the augmentations of a batch that the networks read.

A view turns a batch of raw images into the normalised tensor that a network reads. Its random draws are made
on the CPU for a whole epoch at once. Their generator is seeded by the run's seed, the epoch and the view's
name alone, so the draws are the same on every device, for every method and in every pack (common random
numbers), and a checkpoint need not hold them.

Shapes: raw batches are uint8 `[B, H, W, 3]` (channels last, so that a crop already has the memory format that
convolutions prefer); views return float32 `[copies * B, 3, H, W]` in channels_last memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.data import crops, jitter, mixup

PAD = 4
"""Padding of the recipe's RandomCrop(32, padding=4)."""


@dataclass(frozen=True)
class RawBatch:
    """A batch before augmentation."""

    images: Tensor
    """uint8 `[B, H, W, 3]`."""

    labels: Tensor
    """int64 `[B]`."""

    indices: Tensor
    """Positions in the training set, int64 `[B]`."""

    mean: Tensor
    """Mean of pixel values in 0..1 by channel, float32 `[3]`."""

    std: Tensor
    """Standard deviation of pixel values in 0..1 by channel, float32 `[3]`."""

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise pixel values: `(x / 255 - mean) / std`.

        uint8 `[n, H, W, 3]` -> float32 `[n, 3, H, W]` in channels_last memory.
        """
        return images.to(torch.float32).div_(255.0).sub_(self.mean).div_(self.std).permute(0, 3, 1, 2)


Draw = Callable[[int, torch.Generator], Tensor]
Make = Callable[[RawBatch, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class View:
    """An augmentation of a batch."""

    name: str
    """Identifies the view in packs and in seeds: views of one name must be the same."""

    copies: int
    """Number of rows for each image.

    The view has `copies * B` rows: all images of copy 0, then all of copy 1, and so on.
    """

    draw: Draw
    """`(n, generator)` -> the random draws of an epoch of n images, `[n, k]`."""

    make: Make
    """`(raw batch, draws of this view [B, k], draws of the normal view [B, k])` -> the view.

    The last draw of the normal view is its flip.
    """

    across_rows: bool = False
    """Whether a row of the view depends on other rows of the batch, or on its position in it. If several
    processes share a batch, each of them then makes the whole view and not only its rows."""

    def __repr__(self) -> str:
        return f"View({self.name})"


def _draw_crop_flip(n: int, generator: torch.Generator) -> Tensor:
    """`[n, 3]`: row offset and column offset in 0..2*PAD, flip in 0..1; each uniform and independent."""
    offsets = torch.randint(0, 2 * PAD + 1, (n, 2), generator=generator)
    flips = torch.randint(0, 2, (n, 1), generator=generator)
    return torch.cat([offsets, flips], dim=1)


def batch_flip(images: Tensor, flip: Tensor) -> Tensor:
    """Mirror the images `[B, H, W, 3]` whose `flip` `[B]` is 1."""
    return torch.where(flip.view(-1, 1, 1, 1).bool(), images.flip(2), images)


def batch_crop(images: Tensor, offsets: Tensor, pad: int = PAD) -> Tensor:
    """Pad images `[B, H, W, 3]` by `pad` zeros and crop them at `offsets` `[B, 2]` to their size.

    The same as RandomCrop(H, padding=pad).
    """
    batch, height, width, _ = images.shape
    padded = torch.nn.functional.pad(images, (0, 0, pad, pad, pad, pad))
    rows = offsets[:, 0].view(-1, 1, 1) + torch.arange(height, device=images.device).view(1, -1, 1)
    cols = offsets[:, 1].view(-1, 1, 1) + torch.arange(width, device=images.device).view(1, 1, -1)
    image = torch.arange(batch, device=images.device).view(-1, 1, 1)
    return padded[image, rows, cols]


def _make_normal(raw: RawBatch, draws: Tensor, _normal: Tensor) -> Tensor:
    return raw.normalise(batch_crop(batch_flip(raw.images, draws[:, 2]), draws[:, :2]))


def _draw_rotated(n: int, generator: torch.Generator) -> Tensor:
    """`[n, 6]`: row and column offset in 0..2*PAD of each of the three rotated copies."""
    return torch.randint(0, 2 * PAD + 1, (n, 6), generator=generator)


def _make_rotated(raw: RawBatch, draws: Tensor, normal: Tensor) -> Tensor:
    """Flip as the normal view does, rotate, then crop each copy independently (the order of SSKD's code)."""
    flipped = batch_flip(raw.images, normal[:, -1])
    copies = [batch_crop(torch.rot90(flipped, k, (1, 2)), draws[:, 2 * k - 2 : 2 * k]) for k in (1, 2, 3)]
    return raw.normalise(torch.cat(copies))


NORMAL = View("normal", 1, draw=_draw_crop_flip, make=_make_normal)
"""One crop and flip: what every network of the benchmark is trained on."""

ROTATED = View("rotated", 3, draw=_draw_rotated, make=_make_rotated)
"""The copies rotated by 90, 180 and 270 degrees (counter-clockwise, as numpy.rot90) of SSKD and DLKD. The
copy that is not rotated is `NORMAL`."""

SECOND = View("second", 1, draw=_draw_crop_flip, make=_make_normal)
"""A second, independent crop and flip of the same images (DDGSD, MoCo)."""


def _draw_resized(n: int, generator: torch.Generator, size: int = 32) -> Tensor:
    """`[n, 5]`: top, left, height, width, flip of RandomResizedCrop(size) and a horizontal flip.

    The crop has 0.08..1 of the area and a ratio of 3/4..4/3 (logarithmic). Of ten random crops the first that
    fits is used; if none does, the whole image (as torchvision does for a square one).
    """
    u = torch.rand(n, 10, 2, generator=generator, dtype=torch.float64)
    position = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    flips = torch.randint(0, 2, (n, 1), generator=generator)
    area, ratio = size * size * (0.08 + 0.92 * u[..., 0]), torch.exp(math.log(4 / 3) * (2 * u[..., 1] - 1))
    height, width = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    fits = (height > 0) & (height <= size) & (width > 0) & (width <= size)
    first = fits.long().argmax(dim=1, keepdim=True)
    some_fits = fits.any(dim=1, keepdim=True)
    height, width = (torch.where(some_fits, side.gather(1, first), size) for side in (height, width))
    top, left = (
        (p[:, None] * (size - side + 1)).long() for p, side in zip(position.T, (height, width), strict=True)
    )
    return torch.cat([top, left, height, width, flips], dim=1)


def _resize_weights(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Weights `[B, size, size]` that resize pixels start .. start + length - 1 to `size` pixels, bilinearly.

    Positions are those of pixel centres; pixels at the edge are repeated.
    """
    centre = (torch.arange(size, device=start.device) + 0.5) * (length[:, None] / size) - 0.5
    centre = torch.minimum(centre.clamp(min=0), length[:, None] - 1.0) + start[:, None]
    distance = (centre[:, :, None] - torch.arange(size, device=start.device)).abs()
    return (1 - distance).clamp(min=0)


def batch_resized_crop(images: Tensor, box: Tensor) -> Tensor:
    """Crop uint8 images `[B, H, H, 3]` at `box` `[B, 4]` and resize the crops to the images' size.

    A box is top, left, height, width. Values are rounded half up after each axis, as PIL does.
    """
    size = images.shape[1]
    columns = _resize_weights(box[:, 1], box[:, 3], size)
    rows = _resize_weights(box[:, 0], box[:, 2], size)
    wide = torch.einsum("bij,bhjc->bhic", columns, images.float()).add(0.5).floor()
    return torch.einsum("bij,bjwc->biwc", rows, wide).add(0.5).floor().to(torch.uint8)


def _make_resized(raw: RawBatch, draws: Tensor, _normal: Tensor) -> Tensor:
    return raw.normalise(batch_flip(batch_resized_crop(raw.images, draws[:, :4]), draws[:, 4]))


def _crop_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Crop uint8 images `[B, H, H, 3]`, resize the crops to H x H and mirror them, as `crops` has drawn."""
    box = crops.boxes(draws, images.shape[1], images.shape[2])
    return batch_flip(batch_resized_crop(images, box), draws[:, -1])


def _make_imagenet(raw: RawBatch, draws: Tensor, _normal: Tensor) -> Tensor:
    return raw.normalise(_crop_flip(raw.images, draws))


def _make_imagenet_rotated(raw: RawBatch, draws: Tensor, _normal: Tensor) -> Tensor:
    """Mirror the whole image or not, rotate it, then crop and mirror each copy independently (DLKD's code).

    In that code the copy that is not rotated goes through both flips too. Two independent coins make a fair
    one that is independent of either, so that copy is the ordinary normal view.
    """
    mirrored = batch_flip(raw.images, draws[:, 0])
    copies = [
        _crop_flip(torch.rot90(mirrored, k + 1, (1, 2)), crops.copy_draws(draws, k))
        for k in range(crops.COPIES)
    ]
    return raw.normalise(torch.cat(copies))


def mixing_shares(rows: int, device: torch.device) -> Tensor:
    """Return the share `[rows]` that a row of `MIXED` has of its own image: (i + 1/2) / rows for row i.

    Images come in random order, so the shares of an image are uniform on 0..1, and a method can compute them
    without a random draw.
    """
    return (torch.arange(rows, device=device) + 0.5) / rows


def mixed_with_next(images: Tensor) -> Tensor:
    """Mix each image of `[B, 3, H, W]` with the next one (the last with the first); see `mixing_shares`."""
    return mixup.mixed(images, mixing_shares(len(images), images.device).view(-1, 1, 1, 1))


def _mixed(make: Make) -> View:
    def mix(raw: RawBatch, _draws: Tensor, normal: Tensor) -> Tensor:
        return mixed_with_next(make(raw, normal, normal))

    return View(
        "mixed",
        1,
        draw=lambda n, generator: torch.empty(n, 0, dtype=torch.int64),
        make=mix,
        across_rows=True,
    )


MIXED = _mixed(_make_normal)
"""Row i of the normal view mixed with row i + 1 (the last with the first), in the shares of `mixing_shares`
(STKD)."""


def _draw_contrast(n: int, generator: torch.Generator, copies: int = 1) -> Tensor:
    """`[n, 17 * copies]` in 0..1: row and column of the crop, its height and width as shares of the image;
    whether to jitter, four factors and four numbers in whose order they are applied; whether to make grey;
    whether to blur, and how much; flip."""
    parts = []
    for _ in range(copies):
        u = torch.rand(n, 10, 2, generator=generator, dtype=torch.float64)
        area, ratio = 0.2 + 0.8 * u[..., 0], torch.exp(math.log(4 / 3) * (2 * u[..., 1] - 1))
        sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=2)
        fits = (sides <= 1).all(dim=2)
        first = fits.long().argmax(dim=1)
        side = torch.where(fits.any(dim=1)[:, None], sides[torch.arange(n), first], 1.0)
        corner = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        parts += [corner, side, torch.rand(n, 13, generator=generator, dtype=torch.float64)]
    return torch.cat(parts, dim=1)


def _contrast_images(images: Tensor, draws: Tensor) -> Tensor:
    """Return uint8 images `[B, H, H, 3]` augmented by draws `[B, 17]`: float32 `[B, 3, H, H]` in 0..1."""
    size = images.shape[1]
    sides = (draws[:, 2:4] * size).round().clamp(min=1)
    corners = (draws[:, :2] * (size - sides + 1)).floor()
    cropped = batch_resized_crop(images, torch.cat([corners, sides], dim=1).long())
    x = cropped.permute(0, 3, 1, 2).float() / 255
    do_jitter, do_grey, do_blur, flip = (
        (draws[:, k] < p).view(-1, 1, 1, 1) for k, p in ((4, 0.8), (13, 0.2), (14, 0.5), (16, 0.5))
    )
    factors = [
        centre + strength * (2 * draws[:, k] - 1)
        for k, centre, strength in ((5, 1.0, 0.4), (6, 1.0, 0.4), (7, 1.0, 0.4), (8, 0.0, 0.1))
    ]
    x = torch.where(do_jitter, jitter.jitter(x, factors, draws[:, 9:13].argsort(dim=1)), x)
    x = torch.where(do_grey, jitter.to_grey(x), x)
    scale = size / 224
    sigma, radius = scale * (0.1 + 1.9 * draws[:, 15]), max(1, math.ceil(3 * 2 * scale))
    x = torch.where(do_blur, jitter.blur(x, sigma, radius), x)
    return torch.where(flip, x.flip(3), x)


def _make_contrast(raw: RawBatch, draws: Tensor, _normal: Tensor) -> Tensor:
    return _normalise_unit(raw, _contrast_images(raw.images, draws))


def _make_rotated_contrast(raw: RawBatch, draws: Tensor, _normal: Tensor) -> Tensor:
    """Rotate, then augment each copy by itself."""
    copies = [
        _contrast_images(torch.rot90(raw.images, k, (1, 2)), d)
        for k, d in zip((1, 2, 3), draws.chunk(3, dim=1), strict=True)
    ]
    return _normalise_unit(raw, torch.cat(copies))


def _normalise_unit(raw: RawBatch, x: Tensor) -> Tensor:
    """Normalise values in 0..1, `[n, 3, H, W]`."""
    normalised = (x - raw.mean.view(-1, 1, 1)) / raw.std.view(-1, 1, 1)
    return normalised.contiguous(memory_format=torch.channels_last)


def _with_fixed_draws(view: View, *draws: int) -> View:
    """Return the view with fixed draws, which leave every image unchanged."""
    return View(
        view.name,
        view.copies,
        draw=lambda n, generator: torch.tensor([draws]).repeat(n, 1),
        make=view.make,
    )


AUGMENTS: Mapping[str, Mapping[str, View]] = {
    "crop-flip": {},
    "resized-crop-flip": {
        **{v.name: View(v.name, v.copies, draw=_draw_resized, make=_make_resized) for v in (NORMAL, SECOND)},
        MIXED.name: _mixed(_make_resized),
    },
    "imagenet": {
        **{v.name: View(v.name, 1, draw=crops.draw_crop, make=_make_imagenet) for v in (NORMAL, SECOND)},
        ROTATED.name: View(
            ROTATED.name, ROTATED.copies, draw=crops.draw_rotated_crops, make=_make_imagenet_rotated
        ),
        MIXED.name: _mixed(_make_imagenet),
    },
    "contrast": {
        **{
            v.name: View(v.name, v.copies, draw=_draw_contrast, make=_make_contrast) for v in (NORMAL, SECOND)
        },
        ROTATED.name: View(
            ROTATED.name,
            ROTATED.copies,
            draw=lambda n, generator: _draw_contrast(n, generator, copies=3),
            make=_make_rotated_contrast,
        ),
        MIXED.name: _mixed(_make_contrast),
    },
    "none": {
        **{v.name: _with_fixed_draws(v, PAD, PAD, 0) for v in (NORMAL, SECOND)},
        ROTATED.name: _with_fixed_draws(ROTATED, *(PAD,) * 6),
    },
}
"""For each augmentation that a protocol can name: the views that it makes differently from those above, by
name.

`contrast` is MoCo-v2's augmentation, which SEED has too: a crop of 0.2..1 of the area, resized; with
probability 0.8 jitter of brightness, contrast, saturation (0.4 each) and hue (0.1) in random order; grey with
0.2; blur with 0.5; flip. The blur's sigma is 0.1..2 pixels of an image of 224, and in proportion for others:
images of 32 pixels hardly change. (MoCo's example for CIFAR-10 leaves the blur out.) Rotated copies, which
neither paper has, are rotated first and then augmented, each by itself."""


def view_for(augment: str, view: View, size: int = 32) -> View:
    """Return the view as an augmentation makes it from images of `size` by `size` pixels."""
    made = AUGMENTS[augment].get(view.name, view)
    if made.draw is _draw_resized and size != 32:
        return View(made.name, made.copies, functools.partial(_draw_resized, size=size), made.make)
    return made


VARIANTS = 2 * (2 * PAD + 1) ** 2
"""Number of different outcomes of a crop and a flip of one image: 162."""


def is_crop_flip(view: View) -> bool:
    """Whether a view is one crop and one flip, so that each image has at most `VARIANTS` outcomes."""
    return view.make is _make_normal


def variant(draws: Tensor) -> Tensor:
    """Return which outcome draws `[n, 3]` of a crop-and-flip view have: int64 `[n]` in 0..VARIANTS-1."""
    return (draws[:, 0] * (2 * PAD + 1) + draws[:, 1]) * 2 + draws[:, 2]


def every_variant() -> Tensor:
    """Return the draws `[VARIANTS, 3]` of all outcomes, in the order of `variant`."""
    n = torch.arange(VARIANTS)
    return torch.stack([n // (2 * (2 * PAD + 1)), n // 2 % (2 * PAD + 1), n % 2], dim=1)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise images without augmentation, as for testing.

    uint8 `[n, H, W, 3]` -> float32 `[n, 3, H, W]`.
    """
    empty = torch.empty(0, dtype=torch.int64, device=images.device)
    return RawBatch(images, labels=empty, indices=empty, mean=mean, std=std).normalise(images)
