"""Which training images a run uses, and with which labels: a share of them, without those that are held out
to choose the epoch, and label noise.

A share keeps the schedule's epochs, so 25% of the images are a quarter of the steps.

- `stratified`: every class keeps its proportion, and all seeds have the same images. It is scikit-learn's
  StratifiedShuffleSplit with random_state=0, as in HSAKD's train_student_few_shot.py.
- `random`: images at random, other ones for each seed, as in DLKD's data set code (which has no seed; here
  the run's seed decides).

Images that are held out are drawn at random by the run's seed. The run trains on the others, and the epoch
with the best top-1 on them can be chosen without the test set.

Noise changes labels of the images that the share has left, by the run's seed. The test set stays clean.

- `permute`: the first `noise` of the images swap their labels among themselves, so the class counts stay (as
  in DLKD's data set code).
- `uniform`: `noise` of the images, chosen at random, get a label drawn from all classes, the right one
  included. Of C classes, noise * (1 - 1/C) of all labels are wrong on average.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.data.datasets import Split
from benchmark.errors import InputError
from benchmark.seeds import seed_of

SUBSETS = ("stratified", "random")
NOISES = ("permute", "uniform")


@dataclass(frozen=True)
class Selection:
    """The training images of a run, and the noise of their labels."""

    images: int
    """Number of images that are trained on."""

    drawn_from: int = 0
    """The number of images at the beginning of the training set that they are drawn from; 0: none is drawn,
    they are the first ones."""

    subset: str = "stratified"
    """How they are drawn; one of `SUBSETS`."""

    noise: float = 0.0
    """Share of the images whose labels are disturbed."""

    noise_kind: str = "permute"
    """How labels are disturbed; one of `NOISES`."""

    held_out: int = 0
    """Number of images that are held out of those they are drawn from; `subset` then means nothing."""

    def describe(self) -> str:
        """Return the selection in words, "" for the first images with their own labels."""
        parts = []
        if self.held_out:
            parts.append(f"{self.images:,} of {self.drawn_from:,} images, the others held out by the seed")
        elif self.drawn_from:
            seeds = "the same for all seeds" if self.subset == "stratified" else "others for each seed"
            parts.append(f"{self.images:,} of {self.drawn_from:,} images ({self.subset}, {seeds})")
        if self.noise:
            how = {
                "permute": "swapped among the first {} of the images",
                "uniform": "of {} of the images drawn from all classes",
            }
            parts.append("labels " + how[self.noise_kind].format(f"{100 * self.noise:g}%"))
        return ", ".join(parts)

    def check(self, num_classes: int) -> None:
        """Raise `InputError` if a stratified subset cannot have every class, in it and left out of it."""
        left_out = self.drawn_from - self.images
        if (
            self.drawn_from
            and not self.held_out
            and self.subset == "stratified"
            and min(self.images, left_out) < num_classes
        ):
            raise InputError(
                f"a stratified subset of {self.images} of {self.drawn_from} images cannot have all "
                f"{num_classes} classes inside and outside; change recipe.share, or set recipe.subset=random"
            )

    def apply(self, split: Split, *, seed: int, num_classes: int) -> Split:
        """Return the chosen images of a training set (on the CPU), in its order, with the labels to train on.

        seed: the run's seed. Raises `InputError` if a class has too few images for a stratified subset.
        """
        if not self.drawn_from:
            chosen = split.take(self.images)
        else:
            split = split.take(self.drawn_from)
            if self.held_out:
                rows = self._order(seed)[self.held_out :]
            else:
                rows = self._stratified(split.labels) if self.subset == "stratified" else self._random(seed)
            chosen = split.pick(rows.sort().values)
        if not self.noise:
            return chosen
        return chosen.relabelled(self._noisy(chosen.labels, seed, num_classes))

    def held_out_of(self, split: Split, *, seed: int) -> Split:
        """Return the images that are held out of a training set, with their own labels.

        seed: the run's seed.
        """
        return split.take(self.drawn_from).pick(self._order(seed)[: self.held_out].sort().values)

    def _order(self, seed: int) -> Tensor:
        """Return all positions in the order of being held out, int64 `[drawn_from]`."""
        generator = torch.Generator().manual_seed(seed_of(seed, "held out"))
        return torch.randperm(self.drawn_from, generator=generator)

    def _stratified(self, labels: Tensor) -> Tensor:
        """Return the positions of the images that HSAKD's split keeps, int64 `[images]`."""
        from sklearn.model_selection import StratifiedShuffleSplit

        split = StratifiedShuffleSplit(
            n_splits=1,
            train_size=self.images,
            test_size=self.drawn_from - self.images,
            random_state=0,
        )
        try:
            kept, _ = next(split.split(labels[:, None].numpy(), labels.numpy()))
        except ValueError as error:
            raise InputError(
                f"no stratified subset of {self.images} of {self.drawn_from} images: {error}; "
                "set recipe.subset=random"
            ) from error
        return torch.from_numpy(kept)

    def _random(self, seed: int) -> Tensor:
        """Return positions at random, int64 `[images]`."""
        generator = torch.Generator().manual_seed(seed_of(seed, "subset"))
        return torch.randperm(self.drawn_from, generator=generator)[: self.images]

    def _noisy(self, labels: Tensor, seed: int, num_classes: int) -> Tensor:
        """Return the labels with noise, int64 `[images]`."""
        generator = torch.Generator().manual_seed(seed_of(seed, "label noise", self.noise_kind))
        count = round(self.noise * len(labels))
        order = torch.randperm(count if self.noise_kind == "permute" else len(labels), generator=generator)
        noisy = labels.clone()
        if self.noise_kind == "permute":
            noisy[:count] = labels[order]
        else:
            noisy[order[:count]] = torch.randint(num_classes, (count,), generator=generator)
        return noisy
