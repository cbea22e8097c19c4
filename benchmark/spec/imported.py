"""Imported teachers: checkpoints in a folder (`TEACHERS=dir`) that teach instead of runs of ours.

A file belongs to the network whose name its own name, or its folder's, begins with (`resnet56_sskd.pth`,
`resnet56.pth`, `resnet56_vanilla/ckpt_epoch_240.pth`). Every format that `models.load_weights` reads is
accepted; a file that does not fit is refused with its reason before anything is trained.

A `.json` file in its place (`resnet56.json`: network, num_classes, weights = the hash, top1, source) only
describes a checkpoint that is not here. Tables, diffs and reports find the records of its students by it;
nothing can be trained with it. `results/reference/teachers` has those of the reference results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import models
from benchmark import data
from benchmark.errors import InputError
from benchmark.spec.runs import TeacherRef

SUFFIXES = (".pth", ".pt", ".tar", ".ckpt")
DESCRIBED = ".json"


@dataclass(frozen=True)
class Imported:
    """A checkpoint that can teach. weights: hash of its weights; extra: plain data that rode along (epoch,
    accuracy as its maker saw it)."""

    network: str
    num_classes: int
    path: Path
    weights: str
    extra: dict[str, Any]

    def ref(self) -> TeacherRef:
        return TeacherRef(self.network, weights=self.weights, path=str(self.path))


def network_of(path: Path) -> str | None:
    """The network that a checkpoint's file or folder is named after (the longest name that fits), or None."""
    for text in (path.name, path.parent.name):
        fits = [
            n
            for n in models.names()
            if text.lower().startswith(n.lower()) and not text[len(n) : len(n) + 1].isalnum()
        ]
        if fits:
            return max(fits, key=len)
    return None


def read(path: Path, network: str | None = None) -> Imported:
    """Reads one checkpoint. `InputError` if no network can be told or the weights do not fit it."""
    network = network or network_of(path)
    if network is None:
        raise InputError(
            f"{path}: no network is named so; allowed: a file or folder name that begins with one of {', '.join(models.names())}"
        )
    reasons = []
    for num_classes in (100, 10):
        net = models.build(network, num_classes)
        try:
            extra = models.load_weights(net, path)
        except models.WeightsError as error:
            reasons.append(str(error))
            continue
        return Imported(network, num_classes, path, models.weights_hash(net), extra)
    raise InputError(reasons[0])


def described(path: Path) -> Imported:
    """A description of a checkpoint that is not here. `InputError` if it lacks network, num_classes (10 or
    100) or the weights' hash."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        network, num_classes, weights = found["network"], found["num_classes"], found["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: no description of a teacher ({type(error).__name__}: {error}); allowed: JSON with network, num_classes, weights"
        ) from error
    if (
        network not in models.names()
        or num_classes not in (10, 100)
        or not isinstance(weights, str)
        or not weights
    ):
        raise InputError(
            f"{path}: no description of a teacher; allowed: a network of models/, 10 or 100 classes, a hash of weights"
        )
    return Imported(
        network,
        num_classes,
        path,
        weights,
        {k: v for k, v in found.items() if k not in ("network", "num_classes", "weights")},
    )


def need_weights(refs: Iterable[TeacherRef | None]) -> None:
    """`InputError` if something is to be trained with a teacher that is only described."""
    for ref in refs:
        if ref is not None and ref.run is None and Path(ref.path).suffix == DESCRIBED:
            raise InputError(
                f"{ref.path}: only describes {ref.network} ({ref.weights}), nothing can be trained with it; allowed: TEACHERS= with its checkpoint"
            )


def scan(folder: Path | None) -> list[Imported]:
    """Every checkpoint of a folder, one a network; `InputError` for a missing or empty folder, a file that
    does not fit, or two of one network."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise InputError(
            f"TEACHERS: no folder {folder}; allowed: a folder of checkpoints ({', '.join(SUFFIXES)})"
        )
    found: dict[str, Imported] = {}
    for path in sorted(
        p
        for p in folder.rglob("*")
        if p.suffix in (*SUFFIXES, DESCRIBED) and p.is_file() and not p.name.startswith(".")
    ):
        teacher = described(path) if path.suffix == DESCRIBED else read(path)
        if teacher.network in found:
            raise InputError(
                f"TEACHERS: two checkpoints of {teacher.network}: {found[teacher.network].path} and {path}; allowed: one a network"
            )
        found[teacher.network] = teacher
    if not found:
        raise InputError(
            f"TEACHERS: no checkpoint in {folder}; allowed: a folder of checkpoints ({', '.join(SUFFIXES)})"
        )
    return list(found.values())


def imported(folder: Path | None) -> dict[tuple[str, str], TeacherRef]:
    """`(data set, network)` -> checkpoint, for every data set with as many classes as the checkpoint has
    (digits and CIFAR-10 both have
    10: a ten-class checkpoint counts for CIFAR-10 alone, the real data)."""
    by_classes = {100: "cifar100", 10: "cifar10"}
    return {(by_classes[t.num_classes], t.network): t.ref() for t in scan(folder)}


def load_network(ref: TeacherRef, dataset: str, path: Path) -> models.Network:
    """The teacher's network with its weights, frozen and in eval mode, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        net = models.build(ref.network, data.info(dataset).num_classes)
    try:
        models.load_weights(net, path)
    except models.WeightsError as error:
        raise InputError(str(error)) from error
    if ref.weights and models.weights_hash(net) != ref.weights:
        raise InputError(
            f"{path}: the weights have changed since the run was planned; allowed: the same file, or plan again"
        )
    return net.eval().requires_grad_(False)
