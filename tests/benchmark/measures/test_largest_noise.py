from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.errors import InputError
from benchmark.measures._largest_noise import (
    STEPS_A_DRAW,
    Feature,
    LargestNoise,
    NoiseSettings,
    Spread,
    spread_of,
)

SETTINGS = NoiseSettings(iterations=21)


def linear(matrix: Tensor) -> Feature:
    """Return Phi(x) = A x."""
    return lambda images: images.flatten(1) @ matrix.T


def optimum(matrix: Tensor, std: Tensor, pixels: int, rate: float) -> Tensor:
    """Return the sigma of each pixel that minimises the expected loss for Phi(x) = A x.

    The expectation of (A diag(sigma) eps)_k^2 is sum_i sigma_i^2 sum_c A_k,ci^2. So the loss is
    sum_i (g_i sigma_i^2 - rate / P log sigma_i) with g_i = mean_k sum_c A_k,ci^2 / reg_k^2 and P pixels, and
    its derivative is 0 at sigma_i^2 = rate / (2 P g_i).
    """
    weights = (matrix / std[:, None]).square().mean(dim=0).view(-1, pixels).sum(dim=0)
    return (rate / (2 * pixels * weights)).sqrt()


def all_varying(std: Tensor) -> Spread:
    return Spread(std, torch.arange(len(std)), 0)


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten()).double().requires_grad_(False)


def images(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_exact_optimum_of_a_linear_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each coordinate reads one channel of one pixel, and eps is 1 or -1: each sample is the expectation."""
    weights = torch.logspace(0.2, 1, 3 * 16, dtype=torch.float64)
    std = torch.linspace(0.5, 2, 48, dtype=torch.float64)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    settings = NoiseSettings(iterations=1200, lr=0.1)
    noise = LargestNoise(linear(weights.diag()), x, all_varying(std), settings, seeds=[3, 4])
    signs = torch.randint(0, 2, x.shape, dtype=torch.float64) * 2 - 1
    monkeypatch.setattr(noise, "_noise", lambda: signs)
    noise.run(settings.iterations)
    expected = optimum(weights.diag(), std, pixels=16, rate=settings.rate)
    assert expected.max() < 0.9, "the optimum is below the limit"
    torch.testing.assert_close(noise.sigma().flatten(1), expected.expand(2, -1), rtol=1e-4, atol=0)
    smallest = (settings.rate * (0.5 - expected.log().mean())).expand(2)
    torch.testing.assert_close(noise.best_loss, smallest, rtol=1e-6, atol=0)


def test_mean_gradient_is_that_of_the_expected_loss() -> None:
    """With Gaussian eps and a full matrix. The derivative by r is that by sigma times sigma (1 - s)."""
    n, pixels = 20_000, 4
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn(6, 12, dtype=torch.float64, generator=generator)
    std = torch.rand(6, dtype=torch.float64, generator=generator) + 0.5
    x = torch.zeros(n, 3, 2, 2, dtype=torch.float64)
    settings = NoiseSettings(scale=0.7)
    noise = LargestNoise(linear(matrix), x, all_varying(std), settings, seeds=[0] * n)
    noise.losses(torch.randn(x.shape, dtype=torch.float64, generator=generator)).sum().backward()
    assert noise.ratio.grad is not None
    share = torch.sigmoid(noise.ratio.detach()[0].flatten())
    sigma, g = 0.7 * share, settings.rate / (2 * pixels * optimum(matrix, std, pixels, settings.rate) ** 2)
    expected = (2 * g * sigma - settings.rate / pixels / sigma) * sigma * (1 - share)
    measured = noise.ratio.grad.flatten(1)
    error = measured.std(dim=0) / math.sqrt(n)
    assert ((measured.mean(dim=0) - expected).abs() < 5 * error).all()
    assert 5 * error.max() < 0.1 * expected.abs().max(), "the test is sharp"


def test_a_pixel_without_influence_bears_the_largest_noise() -> None:
    matrix = torch.zeros(1, 3 * 4, dtype=torch.float64)
    matrix[0, 0] = 30.0
    settings = NoiseSettings(iterations=100, scale=0.5)
    x = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    noise = LargestNoise(linear(matrix), x, all_varying(torch.ones(1).double()), settings, seeds=[0])
    noise.run(100)
    first, *others = (0.5 * torch.sigmoid(noise.ratio.detach())).flatten().tolist()
    assert first < 0.1 and min(others) > 0.49 and max(others) <= 0.5


def test_images_do_not_depend_on_their_batch() -> None:
    network, x = tiny_network(), images(5)
    spread = spread_of(network(x))

    def sigma(rows: list[int], **changes: int) -> Tensor:
        settings = dataclasses.replace(SETTINGS, **changes)
        noise = LargestNoise(network, x[rows], spread, settings, seeds=[100 + row for row in rows])
        noise.run(settings.iterations)
        return noise.sigma()

    together = sigma([0, 1, 2, 3, 4])
    apart = torch.cat([sigma([0]), sigma([1, 2]), sigma([4, 3]).flip(0)])
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-12)
    assert torch.equal(together, sigma([0, 1, 2, 3, 4]))
    assert not torch.allclose(together, sigma([0, 1, 2, 3, 4], iterations=3))


def test_seeds_are_those_of_the_images() -> None:
    network, x = tiny_network(), images(1).expand(3, -1, -1, -1)
    noise = LargestNoise(network, x, spread_of(network(images(5))), SETTINGS, seeds=[7, 8, 7])
    noise.run(3)
    first, second, third = noise.sigma()
    torch.testing.assert_close(first, third, rtol=1e-9, atol=1e-12)
    assert (first - second).abs().max() > 0.1


@pytest.mark.parametrize("stop", [1, STEPS_A_DRAW, 13])
def test_a_resumed_optimisation_has_the_same_bits(stop: int) -> None:
    network, x = tiny_network().float(), images(3).float()
    spread = spread_of(network(x))

    def begin() -> LargestNoise:
        return LargestNoise(network, x, spread, SETTINGS, seeds=[0, 1, 2])

    whole, first, second = begin(), begin(), begin()
    whole.run(SETTINGS.iterations)
    first.run(stop)
    file = io.BytesIO()
    torch.save(first.state(), file)
    first.run(3)  # what it does later changes nothing in the file
    file.seek(0)
    second.load_state(torch.load(file, weights_only=True))
    assert second.step == stop and not second.done
    second.run(1000)
    assert second.done and second.step == SETTINGS.iterations
    for name in ("ratio", "best", "best_loss"):
        assert torch.equal(getattr(whole, name), getattr(second, name)), name
    assert torch.equal(whole.sigma(), second.sigma())


def test_the_smallest_loss_is_kept() -> None:
    network, x = tiny_network(), images(2)
    noise = LargestNoise(network, x, spread_of(network(images(5))), SETTINGS, seeds=[0, 1])
    losses, ratios = [], []
    while not noise.done:
        ratios.append(noise.ratio.detach().clone())
        losses.append(noise.losses(noise._noise()).detach())
        noise.run(1)
    for image, smallest in enumerate(torch.stack(losses).argmin(dim=0).tolist()):
        assert torch.equal(noise.sigma()[image], torch.sigmoid(ratios[smallest][image, 0]))
        assert noise.best_loss[image] == losses[smallest][image]


def test_spread_is_the_standard_deviation_of_the_population() -> None:
    features = torch.randn(50, 4)
    spread = spread_of(features)
    np.testing.assert_allclose(spread.std, np.std(features.numpy().astype(np.float64), axis=0), rtol=1e-6)
    assert spread.varying.tolist() == [0, 1, 2, 3] and spread.constant == 0


def test_constant_coordinates_are_left_out() -> None:
    features = torch.randn(50, 5)
    features[:, 1] = 0
    features[:, 3] = 1 / 3
    spread = spread_of(features)
    assert spread.varying.tolist() == [0, 2, 4] and spread.constant == 2

    network, x = tiny_network(), images(4)

    def wider(batch: Tensor) -> Tensor:
        """Add a coordinate that is constant over the reference images, and not with noise."""
        rest = batch[:, 0, 0, :1] - x[0, 0, 0, 0] if len(batch) < 4 else torch.zeros(len(batch), 1).double()
        return torch.cat([rest, network(batch)], dim=1)

    sigmas = []
    for feature in (network, wider):
        noise = LargestNoise(feature, x[:2], spread_of(feature(x)), SETTINGS, seeds=[0, 1])
        noise.run(SETTINGS.iterations)
        sigmas.append(noise.sigma())
    assert torch.equal(*sigmas)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_a_feature_that_never_varies_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="the same for all of the 7 reference images"):
        spread_of(torch.full((7, 3), value))


def test_a_feature_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        spread_of(torch.tensor([[1.0], [math.nan]]))
