"""Imported teachers: checkpoints in a folder (`TEACHERS=`) that teach instead of runs of this suite.

The name of a checkpoint's file, or of its folder, begins with the name of its network (`resnet56_sskd.pth`,
`resnet56.pth`, `resnet56_vanilla/ckpt_epoch_240.pth`). Every format that `models.load_weights` reads is
accepted. A file that does not fit its network is refused with the reason before anything is trained.

A `.json` file (`resnet56.json`: network, num_classes, weights = the hash, top1, source) can stand in for a
checkpoint that is not here. Tables, diffs and reports then find the records of its students, but nothing can
be trained with it. `results/reference/teachers` has such descriptions for the reference results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import models
from benchmark import data, longwork
from benchmark.errors import InputError
from benchmark.spec.runs import TeacherRef

CHECKPOINTS = (".pth", ".pt", ".tar", ".ckpt")
"""Suffixes of checkpoint files."""

DESCRIPTION = ".json"
"""Suffix of a file that describes a checkpoint."""

DATASETS = {100: "cifar100", 10: "cifar10"}
"""The data set of a checkpoint by its number of classes.

Digits has 10 classes too, but no published checkpoints.
"""


@dataclass(frozen=True)
class ImportedTeacher:
    """A checkpoint that can teach, or the description of one."""

    network: str
    num_classes: int
    path: Path

    weights: str
    """Hash of the weights (`models.weights_hash`)."""

    extra: dict[str, Any]
    """Further plain data in the file, for example the epoch, or the accuracy that its author measured."""

    description_only: bool = False
    """The file has no weights; it only describes the checkpoint."""

    def ref(self) -> TeacherRef:
        return TeacherRef(
            self.network,
            weights=self.weights,
            path=str(self.path),
            description_only=self.description_only,
        )


def network_of(path: Path) -> str | None:
    """Return the network that a checkpoint's file or folder is named after, or None.

    If several names match, return the longest.
    """
    for text in (path.name, path.parent.name):
        matches = [
            n
            for n in models.names()
            if text.lower().startswith(n.lower()) and not text[len(n) : len(n) + 1].isalnum()
        ]
        if matches:
            return max(matches, key=len)
    return None


def read_checkpoint(path: Path, network: str | None = None) -> ImportedTeacher:
    """Read a checkpoint.

    network: its network; by default the one that the file or its folder is named after.

    Raises `InputError` if the name matches no network, or the weights do not fit it.
    """
    network = network or network_of(path)
    if network is None:
        raise InputError(
            f"{path}: the name of the file or its folder must begin with a network's name; "
            f"allowed: {', '.join(models.names())}"
        )
    reasons = []
    for num_classes in DATASETS:
        net = models.build(network, num_classes)
        try:
            extra = models.load_weights(net, path)
        except models.WeightsError as error:
            reasons.append(str(error))
            continue
        return ImportedTeacher(
            network=network,
            num_classes=num_classes,
            path=path,
            weights=models.weights_hash(net),
            extra=extra,
        )
    raise InputError(reasons[0])


def read_description(path: Path) -> ImportedTeacher:
    """Read the description of a checkpoint.

    Raises `InputError` if it lacks the network, the number of classes (10 or 100) or the weights' hash.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        network, num_classes, weights = values["network"], values["num_classes"], values["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not describe a teacher ({type(error).__name__}: {error}); "
            "it must be JSON with network, num_classes and weights"
        ) from error
    if (
        network not in models.names()
        or num_classes not in DATASETS
        or not isinstance(weights, str)
        or not weights
    ):
        raise InputError(
            f"{path} does not describe a teacher; network must be a network of models/, "
            "num_classes 10 or 100, weights a hash"
        )
    return ImportedTeacher(
        network=network,
        num_classes=num_classes,
        path=path,
        weights=weights,
        extra={k: v for k, v in values.items() if k not in ("network", "num_classes", "weights")},
        description_only=True,
    )


def require_weights(refs: Iterable[TeacherRef | None]) -> None:
    """Raise `InputError` if one of the teachers is only described, so that nothing can be trained with it."""
    for ref in refs:
        if ref is not None and ref.description_only:
            raise InputError(
                f"{ref.path} only describes {ref.network} ({ref.weights}), so nothing can be trained "
                "with it; set TEACHERS= to a folder that has the checkpoint"
            )


def read_folder(folder: Path) -> list[ImportedTeacher]:
    """Read every checkpoint and description below a folder.

    Raises `InputError` for a missing or empty folder, a file that does not fit, or two files of one network.
    """
    if not folder.is_dir():
        raise InputError(
            f"TEACHERS: no folder {folder}; set it to a folder of checkpoints ({', '.join(CHECKPOINTS)})"
        )
    teachers: dict[str, ImportedTeacher] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (*CHECKPOINTS, DESCRIPTION) or path.name.startswith(".") or not path.is_file():
            continue
        teacher = read_description(path) if path.suffix == DESCRIPTION else read_checkpoint(path)
        if teacher.network in teachers:
            raise InputError(
                f"TEACHERS: {teachers[teacher.network].path} and {path} are both checkpoints of "
                f"{teacher.network}; keep one of each network"
            )
        teachers[teacher.network] = teacher
    if not teachers:
        raise InputError(
            f"TEACHERS: no checkpoint in {folder}; "
            f"set it to a folder of checkpoints ({', '.join(CHECKPOINTS)})"
        )
    return list(teachers.values())


def teachers_in(folder: Path | None) -> dict[tuple[str, str], TeacherRef]:
    """Return the teachers in a folder by `(data set, network)`; {} if `folder` is None.

    Raises `InputError` (see `read_folder`).
    """
    if folder is None:
        return {}
    with longwork.task(f"reading the teachers in {folder}"):
        teachers = read_folder(folder)
    return {(DATASETS[t.num_classes], t.network): t.ref() for t in teachers}


def load_teacher(ref: TeacherRef, dataset: str, path: Path) -> models.Network:
    """Return a teacher's network with the weights of `path`, frozen and in eval mode, on the CPU.

    Raises `InputError` if the weights do not fit, or are not those of the reference.
    """
    with torch.random.fork_rng(devices=[]):
        net = models.build(ref.network, data.info(dataset).num_classes)
    try:
        models.load_weights(net, path)
    except models.WeightsError as error:
        raise InputError(str(error)) from error
    if ref.weights and models.weights_hash(net) != ref.weights:
        raise InputError(
            f"{path}: the weights have changed since the run was planned; restore the file, or plan again"
        )
    return net.eval().requires_grad_(False)
