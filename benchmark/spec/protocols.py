"""Protocols: each is a paper's training recipe and its rule for reporting results.

Most protocols share one recipe, that of RepDistiller (the code of CRD): 240 epochs, batch 64, SGD with
momentum 0.9 and weight decay 5e-4, learning rate 0.05 (0.01 for MobileNet and ShuffleNet students), divided
by 10 after epochs 150, 180 and 210. They differ in which epoch they report and in which of the teacher's
checkpoints teaches. What is trained together with KD is stated by the rows of `tables/*.toml`. `lightskd` and
`selfkdlib` belong to the tables of self-distillation, whose columns have no teacher; `clips` is for sounds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from benchmark import methods, plugins
from benchmark.errors import InputError, unknown
from benchmark.spec.protocol_files import read_protocols

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
