from __future__ import annotations

import dataclasses
import io
import math

import pytest
import torch
from torch import Tensor, nn

from benchmark.errors import InputError
from benchmark.measures._largest_noise import LargestNoise, NoiseSettings, spread_of
from benchmark.measures._views_entropy import ViewsEntropy, ViewsResult, ViewsSettings
from benchmark.seeds import seed_of

SETTINGS = ViewsSettings(NoiseSettings(iterations=5), images=3, quarters=1, batch=2)
IMAGES = torch.randint(0, 256, (6, 8, 8, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers).double().requires_grad_(False)


def normalise(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).double() / 64 - 2


def begin(settings: ViewsSettings = SETTINGS, seed: int = 0) -> ViewsEntropy:
    return ViewsEntropy(network(), IMAGES, normalise, settings, seed)


def measure(settings: ViewsSettings = SETTINGS, seed: int = 0) -> ViewsResult:
    work = begin(settings, seed)
    while not work.done:
        work.run(100)
    return work.result()


def test_views_are_those_of_turned_images() -> None:
    settings = dataclasses.replace(SETTINGS, quarters=3, batch=6)
    result = measure(settings, seed=4)
    for view, quarters in enumerate((0, 3)):
        x = normalise(torch.rot90(IMAGES, quarters, (1, 2)))
        seeds = [seed_of(4, "entropy", view, image) for image in range(3)]
        noise = LargestNoise(network(), x[:3], spread_of(network()(x)), settings.noise, seeds)
        noise.run(5)
        expected = noise.sigma().float().log() + 0.5 * math.log(2 * math.pi * math.e)
        if view:  # a turn to the right brings the first column, from below, into the first row
            assert torch.equal(x[:, :, 0], normalise(IMAGES)[:, :, :, 0].flip(-1))
            expected = torch.stack([torch.rot90(image, 1) for image in expected])
        torch.testing.assert_close(result.entropy[view], expected)


def test_reference_images_and_batches() -> None:
    whole = measure()
    assert whole.entropy.shape == (2, 3, 8, 8) and whole.entropy.dtype == torch.float32
    for batch in (1, 3):
        apart = measure(dataclasses.replace(SETTINGS, batch=batch))
        torch.testing.assert_close(apart.entropy, whole.entropy, rtol=1e-6, atol=1e-6)
    assert torch.equal(measure().entropy, whole.entropy)
    assert not torch.equal(measure(seed=1).entropy, whole.entropy)
    assert not torch.equal(measure(dataclasses.replace(SETTINGS, reference=4)).entropy, whole.entropy)
    assert measure(dataclasses.replace(SETTINGS, images=100)).numbers()["images"] == 6


def test_a_resumed_measurement_has_the_same_bits() -> None:
    whole = measure()
    work = begin()
    assert (work.total, work.batches) == (20, 4)
    steps = []
    while not work.done:  # a new process after every third step
        work.run(3)
        steps.append(work.steps)
        file = io.BytesIO()
        torch.save(work.state(), file)
        file.seek(0)
        work = begin()
        work.load_state(torch.load(file, weights_only=True))
    assert steps == [3, 5, 8, 10, 13, 15, 18, 20]
    assert torch.equal(work.result().entropy, whole.entropy)
    assert work.result().numbers() == whole.numbers()


def test_numbers_by_plain_loops() -> None:
    result = measure()
    numbers = result.numbers()
    ious, means, shares = [], [], []
    for image in range(3):
        sets = []
        for view in range(2):
            pixels = result.entropy[view, image].flatten().tolist()
            mean = sum(pixels) / 64
            sets.append({i for i, h in enumerate(pixels) if h < mean})
            means.append(mean)
        shares.append(len(sets[0]) / 64)
        ious.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    assert numbers["iou"] == pytest.approx(100 * sum(ious) / 3)
    assert numbers["entropy"] == pytest.approx(sum(means[::2]) / 3)
    assert numbers["entropy_turned"] == pytest.approx(sum(means[1::2]) / 3)
    assert numbers["concept_share"] == pytest.approx(sum(shares) / 3)
    assert (numbers["features"], numbers["constant_features"]) == (6, 0)


def test_images_without_concepts_are_left_out_of_the_iou() -> None:
    entropy = torch.zeros(2, 2, 3, 3)
    entropy[:, 0, 0] = -1
    numbers = ViewsResult(entropy, 6, (0, 2)).numbers()
    assert (numbers["iou"], numbers["images_without_concepts"], numbers["constant_features"]) == (100, 1, 2)
    assert ViewsResult(torch.zeros(2, 2, 3, 3), 6, (0, 0)).numbers()["iou"] is None


@pytest.mark.parametrize(("change", "message"), [({"quarters": 4}, "quarters is 4"), ({"images": 0}, "0;")])
def test_settings_that_mean_nothing(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        begin(dataclasses.replace(SETTINGS, **change))  # type: ignore[arg-type]
