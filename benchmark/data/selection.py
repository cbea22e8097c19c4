"""Which training images a run uses, and with which labels: a share of them (few-shot), and label noise.

A share keeps the schedule's epochs, so 25% of the images are a quarter of the steps.

- `stratified`: every class keeps its proportion, and all seeds have the same images. It is scikit-learn's
  StratifiedShuffleSplit with random_state=0, as in HSAKD's train_student_few_shot.py.
- `random`: images at random, other ones for each seed, as in DLKD's data set code (which has no seed; here
  the run's seed decides).

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

    def describe(self) -> str:
        """Return the selection in words, "" for the first images with their own labels."""
        parts = []
        if self.drawn_from:
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
        if self.drawn_from and self.subset == "stratified" and min(self.images, left_out) < num_classes:
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
            rows = self._stratified(split.labels) if self.subset == "stratified" else self._random(seed)
            rows = rows.sort().values
            chosen = split.pick(rows)
        if not self.noise:
            return chosen
        return chosen.relabelled(self._noisy(chosen.labels, seed, num_classes))

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
