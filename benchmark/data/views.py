"""Views: what a batch looks like when it reaches the networks.

A view turns a batch of raw images into the normalised tensor that a network reads. Its random draws are made on the CPU for a
whole epoch at once, from a generator seeded by the run's seed, the epoch and the view's name alone: the same draws on every
device, for every method and in every pack (common random numbers), and nothing to checkpoint.

Shapes: raw batches are uint8 `[B, H, W, 3]` (channels last, so that the crop's result already has the memory format that
convolutions like); views return float32 `[copies * B, 3, H, W]` in channels_last memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

PAD = 4  # RandomCrop(32, padding=4) of the benchmark's recipe


@dataclass(frozen=True)
class RawBatch:
    """A batch before augmentation.

    images: uint8 `[B, H, W, 3]`; labels and indices (positions in the training set): int64 `[B]`;
    mean, std: float32 `[3]`, in units of pixel values scaled to 0..1.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    mean: Tensor
    std: Tensor

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 `[n, H, W, 3]` -> float32 `[n, 3, H, W]` (channels_last memory), `(x / 255 - mean) / std`."""
        return images.to(torch.float32).div_(255.0).sub_(self.mean).div_(self.std).permute(0, 3, 1, 2)


Draw = Callable[[int, torch.Generator], Tensor]
Make = Callable[[RawBatch, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class View:
    """One way to look at a batch.

    name: stands in checkpoints' settings and in pack plans; two views of one name must be the same view.
    copies: rows a raw image becomes (the view has `copies * B` rows, copy-major: all images of copy 0, then of copy 1 ...).
    draw: `(n, generator) -> [n, k]` the epoch's random draws for n positions.
    make: `(raw, draws of this view [B, k], draws of the normal view, the last of which is its flip) -> [copies * B, 3, H, W]`.
    """

    name: str
    copies: int
    draw: Draw
    make: Make

    def __repr__(self) -> str:
        return f"View({self.name})"


def _draw_crop_flip(n: int, generator: torch.Generator) -> Tensor:
    """`[n, 3]`: row offset and column offset in 0..2*PAD, flip in 0..1; each uniform and independent."""
    offsets = torch.randint(0, 2 * PAD + 1, (n, 2), generator=generator)
    flips = torch.randint(0, 2, (n, 1), generator=generator)
    return torch.cat([offsets, flips], dim=1)


def batch_flip(images: Tensor, flip: Tensor) -> Tensor:
    """Mirrors the rows of `images` `[B, H, W, 3]` whose `flip` `[B]` is 1."""
    return torch.where(flip.view(-1, 1, 1, 1).bool(), images.flip(2), images)


def batch_crop(images: Tensor, offsets: Tensor, pad: int = PAD) -> Tensor:
    """Pads `[B, H, W, 3]` by `pad` zeros and cuts `[B, H, W, 3]` at `offsets` `[B, 2]`: RandomCrop(H, padding=pad)."""
    batch, height, width, _ = images.shape
    padded = torch.nn.functional.pad(images, (0, 0, pad, pad, pad, pad))
    rows = offsets[:, 0].view(-1, 1, 1) + torch.arange(height, device=images.device).view(1, -1, 1)
    cols = offsets[:, 1].view(-1, 1, 1) + torch.arange(width, device=images.device).view(1, 1, -1)
    which = torch.arange(batch, device=images.device).view(-1, 1, 1)
    return padded[which, rows, cols]


def _make_normal(raw: RawBatch, draws: Tensor, _normal: Tensor) -> Tensor:
    return raw.normalise(batch_crop(batch_flip(raw.images, draws[:, 2]), draws[:, :2]))


def _draw_rotated(n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2 * PAD + 1, (n, 6), generator=generator)


def _make_rotated(raw: RawBatch, draws: Tensor, normal: Tensor) -> Tensor:
    """The flip of the normal view, then a quarter turn, then a crop of its own for each copy (SSKD's order)."""
    flipped = batch_flip(raw.images, normal[:, -1])
    copies = [batch_crop(torch.rot90(flipped, k, (1, 2)), draws[:, 2 * k - 2 : 2 * k]) for k in (1, 2, 3)]
    return raw.normalise(torch.cat(copies))


NORMAL = View("normal", 1, _draw_crop_flip, _make_normal)
"""Crop and flip, once: what every network of the benchmark is trained on."""

ROTATED = View("rotated", 3, _draw_rotated, _make_rotated)
"""The three turned copies (90, 180, 270 degrees, counter-clockwise as numpy.rot90) of SSKD and DLKD; the unturned copy is `NORMAL`."""

SECOND = View("second", 1, _draw_crop_flip, _make_normal)
"""A second, independent crop and flip of the same images (DDGSD, DLB)."""


def _draw_resized(n: int, generator: torch.Generator, size: int = 32) -> Tensor:
    """`[n, 5]`: top, left, height, width, flip. RandomResizedCrop(size), scale 0.08..1 of the area and ratio 3/4..4/3 (logarithmic): the first
    of ten tries that fits; where none does, the whole image (as torchvision for a square one)."""
    u = torch.rand(n, 10, 2, generator=generator, dtype=torch.float64)
    place = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    flips = torch.randint(0, 2, (n, 1), generator=generator)
    area, ratio = size * size * (0.08 + 0.92 * u[..., 0]), torch.exp(math.log(4 / 3) * (2 * u[..., 1] - 1))
    height, width = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    fits = (height > 0) & (height <= size) & (width > 0) & (width <= size)
    first = fits.long().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1, keepdim=True)
    height, width = (torch.where(found, side.gather(1, first), size) for side in (height, width))
    top, left = (
        (p[:, None] * (size - side + 1)).long() for p, side in zip(place.T, (height, width), strict=True)
    )
    return torch.cat([top, left, height, width, flips], dim=1)


def _stretch(start: Tensor, length: Tensor, size: int) -> Tensor:
    """`[B, size, size]`: rows of weights that bring pixels start .. start + length - 1 to `size` of them, bilinearly
    (pixel centres, edges repeated)."""
    centre = (torch.arange(size, device=start.device) + 0.5) * (length[:, None] / size) - 0.5
    centre = torch.minimum(centre.clamp(min=0), length[:, None] - 1.0) + start[:, None]
    distance = (centre[:, :, None] - torch.arange(size, device=start.device)).abs()
    return (1 - distance).clamp(min=0)


def batch_resized_crop(images: Tensor, box: Tensor) -> Tensor:
    """uint8 `[B, H, H, 3]` cut at `box` `[B, 4]` (top, left, height, width) and brought back to its size; rounded half up
    after each axis, as PIL does."""
    size = images.shape[1]
    columns, rows = _stretch(box[:, 1], box[:, 3], size), _stretch(box[:, 0], box[:, 2], size)
    wide = torch.einsum("bij,bhjc->bhic", columns, images.float()).add(0.5).floor()
    return torch.einsum("bij,bjwc->biwc", rows, wide).add(0.5).floor().to(torch.uint8)


def _make_resized(raw: RawBatch, draws: Tensor, _normal: Tensor) -> Tensor:
    return raw.normalise(batch_flip(batch_resized_crop(raw.images, draws[:, :4]), draws[:, 4]))


def mixing(rows: int, device: torch.device) -> Tensor:
    """`[rows]`: the share of its own image in each row of `MIXED`, (i + 1/2) / rows. Rows are in random order, so this is uniform on 0..1, and
    a method knows it without being told of a draw."""
    return (torch.arange(rows, device=device) + 0.5) / rows


def _mixed(make: Make) -> View:
    def mix(raw: RawBatch, _draws: Tensor, normal: Tensor) -> Tensor:
        images = make(raw, normal, normal)
        share = mixing(len(images), images.device).view(-1, 1, 1, 1)
        return (share * images + (1 - share) * images.roll(-1, 0)).contiguous(
            memory_format=torch.channels_last
        )

    return View("mixed", 1, lambda n, generator: torch.empty(n, 0, dtype=torch.int64), mix)


MIXED = _mixed(_make_normal)
"""Virtual samples: row i of the normal view mixed with row i + 1 (the last with the first) in the shares of `mixing` (STKD)."""


def _still(view: View, *offsets: int) -> View:
    """The view without chance: the same draws, of which the crops above make the image as it is, for every image."""
    return View(view.name, view.copies, lambda n, generator: torch.tensor([offsets]).repeat(n, 1), view.make)


AUGMENTS: Mapping[str, Mapping[str, View]] = {
    "crop-flip": {},
    "resized-crop-flip": {
        **{v.name: View(v.name, v.copies, _draw_resized, _make_resized) for v in (NORMAL, SECOND)},
        MIXED.name: _mixed(_make_resized),
    },
    "none": {
        **{v.name: _still(v, PAD, PAD, 0) for v in (NORMAL, SECOND)},
        ROTATED.name: _still(ROTATED, *(PAD,) * 6),
    },
}
"""A protocol's augmentation: the views that it makes in another way than those above, by name."""


def under(augment: str, view: View) -> View:
    """The view as this augmentation makes it."""
    return AUGMENTS[augment].get(view.name, view)


VARIANTS = 2 * (2 * PAD + 1) ** 2
"""Different outcomes of a crop and a flip of one image: 162."""


def is_crop_flip(view: View) -> bool:
    """Whether a view is one crop and one flip, so that each image has `VARIANTS` outcomes and no more."""
    return view.make is _make_normal


def variant(draws: Tensor) -> Tensor:
    """Draws `[n, 3]` of a plain view -> which outcome, int64 `[n]` in 0..VARIANTS-1."""
    return (draws[:, 0] * (2 * PAD + 1) + draws[:, 1]) * 2 + draws[:, 2]


def every_variant() -> Tensor:
    """The draws `[VARIANTS, 3]` of all outcomes, in the order of `variant`."""
    n = torch.arange(VARIANTS)
    return torch.stack([n // (2 * (2 * PAD + 1)), n // 2 % (2 * PAD + 1), n % 2], dim=1)


def clean(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Test images: normalised only. uint8 `[n, H, W, 3]` -> float32 `[n, 3, H, W]`."""
    empty = torch.empty(0, dtype=torch.int64, device=images.device)
    return RawBatch(images, empty, empty, mean, std).normalise(images)
