"""Data sets, samplers and views; the draws of crops and flips are distributed as torchvision's."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from benchmark import data
from benchmark.data.stream import Stream
from benchmark.errors import InputError
from models import import_torchvision

N = 6000


def raw(n: int = 8) -> data.RawBatch:
    images = torch.randint(
        0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return data.RawBatch(
        images, torch.arange(n), torch.arange(n), torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    )


def test_the_normal_view_is_pad_crop_flip_normalise() -> None:
    batch = raw()
    draws = data.NORMAL.draw(8, torch.Generator().manual_seed(0))
    images = data.NORMAL.make(batch, draws, draws)
    assert images.shape == (8, 3, 32, 32) and images.is_contiguous(memory_format=torch.channels_last)
    for i, (top, left, flip) in enumerate(draws.tolist()):
        image = batch.images[i].numpy()
        image = image[:, ::-1] if flip else image
        padded = np.zeros((40, 40, 3), np.uint8)  # zeros before normalising: black, not grey
        padded[4:36, 4:36] = image
        wanted = (padded[top : top + 32, left : left + 32] / 255 - np.array([0.5, 0.4, 0.3])) / np.array(
            [0.2, 0.3, 0.4]
        )
        assert np.allclose(images[i].permute(1, 2, 0).numpy(), wanted, atol=1e-6)


def test_the_rotated_view_turns_counter_clockwise_and_crops_each_copy_by_itself() -> None:
    batch = raw()
    normal = data.NORMAL.draw(8, torch.Generator().manual_seed(0))
    draws = data.ROTATED.draw(8, torch.Generator().manual_seed(2))
    images = data.ROTATED.make(batch, draws, normal)
    assert images.shape == (24, 3, 32, 32)
    for k in (1, 2, 3):
        for i in range(8):
            image = batch.images[i].numpy()
            image = np.rot90(image[:, ::-1] if normal[i, 2] else image, k)
            padded = np.zeros((40, 40, 3), np.uint8)
            padded[4:36, 4:36] = image
            top, left = draws[i, 2 * k - 2 : 2 * k].tolist()
            wanted = (padded[top : top + 32, left : left + 32] / 255 - np.array([0.5, 0.4, 0.3])) / np.array(
                [0.2, 0.3, 0.4]
            )
            assert np.allclose(images[(k - 1) * 8 + i].permute(1, 2, 0).numpy(), wanted, atol=1e-6)


def uniform(counts: np.ndarray) -> float:
    return float(stats.chisquare(counts).pvalue)


def test_crop_and_flip_are_distributed_as_torchvisions() -> None:
    """81 crops x 2 flips, uniform and independent.

    Chi-squared tests of our draws, of torchvision's, and of the two against each other.
    """
    import_torchvision()
    from torchvision import transforms

    ours = data.NORMAL.draw(N, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    image = torch.zeros(3, 32, 32)
    image[0] += torch.arange(1, 33).view(32, 1)
    image[1] += torch.arange(1, 33).view(1, 32)
    crop, flip = transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()
    theirs = []
    for _ in range(N):
        out = flip(crop(image))
        middle = out[:, 16, 16]  # always inside the image: says which pixel came here
        flipped = bool(out[1, 16, 17] < out[1, 16, 16])
        column = 31 - 16 if flipped else 16
        theirs.append((int(middle[0]) - 1 - 16 + 4, int(middle[1]) - 1 - column + 4, int(flipped)))
    cells = [
        np.bincount(np.ravel_multi_index(np.asarray(d).T, (9, 9, 2)), minlength=162) for d in (ours, theirs)
    ]
    assert uniform(cells[0]) > 1e-3 and uniform(cells[1]) > 1e-3
    assert stats.chi2_contingency(np.stack(cells)).pvalue > 1e-3
    assert uniform(np.bincount(np.minimum(ours[:, 0], 7))) < 1e-3, "the test notices a wrong distribution"


def test_the_resized_crop_is_pils() -> None:
    """Equal to PIL's crop and bilinear resizing up to one grey level (PIL rounds its weights to integers)."""
    from PIL import Image

    batch = raw(40)
    view = data.view_for("resized-crop-flip", data.NORMAL)
    draws = view.draw(40, torch.Generator().manual_seed(0))
    images = view.make(batch, draws, draws)
    assert images.shape == (40, 3, 32, 32) and images.is_contiguous(memory_format=torch.channels_last)
    for i, (top, left, height, width, flip) in enumerate(draws.tolist()):
        cut = Image.fromarray(batch.images[i].numpy()).crop((left, top, left + width, top + height))
        wanted = np.asarray(cut.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
        wanted = wanted[:, ::-1] if flip else wanted
        pixels = (images[i].permute(1, 2, 0) * batch.std + batch.mean) * 255
        assert np.abs(pixels.numpy() - wanted).max() < 1.01


def test_resized_crops_are_distributed_as_torchvisions() -> None:
    """Kolmogorov-Smirnov of height, width and top, ours against torchvision's."""
    import_torchvision()
    from torchvision import transforms

    ours = (
        data.view_for("resized-crop-flip", data.NORMAL).draw(2000, torch.Generator().manual_seed(0)).numpy()
    )
    torch.manual_seed(0)
    image = torch.zeros(3, 32, 32)
    params = [
        transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)
    ]
    theirs = np.array([[top, left, height, width] for top, left, height, width in params])
    assert all(stats.ks_2samp(ours[:, k], theirs[:, k]).pvalue > 1e-3 for k in range(4))
    assert set(ours[:, 4]) == {0, 1}


def test_an_augmentation_reaches_the_stream() -> None:
    split = data.load("digits").train.take(64)
    streams = [
        Stream(
            split,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            sampler=data.SHUFFLE,
            batch_size=64,
            drop_last=False,
            seed=0,
            augment=a,
        )
        for a in data.AUGMENTS
    ]
    batches = [next(s.epoch("main", 1, [data.NORMAL, data.ROTATED])) for s in streams]
    assert all(torch.equal(batches[0].indices, b.indices) for b in batches)
    assert all(
        not torch.equal(a.views["normal"], b.views["normal"]) for a, b in itertools.combinations(batches, 2)
    )


@pytest.mark.parametrize("augment", list(data.AUGMENTS))
def test_the_mixed_view_mixes_neighbours_of_the_normal_view(augment: str) -> None:
    batch = raw(5)
    draws = data.view_for(augment, data.NORMAL).draw(5, torch.Generator().manual_seed(0))
    normal = data.view_for(augment, data.NORMAL).make(batch, draws, draws)
    view = data.view_for(augment, data.MIXED)
    images = view.make(batch, view.draw(5, torch.Generator()), draws)
    assert images.shape == normal.shape and images.is_contiguous(memory_format=torch.channels_last)
    for i, share in enumerate([0.1, 0.3, 0.5, 0.7, 0.9]):
        torch.testing.assert_close(images[i], share * normal[i] + (1 - share) * normal[(i + 1) % 5])


def test_each_batch_of_halves_ends_with_the_new_half_of_the_batch_before_across_epochs() -> None:
    split = data.load("digits").train.take(30)
    stream = Stream(
        split, mean=(0.5,) * 3, std=(0.5,) * 3, sampler=data.HALVES, batch_size=8, drop_last=False, seed=0
    )
    epochs = [[(d.indices.tolist(), d.first) for d in stream.draws("main", e, ())] for e in (1, 2, 3)]
    assert [len(rows) for rows, _ in epochs[0]] == [4] + [8] * 6 + [6]
    assert [(len(rows), first) for rows, first in epochs[1]] == [(6, 4)] + [(8, 4)] * 6 + [(6, 2)]
    batches = [batch for epoch in epochs for batch in epoch]
    for (before, new), (rows, first) in itertools.pairwise(batches):
        assert rows[first:] == before[:new]
    for epoch in epochs:
        assert sorted(i for rows, first in epoch for i in rows[:first]) == list(range(30))
    shapes = {d.shape for e in (1, 2) for d in stream.draws("main", e, ())}
    assert shapes == {(4, 4), (8, 4), (6, 2), (6, 4)}, "batches of one size may have other parts"


def test_pairs_have_one_class() -> None:
    labels = torch.arange(30) % 4
    batches = data.PAIRS.epoch(labels, 8, False, torch.Generator().manual_seed(0))
    assert [len(b) for b in batches] == [16, 16, 16, 12]
    first, second = (torch.cat([b.chunk(2)[k] for b in batches]) for k in (0, 1))
    assert sorted(first.tolist()) == list(range(30)) and torch.equal(labels[first], labels[second])


def test_fours_have_three_more_images_of_each_class() -> None:
    labels = torch.cat([torch.arange(24) % 3, torch.tensor([3, 3, 3, 4])])  # classes of 8, 3 and 1
    batches = data.FOURS.epoch(labels, 8, False, torch.Generator().manual_seed(0))
    assert [len(b) for b in batches] == [32, 32, 32, 16]
    first, others = [], []
    for b in batches:
        n = data.FOURS.first_rows(len(b))
        first += b[:n].tolist()
        others += b[n:].view(n, 3).tolist()
    assert sorted(first) == list(range(28)) and first != list(range(28))
    for image, three in zip(first, others, strict=True):
        assert all(labels[i] == labels[image] for i in three)
        if labels[image] < 3:
            assert len({image, *three}) == 4
        elif labels[image] == 3:
            assert image not in three
    drawn = torch.tensor([i for three in others for i in three if labels[i] < 3]).bincount(minlength=24)
    assert len(drawn.unique()) > 1, "the others are drawn at random"


def test_groups_have_four_images_of_a_class_and_every_image_once() -> None:
    labels = torch.arange(96) % 8
    batches = data.GROUPS.epoch(labels, 16, False, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(batches).tolist()) == list(range(96))
    assert all(len(set(labels[group].tolist())) == 1 for b in batches for group in b.split(4))
    assert len({tuple(labels[b].tolist()) for b in batches}) > 3, "the groups are shuffled"


def test_epochs_differ_and_repeat_with_the_seed() -> None:
    split = data.load("digits").train.take(130)

    def epoch(seed: int, number: int) -> list[torch.Tensor]:
        stream = Stream(
            split,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            sampler=data.SHUFFLE,
            batch_size=64,
            drop_last=False,
            seed=seed,
        )
        return [b.views["normal"] for b in stream.epoch("main", number, [data.NORMAL])]

    a, again, later, other = epoch(0, 1), epoch(0, 1), epoch(0, 2), epoch(1, 1)
    assert [len(x) for x in a] == [64, 64, 2]
    assert all(torch.equal(x, y) for x, y in zip(a, again, strict=True))
    assert not torch.equal(a[0], later[0]) and not torch.equal(a[0], other[0])


@pytest.mark.parametrize(
    ("n", "sizes"), [(130, [64, 64, 2]), (129, [64, 64]), (128, [64, 64]), (65, [64]), (10, [10])]
)
def test_no_batch_of_one_image(n: int, sizes: list[int]) -> None:
    assert [len(b) for b in data.cut_batches(torch.arange(n), 64, drop_last=False)] == sizes


def test_every_image_once_an_epoch() -> None:
    order = data.SHUFFLE.epoch(torch.zeros(200), 64, False, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(order).tolist()) == list(range(200))


def test_digits_are_split_evenly_and_normalised_by_their_own_statistics() -> None:
    digits = data.load("digits")
    info = data.info("digits")
    assert (len(digits.train.labels), len(digits.test.labels)) == (info.train_images, info.test_images)
    assert digits.train.labels[:512].bincount().tolist() == [52, 52] + [51] * 8
    assert digits.test.labels.bincount().tolist() == [40] * 10
    pixels = digits.train.images.double() / 255
    assert pixels.mean().item() == pytest.approx(
        info.mean[0], abs=6e-5
    ) and pixels.std().item() == pytest.approx(info.std[0], abs=6e-5)


def test_a_wrong_md5_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"not the file")
    with pytest.raises(InputError, match=r"train: md5 is .* not 16019d7e3df5f24257cddd939b257f8d"):
        data.load("cifar100", tmp_path)


def test_unknown_data_set() -> None:
    with pytest.raises(InputError, match="allowed: cifar100, cifar10, digits"):
        data.load("imagenet21k")


def test_a_failed_download_leaves_no_mistyped_folder_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_torchvision()
    from torchvision import datasets

    def no_network(root: str, **_: object) -> object:
        Path(root).mkdir(exist_ok=True)  # as the real one does before it downloads
        raise OSError("no network")

    no_network.base_folder, no_network.train_list, no_network.test_list = (
        "cifar",
        [("train", "")],
        [("test", "")],
    )  # type: ignore[attr-defined]
    monkeypatch.setattr(datasets, "CIFAR100", no_network)
    with pytest.raises(
        InputError, match=r"cifar100 is not in .*dtaa, which does not exist, and cannot be downloaded"
    ):
        data.load("cifar100", tmp_path / "dtaa")
    assert not (tmp_path / "dtaa").exists()
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"cifar100 is not in .*data and cannot be downloaded"):
        data.load("cifar100", tmp_path / "data")
    assert (tmp_path / "data").exists()
