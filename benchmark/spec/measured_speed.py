"""How long earlier packs took, beside what the cost model says: the factor that corrects an estimate.

A pack's time is compared as a whole, because its records share it equally, whatever each run's method costs.
What happens beside a training only ever makes it longer, and its record cannot say so: a pause, other work
on the same cores. So the factor is a median, and interrupted runs count only where there are no others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark import longwork, methods
from benchmark.errors import InputError
from benchmark.methods import MethodSpec
from benchmark.spec import cost
from benchmark.spec.cost import Training
from benchmark.spec.runs import NONE
from results.record_check import is_count, seconds_for_images
from results.store import Store, read_records, recent_record_files

LONG_SECONDS = 60
"""Shorter records do not count for `measured_factor`: they measure the start more than the speed."""

SHORT_SECONDS = 0.5
"""Records of `quick` count from this time on, for other runs of `quick`."""

RECENT_RECORDS = 500
"""`factor_of` reads this many of the newest records.

They tell the speed as well as 100,000 do, and no command should take long to say how long others take.
"""

Record = Mapping[str, Any]


def factor_of(store: Store, device: str, profile: str = "paper") -> float | None:
    """Return the `measured_factor` of the newest records in a results folder, None if there is no folder.

    profile: of the runs that are to be estimated. Those of `quick` are short, and their start counts, so they
    are measured by the records of this profile if there are any.
    """
    if not store.folder.is_dir():
        return None
    with longwork.task(f"reading the newest records in {store.folder}"):
        newest = recent_record_files(store.folder, RECENT_RECORDS)
        records = read_records(store.folder, newest)[0]
    if profile == "quick":
        alike = [r for r in records if r.get("profile") == profile]
        if (factor := measured_factor(alike, device, shortest=SHORT_SECONDS)) is not None:
            return factor
    return measured_factor(records, device)


def measured_factor(records: Iterable[Record], device: str, shortest: float = LONG_SECONDS) -> float | None:
    """Return measured over modelled time: the median over the packs, which count by their modelled time.

    None if no record of this kind of device lasted at least `shortest` seconds. Runs that were resumed are
    left out if there are others.
    """
    usable = [(r, t) for r in records if (t := _training(r, device, shortest)) is not None]
    uninterrupted = [(r, t) for r, t in usable if not r.get("resumes")]
    packs: dict[tuple[Any, ...], list[tuple[Record, Training]]] = {}
    for record, training in uninterrupted or usable:
        packs.setdefault(_pack_of(record), []).append((record, training))
    times = [
        (sum(r["share_seconds"] for r, _ in pack), _modelled_seconds(pack, device)) for pack in packs.values()
    ]
    return _median([(measured / modelled, modelled) for measured, modelled in times])


def _training(record: Record, device: str, shortest: float) -> Training | None:
    """Return the training of a record that says how long it took; None if its parts are not known here."""
    if (
        record.get("device") != device
        or (record.get("seconds") or 0) < shortest
        or not record.get("epochs")
        or record.get("student") == NONE
        or not seconds_for_images(record)
        or not math.isfinite(record["share_seconds"])
        or (spec := _spec(str(record.get("method")))) is None
    ):
        return None
    stated = record["settings"].get("init_epochs") or {}
    training = Training(
        student=record["student"],
        teacher=record["teacher"],
        spec=spec,
        train_images=record["settings"]["recipe"]["train_images"],
        tested_images=record["test_images"],
        epochs=record["epochs"],
        init_epochs=tuple(
            (c, int(stated[c.method.name])) for c in spec.init_stages if is_count(stated.get(c.method.name))
        ),
    )
    try:
        return training if _modelled_seconds([(record, training)], device) > 0 else None
    except InputError:  # a network or a data set that no longer exists
        return None


@functools.lru_cache(maxsize=1024)
def _spec(method: str) -> MethodSpec | None:
    """Return a method with its default settings, None for one that no longer exists."""
    try:
        return methods.parse(method)
    except InputError:
        return None


def _pack_of(record: Record) -> tuple[Any, ...]:
    """Return what the records of a pack have in common. Other packs of the same plan may have it too."""
    if (record.get("pack") or 1) == 1:
        return (record.get("key"),)
    names = ("teacher", "dataset", "protocol", "profile", "seed", "pack")
    return tuple(str(record.get(name)) for name in (*names, "device_name", "precision", "threads"))


def _modelled_seconds(pack: Sequence[tuple[Record, Training]], device: str) -> float:
    """Return what the cost model says of the time that the records of a pack share."""
    first, trainings = pack[0][0], [training for _, training in pack]
    timing = cost.Timing(device, first["dataset"], first["settings"]["recipe"]["batch_size"])
    packs = len(pack) / (first.get("pack") or 1)  # fewer than one if some of its runs have no record
    busy = sum(timing.shared(t.student_passes()) for t in trainings)
    busy += packs * timing.shared(cost.teacher_passes(trainings))
    return max(busy, packs * max(timing.alone(t.student_passes()) for t in trainings))


def _median(values: list[tuple[float, float]]) -> float | None:
    """Return the median of values with weights: half of all weight is on values up to it; None for none."""
    half, below = sum(weight for _, weight in values) / 2, 0.0
    for value, weight in sorted(values):
        below += weight
        if below >= half:
            return value
    return None
