"""Weights that finished runs keep: their hashes stand in the record, and are checked before they are used.

The field `weights` of a record has the entries

    last, best   hash of the weights in last.pt and best.pt (`models.weights_hash`, with the modules of
                 methods that predict at test time, and the projector of self-supervised ones); of a
                 teacher, the same as in its students' `teacher_info`
    state        checksum of state.pt (`checkpoint.save`)

There is an entry for each file that is kept. Records of older versions have none, and their files are used
unchecked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import models
from benchmark.errors import InputError
from benchmark.spec import imported
from benchmark.spec.runs import Run, TeacherRef
from benchmark.training import checkpoint
from benchmark.training.active_run import ActiveRun
from benchmark.training.checkpoint import Damaged
from results.store import Store

FILES = ("last", "best", "state")

AT_TEST = "at_test_"
"""What the names of a file's entries with the modules of methods that predict begin with."""

TEACHER = "teacher"
"""The name of the teacher in `learns_from`."""


def hash_of(active: ActiveRun) -> str:
    """Return the hash of a run's weights as `RunFiles.save_weights` writes them."""
    assert active.student is not None
    state = active.student.state_dict() | models.state_of_projector(active.objective.saved_projector)
    for method in active.objective.predictors:
        state |= _of_method(f"{AT_TEST}{method.name}", active.objective.state_of(method))
    return models.weights_hash(state)


def _of_method(entry: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a method's tensors with names of their own. Its extra state, which is none, is left out."""
    return {f"{entry}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}


def path_of(ref: TeacherRef, store: Store) -> Path:
    """Return the file of a teacher's weights."""
    return Path(ref.path) if ref.run is None else store.path(ref.run.key) / f"{ref.epoch}.pt"


def load_teacher(ref: TeacherRef, dataset: str, store: Store) -> tuple[models.Network, str]:
    """Return a teacher on the CPU, frozen and in eval mode, and the hash of its weights.

    Raises `Damaged` for a teacher that was trained here and whose file cannot be read or does not fit its
    record, and `InputError` for such a file that the user imported.
    """
    path = path_of(ref, store)
    try:
        teacher = imported.load_teacher(ref, dataset, path)
    except InputError as error:
        if ref.run is None:
            raise
        raise Damaged(path, str(error).removeprefix(f"{path}: ")) from error
    weights = models.weights_hash(teacher)
    if ref.run is not None:
        _compare(path, weights, expected(store, ref.run.key, ref.epoch))
    return teacher, weights


def load_head(head: Run, store: Store, device: torch.device) -> dict[str, Any]:
    """Return the state dict that the run of a teacher's head left. Raises `Damaged`."""
    path = store.path(head.key) / "state.pt"
    state = checkpoint.load(path, device, checksum=expected(store, head.key, "state"))
    if state is None:
        raise Damaged(path, "the file is missing")
    return state


def check_file(store: Store, key: str, name: str) -> dict[str, Any]:
    """Check one of `FILES` of a finished run, if its record states the hash. Raises `Damaged`.

    Returns the weights that were read, an empty dictionary if there were none to check.
    """
    if (stated := expected(store, key, name)) is None:
        return {}
    path = store.path(key) / f"{name}.pt"
    content = checkpoint.load(path, torch.device("cpu"), checksum=stated if name == "state" else None)
    if content is None:
        raise Damaged(path, "the file is missing")
    if name == "state":
        return {}
    state = dict(content.get("model", {}))
    for entry, values in content.items():
        if entry.startswith(AT_TEST):
            state |= _of_method(entry, values)
    _compare(path, models.weights_hash(state), stated)
    return state


def expected(store: Store, key: str, name: str) -> str | None:
    """Return the hash of a file as the record of its run states it, None if it does not."""
    weights = (store.record(key) or {}).get("weights")
    stated = weights.get(name) if isinstance(weights, dict) else None
    return stated if isinstance(stated, str) else None


def learns_from(run: Run, store: Store) -> dict[str, str]:
    """Return the hashes of the teacher and heads of a run, as far as their records state them.

    The names are `TEACHER` and the heads' methods.
    """
    hashes = {head.method: expected(store, head.key, "state") for head in run.heads}
    if (ref := run.teacher_ref) is not None:
        hashes[TEACHER] = ref.weights if ref.run is None else expected(store, ref.run.key, ref.epoch)
    return {name: value for name, value in hashes.items() if value is not None}


def _compare(path: Path, weights: str, stated: str | None) -> None:
    if stated is not None and weights != stated:
        raise Damaged(path, f"its weights have the hash {weights}, but its record states {stated}")


def require_intact(runs: Iterable[Run], store: Store) -> None:
    """Raise `InputError` if a run needs a teacher or a head that is finished and cannot teach.

    That is one whose file is damaged, or a teacher whose training has left weights that are not finite.
    """
    for key, name in dict.fromkeys(_needed(runs)):
        if store.record(key) is None:
            continue
        try:
            state = check_file(store, key, name)
        except Damaged as error:
            raise InputError(str(error)) from error
        for tensor, values in state.items():
            if values.is_floating_point() and not values.isfinite().all():
                raise InputError(
                    f"{key}: the training of this teacher has left values in {tensor} that are not finite "
                    f"({name}.pt), so it cannot teach; leave its pairs out, or train it with another "
                    "learning rate (--set recipe.lr=...)"
                )


def _needed(runs: Iterable[Run]) -> Iterator[tuple[str, str]]:
    """Yield the key and the name of each file that the runs read."""
    for run in runs:
        if run.teacher_ref is not None and run.teacher_ref.run is not None:
            yield run.teacher_ref.run.key, run.teacher_ref.epoch
        if run.evaluates is not None and run.evaluates.run is not None:
            yield run.evaluates.run.key, run.evaluates.epoch
        yield from ((head.key, "state") for head in run.heads)
