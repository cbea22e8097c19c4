"""The strong view: its operations against PIL, Cutout, and what the view depends on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from benchmark.data import RawBatch
from benchmark.data.randaugment import CUTOUT, OPERATIONS, STRONG, augment, cutout
from benchmark.data.views import NORMAL

N = 24


def images(n: int = N) -> Tensor:
    """Smooth random images with channels of different ranges; the first has one value, the second two."""
    generator = torch.Generator().manual_seed(0)
    x = F.interpolate(torch.rand(n, 3, 8, 8, generator=generator), size=32, mode="bilinear")
    x = 20 + 235 * x * torch.rand(n, 3, 1, 1, generator=generator)
    x[0], x[1] = 90, torch.where(x[1] < 100, 3, 200)
    return x.to(torch.uint8)


def by_pil(name: str, image: Image.Image, u: float) -> Image.Image:
    """The operation at the share u of its range."""
    factor, sign = 0.05 + 0.9 * u, 2 * u - 1

    def affine(*matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix)

    return {
        "identity": lambda: image,
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "colour": lambda: ImageEnhance.Color(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, int(4 + 4 * u)),
        "solarize": lambda: ImageOps.solarize(image, 256 * u),
        "rotate": lambda: image.rotate(30 * sign),
        "shear_x": lambda: affine(1, 0.3 * sign, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, 0.3 * sign, 1, 0),
        "shift_x": lambda: affine(1, 0, 0.3 * sign * 32, 0, 1, 0),
        "shift_y": lambda: affine(1, 0, 0, 0, 1, 0.3 * sign * 32),
    }[name]()


def test_there_are_the_14_operations_of_randaugment() -> None:
    assert len(set(OPERATIONS)) == 14


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_the_values_of_pil(name: str) -> None:
    x, shares = images(), torch.linspace(0, 0.999, N, dtype=torch.float64)[torch.randperm(N)]
    found = augment(x.long(), torch.full((N,), OPERATIONS.index(name)), shares)
    for image, share, ours in zip(x, shares, found, strict=True):
        pil = by_pil(name, Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), share.item())
        assert np.array_equal(np.asarray(pil), ours.permute(1, 2, 0).numpy()), share
    assert torch.equal(found, x) == (name == "identity")


def test_each_image_of_a_batch_gets_its_own_operation() -> None:
    x, u = images(14).long(), torch.full((14,), 0.9, dtype=torch.float64)
    together = augment(x, torch.arange(14), u)
    for k in range(14):
        assert torch.equal(together[k : k + 1], augment(x[k : k + 1], torch.tensor([k]), u[:1]))


def test_cutout_sets_a_square_to_the_mean() -> None:
    x = torch.ones(3, 1, 8, 8)
    size = torch.tensor([0.5, 0.25, 0.0])
    centre = torch.tensor([[0.5, 0.25], [0.0, 1.0], [0.5, 0.5]])
    zeros = [(plane == 0).nonzero().tolist() for plane in cutout(x, size, centre)[:, 0]]
    assert zeros[0] == [[r, c] for r in (2, 3, 4, 5) for c in (0, 1, 2, 3)]
    assert zeros[1] == [[0, 7]], "what is outside of the image is lost"
    assert zeros[2] == []


def raw(n: int = N) -> RawBatch:
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    return RawBatch(images(n).permute(0, 2, 3, 1).contiguous(), torch.arange(n), torch.arange(n), mean, std)


def test_the_view_is_crop_flip_two_operations_and_cutout() -> None:
    batch = raw(14)
    draws = STRONG.draw(14, torch.Generator().manual_seed(0))
    draws[:, 3] = (torch.arange(14) + 0.5) / 14  # every operation once
    view = STRONG.make(batch, draws, draws)
    crops = torch.cat([(draws[:, :2] * 9).long(), (draws[:, 2:3] < 0.5).long()], dim=1)
    plain = NORMAL.make(batch, crops, crops).permute(0, 2, 3, 1) * batch.std + batch.mean
    x = (255 * plain).round().long().permute(0, 3, 1, 2)
    for k in range(14):
        image = Image.fromarray(x[k].permute(1, 2, 0).to(torch.uint8).contiguous().numpy())
        image = by_pil(OPERATIONS[k], image, draws[k, 4].item())
        image = by_pil(OPERATIONS[int(draws[k, 5] * 14)], image, draws[k, 6].item())
        wanted = batch.normalise(torch.from_numpy(np.array(image))[None])
        wanted = cutout(wanted, CUTOUT * draws[k : k + 1, 7], draws[k : k + 1, 8:])
        torch.testing.assert_close(view[k : k + 1], wanted)
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_an_image_does_not_depend_on_the_rest_of_the_batch() -> None:
    """So it does not matter where an epoch is cut into batches, or resumed."""
    batch, draws = raw(), STRONG.draw(N, torch.Generator().manual_seed(0))
    view = STRONG.make(batch, draws, draws)
    half = RawBatch(batch.images[12:], batch.labels[12:], batch.indices[12:], batch.mean, batch.std)
    assert torch.equal(STRONG.make(half, draws[12:], draws[12:]), view[12:])


def test_draws_cover_operations_and_magnitudes_uniformly() -> None:
    draws = STRONG.draw(14_000, torch.Generator().manual_seed(0))
    counts = (draws[:, 3] * 14).long().bincount(minlength=14)
    assert counts.min() > 850 and counts.max() < 1150  # 1,000 each, 5 standard deviations
    assert draws.min() >= 0 and draws.max() < 1
