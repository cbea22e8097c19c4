"""Which runs `clean` removes, and which it keeps although they look stale.

A finished run is stale if its work order resolves to another key today: the code, a method's revision or
the data have changed, so the run is no longer part of any table. A run that was started and not finished,
or whose weights are damaged, is removed only on request. Whatever is not understood is kept: a damaged
record, a name that is unknown here, a folder that is not a run's.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import shutil
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
from benchmark import data, longwork, measures, methods
from benchmark.errors import InputError
from benchmark.spec import profiles, protocols
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import NONE, TeacherRef
from benchmark.training import checkpoint, kept_weights
from results.claims import ClaimError
from results.store import Store


class Reason(enum.Enum):
    """Why a run is removed or kept. The value is the text for the user."""

    # removed
    UNFINISHED = "unfinished"
    OLD_KEY = "old key"
    DAMAGED_WEIGHTS = "its weights do not fit its record"
    # kept
    NO_ORDER = "its record has no work order"
    DAMAGED_ORDER = "the work order in its record is damaged"
    UNKNOWN_NAME = "unknown here"
    UNUSABLE = "its record cannot be used"
    UNREADABLE_WEIGHTS = "its weights cannot be read"
    BUSY = "being worked on"
    FINISHED_MEANWHILE = "finished meanwhile"
    NO_CLAIM = "it cannot be claimed: remove what is named `claim` in its folder"


@dataclass(frozen=True)
class Verdict:
    """What was decided about one run."""

    key: str
    reason: Reason
    detail: str = ""
    """What exactly: the unknown name, or the error of the resolver."""

    @property
    def why(self) -> str:
        """The reason in words."""
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value


@dataclass
class StaleRuns:
    """The verdicts on all runs below a results folder. Runs that are current are not listed."""

    to_remove: list[Verdict] = field(default_factory=list)
    kept: list[Verdict] = field(default_factory=list)
    """Runs that look stale and are kept nevertheless."""
    foreign_folders: int = 0
    """Folders that look stale, but are not named like a run's key or have other runs' records below them.
    They are kept."""


RUN_FILES = ("record.json", "checkpoint.pt", "log.txt", "failure.json")
"""A folder that contains any of these counts as a run's folder."""

_PART = r"[^/.][^/]*"
_KEY = re.compile(
    rf"(?:{_PART}/){{4}}(?:{_PART}/(?:\w+-\w+-)?seed\d+-[0-9a-f]{{10}}|imported/[0-9a-f]{{8,64}})"
)
"""The form of a run's key (see `benchmark.spec.runs`). Folders of any other form are never removed."""


def find_stale(
    store: Store, resolver: Resolver, *, include_unfinished: bool = False, include_damaged: bool = False
) -> StaleRuns:
    """Judge every run below the results folder. Nothing is removed; see `remove`.

    resolver: knows the imported teachers that are available now. include_damaged: read the weights of all
    runs, and judge those whose weights do not fit their record as stale.
    """
    stale = StaleRuns()
    for folder in longwork.each(_run_folders(store), "looking at the runs", "runs"):
        key = folder.relative_to(store.folder).as_posix()
        verdict = _judge(store, key, resolver, include_unfinished=include_unfinished)
        if verdict is None and include_damaged:
            verdict = _judge_weights(store, key)
        if verdict is None:
            continue
        if verdict.reason not in (Reason.UNFINISHED, Reason.OLD_KEY, Reason.DAMAGED_WEIGHTS):
            stale.kept.append(verdict)
        elif not _KEY.fullmatch(key) or any(p.parent != folder for p in folder.rglob("record.json")):
            stale.foreign_folders += 1
        elif store.holder(key) is not None:
            stale.kept.append(Verdict(key, Reason.BUSY))
        else:
            stale.to_remove.append(verdict)
    return stale


def _run_folders(store: Store) -> list[Path]:
    if not store.folder.is_dir():
        return []
    with longwork.task(f"looking for runs in {store.folder}"):
        return sorted({p.parent for name in RUN_FILES for p in store.folder.rglob(name)})


def _judge(store: Store, key: str, resolver: Resolver, include_unfinished: bool) -> Verdict | None:
    """Return the verdict on one run, None if it is current."""
    record = store.record(key)
    if record is not None:
        return judge_finished(key, record, resolver)
    if include_unfinished and not os.path.lexists(store.path(key) / "record.json"):
        return Verdict(key, Reason.UNFINISHED)
    if problem := store.unusable(key):
        return Verdict(key, Reason.UNUSABLE, problem)
    return None


def judge_finished(key: str, record: dict[str, Any], resolver: Resolver) -> Verdict | None:
    """Return the verdict on a run with a record, None if it is current.

    It is stale only if its order is understood and resolves to another key.
    """
    order = record.get("order")
    if not isinstance(order, dict):
        return Verdict(key, Reason.NO_ORDER)
    try:
        try:
            resolver.from_order(order)
        except InputError as error:
            if order["evaluates"]:
                return None  # perhaps the checkpoint that it measured is just not available now
            if _is_current_with_its_teacher(order, record):
                return None
            if name := unknown_name(order):
                return Verdict(key, Reason.UNKNOWN_NAME, name)
            targets = filter(None, [order["dataset"], order.get("measure", {}).get("target")])
            if any(map(data.has_user_files, targets)):
                return None  # its key depends on files that DATA= may not point to now
            return Verdict(key, Reason.OLD_KEY, str(error))
    except (KeyError, TypeError, ValueError, AttributeError):
        return Verdict(key, Reason.DAMAGED_ORDER)
    return None


def _judge_weights(store: Store, key: str) -> Verdict | None:
    """Return the verdict on the weights of a finished run, None if they fit its record or it has none."""
    try:
        for name in kept_weights.FILES:
            kept_weights.check_file(store, key, name)
    except checkpoint.Damaged as error:
        return Verdict(key, Reason.DAMAGED_WEIGHTS, f"{error.path.name}: {error.why}")
    except OSError as error:  # perhaps only now, as on a network file system
        return Verdict(key, Reason.UNREADABLE_WEIGHTS, f"{name}.pt: {error.strerror}")
    return None


def _is_current_with_its_teacher(order: dict[str, Any], record: dict[str, Any]) -> bool:
    """Return whether a run that had an imported teacher has its key of then, if it has that teacher now.

    The teacher may not be available now, or another checkpoint may have been imported since. A key depends on
    the teacher's weights, whose hash the record has.
    """
    teacher = record.get("teacher_info")
    if not isinstance(teacher, dict) or not isinstance(teacher.get("weights"), str):
        return False
    ref = TeacherRef(teacher.get("network", ""), weights=teacher["weights"])
    if teacher.get("identity") != ref.identity:
        return False  # its teacher was another run
    try:
        Resolver({(order["dataset"], ref.network): ref}).from_order(order)
    except InputError:
        return False
    return True


def unknown_name(order: dict[str, Any]) -> str:
    """Return the first name in a work order that is unknown here, "" if all are known.

    An example is a user method after KD_PLUGINS was unset.
    """
    method_names = [
        *order["method"].split("+"),
        *(str(k).partition(".")[0] for k, _ in order["overrides"] if "." in str(k)),
    ]
    datasets = [order["dataset"], *filter(None, [order.get("measure", {}).get("target")])]
    kinds: list[tuple[str, list[str], Container[str]]] = [
        ("data set", datasets, list(filter(data.is_name, datasets))),
        ("protocol", [order["protocol"]], protocols.names()),
        ("profile", [order["profile"]], profiles.PROFILES),
        ("network", [order["teacher"], order["student"]], (NONE, *models.names())),
        ("method", method_names, (methods.PLAIN, "recipe", *methods.names())),
    ]
    if "measure" in order:
        kinds.append(("measure", [order["measure"]["name"]], measures.names()))
    unknown = (f"{kind} '{name}'" for kind, names, known in kinds for name in names if name not in known)
    return next(unknown, "")


def remove(store: Store, verdict: Verdict) -> Reason | None:
    """Remove a run's folder. Returns why it was kept, or None if it was removed.

    The run is claimed first, so that no worker starts it meanwhile.
    """
    folder = store.path(verdict.key)
    try:
        claim = store.claim(verdict.key, "clean")
    except ClaimError:
        return Reason.NO_CLAIM
    if claim is None:
        return Reason.BUSY
    try:
        if verdict.reason is Reason.UNFINISHED and os.path.lexists(folder / "record.json"):
            return Reason.FINISHED_MEANWHILE
        # The record goes last: after an interruption the rest is still a stale run, for the next `clean`.
        for path in sorted(folder.iterdir(), key=lambda p: p.name == "record.json"):
            if path == claim.path or path.name.startswith(f".{claim.path.name}."):
                continue  # also the files of a worker that is trying to claim the run now
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            claim.beat()
    finally:
        claim.release()
    with contextlib.suppress(OSError):  # not empty: a worker has started the run again since the release
        folder.rmdir()
    return None
