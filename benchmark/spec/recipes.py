"""Recipes: the training settings of one run, worked out from its protocol, profile, network and overrides."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import models
from benchmark import data
from benchmark.errors import InputError, unknown
from benchmark.settings import coerce, scaled
from benchmark.spec.profiles import SCHEDULE, Profile
from benchmark.spec.protocol_files import WORDS
from benchmark.spec.protocols import Protocol


@dataclass(frozen=True)
class Recipe:
    """The training settings of one run, scaled to its length."""

    epochs: int

    milestones: tuple[int, ...]
    """Epochs (counted from 1) after which the learning rate is multiplied by `decay`."""

    published_epochs: int
    """Length of the schedule in the paper, for scaling its other stages (`benchmark.settings.scaled`)."""

    decay: float
    batch_size: int

    lr: float
    """Initial learning rate."""

    momentum: float
    weight_decay: float
    nesterov: bool
    drop_last: bool
    augment: str

    train_images: int
    """Number of images that are trained on."""

    test_images: int

    warm_up: int = 0
    """Epochs in which the learning rate rises linearly, step by step."""

    norm_updates: int = 1
    """Updates of a WRN student's running statistics in a step (see `Protocol.wrn_norms`)."""

    warm_up_from: float | None = None
    """The learning rate of epoch 1, for a warm-up epoch by epoch (see `Protocol.warm_up_from`)."""

    share: float = 1.0
    """The part of the training images that the run trains on. Teachers and their heads learn from all."""

    subset: str = "stratified"
    """How the part is drawn (see benchmark/data/selection.py)."""

    drawn_from: int = 0
    """Number of training images that the part is drawn from; 0 for a run on all of them."""

    held_out: int = 0
    """Number of training images that are held out, drawn by the run's seed, to choose the epoch without the
    test set. Teachers and their heads learn from all."""

    label_noise: float = 0.0
    """The part of these images whose labels are disturbed. Teachers and their heads learn from clean ones."""

    noise_kind: str = "permute"
    """How labels are disturbed (see benchmark/data/selection.py)."""

    schedule: str = "step"
    """`step` or `cosine` (see `Protocol.schedule`)."""

    label_smoothing: float = 0.0
    """See `Protocol.label_smoothing`."""

    mixup: float = 0.0
    """See `Protocol.mixup`."""

    @property
    def selection(self) -> data.Selection:
        """The training images and labels."""
        return data.Selection(
            images=self.train_images,
            drawn_from=self.drawn_from,
            subset=self.subset,
            noise=self.label_noise,
            noise_kind=self.noise_kind,
            held_out=self.held_out,
        )

    def lr_at(self, epoch: int, step: int = 1, steps: int = 1) -> float:
        """Return the learning rate of a step of an epoch, both counted from 1; by default of its last one.

        steps: number of steps of the epoch.

        It drops in the epoch after each milestone, or follows half a cosine: after the warm-up, or from the
        first epoch on where the warm-up has a learning rate of its own (`warm_up_from`), as in SEED's code.
        Within an epoch it only changes during a warm-up that begins at 0.
        """
        if epoch <= self.warm_up and self.warm_up_from is not None:
            return self.warm_up_from + (self.lr - self.warm_up_from) * (epoch - 1) / self.warm_up
        if self.schedule == "cosine":
            before = self.warm_up if self.warm_up_from is None else 0
            done = max(0, epoch - 1 - before) / max(1, self.epochs - before)
            lr = self.lr * (1 + math.cos(math.pi * done)) / 2
        else:
            lr = self.lr * self.decay ** sum(epoch > m for m in self.milestones)
        if epoch <= self.warm_up:
            lr *= ((epoch - 1) * steps + step) / (self.warm_up * steps)
        return lr

    def settings(self) -> dict[str, Any]:
        """Return the fields by name.

        A run's key depends on them. So those that have a default are left out where they equal it: it is what
        runs did before the fields existed.
        """
        # dataclasses.asdict copies deeply, which is too slow for plans of 10^5 runs
        values = ((f, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {f.name: value for f, value in values if value != f.default}


RECIPE_FIELDS: dict[str, type] = {
    "epochs": int,
    "batch_size": int,
    "lr": float,
    "decay": float,
    "momentum": float,
    "weight_decay": float,
    "nesterov": bool,
    "drop_last": bool,
    "train_images": int,
    "test_images": int,
    "warm_up": int,
    "norm_updates": int,
    "share": float,
    "subset": str,
    "held_out": int,
    "label_noise": float,
    "noise_kind": str,
    "schedule": str,
    "label_smoothing": float,
    "mixup": float,
}
"""The fields that `--set recipe.FIELD=value` can set, and their types."""

STUDENT_ONLY = ("share", "subset", "held_out", "label_noise", "noise_kind")
"""The fields that no teacher has: it learns from all images and clean labels, whatever its students do."""

_WORDS = {"subset": data.SUBSETS, "noise_kind": data.NOISES, "schedule": WORDS["schedule"]}

LARGEST = 1_000_000
"""Upper limit on a recipe's whole numbers: more epochs, or images, than anyone trains."""


def check_recipe_override(key: str, value: Any) -> Any:
    """Return the checked value of a `recipe.FIELD` setting. Raises `InputError`."""
    name = key.partition(".")[2]
    if name not in RECIPE_FIELDS:
        raise unknown("setting of recipe", name, RECIPE_FIELDS)
    kind = RECIPE_FIELDS[name]
    value = coerce(key, value, kind, _WORDS.get(name))
    if kind is int:
        lowest = {"batch_size": 2, "train_images": 2, "warm_up": 0, "held_out": 0}.get(name, 1)
        highest = 2 if name == "norm_updates" else LARGEST
        if not lowest <= value <= highest:
            raise InputError(f"{key}={value}; allowed: {lowest} to {highest}")
    elif name == "momentum":
        if not 0 <= value < 1:
            raise InputError(f"{key}={value}; allowed: 0 and more, below 1")
    elif name == "share":
        if not 0 < value <= 1:
            raise InputError(f"{key}={value}; allowed: more than 0, up to 1")
    elif name in ("label_noise", "label_smoothing"):
        if not 0 <= value <= 1:
            raise InputError(f"{key}={value}; allowed: 0 to 1")
    elif kind is float and value < 0:
        raise InputError(f"{key}={value}; allowed: 0 and more")
    return value


def resolve(
    protocol: Protocol,
    profile: Profile,
    *,
    network: str,
    available: tuple[int, int],
    schedule: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    reads_preacts: bool = False,
) -> Recipe:
    """Return the recipe of a run.

    network: the network that is trained (it decides the learning rate).
    available: numbers of training and test images of the data set.
    schedule: protocol fields that the method replaces.
    overrides: checked `recipe.FIELD` settings by field.
    reads_preacts: whether a method of the run reads the student's pre-activations.

    `train_images` limits the training set, for teachers too; `share` is a part of what it leaves.

    Raises `InputError` for fewer than two training images, and for a field of `schedule` that does not exist.
    """
    overrides = dict(overrides or {})
    fields = [f.name for f in dataclasses.fields(Protocol)]
    if wrong := sorted(set(schedule or {}) - set(fields)):
        raise unknown("protocol field that a method replaces:", wrong[0], fields)
    p = dataclasses.replace(protocol, **(schedule or {}))
    if "milestones" in (schedule or {}) and "schedule" not in (schedule or {}):
        p = dataclasses.replace(p, schedule="step")  # the method's authors chose the steps
    epochs = overrides.pop("epochs", None)
    if epochs is None:
        factor = 1.0 if profile.epochs is None else profile.epochs / SCHEDULE
        epochs = max(1, round(p.epochs * factor))
    train_images = overrides.pop("train_images", profile.train_images)
    train_images = min(train_images or available[0], available[0])
    drawn_from = 0
    if (share := overrides.get("share", 1.0)) < 1:
        drawn_from, train_images = train_images, round(share * train_images)
        if overrides.get("held_out"):
            raise InputError("recipe.share and recipe.held_out cannot be combined; give one of them")
    else:
        overrides.pop("subset", None)  # it changes nothing, so it must not change the key either
        if held_out := overrides.get("held_out", 0):
            if held_out > train_images - 2:
                raise InputError(
                    f"recipe.held_out={held_out} of {train_images} images; "
                    f"allowed: at most {train_images - 2}"
                )
            drawn_from, train_images = train_images, train_images - held_out
    if not overrides.get("label_noise"):
        overrides.pop("noise_kind", None)
    test_images = overrides.pop("test_images", profile.test_images)
    lr = p.lr_small if network in p.small_lr_networks and "lr" not in (schedule or {}) else p.lr
    recipe = Recipe(
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
        train_images=train_images,
        test_images=min(test_images or available[1], available[1]),
        warm_up=scaled(p.warm_up, epochs, p.epochs) if p.warm_up else 0,
        warm_up_from=p.warm_up_from if p.warm_up else None,
        norm_updates=2 if p.wrn_norms == "twice" or (p.wrn_norms == "twice if read" and reads_preacts) else 1,
        drawn_from=drawn_from,
        schedule=p.schedule,
        label_smoothing=p.label_smoothing,
        mixup=p.mixup,
    )
    if recipe.train_images < 2:  # `samplers.cut_batches` drops a batch of one image, so none would be left
        raise InputError(f"train_images is {recipe.train_images}; training needs at least 2 images")
    recipe = dataclasses.replace(recipe, **overrides)
    if recipe.schedule == "cosine":
        recipe = dataclasses.replace(recipe, milestones=())
    is_wrn = network.startswith("wrn_") and network not in models.user_networks()
    return recipe if is_wrn else dataclasses.replace(recipe, norm_updates=1)
