"""Several people's results folders into one.

A run is copied if the target has no result of it: first its curve, log, weights and what a measure has made,
its record last. So a run that was copied in part has no record, and the next call copies it again. Nothing
that has a result is overwritten. Every run is claimed while it is copied, so that no worker trains it
meanwhile.
"""

from __future__ import annotations

import contextlib
import enum
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import longwork
from benchmark.training import kept_weights
from benchmark.training.checkpoint import Damaged
from benchmark.work.left_files import CLAIM
from benchmark.work.left_files import NAMES as OF_UNFINISHED
from results.claims import ClaimError, heartbeat
from results.files import atomic
from results.store import Store, keys_with

FILES = ("curve.csv", "log.txt", "best.pt", "last.pt", "state.pt")
"""What is copied of a finished run before its record, with the files that a measure has left (`files_of`)."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""A measure's file; any other name in a record could lead out of the run's folder."""

UNFINISHED = ("curve.csv", "log.txt", "best.pt", "began.json", "progress.json", "checkpoint.pt")
"""What is copied of an unfinished run; without the last one, it has not begun."""

NUMBERS = ("status", "top1_last", "top1_best", "best_epoch", "top5_last", "test_loss_last", "epochs", "value")
"""What two records of a run must have in common to be of the same training or measurement. The `numbers` of a
measurement are compared one by one."""

_DEPTH = 6
"""Number of parts of a key."""


class Kind(enum.Enum):
    """What becomes of a run of a source. The value is the word for the user."""

    ADDED = "added"
    UNFINISHED_ADDED = "added, unfinished"
    COMPLETED = "completed"
    SAME = "here already"
    KEPT = "unfinished here too; kept as it is here"
    CONFLICT = "conflict"
    DAMAGED = "damaged"
    NEWER = "newer"
    BUSY = "being worked on"


CHANGES = (Kind.ADDED, Kind.UNFINISHED_ADDED, Kind.COMPLETED)
"""What changes the target."""

NOT_MERGED = (Kind.CONFLICT, Kind.DAMAGED, Kind.NEWER, Kind.BUSY)
"""What leaves a merge incomplete."""


@dataclass(frozen=True)
class Step:
    """What becomes of one run of one source."""

    key: str
    source: Path
    kind: Kind
    detail: str = ""
    """What exactly is wrong, which numbers differ, or which files are added."""
    other_teacher: str = ""
    """The key of the run's teacher, if the target has other weights of it than those that taught the run."""

    def line(self, dry_run: bool = False) -> str:
        """Return the step as a line. dry_run: the step has not been carried out."""
        detail = f": {self.detail}" if self.detail else ""
        would = "would be " if dry_run and self.kind in CHANGES else ""
        return f"{would}{self.kind.value}: {self.key} (from {self.source}){detail}"


def merge(sources: list[Path], target: Store, dry_run: bool = False) -> Iterator[Step]:
    """Merge results folders into a store, and yield a step for each of their runs.

    dry_run: change nothing. The steps are then those that a merge would take.
    """
    added: dict[str, Mapping[str, Any]] = {}
    for folder in sources:
        source = Store(folder)
        keys = run_keys(folder)
        for key in longwork.each(keys, f"merging {folder}", "runs"):
            yield _merge_run(key, source, target, dry_run, added)


def run_keys(folder: Path) -> list[str]:
    """Return the keys of all runs below a folder that have a record or a checkpoint, sorted."""
    keys = keys_with(folder, ("record.json", "checkpoint.pt"))
    return [key for key in keys if key.count("/") == _DEPTH - 1]


def _merge_run(
    key: str, source: Store, target: Store, dry_run: bool, added: dict[str, Mapping[str, Any]]
) -> Step:
    """Merge one run. added: records of earlier sources, by key, which a dry run has not written."""
    step = _look(key, source, target, added)
    record = source.record(key)
    if step.kind is Kind.ADDED and record is not None:
        step = Step(key, step.source, step.kind, step.detail, _other_teacher(record, target, added))
    if not dry_run and step.kind in (Kind.ADDED, Kind.UNFINISHED_ADDED, Kind.COMPLETED):
        step = _carry_out(step, source, target, added)
    if record is not None and step.kind is Kind.ADDED:
        added[key] = record
    return step


def _look(key: str, source: Store, target: Store, added: Mapping[str, Mapping[str, Any]]) -> Step:
    """Return what would become of a run, from what both folders hold now."""

    def step(kind: Kind, detail: str = "") -> Step:
        return Step(key, source.folder, kind, detail)

    for store in (source, target):
        if line := store.newer_record(key):
            return step(Kind.NEWER, line)
        if line := store.unusable(key):
            return step(Kind.DAMAGED, line)
    theirs, ours = source.record(key), target.record(key) or added.get(key)
    if theirs is None:
        return _look_at_unfinished(step(Kind.UNFINISHED_ADDED), source, target, ours)
    if ours is not None:
        if different := differences(ours, theirs):
            return step(Kind.CONFLICT, different)
        missing = _missing(key, source, target, ours) if target.is_done(key) else []
        return step(Kind.COMPLETED, ", ".join(missing)) if missing else step(Kind.SAME)
    if target.holder(key) is not None:
        return step(Kind.BUSY, "it is being trained here; merge again when it is done")
    try:
        for name in kept_weights.FILES:
            if (source.path(key) / f"{name}.pt").exists():
                kept_weights.check_file(source, key, name)
    except Damaged as error:
        return step(Kind.DAMAGED, f"{error.path}: {error.why}")
    except OSError as error:
        return step(Kind.DAMAGED, f"{source.path(key) / f'{name}.pt'}: cannot be read ({error.strerror})")
    stated = [*(f"{name}.pt" for name in theirs.get("weights") or {}), *measured_files(theirs)]
    lacking = [name for name in stated if not (source.path(key) / name).exists()]
    return step(Kind.ADDED, f"without {', '.join(lacking)}, not in its folder" if lacking else "")


def _look_at_unfinished(added: Step, source: Store, target: Store, ours: Mapping[str, Any] | None) -> Step:
    key = added.key
    if ours is not None:
        return Step(key, added.source, Kind.SAME)
    if source.holder(key) is not None:
        return Step(key, added.source, Kind.BUSY, "it is being trained there; merge again when it is done")
    if target.holder(key) is not None or (target.path(key) / "checkpoint.pt").exists():
        return Step(key, added.source, Kind.KEPT)
    return added


def measured_files(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the files that a measure has left beside its record.

    The record may be a stranger's: nothing may be written elsewhere, or over another file of the run.
    """
    names = record.get("artifacts")
    plain = [str(n) for n in names if _FILE_NAME.fullmatch(str(n))] if isinstance(names, list) else []
    taken = (*FILES, *OF_UNFINISHED, CLAIM, "record.json", "failure.json")
    return tuple(name for name in plain if name not in taken)


def files_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the files of a finished run apart from its record, whether they exist or not."""
    return FILES + measured_files(record)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Return what differs in the numbers of two records of a run, "" if nothing does."""
    lines = [
        f"{name} {ours.get(name)} here, {theirs.get(name)} there"
        for name in NUMBERS
        if ours.get(name) != theirs.get(name)
    ]
    here, there = ours.get("numbers") or {}, theirs.get("numbers") or {}
    lines += [
        f"{name} {here.get(name)} here, {there.get(name)} there"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    weights, other = ours.get("weights") or {}, theirs.get("weights") or {}
    lines += [
        f"weights of {name}.pt {str(weights[name])[:10]} here, {str(other[name])[:10]} there"
        for name in sorted(weights.keys() & other.keys())
        if weights[name] != other[name]
    ]
    return ", ".join(lines)


def _missing(key: str, source: Store, target: Store, ours: Mapping[str, Any]) -> list[str]:
    """Return the files of a finished run that the target's folder lacks and the source has.

    Weights count only if the target's record states their hash, and they have it.
    """
    names = []
    for name in files_of(ours):
        here, there = target.path(key) / name, source.path(key) / name
        if here.exists() or not there.is_file() or name == "log.txt":
            continue
        if name.endswith(".pt"):
            stem = there.stem
            if (ours.get("weights") or {}).get(stem) is None:
                continue
            try:
                kept_weights.check_file(source, key, stem)
            except Damaged:
                continue
        names.append(name)
    return names


def _other_teacher(record: Mapping[str, Any], target: Store, added: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the teacher's key if the target's record of it states other weights than taught this run."""
    info = record.get("teacher_info") or {}
    key, _, epoch = str(info.get("identity", "")).partition("@")
    teacher = (target.record(key) or added.get(key) or {}) if key.count("/") == _DEPTH - 1 else {}
    stated = (teacher.get("weights") or {}).get(epoch or str(info.get("epoch", "")))
    return key if stated is not None and stated != info.get("weights") else ""


# --- copying ------------------------------------------------------------------------------------------------


def _carry_out(planned: Step, source: Store, target: Store, added: Mapping[str, Mapping[str, Any]]) -> Step:
    """Copy a run under the target's claim. What was planned is looked at again once the claim is held."""
    key = planned.key
    try:
        claim = target.claim(key, "merge")
    except ClaimError as error:
        return Step(key, planned.source, Kind.BUSY, f"{error.filename}: {error.strerror}")
    if claim is None:
        return Step(
            key, planned.source, Kind.BUSY, "it is being worked on here; merge again when that is done"
        )
    try:
        with heartbeat([claim]):
            if target.is_done(key) != (planned.kind is Kind.COMPLETED):
                return _look(key, source, target, added)  # finished or removed meanwhile
            if planned.kind is Kind.COMPLETED:
                _copy(source.path(key), target.path(key), tuple(planned.detail.split(", ")))
            elif planned.kind is Kind.UNFINISHED_ADDED:
                _copy(source.path(key), target.path(key), UNFINISHED)
            else:
                _copy_finished(key, source, target)
    finally:
        claim.release()
        with contextlib.suppress(OSError):  # not empty, as it should be
            target.path(key).rmdir()
    return planned


def _copy_finished(key: str, source: Store, target: Store) -> None:
    record = source.record(key)
    assert record is not None
    # A checkpoint, which goes first, would not fit the weights beside it if the copying were interrupted.
    for name in OF_UNFINISHED:
        (target.path(key) / name).unlink(missing_ok=True)
    _copy(source.path(key), target.path(key), files_of(record))
    target.write_record(key, record)


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copy the files that exist."""
    for name in names:
        if (source / name).is_file():
            with (source / name).open("rb") as read, atomic(target / name, "wb") as write:
                shutil.copyfileobj(read, write)
