"""A share of the training images, and noise in their labels."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.model_selection import StratifiedShuffleSplit

from benchmark import data
from benchmark.data import Selection, Split
from benchmark.errors import InputError

CLASSES = 10


def numbered(n: int, classes: int = CLASSES) -> Split:
    """Return n images that hold their positions, with labels in random order and uneven class counts."""
    generator = torch.Generator().manual_seed(7)
    labels = (torch.rand(n, generator=generator).sqrt() * classes).long()
    return Split(torch.arange(n)[:, None], labels)


def positions(split: Split) -> list[int]:
    return split.images[:, 0].tolist()


def chosen(subset: str, seed: int, images: int = 150, drawn_from: int = 600) -> Split:
    selection = Selection(images=images, drawn_from=drawn_from, subset=subset)
    return selection.apply(numbered(1000), seed=seed, num_classes=CLASSES)


def noisy(kind: str, noise: float, seed: int = 0, n: int = 1000) -> tuple[Split, Split]:
    """Return a split of n images before and after noise."""
    split = numbered(n)
    selection = Selection(images=n, noise=noise, noise_kind=kind)
    return split, selection.apply(split, seed=seed, num_classes=CLASSES)


def test_a_stratified_subset_has_its_share_of_every_class() -> None:
    images, labels = chosen("stratified", 0).images[:, 0], chosen("stratified", 0).labels
    whole = numbered(1000).labels[:600].bincount(minlength=CLASSES)
    assert len(labels) == 150 and int(images.max()) < 600
    assert (labels.bincount(minlength=CLASSES) - 0.25 * whole).abs().max() < 1
    assert images.tolist() == sorted(set(images.tolist())), "each image once, in the data set's order"
    assert torch.equal(labels, numbered(1000).labels[images]), "with its own label"


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_stratified_subset_is_the_split_of_the_code_of_hsakd(share: float) -> None:
    """That code gives scikit-learn the part that is left out, as a share."""
    labels = torch.arange(4000) % 100
    split = Split(torch.arange(4000)[:, None], labels[torch.randperm(4000)])
    reference = StratifiedShuffleSplit(n_splits=1, test_size=1 - share, random_state=0)
    kept, _ = next(reference.split(range(4000), split.labels))
    ours = Selection(images=round(4000 * share), drawn_from=4000).apply(split, seed=3, num_classes=100)
    assert positions(ours) == sorted(kept.tolist())


def test_only_random_subsets_depend_on_the_seed() -> None:
    assert positions(chosen("stratified", 0)) == positions(chosen("stratified", 1))
    first, second = positions(chosen("random", 0)), positions(chosen("random", 1))
    assert first == positions(chosen("random", 0)) != second
    for part in (first, second):
        assert len(set(part)) == 150 and max(part) < 600


def test_permuted_labels_keep_the_class_counts_and_lie_at_the_beginning() -> None:
    before, after = noisy("permute", 0.3)
    assert torch.equal(before.labels[300:], after.labels[300:])
    assert torch.equal(before.labels[:300].sort().values, after.labels[:300].sort().values)
    shares = before.labels[:300].bincount(minlength=CLASSES) / 300
    right, stay = int((before.labels == after.labels)[:300].sum()), float((shares**2).sum())
    assert abs(right - 300 * stay) < 4 * math.sqrt(300 * stay * (1 - stay)), "those that meet their own class"
    assert torch.equal(before.images, after.images)


def test_uniform_noise_makes_its_share_of_wrong_labels() -> None:
    before, after = noisy("uniform", 0.4, n=20_000)
    wrong = before.labels != after.labels
    drawn, rate = 0.4 * 20_000, 1 - 1 / CLASSES
    assert abs(int(wrong.sum()) - drawn * rate) < 4 * math.sqrt(drawn * rate * (1 - rate))
    counts = after.labels[wrong].bincount(minlength=CLASSES).double()
    others = torch.tensor([float((before.labels != c).sum()) for c in range(CLASSES)])
    expected = others * 0.4 / CLASSES
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all(), "each class is drawn equally often"
    halves = wrong[:10_000].sum(), wrong[10_000:].sum()
    assert abs(int(halves[0]) - int(halves[1])) < 4 * math.sqrt(drawn), "anywhere in the set"


@pytest.mark.parametrize("kind", data.NOISES)
def test_noise_depends_on_the_seed(kind: str) -> None:
    labels = [noisy(kind, 0.5, seed)[1].labels for seed in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1]) and not torch.equal(labels[0], labels[2])


def test_noise_is_put_on_what_the_share_has_left() -> None:
    selection = Selection(images=150, drawn_from=600, noise=0.2)
    after = selection.apply(numbered(1000), seed=0, num_classes=CLASSES)
    before = chosen("stratified", 0)
    assert positions(after) == positions(before)
    changed = (after.labels != before.labels).nonzero()[:, 0]
    assert len(changed) > 0 and int(changed.max()) < 30


def test_what_cannot_be_stratified_is_refused() -> None:
    for images in (9, 591):
        with pytest.raises(InputError, match=r"cannot have all 10 classes .*recipe.subset=random"):
            Selection(images=images, drawn_from=600).check(CLASSES)
    Selection(images=9, drawn_from=600, subset="random").check(CLASSES)
    Selection(images=9).check(CLASSES)
    alone = Split(torch.zeros(40, 1), torch.tensor([3, *[0, 1, 2] * 13]))
    with pytest.raises(InputError, match=r"no stratified subset of 20 of 40 images"):
        Selection(images=20, drawn_from=40).apply(alone, seed=0, num_classes=4)
