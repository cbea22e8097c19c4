"""Is a teacher as accurate as it should be? Checked before its students train, without a further evaluation.

A checkpoint whose classes are in another order, or that was trained on other images, teaches without any
error; only its accuracy shows it.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import NamedTuple

from benchmark import data
from benchmark.spec import protocols
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run, TeacherRef
from benchmark.training.execution import Execution
from results import published
from results.store import Store

NEAR_CHANCE = 2.0
"""A teacher with less than this many times the accuracy of guessing is near chance."""

POINTS_BELOW = 3.0
"""A teacher that is further below its published top-1 is named, in percentage points."""


class Weakness(Enum):
    """In which way a teacher is weak."""

    NEAR_CHANCE = "near chance"
    BELOW_PUBLISHED = "below published"


class Finding(NamedTuple):
    """A weak teacher."""

    weakness: Weakness
    text: str
    """One line with both numbers and the likely cause."""


def recorded_top1(ref: TeacherRef, run: Run, store: Store, execution: Execution, images: int) -> float | None:
    """Return a teacher's top-1 if a record has it that would not differ in any digit; else None.

    On a GPU a frozen teacher is computed in another way than in its training (`models.freeze`).
    images: number of test images.
    """
    if execution.device != "cpu":
        return None
    measured = ref.run or Resolver().imported_run(
        ref, dataset=run.dataset, protocol=run.protocol, profile=run.profile
    )
    record = store.record(measured.key)
    if record is None or record.get("test_images") != images:
        return None
    if any(record.get(name) != value for name, value in execution.describe().items()):
        return None
    return record.get(f"top1_{ref.epoch}")


def weakness(ref: TeacherRef, top1: float, run: Run, images: int) -> Finding | None:
    """Return how a teacher of this run is weak, None if it is not or was not meant to be better.

    images: number of test images behind `top1`. A teacher of this suite is judged only if it was trained in
    full: those of the profile `quick`, or of changed recipes, are weak by design.
    """
    info = data.info(run.dataset)
    if ref.run is not None and (run.profile == "quick" or ref.run.request.overrides):
        return None
    name = f"teacher {ref.network} ({Path(ref.path).name})" if ref.run is None else f"teacher {ref.network}"
    chance = 100 / info.num_classes
    if top1 < NEAR_CHANCE * chance:
        cause = (
            "its classes are probably in another order, or it was trained on other images"
            if ref.run is None
            else "its training probably failed"
        )
        return Finding(
            Weakness.NEAR_CHANCE,
            f"{name} is near chance: top-1 {top1:.2f} on {info.title}, guessing has {chance:.2f}; {cause}",
        )
    if images < info.test_images or (ref.run is not None and run.profile != "paper"):
        return None
    values = _published(ref, run)
    if values and top1 < min(values) - POINTS_BELOW:
        cause = (
            "it was probably trained for fewer epochs, or on images that were normalised in another way"
            if ref.run is None
            else "its training probably went wrong"
        )
        return Finding(
            Weakness.BELOW_PUBLISHED,
            f"{name} is below its published value: top-1 {top1:.2f} on {info.title}, published "
            f"{min(values):.2f}; {cause}, and its students will be worse too",
        )
    return None


def _published(ref: TeacherRef, run: Run) -> list[float]:
    """Return the published top-1 of a teacher by the papers of the run's protocols, or of all papers."""
    rows = published.cells(method="teacher", teacher=ref.network, dataset=run.dataset)
    rows = rows[rows["value"].notna()]
    of_protocol = rows[
        rows["paper"].isin([run.protocol, protocols.get_protocol(run.protocol).teacher_protocol])
    ]
    return [float(v) for v in (rows if of_protocol.empty else of_protocol)["value"]]


def must_refuse(finding: Finding, ref: TeacherRef, run: Run) -> bool:
    """Return whether no run may be trained with a weak teacher, unless the user accepts it.

    Only a checkpoint of the user that knows nothing is refused, and not in the profile `quick`, which shows
    that everything works.
    """
    return finding.weakness is Weakness.NEAR_CHANCE and ref.run is None and run.profile != "quick"
