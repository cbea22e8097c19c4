"""Runs that have a checkpoint: under which conditions they go on, and which of them may not.

A begun run keeps its precision, and on a CPU its threads, whatever is asked now and whatever it is packed
with; so one result has one precision. Its device is the one that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmark.spec.runs import Run
from benchmark.text import plural
from benchmark.training import checkpoint, kept_weights, parts
from benchmark.training.execution import Execution
from results.store import Store


def last_part(run: Run, store: Store) -> dict[str, Any] | None:
    """Return the last part of a begun run (see parts.py), None if the run has no checkpoint.

    A checkpoint of an older version states only the precision; began.json may add the device and the threads
    of the beginning. A damaged checkpoint, or one that cannot be read, counts as none: one bad file must not
    stop a plan. It is not checked here; see `usable_part`.
    """
    path = store.path(run.key) / checkpoint.FILE
    if not path.exists():
        return None
    try:
        if (about := checkpoint.about(path)) is not None:
            return about
        state = checkpoint.load(path, torch.device("cpu"))
    except (checkpoint.Damaged, OSError):
        return None
    return None if state is None else {**(store.began(run.key) or {}), "precision": state["precision"]}


def is_damaged(run: Run, store: Store) -> bool:
    """Return whether the run has a checkpoint that cannot be read. Reads all of it, unlike `last_part`."""
    try:
        checkpoint.check(store.path(run.key) / checkpoint.FILE)
    except FileNotFoundError:
        return False
    except checkpoint.Damaged:
        return True
    return False


def usable_part(run: Run, store: Store, note: Callable[[str], None]) -> dict[str, Any] | None:
    """Return `last_part` of a checkpoint that can be read; a damaged one is set aside first.

    The caller has claimed the run. note: receives a line about a checkpoint that is set aside, or that was
    written by an older version without a checksum. Raises `OSError` if the file cannot be read at all.
    """
    path = store.path(run.key) / checkpoint.FILE
    try:
        has_checksum = checkpoint.check(path)
    except FileNotFoundError:
        return None
    except checkpoint.Damaged as error:
        note(f"{checkpoint.set_aside(path)}: this checkpoint is damaged ({error.why}); its run begins again")
        return None
    if not has_checksum:
        note(f"{path}: written by an older version, without a checksum; its run goes on unchecked")
    return last_part(run, store)


def execution_for(part: Mapping[str, Any] | None, asked: Execution) -> Execution:
    """Return how a run goes on whose last part is `part`; None: the run begins, as it is asked for."""
    if part is None:
        return asked
    execution = replace(asked, precision=str(part.get("precision", asked.precision)))
    if part.get("device") == "cpu" == asked.torch_device.type:
        threads, student_threads = part.get("threads"), part.get("student_threads")
        if isinstance(threads, int) and threads != (asked.threads or torch.get_num_threads()):
            execution = replace(execution, threads=threads)
        if isinstance(student_threads, int):
            execution = replace(execution, student_threads=student_threads)
    return execution


def conditions_of(store: Store, asked: Execution) -> Callable[[Run], Execution]:
    """Return the function from a run to its execution, by which a plan forms packs (`plan.make_plan`)."""
    return lambda run: execution_for(last_part(run, store), asked)


def describe(runs: Sequence[Run], execution: Execution) -> str:
    """Return the line about runs that go on in another execution than the one asked for."""
    threads = plural(execution.threads, "thread") if execution.threads else ""
    how = ", ".join(filter(None, (execution.precision, threads)))
    more = "" if len(runs) == 1 else f" and {plural(len(runs) - 1, 'more run')}"
    return f"going on in {how}, as begun: {runs[0].key}{more}"


def refusal(run: Run, store: Store, part: Mapping[str, Any] | None) -> str:
    """Return why a begun run must not go on without `--accept-edit`, "" if it may.

    part: its last part, None if the run is not begun.
    """
    if part is None:
        return ""
    advice = (
        f"remove {store.path(run.key)} to begin anew, or go on with --accept-edit (the record states both)"
    )
    if edited := parts.edited_method(run, part):
        method, file = edited
        return (
            f"{run.key}: the file of method {method} has changed since the run was begun; "
            f"put {file} back as it was, {advice}"
        )
    before, after = part.get("learns_from") or {}, kept_weights.learns_from(run, store)
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            what = "its teacher" if name == kept_weights.TEACHER else f"the {name} of its teacher"
            return f"{run.key}: {what} was trained again since the run was begun; restore it, {advice}"
    return ""
