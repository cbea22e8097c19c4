"""Protocols and profiles.

A protocol is a paper's training recipe and its rule for reporting results. A profile sets how much of it is
carried out.

Most protocols share one recipe, that of RepDistiller (the code of CRD): 240 epochs, batch 64, SGD with
momentum 0.9 and weight decay 5e-4, learning rate 0.05 (0.01 for MobileNet and ShuffleNet students), divided
by 10 after epochs 150, 180 and 210. They differ in which epoch they report and in which of the teacher's
checkpoints teaches. What is trained together with KD is stated by the rows of `tables/*.toml`. `lightskd` and
`selfkdlib` belong to the tables of self-distillation, whose columns have no teacher; `clips` is for sounds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import models
from benchmark import data, methods, plugins
from benchmark.errors import InputError, unknown
from benchmark.settings import coerce, scaled
from benchmark.spec.protocol_files import WORDS, read_protocols

SMALL_LR_NETWORKS = ("MobileNetV2", "MobileNetV2_hsakd", "ShuffleV1", "ShuffleV2")
WRN_NORMS = ("once", "twice if read", "twice")


@dataclass(frozen=True)
class Protocol:
    """A training recipe, and the rule for reporting its result."""

    name: str
    title: str

    report: str
    """The epoch whose test top-1 counts: `last`, `best` (chosen on the test set, as the papers did) or `both`
    (the paper does not say)."""

    teacher_epoch: str
    """Which of the teacher's checkpoints teaches: `last` or `best`."""

    teacher_protocol: str
    """The protocol that the teacher is trained under."""

    epochs: int = 240
    """Published length of the training."""

    milestones: tuple[int, ...] = (150, 180, 210)
    """Epochs (counted from 1) after which the learning rate is multiplied by `decay`."""

    schedule: str = "step"
    """How the learning rate falls: `step`, at the milestones, or `cosine`, from epoch to epoch along half a
    cosine that would reach 0 after the last one."""

    decay: float = 0.1
    batch_size: int = 64

    lr: float = 0.05
    """Initial learning rate."""

    lr_small: float = 0.01
    """Initial learning rate of the networks in `small_lr_networks`."""

    small_lr_networks: tuple[str, ...] = SMALL_LR_NETWORKS
    warm_up: int = 0
    """Number of epochs at the beginning in which the learning rate rises linearly from 0, step by step."""

    warm_up_from: float | None = None
    """For a warm-up as in SEED's code: the learning rate changes epoch by epoch, from this value (which does
    not depend on the batch size) linearly towards `lr`. None for one that begins at 0."""

    teacher_method: str = "plain"
    """How teachers are trained: `plain`, or a method without a teacher."""

    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False

    wrn_norms: str = "once"
    """How often in a step a WRN student updates the running statistics of the three batch norms whose outputs
    are its pre-activations; one of `WRN_NORMS`. The code of CRD's benchmark calls these norms a second time
    where a method reads the pre-activations (`twice if read`), mdistiller's in every run of a WRN (`twice`).
    The running statistics then move by 1 - 0.9^2 = 0.19 of the way to the batch's and not by 0.1. Nothing
    else of the training differs."""

    drop_last: bool = False
    """Whether an epoch's incomplete last batch is dropped. A batch of one image always is."""

    augment: str = "crop-flip"
    """`crop-flip` (RandomCrop(32, padding=4) and horizontal flip), `resized-crop-flip` (RandomResizedCrop(32)
    and horizontal flip), `imagenet` (the same for images of any size, with ImageNet's rotated views),
    `contrast` (MoCo-v2's views) or `none`."""

    label_smoothing: float = 0.0
    """Share of the target that the cross-entropy spreads over all classes (Szegedy et al. 2016)."""

    mixup: float = 0.0
    """The parameter alpha of mixup, 0 for none (benchmark/data/mixup.py). Teachers see the mixed images."""

    mean: tuple[float, float, float] = (0.5071, 0.4867, 0.4408)
    """Mean of CIFAR-100's pixel values in 0..1, by channel. Other data sets have their own."""

    std: tuple[float, float, float] = (0.2675, 0.2565, 0.2761)
    """Standard deviation of CIFAR-100's pixel values in 0..1, by channel."""

    normalises_all: bool = False
    """Whether `mean` and `std` normalise every data set, not CIFAR-100 alone. Networks that were trained on
    ImageNet expect its mean and std, whatever images they read."""

    method_settings: tuple[tuple[str, Any], ...] = ()
    """Settings `METHOD.FIELD` in which the protocol's code differs from the method's default."""

    note: str = ""
    """Further notes on the recipe and its source."""


_IMAGENET = Protocol(
    name="imagenet",
    title="ImageNet, 100 epochs (CRD, SSKD and DLKD)",
    report="both",
    teacher_epoch="last",
    teacher_protocol="imagenet",
    epochs=100,
    milestones=(30, 60, 90),
    batch_size=256,
    lr=0.1,
    small_lr_networks=(),
    weight_decay=1e-4,
    augment="imagenet",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    normalises_all=True,
    method_settings=(("dlkd.variant", "paper"),),
    note="The recipe of the papers' ImageNet tables: RandomResizedCrop(224) and flip; tested on the middle "
    "224x224 of images whose shorter side has 256 pixels. The teachers are torchvision's checkpoints. Which "
    "epoch the papers report is not known. A batch norm sees the whole batch here; the papers split it over "
    "several GPUs.",
)

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            name="crd",
            title="CRD benchmark (RepDistiller)",
            report="last",
            teacher_epoch="last",
            teacher_protocol="crd",
            wrn_norms="twice if read",
            note="Every method alone, except the combinations with KD that are named as such. Last epoch, "
            "mean of 5 (similar architectures) or 3 (different architectures) runs.",
        ),
        Protocol(
            name="sskd",
            title="SSKD",
            report="best",
            teacher_epoch="best",
            teacher_protocol="sskd",
            wrn_norms="twice if read",
            mean=(0.5071, 0.4866, 0.4409),
            note="Best epoch on the test set. The other methods are combined with KD (`x+kd`): an early "
            "version of SSKD's README prints CRD's CRD+KD values in the row CRD, and the published values "
            "are far above CRD's and close to CRD's combinations with KD. The released code does not contain "
            "these methods.",
        ),
        Protocol(
            name="dlkd",
            title="DLKD (MLKD in arXiv)",
            report="both",
            teacher_epoch="best",
            teacher_protocol="sskd",
            wrn_norms="twice if read",
            mean=(0.5071, 0.4866, 0.4409),
            note="SSKD's teachers. The code saves the best and the last epoch. The paper does not say which "
            "one its own row reports, so both are shown.",
        ),
        Protocol(
            name="mdistiller",
            title="mdistiller (DKD, LSKD)",
            report="best",
            teacher_epoch="last",
            teacher_protocol="crd",
            wrn_norms="twice",
            note="CRD's recipe and teachers. Best epoch on the test set, mean of 4 or 5 runs.",
        ),
        Protocol(
            name="repdistiller",
            title="papers on CRD's recipe that do not say which epoch they report",
            report="both",
            teacher_epoch="last",
            teacher_protocol="crd",
            wrn_norms="twice if read",
            note="CRD's recipe and teachers. The reported epoch is not known, so both are shown.",
        ),
        Protocol(
            name="kdpp",
            title="KD++",
            report="both",
            teacher_epoch="last",
            teacher_protocol="crd",
            batch_size=128,
            lr=0.1,
            lr_small=0.02,
            nesterov=True,
            note="CRD's teachers and milestones, with Nesterov momentum and the learning rates of the "
            "released example: 0.1, and 0.02 for ShuffleNets (here for MobileNetV2 too). It trains 64 images "
            "on each of two GPUs. Here one GPU trains the 128 images, so a batch norm's statistics are those "
            "of 128 images and not of 64. The reported epoch is not known.",
        ),
        Protocol(
            name="lightskd",
            title="LightSKD (self-distillation)",
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
            note="As in the released train.py: RandomResizedCrop and flip, CIFAR-10's statistics, "
            "incomplete training batches dropped. (Its test loader drops one too and tests 9,984 of 10,000 "
            "images; here all are tested.) The reported epoch is not known.",
        ),
        Protocol(
            name="selfkdlib",
            title="Self-KD-Lib (self-distillation)",
            report="both",
            teacher_epoch="best",
            teacher_protocol="selfkdlib",
            epochs=200,
            milestones=(105, 155),
            batch_size=128,
            lr=0.1,
            small_lr_networks=(),
            warm_up=5,
            nesterov=True,
            method_settings=(("label_smoothing.over", "others"),),
            note="As in its main.py at ede3062: 200 epochs, batch 128, Nesterov momentum, weight decay 5e-4. "
            "The learning rate rises to 0.1 over the first 5 epochs, step by step. Its milestones 100 and "
            "150 count from the end of this warm-up. The code prints the best epoch; which one its README "
            "reports is not said.",
        ),
        Protocol(
            name="seed",
            title="SEED (self-supervised)",
            report="last",
            teacher_epoch="last",
            teacher_protocol="seed",
            teacher_method="moco",
            epochs=200,
            milestones=(),
            batch_size=256,
            lr=0.03,
            small_lr_networks=(),
            weight_decay=1e-4,
            schedule="cosine",
            warm_up=5,
            warm_up_from=0.03,
            drop_last=True,
            augment="contrast",
            note="As in SEED's code at f236cac: 200 epochs, learning rate 0.03 * batch / 256, cosine epoch "
            "by epoch, MoCo-v2's views, and a warm-up of 5 epochs that begins at the unscaled 0.03 (with "
            "batches of 256 it is constant). Teachers are MoCo-v2 pre-trainings of this suite (method "
            "`moco`, without that warm-up) or imported checkpoints. No label reaches a student of `moco` or "
            "`seed`: its top-1 is that of a classifier trained alongside, where SEED fits one to the "
            "finished network (linear probe).",
        ),
        Protocol(
            name="clips",
            title="audio clips (CRD's recipe without augmentation)",
            report="last",
            teacher_epoch="last",
            teacher_protocol="clips",
            augment="none",
            note="CRD's recipe without crop and flip, because a clip played backwards, or with its "
            "frequencies shifted, is a different sound. Papers on audio tagging use other recipes, so no "
            "published value can be compared with these results.",
        ),
        _IMAGENET,
        dataclasses.replace(
            _IMAGENET,
            name="imagenet-dlkd",
            title="ImageNet as DLKD's code trains it, 120 epochs",
            epochs=120,
            note="As in DLKD's run_imagenet_mlkd.sh and train_student_imagenet.py at c7528eb. The code "
            "trains 120 epochs with the milestones of 100; the paper says 100 epochs (protocol imagenet). "
            "Everything else is the same.",
        ),
        dataclasses.replace(
            _IMAGENET,
            name="imagenet-mdistiller",
            title="ImageNet as mdistiller trains it (DKD, LSKD)",
            report="best",
            batch_size=512,
            lr=0.2,
            note="mdistiller configs/imagenet at a08d46f: batch 512, learning rate 0.2 for KD, AT and DKD; "
            "its CRD and ReviewKD have 256 and 0.1 (protocol imagenet). Its code keeps the best epoch.",
        ),
    )
}

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


def get_protocol(name: str) -> Protocol:
    """Return the protocol of that name. Raises `InputError` for an unknown one."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if name not in _of_the_user():
        raise unknown("protocol", name, names(), plugins.remark_if_none())
    return _of_the_user()[name]


def names() -> tuple[str, ...]:
    """Return the names of all protocols: the built-in ones, and those of KD_PLUGINS."""
    return (*PROTOCOLS, *_of_the_user())


@plugins.cached
def _of_the_user() -> dict[str, Protocol]:
    protocols = read_protocols(PROTOCOLS, Protocol)
    for name, protocol in protocols.items():
        for key, value in protocol.method_settings:
            try:
                methods.check_override(key, value)
            except InputError as error:
                raise InputError(f"{name}.toml, method_settings: {error}") from error
        if protocol.teacher_method not in (methods.PLAIN, *methods.names()):
            raise unknown(
                f"method in {name}.toml: teacher_method",
                protocol.teacher_method,
                (methods.PLAIN, *methods.names()),
            )
    return protocols


def get_profile(name: str) -> Profile:
    """Return the profile of that name. Raises `InputError` for an unknown one."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return PROFILES[name]


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
