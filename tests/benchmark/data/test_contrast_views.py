"""MoCo-v2's augmentation: its operations against torchvision's, its draws, and its views."""

import math

import pytest
import torch

import models
from benchmark.data import NORMAL, ROTATED, SECOND, RawBatch, jitter, view_for

models.import_torchvision()
from torchvision.transforms.v2 import functional  # noqa: E402


def images(n=6, size=9):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, size, size, generator=generator)
    x[0] = 0.5  # a grey image has no hue
    x[1, :, :4] = x[1, :1, :4]
    return x


@pytest.mark.parametrize(
    ("name", "reference", "values"),
    [
        ("brightness", "adjust_brightness", (0.6, 0.8, 1.0, 1.2, 1.3, 1.4)),
        ("contrast", "adjust_contrast", (0.6, 0.8, 1.0, 1.2, 1.3, 1.4)),
        ("saturation", "adjust_saturation", (0.6, 0.8, 1.0, 1.2, 1.3, 1.4)),
        ("hue", "adjust_hue", (-0.1, -0.03, 0.0, 0.02, 0.07, 0.1)),
    ],
)
def test_jitter_is_torchvisions(name, reference, values):
    x = images()
    ours = getattr(jitter, name)(x, torch.tensor(values, dtype=torch.float64))
    for image, out, value in zip(x, ours, values, strict=True):
        torch.testing.assert_close(out, getattr(functional, reference)(image, value), rtol=0, atol=2e-6)


def test_every_image_has_its_own_order():
    x = images(2)
    factors = [torch.tensor([1.3, 1.3]), torch.tensor([0.7, 0.7]), torch.tensor([1.2, 1.2]), torch.zeros(2)]
    out = jitter.jitter(x, factors, torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]))
    by_name = {"brightness": 1.3, "contrast": 0.7, "saturation": 1.2}
    for k, names in enumerate((list(by_name), list(by_name)[::-1])):
        image = x[k]
        for name in names:
            image = getattr(functional, f"adjust_{name}")(image, by_name[name])
        torch.testing.assert_close(out[k], image, rtol=0, atol=5e-6)


def test_blur_is_torchvisions():
    x = images()
    sigma = torch.linspace(0.2, 2.0, len(x))
    out = jitter.blur(x, sigma, radius=3)
    for image, blurred, s in zip(x, out, sigma.tolist(), strict=True):
        torch.testing.assert_close(
            blurred, functional.gaussian_blur(image, [7, 7], [s, s]), rtol=0, atol=1e-5
        )


def raw(n=8, size=32):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (n, size, size, 3), generator=generator, dtype=torch.uint8)
    return RawBatch(
        pixels, torch.zeros(n), torch.arange(n), torch.tensor([0.4, 0.5, 0.6]), torch.full((3,), 0.25)
    )


STILL = torch.tensor([[0.0, 0.0, *[1.0] * 15]], dtype=torch.float64)
"""The draws that take the whole image, without jitter, grey, blur and flip."""


def draws(view, n=8, seed=0):
    return view.draw(n, torch.Generator().manual_seed(seed))


def test_draws_without_effect_leave_the_image():
    view, batch = view_for("contrast", NORMAL), raw()
    still = STILL.repeat(8, 1)
    torch.testing.assert_close(
        view.make(batch, still, still), batch.normalise(batch.images), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("view", "rows"), [(NORMAL, 8), (SECOND, 8), (ROTATED, 24)])
def test_an_image_is_augmented_by_its_own_draws_alone(view, rows):
    """Whatever else is in the batch, and in the form that networks read."""
    view, batch = view_for("contrast", view), raw()
    d = draws(view)
    out = view.make(batch, d, d)
    assert out.shape == (rows, 3, 32, 32) and out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last) and out.isfinite().all()
    first = RawBatch(batch.images[:1], batch.labels[:1], batch.indices[:1], batch.mean, batch.std)
    torch.testing.assert_close(view.make(first, d[:1], d[:1]), out[::8], rtol=0, atol=1e-5)


def test_rotated_copies_are_rotated_first():
    batch, still = raw(), STILL.repeat(8, 3)
    out = view_for("contrast", ROTATED).make(batch, still, still)
    for k in (1, 2, 3):
        turned = batch.normalise(torch.rot90(batch.images, k, (1, 2)))
        torch.testing.assert_close(out[8 * k - 8 : 8 * k], turned, rtol=0, atol=1e-5)


def test_how_often_and_how_much():
    """Shares and ranges of the draws, within five standard errors."""
    n = 4000
    d = draws(view_for("contrast", NORMAL), n)
    area = d[:, 2] * d[:, 3]
    assert area.min() >= 0.2 and area.max() <= 1
    ratio = (d[:, 3] / d[:, 2]).log() / math.log(4 / 3)
    assert ratio.abs().max() <= 1
    # a crop of area a fits if |log ratio| <= -log a, and is drawn again if not
    a = torch.linspace(0.2, 1, 10_001, dtype=torch.float64)
    fits = (-a.log() / math.log(4 / 3)).clamp(max=1)
    assert abs(area.mean() - (a * fits).sum() / fits.sum()) < 5 * area.std() / math.sqrt(n)
    rest = torch.cat([d[:, :2], d[:, 4:]], dim=1)
    assert rest.min() >= 0 and rest.max() < 1
    assert ((rest.mean(0) - 0.5).abs() < 5 * math.sqrt(1 / 12 / n)).all()
    assert not torch.equal(d, draws(view_for("contrast", NORMAL), n, seed=1))
