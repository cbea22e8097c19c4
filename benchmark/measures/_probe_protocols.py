"""The recipes of linear probes, and what they do to an image.

CRD (ICLR 2020, Table 4) measured how its students transfer to STL-10 and TinyImageNet and published no recipe
or code for it. Two later papers published theirs, which differ in almost everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmark import data

SLOW_NETWORKS = ("MobileNetV2", "MobileNetV2_hsakd", "ShuffleV1", "ShuffleV2")
"""The networks with `lr_slow`."""

Statistics = tuple[data.Channels, data.Channels]
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class ProbeProtocol:
    """How the linear classifier is trained on a frozen network."""

    name: str
    source: str
    """Where it was read."""

    report: str
    """Which epoch of the classifier counts: `last`, or `best` on the test set."""

    epochs: int
    milestones: tuple[int, ...]
    """Epochs, counted from 1, after which the learning rate is divided by 10."""

    lr: float
    lr_slow: float
    """Learning rate for the networks in `SLOW_NETWORKS`."""

    momentum: float
    weight_decay: float
    nesterov: bool
    batch_size: int

    augment: str
    """`resized-crop-flip` (a random crop of the image at its full size, resized), `crop-flip` (resized, then
    RandomCrop with padding 4), or `none`: the features of each image are computed once."""

    init_std: float
    """Standard deviation of the classifier's first weights, whose biases are 0; 0 for PyTorch's default."""

    moving_norms: bool
    """Whether the batch norms of the network are in train mode: they normalise by the batch, and their
    running statistics move with the target data although no weight does."""

    scales_lr: bool = False
    """Whether batches of another size have a learning rate in proportion (the linear scaling rule of Goyal et
    al. 2017, which MoCo's instructions name)."""

    statistics: Mapping[str, Statistics] = dataclasses.field(default_factory=dict)
    """Mean and standard deviation that normalise the images, by target data set. For any other one they are
    that data set's own; if this is empty, those that the network was trained with."""

    def in_batches_of(self, batch_size: int) -> ProbeProtocol:
        """Return the protocol for batches of another size (0: its own)."""
        if not batch_size:
            return self
        share = batch_size / self.batch_size if self.scales_lr else 1.0
        return dataclasses.replace(
            self, batch_size=batch_size, lr=self.lr * share, lr_slow=self.lr_slow * share
        )

    def constants(self, target: str) -> dict[str, Any]:
        """Return the recipe as plain JSON data, with the statistics of one target data set."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["statistics"], values["source"], values["scales_lr"]
        info = data.info(target)
        values["milestones"] = list(self.milestones)
        values["statistics"] = (
            [list(s) for s in self.statistics.get(target, (info.mean, info.std))] if self.statistics else None
        )
        return values


HSAKD = ProbeProtocol(
    name="hsakd",
    source="HSAKD, eval_rep.py",
    report="best",
    epochs=100,
    milestones=(30, 60, 90),
    lr=0.1,
    lr_slow=0.1,
    momentum=0.9,
    weight_decay=0.0,
    nesterov=True,
    batch_size=64,
    augment="resized-crop-flip",
    init_std=0.0,
    moving_norms=False,
    statistics={"stl10": HALF, "tinyimagenet": IMAGENET},
)

CACHED = dataclasses.replace(
    HSAKD,
    name="cached",
    source="of this project: HSAKD's optimiser on features that are computed once",
    report="last",
    augment="none",
    statistics={},
)

PROTOCOLS: dict[str, ProbeProtocol] = {
    p.name: p
    for p in (
        HSAKD,
        ProbeProtocol(
            name="rrd",
            source="RRD and DCD, cifar/transfer_student.py; its comment says that the last epoch counts",
            report="last",
            epochs=120,
            milestones=(30, 60, 90),
            lr=0.05,
            lr_slow=0.01,
            momentum=0.9,
            weight_decay=5e-4,
            nesterov=False,
            batch_size=64,
            augment="crop-flip",
            init_std=0.01,
            moving_norms=True,
            statistics={
                "stl10": ((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2712)),
                "tinyimagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
            },
        ),
        ProbeProtocol(
            name="seed",
            source="SEED, main_lincls.py at f236cac: learning rate 30 for batches of 256, best epoch. Its "
            "warm-up changes nothing at this batch size",
            report="best",
            epochs=100,
            milestones=(60, 80),
            lr=30.0,
            lr_slow=30.0,
            momentum=0.9,
            weight_decay=0.0,
            nesterov=False,
            batch_size=256,
            augment="resized-crop-flip",
            init_std=0.01,
            moving_norms=False,
            scales_lr=True,
        ),
        CACHED,
    )
}
