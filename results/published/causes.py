"""What makes two numbers of the same cell differ, and by how much: measured in the registry.

Every size is a difference of two numbers, or of two epochs of a log, that the registry has; nothing is
estimated. What the registry has no such pairs for is not measured, and its `Effect` has no sizes.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from results.published.curves import LogGroup, best_gaps
from results.published.reader import numbers, teacher_weights
from results.published.schema import OriginKind, PublishedNumber
from results.published.spread import DATASET, Origins, may_be_the_same_epoch, origin_pairs

LONG = 480
"""Trainings of at least so many epochs have the logs of this length and more."""


class Cause(StrEnum):
    """Why two numbers of a cell may differ."""

    EPOCH = "last or best epoch"
    TEACHER = "another teacher"
    CODE = "run by others"
    KD = "the method alone, or with KD"
    NETWORK = "another network of the same name"
    EPOCHS = "number of epochs"
    BATCH = "batch size"


@dataclass(frozen=True)
class Effect:
    """The measured size of one cause, in percentage points of top-1."""

    cause: Cause
    basis: str
    """What was compared; without sizes, why nothing can be."""
    sizes: tuple[float, ...] = ()
    """Best minus last epoch, with KD minus alone, the other network minus this one, more epochs minus fewer;
    for teacher and code, in the order that `basis` names."""

    @property
    def mean(self) -> float:
        """Mean of the sizes."""
        return statistics.fmean(self.sizes)

    @property
    def rms(self) -> float:
        """Root mean square of the sizes."""
        return math.sqrt(statistics.fmean(x * x for x in self.sizes))


def effects(student: str, method: str, epochs: int = 240) -> list[Effect]:
    """Return the measured size of each cause that a cell can have.

    epochs: length of the training.
    """
    measured = [_epoch(epochs)]
    if method == "student":
        measured.append(_others_students())
    else:
        measured += [_teacher(), _code()]
    if method not in ("student", "kd"):
        measured.append(_with_kd(method))
    if networks := _namesakes(student):
        measured.append(_other_network(student, networks))
    return [*measured, _epochs(), _batch()]


def _run(
    every: Iterable[PublishedNumber], kinds: Collection[OriginKind] = (OriginKind.RUN,)
) -> list[PublishedNumber]:
    """Return the top-1 numbers on CIFAR-100 that the publishing paper ran itself."""
    return [
        x
        for x in every
        if x.dataset == DATASET and x.metric == "top1" and x.value is not None and x.origin_kind in kinds
    ]


def _difference(a: PublishedNumber, b: PublishedNumber) -> float:
    return (a.value or 0.0) - (b.value or 0.0)


def _same_cell(
    chosen: Iterable[PublishedNumber], keep: Callable[[PublishedNumber, PublishedNumber], bool]
) -> list[tuple[PublishedNumber, PublishedNumber]]:
    """Return every two numbers of one cell, which may be of the same epoch, that `keep` accepts."""
    cells: dict[tuple[str, ...], list[PublishedNumber]] = {}
    for x in chosen:
        cells.setdefault(x.cell, []).append(x)
    return [
        (a, b)
        for members in cells.values()
        for a, b in itertools.combinations(sorted(members, key=lambda x: x.published_in), 2)
        if may_be_the_same_epoch(a, b) and keep(a, b)
    ]


def _epoch(epochs: int) -> Effect:
    gaps = best_gaps()
    if epochs >= LONG:
        sizes, length = gaps.get(LogGroup.LSKD_LONG, []), "480 and 960 epochs"
    else:
        sizes, length = [*gaps.get(LogGroup.CRD, []), *gaps.get(LogGroup.LSKD, [])], "240 epochs"
    return Effect(Cause.EPOCH, f"best minus last in {len(sizes)} logs of {length}", tuple(sizes))


def _teacher() -> Effect:
    """Compare numbers of the same cell with teachers of other weights.

    Only KD and SSKD: of other methods, it is often not known whether they were run with KD.
    """
    kd = _same_cell(
        (x for x in _run(numbers()) if x.method == "kd" and teacher_weights(x)),
        lambda a, b: teacher_weights(a) != teacher_weights(b) and a.paper != b.paper,
    )
    both = [*origin_pairs(numbers())[Origins.TEACHER], *kd]
    papers = dict.fromkeys(f"{a.paper} - {b.paper}" for a, b in both)
    basis = f"KD and SSKD with other checkpoints, {len(both)} cells: {', '.join(papers)}"
    return Effect(Cause.TEACHER, basis, tuple(_difference(a, b) for a, b in both))


def _code() -> Effect:
    both = origin_pairs(numbers())[Origins.CODE]
    same = [(a, b) for a, b in both if teacher_weights(a) and teacher_weights(a) == teacher_weights(b)]
    basis = f"{len(same)} cells that HSAKD ran with SSKD's checkpoints: hsakd - sskd"
    return Effect(Cause.CODE, basis, tuple(_difference(a, b) for a, b in same))


def _others_students() -> Effect:
    both = origin_pairs(numbers())[Origins.STUDENTS]
    basis = f"{len(both)} pairs of papers' plain students of 240 epochs"
    return Effect(Cause.CODE, basis, tuple(_difference(a, b) for a, b in both))


def _with_kd(method: str) -> Effect:
    """Compare the numbers of one paper with KD and without it; of all methods, if there are none of this."""
    alone = method.removesuffix("+kd")
    usable = _run(numbers(), (OriginKind.RUN, OriginKind.SECOND_HAND))
    # what is trained in another way, for example on mixed images, may gain otherwise
    chosen = {(x.paper, x.teacher, x.student, x.method): x for x in reversed(usable) if not x.recipe}
    both = [
        (x, chosen[*key[:3], key[3].removesuffix("+kd")])
        for key, x in sorted(chosen.items())
        if key[3].endswith("+kd") and (*key[:3], key[3].removesuffix("+kd")) in chosen
    ]
    of_method = [(a, b) for a, b in both if b.method == alone]
    what = alone if of_method else ", ".join(sorted({b.method for _, b in both}))
    chosen_pairs = of_method or both
    basis = f"with KD minus alone in one paper, {len(chosen_pairs)} cells of {what}"
    return Effect(Cause.KD, basis, tuple(_difference(a, b) for a, b in chosen_pairs))


def _plain(network: str) -> list[PublishedNumber]:
    """Return the plain trainings of a network, one for each paper and value."""
    chosen = [x for x in _run(numbers()) if x.method == "student" and x.student == network]
    return list({(x.paper, x.value): x for x in chosen}.values())


def _namesakes(network: str) -> list[str]:
    """Return the networks that only share a network's name: `MobileNetV2_hsakd` of `MobileNetV2`."""
    base = re.sub(r"_[a-z]+$", "", network)
    students = sorted({x.student for x in _run(numbers()) if x.method == "student"})
    return [s for s in students if s != network and re.fullmatch(rf"{re.escape(base)}(_[a-z]+)?", s)]


def _other_network(student: str, networks: list[str]) -> Effect:
    sizes = [_difference(a, b) for network in networks for a in _plain(network) for b in _plain(student)]
    basis = f"plain {', '.join(networks)} minus {student}, {len(sizes)} pairs of papers"
    return Effect(Cause.NETWORK, basis, tuple(sizes))


def _epochs() -> Effect:
    both = _same_cell(
        _run(numbers()),
        lambda a, b: bool(a.epochs and b.epochs and a.epochs != b.epochs) and a.recipe == b.recipe,
    )
    sizes = [_difference(a, b) * (1 if (a.epochs or 0) > (b.epochs or 0) else -1) for a, b in both]
    if not sizes:
        return Effect(Cause.EPOCHS, "no cell has two lengths and the rest equal")
    return Effect(Cause.EPOCHS, f"more epochs minus fewer, {len(sizes)} pairs of numbers", tuple(sizes))


def _batch() -> Effect:
    return Effect(Cause.BATCH, "the registry has no column for it")
