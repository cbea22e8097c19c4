"""Protocols (a paper's training recipe and reporting rule) and profiles (how much of it is done).

All share one recipe (RepDistiller's, which the others inherited): 240 epochs, batch 64, SGD with momentum 0.9
and weight decay 5e-4, learning rate 0.05 (0.01 for MobileNet and ShuffleNet students), divided by 10 after
epochs 150, 180, 210. They differ in what they report, in the teacher's checkpoint, and in what is trained
together with KD (that is the rows' business: `tables/*.toml`). `lightskd` and `selfkdlib` are those of the
self-distillation tables, whose columns have no teacher; `clips` is for sounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.errors import InputError, unknown
from benchmark.settings import coerce, scaled

SMALL_LR_NETWORKS = ("MobileNetV2", "ShuffleV1", "ShuffleV2")


@dataclass(frozen=True)
class Protocol:
    """A training recipe and how its result is read.

    epochs, milestones: the published length; the learning rate is multiplied by `decay` after each
    milestone's epoch (counted from 1).
    lr, lr_small: initial learning rate; `lr_small` for the networks in `small_lr_networks`.
    drop_last: whether an epoch's incomplete last batch is dropped (a batch of one image always is).
    augment: `crop-flip` (RandomCrop(32, padding 4) and horizontal flip), `resized-crop-flip`
    (RandomResizedCrop(32) and flip) or `none`.
    mean, std: of pixel values in 0..1 for CIFAR-100; other data sets have their own.
    report: which epoch's test top-1 counts: `last`, `best` (chosen on the test set, as the papers did) or
    `both` (rule unknown).
    teacher_epoch: which of the teacher's checkpoints teaches; teacher_protocol: the protocol that the teacher
    is trained under.
    """

    name: str
    title: str
    report: str
    teacher_epoch: str
    teacher_protocol: str
    epochs: int = 240
    milestones: tuple[int, ...] = (150, 180, 210)
    decay: float = 0.1
    batch_size: int = 64
    lr: float = 0.05
    lr_small: float = 0.01
    small_lr_networks: tuple[str, ...] = SMALL_LR_NETWORKS
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    drop_last: bool = False
    augment: str = "crop-flip"
    mean: tuple[float, float, float] = (0.5071, 0.4867, 0.4408)
    std: tuple[float, float, float] = (0.2675, 0.2565, 0.2761)
    note: str = ""


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            "crd",
            "CRD benchmark (RepDistiller)",
            report="last",
            teacher_epoch="last",
            teacher_protocol="crd",
            note="Every method alone, except the KD combinations named so. Last epoch, mean of 5 (similar) or 3 (different) runs.",
        ),
        Protocol(
            "sskd",
            "SSKD",
            report="best",
            teacher_epoch="best",
            teacher_protocol="sskd",
            mean=(0.5071, 0.4866, 0.4409),
            note="Best epoch on the test set. Competitors are run together with KD (`x+kd`): inferred from the printed numbers, "
            "which are far above CRD's and close to CRD's KD combinations; the released code does not contain them.",
        ),
        Protocol(
            "dlkd",
            "DLKD (MLKD in arXiv)",
            report="both",
            teacher_epoch="best",
            teacher_protocol="sskd",
            mean=(0.5071, 0.4866, 0.4409),
            note="SSKD's teachers. The code saves the best and the last epoch; which one its own row prints is not known, so both are shown.",
        ),
        Protocol(
            "mdistiller",
            "mdistiller (DKD, LSKD)",
            report="best",
            teacher_epoch="last",
            teacher_protocol="crd",
            note="CRD's recipe and teachers, best epoch on the test set, mean of 4 or 5 runs.",
        ),
        Protocol(
            "repdistiller",
            "papers on CRD's recipe that do not say which epoch they report",
            report="both",
            teacher_epoch="last",
            teacher_protocol="crd",
            note="CRD's recipe and teachers; which epoch is printed is not known, so both are shown.",
        ),
        Protocol(
            "lightskd",
            "LightSKD (self-distillation)",
            report="both",
            teacher_epoch="best",
            teacher_protocol="lightskd",
            epochs=200,
            milestones=(60, 120, 160),
            batch_size=128,
            lr=0.1,
            small_lr_networks=(),
            drop_last=True,
            augment="resized-crop-flip",
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.247, 0.243, 0.261),
            note="The released train.py: RandomResizedCrop and flip, CIFAR-10's statistics, incomplete batches dropped (of training images; "
            "its test loader drops one too, 9,984 of 10,000 images, which is not done here). Which epoch it reports is not known.",
        ),
        Protocol(
            "selfkdlib",
            "Self-KD-Lib (self-distillation)",
            report="both",
            teacher_epoch="best",
            teacher_protocol="selfkdlib",
            epochs=200,
            milestones=(100, 150),
            batch_size=128,
            lr=0.1,
            small_lr_networks=(),
            note="200 epochs, batch 128, lr 0.1, /10 at 100 and 150, weight decay 5e-4 (its README and code); statistics of CIFAR-100 and momentum "
            "without Nesterov are not verified. Which epoch its table prints is not known.",
        ),
        Protocol(
            "clips",
            "audio clips (CRD's recipe without augmentation)",
            report="last",
            teacher_epoch="last",
            teacher_protocol="clips",
            augment="none",
            note="CRD's recipe without crop and flip: a clip played backwards, or with its frequencies moved, is another sound. The recipes of "
            "audio tagging papers are others; nothing printed can be compared with these numbers.",
        ),
    )
}


@dataclass(frozen=True)
class Profile:
    """How much of a protocol is done. epochs: of a 240-epoch schedule, other lengths in proportion (None: as
    published);
    train_images: only so many training images (None: all); dataset: replaces the table's data set (None: the
    table's);
    seeds: replaces the table's number of seeds; batch_size: replaces the protocol's (so few images need small
    batches: with 64 the batch norms' running statistics would not get near those of the data), and the
    learning rates are lowered in proportion (the linear scaling rule of Goyal et al., Accurate, Large
    Minibatch SGD, 2017): at the published ones some methods diverge in such batches."""

    name: str
    title: str
    epochs: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    dataset: str | None = None
    seeds: int | None = None
    batch_size: int | None = None

    def lr_scale(self, protocol: Protocol) -> float:
        """What the published learning rates are multiplied by: 1 with the published batch size."""
        return self.batch_size / protocol.batch_size if self.batch_size else 1.0


PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        Profile("paper", "as published"),
        Profile("short", "15 epochs of the real data, milestones in proportion", epochs=15, seeds=1),
        Profile(
            "quick",
            "miniature on scikit-learn's digits: 512 images, 2 epochs of batch 16 (learning rates in proportion), 256 test images, 1 seed; "
            "its numbers mean only that it works",
            epochs=2,
            train_images=512,
            test_images=256,
            dataset="digits",
            seeds=1,
            batch_size=16,
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name; `InputError` for an unknown one."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def get_profile(name: str) -> Profile:
    """The profile of that name; `InputError` for an unknown one."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return PROFILES[name]


@dataclass(frozen=True)
class Recipe:
    """The resolved training settings of one run: what the optimiser does, in this run's length.

    `published_epochs` is the schedule's length in the paper; `scaled(n)` brings any other length of it to
    this run's.
    """

    epochs: int
    milestones: tuple[int, ...]
    published_epochs: int
    decay: float
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool
    drop_last: bool
    augment: str
    train_images: int
    test_images: int

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch counted from 1: a milestone m means that epoch m + 1 is the first with
        the lower rate."""
        return self.lr * self.decay ** sum(epoch > m for m in self.milestones)

    def settings(self) -> dict[str, Any]:
        return {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self)
        }  # asdict copies deeply: plans of 10^5 runs notice


RECIPE_FIELDS = (
    "epochs",
    "batch_size",
    "lr",
    "decay",
    "momentum",
    "weight_decay",
    "nesterov",
    "drop_last",
    "train_images",
    "test_images",
)


LARGEST = 1_000_000
"""Of a recipe's whole numbers: more epochs, or images, than anyone trains."""


def check_recipe_override(key: str, value: Any) -> Any:
    """Checks a `recipe.field` setting, as `benchmark.methods.check_override` does for methods."""
    name = key.partition(".")[2]
    if name not in RECIPE_FIELDS:
        raise unknown("setting of recipe", name, RECIPE_FIELDS)
    kind = {
        "epochs": int,
        "batch_size": int,
        "nesterov": bool,
        "drop_last": bool,
        "train_images": int,
        "test_images": int,
    }.get(name, float)
    value = coerce(key, value, kind, None)
    low = 2 if name in ("batch_size", "train_images") else 1 if kind is int else 0
    if kind is not bool and (value < low or (kind is int and value > LARGEST)):
        raise InputError(
            f"{key}={value}; allowed: {low} and more{f', up to {LARGEST}' if kind is int else ''}"
        )
    if name == "momentum" and value >= 1:
        raise InputError(f"{key}={value}; allowed: 0 and more, below 1")
    return value


def resolve(
    protocol: Protocol,
    profile: Profile,
    *,
    network: str,
    available: tuple[int, int],
    schedule: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of a run.

    network: the one that trains (it decides the learning rate). available: training and test images of the
    data set.
    schedule: protocol fields that the method's own run replaces. overrides: checked `recipe.*` settings by
    field name.
    """
    overrides = dict(overrides or {})
    p = dataclasses.replace(protocol, **(schedule or {}))
    factor = 1.0 if profile.epochs is None else profile.epochs / 240
    epochs = overrides.pop("epochs", None)
    if epochs is None:
        epochs = max(1, round(p.epochs * factor))
    train = overrides.pop("train_images", profile.train_images)
    test = overrides.pop("test_images", profile.test_images)
    lr = p.lr_small if network in p.small_lr_networks and "lr" not in (schedule or {}) else p.lr
    base = Recipe(
        epochs=epochs,
        milestones=tuple(scaled(m, epochs, p.epochs) for m in p.milestones),
        published_epochs=p.epochs,
        decay=p.decay,
        batch_size=profile.batch_size or p.batch_size,
        lr=lr * profile.lr_scale(p),
        momentum=p.momentum,
        weight_decay=p.weight_decay,
        nesterov=p.nesterov,
        drop_last=p.drop_last,
        augment=p.augment,
        train_images=min(train or available[0], available[0]),
        test_images=min(test or available[1], available[1]),
    )
    if (
        base.train_images < 2
    ):  # `samplers.cut` drops a batch of one image always, and keeps an only batch that is not full
        raise InputError(
            f"train_images is {base.train_images}, which makes no batch; allowed: 2 and more training images"
        )
    return dataclasses.replace(base, **overrides)
