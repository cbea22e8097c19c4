"""Profiles: how much of a protocol is carried out."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark import data
from benchmark.errors import unknown
from benchmark.spec.protocols import Protocol

SCHEDULE = 240
"""Length of the schedule that `Profile.epochs` refers to."""


@dataclass(frozen=True)
class Profile:
    """How much of a protocol is carried out. None keeps the value of the protocol or the table."""

    name: str
    title: str

    epochs: int | None = None
    """Epochs instead of 240. Schedules of another length are shortened in proportion."""

    train_images: int | None = None
    test_images: int | None = None

    dataset: str | None = None
    """Data set instead of the table's."""

    seeds: int | None = None
    """Number of seeds instead of the table's."""

    batch_size: int | None = None
    """Batch size instead of the protocol's. Few images need small batches: with batches of 64 the running
    statistics of the batch norms would stay far from those of the data. Learning rates are scaled in
    proportion (the linear scaling rule of Goyal et al., Accurate, Large Minibatch SGD, 2017), because at the
    published ones some methods diverge in small batches."""

    def title_on(self, dataset: str) -> str:
        """Return the title for runs on a data set, which may be another one than the profile's."""
        if not self.dataset or dataset == self.dataset:
            return self.title
        return self.title.replace(_DIGITS, data.info(dataset).title)

    def lr_scale(self, protocol: Protocol) -> float:
        """Return the factor on published learning rates; 1 with the published batch size."""
        return self.batch_size / protocol.batch_size if self.batch_size else 1.0


_DIGITS = "scikit-learn's digits"

PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        Profile("paper", "as published"),
        Profile(
            name="short",
            title="15 epochs of the real data, milestones in proportion",
            epochs=15,
            seeds=1,
        ),
        Profile(
            name="quick",
            title=f"miniature on {_DIGITS}: 512 training images, 2 epochs of batch 16 (learning "
            "rates in proportion), 256 test images, 1 seed; its accuracies only show that everything runs",
            epochs=2,
            train_images=512,
            test_images=256,
            dataset="digits",
            seeds=1,
            batch_size=16,
        ),
    )
}


def get_profile(name: str) -> Profile:
    """Return the profile of that name. Raises `InputError` for an unknown one."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return PROFILES[name]
