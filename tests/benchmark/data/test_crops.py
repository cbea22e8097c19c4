"""ImageNet's augmentation: the crops are torchvision's and PIL's, the rotated views those of DLKD's code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from benchmark import data
from benchmark.data import crops
from models import import_torchvision

ONE, ZERO = torch.ones(3), torch.zeros(3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def raw(n: int, size: int) -> data.RawBatch:
    images = torch.randint(0, 256, (n, size, size, 3), generator=generator(), dtype=torch.uint8)
    labels = torch.arange(n) % 3
    return data.RawBatch(images, labels=labels, indices=torch.arange(n), mean=ZERO, std=ONE)


def pixels(images: Tensor) -> np.ndarray:
    """Return views `[n, 3, H, W]` as pixels in 0..255, `[n, H, W, 3]`."""
    return (images.permute(0, 2, 3, 1) * 255).numpy()


def by_pil(image: np.ndarray, draws: Tensor) -> np.ndarray:
    """Crop, resize and mirror one image `[H, H, 3]` as drawn."""
    size = len(image)
    top, left, height, width = crops.boxes(draws[None], size, size)[0].tolist()
    cut = Image.fromarray(image).crop((left, top, left + width, top + height))
    out = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    return out[:, ::-1] if draws[-1] else out


@pytest.mark.parametrize(("height", "width"), [(64, 64), (300, 500), (500, 300), (40, 400)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    """Kolmogorov-Smirnov of top, left, height and width, ours against torchvision's."""
    import_torchvision()
    from torchvision import transforms

    ours = crops.boxes(crops.draw_crop(1000, generator()), height, width).numpy()
    torch.manual_seed(0)
    image = Image.new("RGB", (width, height))
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(1000)]
    )
    assert all(stats.ks_2samp(ours[:, k], theirs[:, k]).pvalue > 1e-3 for k in range(4))
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] > 0).all()


def test_an_image_in_which_no_try_fits_is_cropped_as_in_torchvision() -> None:
    """An image ten times as wide as high: the crop is the middle one with the largest ratio."""
    draws = crops.draw_crop(3, generator())
    draws[:, : 2 * crops.TRIES] = 1.0  # area 1, ratio 4/3: never fits
    assert crops.boxes(draws, 30, 300).tolist() == [[0, 130, 30, 40]] * 3
    assert crops.boxes(draws, 300, 30).tolist() == [[130, 0, 40, 30]] * 3


def test_sizes_may_differ_within_a_batch() -> None:
    draws = crops.draw_crop(2, generator())
    together = crops.boxes(draws, torch.tensor([40, 90]), torch.tensor([50, 70]))
    assert torch.equal(together[0], crops.boxes(draws[:1], 40, 50)[0])
    assert torch.equal(together[1], crops.boxes(draws[1:], 90, 70)[0])


def test_the_normal_view_is_pils_crop_and_flip() -> None:
    """Equal up to one grey level (PIL rounds its weights to integers)."""
    batch = raw(12, 48)
    view = data.view_for("imagenet", data.NORMAL)
    draws = view.draw(12, generator())
    made = pixels(view.make(batch, draws, draws))
    for image, row, ours in zip(batch.images.numpy(), draws, made, strict=True):
        assert np.abs(ours - by_pil(image, row)).max() < 1.01
    assert set(draws[:, -1].tolist()) == {0.0, 1.0}


def test_the_rotated_views_are_dlkds() -> None:
    """Mirror the whole image by one coin, rotate it, then crop and mirror each copy by its own draws."""
    batch = raw(6, 40)
    view = data.view_for("imagenet", data.ROTATED)
    draws = view.draw(6, generator())
    made = pixels(view.make(batch, draws, torch.empty(0))).reshape(3, 6, 40, 40, 3)
    for i, row in enumerate(draws):
        image = batch.images[i].numpy()
        mirrored = image[:, ::-1] if row[0] else image
        for k in range(3):
            turned = np.ascontiguousarray(np.rot90(mirrored, k + 1))
            assert np.abs(made[k, i] - by_pil(turned, crops.copy_draws(draws, k)[i])).max() < 1.01
    copies = [crops.copy_draws(draws, k) for k in range(3)]
    assert not torch.equal(copies[0], copies[1]) and not torch.equal(copies[1], copies[2])
    assert set(draws[:, 0].tolist()) == {0.0, 1.0}
