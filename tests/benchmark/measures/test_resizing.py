"""Resizing and cropping, against PIL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.measures._resizing import crop_and_resize, draw_crops, random_crops, resized


def images(n: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, side, side, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("side", [32, 64, 96])
def test_resized_images_are_those_of_pil(side: int) -> None:
    pictures = images(3, side)
    theirs = [
        np.asarray(Image.fromarray(p.numpy()).resize((32, 32), Image.Resampling.BILINEAR)) for p in pictures
    ]
    difference = resized(pictures, 32).int() - torch.from_numpy(np.stack(theirs)).int()
    assert difference.abs().max() <= 1, "PIL rounds the weights to 22 bits"
    assert (difference != 0).float().mean() < 0.01


def test_crops_are_those_of_pil() -> None:
    pictures = images(40, 64)
    draws = draw_crops(40, 64, torch.Generator().manual_seed(1))
    assert (draws[:, 2:4] > 32).any() and (draws[:, 2:4] < 32).any(), "some crops shrink and some grow"
    ours = crop_and_resize(pictures, draws[:, :4], 32)
    for picture, (top, left, height, width, _), our in zip(pictures, draws.tolist(), ours, strict=True):
        box = (left, top, left + width, top + height)
        crop = Image.fromarray(picture.numpy()).crop(box).resize((32, 32), Image.Resampling.BILINEAR)
        difference = our.int() - torch.from_numpy(np.array(crop)).int()
        assert difference.abs().max() <= 1
    flipped = random_crops(pictures, torch.cat([draws[:, :4], torch.ones(40, 1).long()], 1), 32)
    assert torch.equal(flipped, ours.flip(2))


def test_crops_cover_all_sizes() -> None:
    draws = draw_crops(2000, 96, torch.Generator().manual_seed(0))
    area = (draws[:, 2] * draws[:, 3]).double() / 96**2
    assert 0.07 < area.min() < 0.12 and area.max() > 0.97
    assert (draws[:, :2] + draws[:, 2:4]).max() <= 96
