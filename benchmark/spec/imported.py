"""Imported teachers: checkpoints in a folder, or one file (`TEACHERS=`), that teach instead of runs of this
suite.

Every format that `models.load_weights` reads is accepted. The network of a checkpoint is the one that its
file or a folder above it is named after (`resnet56_sskd.pth`, `cifar100_resnet20_xyz.pth`,
`resnet56_vanilla/ckpt_epoch_240.pth`), else the only one that its weights fit. A file that does not fit its
network is refused with the reason before anything is trained. Of several checkpoints of one training, the
protocol's `teacher_epoch` decides which one teaches (benchmark/spec/teacher_files.py).

Self-supervised checkpoints, of MoCo-v2 or SwAV for example, have a projector and no classifier. They can
teach on every data set.

A `.json` file (`resnet56.json`: network, num_classes, weights = the hash, top1, source) can stand in for a
checkpoint that is not here. Tables, diffs and reports then find the records of its students, but nothing can
be trained with it. `results/reference/teachers` has such descriptions for the reference results.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import models
from benchmark import data, longwork
from benchmark.errors import InputError, unknown
from benchmark.spec.runs import TeacherRef
from benchmark.spec.teacher_files import BEST, CHECKPOINTS, DESCRIPTION, LAST, epoch_of, list_files
from results.plain_json import parse_json

DATASETS = {100: "cifar100", 10: "cifar10", 1000: "imagenet"}
"""The data set of a checkpoint by its number of classes.

Digits has 10 classes too, but no published checkpoints.
"""

OTHER_SIZES = {"imagenet": ("imagenet64",)}
"""Data sets of the same images in another size: a checkpoint teaches on them too."""

NO_CLASSIFIER = 0
"""The number of classes of a self-supervised checkpoint."""


@dataclass(frozen=True)
class ImportedTeacher:
    """A checkpoint that can teach, or the description of one."""

    network: str

    num_classes: int
    """0 for a self-supervised network without a classifier."""

    path: Path

    weights: str
    """Hash of the weights (`models.weights_hash`)."""

    extra: dict[str, Any]
    """Further plain data in the file, for example the epoch, or the accuracy that its author measured."""

    description_only: bool = False
    """The file has no weights; it only describes the checkpoint."""

    epoch: str = LAST
    """`best` if the file holds the best epoch of its training by its name, else `last`."""

    def ref(self) -> TeacherRef:
        return TeacherRef(
            self.network,
            epoch=self.epoch,
            weights=self.weights,
            path=str(self.path),
            description_only=self.description_only,
            has_classifier=self.num_classes != NO_CLASSIFIER,
        )


@dataclass(frozen=True)
class FolderContent:
    """What was read from a folder of teachers."""

    teachers: tuple[ImportedTeacher, ...]
    """One for each network and data set, or two: its last and its best epoch."""

    notes: tuple[str, ...] = ()
    """A line for each file that looks like weights and is left alone, or for several of a kind."""


@functools.cache
def _spellings(names: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    """Return a pattern that finds networks' names in lower case, and the name of each without `-` and `_`."""
    longest_first = sorted(names, key=len, reverse=True)
    either = "|".join(name.lower().replace("_", "[-_]?") for name in longest_first)
    return re.compile(rf"(?<![0-9a-z])(?:{either})(?![0-9a-z])"), {_plain(name): name for name in names}


def _plain(name: str) -> str:
    return re.sub(r"[-_]", "", name.lower())


def networks_of(path: Path, top: Path | None = None) -> list[str]:
    """Return the networks that a checkpoint's file is named after, else those of a folder above it.

    top: the highest folder whose name counts; by default the one that the file is in.
    """
    top = path.parent if top is None else top
    pattern, spellings = _spellings(models.names())
    for part in (path, *path.parents):
        if matches := pattern.findall(part.name.lower()):
            return list(dict.fromkeys(spellings[_plain(match)] for match in matches))
        if part == top:
            break
    return []


def read_checkpoint(path: Path, network: str = "", top: Path | None = None) -> ImportedTeacher:
    """Read a checkpoint.

    network: its network; by default the one that it is named after, else the only one that its weights fit.
    top: see `networks_of`.

    Raises `InputError` if the file cannot be read, the weights do not fit, or fit several networks.
    """
    try:
        file = models.read_weights(path)
        name, num_classes = _network_in(file, network, top)
        net = models.build(name, num_classes or next(iter(DATASETS)))
        extra = models.load_weights(net, file)
    except models.WeightsError as error:
        raise InputError(str(error)) from error
    return ImportedTeacher(
        network=name, num_classes=num_classes, path=path, weights=models.weights_hash(net), extra=extra
    )


def _namesakes(name: str) -> list[str]:
    """Return a network, and the one for ImageNet that published files call by the same name.

    torchvision's `resnet50-0676ba61.pth` is `resnet50_imagenet` here.
    """
    for_imagenet = f"{name.lower()}_imagenet"
    return [name, for_imagenet] if for_imagenet in models.names() else [name]


def _network_in(file: models.WeightFile, network: str, top: Path | None) -> tuple[str, int]:
    """Return network and number of classes of a file. Raises `InputError` if they are not clear."""
    named = [network] if network else [n for name in networks_of(file.path, top) for n in _namesakes(name)]
    fits = models.fitting(file, named, DATASETS) or (
        [] if network else models.fitting(file, models.names(), DATASETS)
    )
    if models.lacks_classifier(file):  # it then fits with any number of classes
        fits = [(name, NO_CLASSIFIER) for name in dict.fromkeys(name for name, _ in fits)]
    if len(fits) == 1 and (fits[0][0] in named or not _begins_with_network(file.path)):
        return fits[0]
    if len(fits) > 1:
        raise InputError(
            f"{file.path}: its weights fit {' and '.join(dict.fromkeys(n for n, _ in fits))}; name one of "
            "them with --network, or begin the file's name with it"
        )
    if not named:
        raise InputError(
            f"{file.path}: its weights fit no network with {' or '.join(map(str, DATASETS))} classes; "
            f"allowed: {', '.join(models.names())}"
        )
    try:
        models.load_weights(models.build(named[0], next(iter(DATASETS))), file)
    except models.WeightsError as error:
        is_of = f" (they are those of {fits[0][0]})" if fits else ""
        raise InputError(f"{error}{is_of}") from error
    raise AssertionError("a network that does not fit was loaded")


def _begins_with_network(path: Path) -> bool:
    return _spellings(models.names())[0].match(path.name.lower()) is not None


def read_description(path: Path) -> ImportedTeacher:
    """Read the description of a checkpoint.

    Raises `InputError` if it lacks the network, the number of classes (10, 100 or 1000) or the weights' hash.
    """
    try:
        values = parse_json(path.read_bytes())
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


def read_folder(folder: Path, network: str = "") -> FolderContent:
    """Read every checkpoint and description below a folder, or a single file.

    network: the network of a checkpoint that fits several, and of a single file.

    Raises `InputError` for a missing or empty folder, a file that does not fit, or several files of one
    network that are not checkpoints of one training.
    """
    if network and network not in models.names():
        raise unknown("network", network, models.names())
    if folder.is_file():
        one = (
            read_description(folder)
            if folder.suffix.lower() == DESCRIPTION
            else read_checkpoint(folder, network)
        )
        return FolderContent((one,))
    if not folder.is_dir():
        raise InputError(
            f"TEACHERS: no folder {folder}; set it to a folder of checkpoints ({', '.join(CHECKPOINTS)})"
        )
    files, notes = list_files(folder)
    groups: dict[tuple[int, str], list[ImportedTeacher]] = {}
    for path in files:
        if (teacher := _read(path, network, folder, notes)) is not None:
            groups.setdefault((teacher.num_classes, teacher.network), []).append(teacher)
    teachers = tuple(teacher for group in groups.values() for teacher in _of_one_training(group, notes))
    if network and network not in {teacher.network for teacher in teachers}:
        raise InputError(f"--network {network}: {folder} has no checkpoint of it; leave the option out")
    if not teachers:
        also = "".join(f"; {note}" for note in notes[:1])
        raise InputError(
            f"TEACHERS: no checkpoint in {folder}; "
            f"set it to a folder of checkpoints ({', '.join(CHECKPOINTS)}){also}"
        )
    return FolderContent(teachers, tuple(notes))


def _read(path: Path, network: str, top: Path, notes: list[str]) -> ImportedTeacher | None:
    """Read a file of a folder. None for a file that is left alone; a note says why.

    A file whose suffix is not that of a checkpoint may be something else, so that it cannot be an error.
    """
    if path.suffix.lower() == DESCRIPTION:
        return None if _is_other_json(path) else read_description(path)
    try:
        if network:
            file, named = models.read_weights(path), networks_of(path, top)
            if len(models.fitting(file, named or models.names(), DATASETS)) != 1:
                return read_checkpoint(path, network)
        return read_checkpoint(path, top=top)
    except (InputError, models.WeightsError) as error:
        if path.suffix.lower() in CHECKPOINTS:
            raise InputError(str(error)) from error
        notes.append(f"left alone: {error}")
        return None


def _is_other_json(path: Path) -> bool:
    """Return whether a JSON file is a training's settings or log rather than a description of a teacher."""
    try:
        values = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and bool(values) and not {"num_classes", "weights"} & values.keys()


def _of_one_training(group: Sequence[ImportedTeacher], notes: list[str]) -> list[ImportedTeacher]:
    """Return the last and the best epoch of the checkpoints of one network, with `epoch` set.

    Raises `InputError` if the checkpoints are not those of one training.
    """
    different = list({teacher.weights: teacher for teacher in reversed(group)}.values())[::-1]
    if len(different) == 1:
        epochs = {epoch_of(teacher.path)[0] for teacher in group}
        return [dataclasses.replace(different[0], epoch=BEST if epochs == {BEST} else LAST)]
    by_epoch: dict[str, list[tuple[int, ImportedTeacher]]] = {}
    for teacher in different:
        epoch, rank = epoch_of(teacher.path)
        by_epoch.setdefault(epoch, []).append((rank, teacher))
    chosen = []
    for epoch in (LAST, BEST):
        ranked = sorted(by_epoch.pop(epoch, []), key=lambda entry: -entry[0])
        if not ranked:
            continue
        if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            raise _both(ranked[0][1], ranked[1][1])
        chosen.append(dataclasses.replace(ranked[0][1], epoch=epoch))
        notes += [f"{other.path}: left alone beside {ranked[0][1].path.name}" for _, other in ranked[1:]]
    unclear = [teacher for entries in by_epoch.values() for _, teacher in entries]
    others = [*chosen, *unclear]
    if unclear or len({teacher.path.parent for teacher in others}) > 1:
        raise _both(others[0], others[1])
    return chosen


def _both(a: ImportedTeacher, b: ImportedTeacher) -> InputError:
    return InputError(
        f"TEACHERS: {a.path} and {b.path} are both checkpoints of {a.network}; keep one of each network, or "
        "one whose name has the word best and one with last, in the same folder"
    )


def teachers_in(folder: Path | None, network: str = "") -> dict[tuple[str, str], TeacherRef]:
    """Return the teachers in a folder by `(data set, network)`; {} if `folder` is None.

    Raises `InputError` (see `read_folder`).
    """
    if folder is None:
        return {}
    with longwork.task(f"reading the teachers in {folder}"):
        content = read_folder(folder, network)
    return refs_of(content.teachers)


def refs_of(teachers: Iterable[ImportedTeacher]) -> dict[tuple[str, str], TeacherRef]:
    """Return teachers by `(data set, network)`. One that has two epochs is its last one, which knows both.

    A teacher without a classifier is there for every data set for which no other one is.
    """
    refs: dict[tuple[str, str], TeacherRef] = {}
    for teacher in sorted(teachers, key=lambda t: t.num_classes == NO_CLASSIFIER):
        ref = teacher.ref()
        if teacher.num_classes == NO_CLASSIFIER:
            refs = {(dataset, teacher.network): ref for dataset in data.DATASETS} | refs
            continue
        dataset = DATASETS[teacher.num_classes]
        for name in (dataset, *OTHER_SIZES.get(dataset, ())):
            key = (name, teacher.network)
            refs[key] = dataclasses.replace(refs[key], other_epoch=ref) if key in refs else ref
    return refs


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
