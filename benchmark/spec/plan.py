"""The plan: which runs are missing, in which packs they are trained, and in which order.

A pack holds runs that share a teacher pass: their `pack_key` is the same. Packs have levels: the runs that a
level needs are in the levels before it (first teachers and plain students, then teachers' heads, then
students).
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark import longwork
from benchmark.errors import InputError
from benchmark.spec import cost, decoding
from benchmark.spec.runs import Run, closure
from results.store import Store

DEFAULT_PACK = {"cpu": 16, "cuda": 32}
"""Maximum number of runs in a pack, by device: enough to make the teacher pass cheap, few enough to keep the
epochs of a pack short."""


@dataclass(frozen=True)
class Pack:
    """Runs that are trained together."""

    runs: tuple[Run, ...]

    level: int
    """0 if the runs need no others, else one more than the highest level of those."""

    @property
    def name(self) -> str:
        """A readable name, not unique: teacher, students, number of runs, seed; or what is measured."""
        first = self.runs[0]
        students = ",".join(sorted({r.student for r in self.runs}))
        if first.measure is not None:
            what = f"{first.measure.name} on {first.measured_on}"
            return f"{what}: {students} x{len(self.runs)} ({first.protocol}, {first.profile})"
        return (
            f"{first.teacher}:{students} x{len(self.runs)} seed{first.seed} "
            f"({first.protocol}, {first.profile})"
        )


@dataclass(frozen=True)
class Plan:
    """The requested runs, their states, and the packs that are to be trained."""

    runs: tuple[Run, ...]
    """All requested runs and all runs that they need."""

    states: dict[str, str]
    """The state of each run by its key (see `results.store`)."""

    packs: tuple[Pack, ...]
    """The missing runs in packs, sorted by level."""

    @property
    def missing(self) -> tuple[Run, ...]:
        return tuple(run for pack in self.packs for run in pack.runs)

    def level(self, n: int) -> tuple[Pack, ...]:
        return tuple(pack for pack in self.packs if pack.level == n)

    @property
    def levels(self) -> int:
        """The number of levels."""
        return 1 + max((pack.level for pack in self.packs), default=-1)


def pack_key(run: Run) -> tuple[Any, ...]:
    """Return what runs must have in common to be trained together.

    That is the data, teacher, seed, batches and normalisation. Runs that measure have the measure, its
    settings and the data sets in common.
    """
    if run.measure is not None:
        return ("measure", json.dumps(run.measure.order(), sort_keys=True), run.dataset, run.profile)
    return (
        run.dataset,
        run.recipe.selection,
        run.recipe.test_images,
        None if run.teacher_ref is None else run.teacher_ref.identity,
        run.seed,
        run.recipe.batch_size,
        run.recipe.drop_last,
        run.recipe.augment,
        run.recipe.mixup,
        run.spec.sampler.name,
        _normalisation(run.settings_json),
        run.evaluates is not None,
        run.profile,
    )


@functools.lru_cache(maxsize=4096)
def _normalisation(settings_json: str) -> str:
    """Return the normalisation in a run's settings.

    Cached, because runs that differ only in their seed share the settings.
    """
    return str(json.loads(settings_json)["normalise"])


def make_plan(
    runs: Sequence[Run],
    store: Store | None,
    *,
    max_pack: int = 16,
    skip_states: frozenset[str] = frozenset(),
    conditions_of: Callable[[Run], Hashable] = lambda run: None,
    max_seconds: float | None = None,
    seconds_of: Callable[[Sequence[Run]], float] | None = None,
) -> Plan:
    """Plan runs and all runs that they need.

    store: where finished runs are; None plans as if nothing was done.
    max_pack: maximum number of runs in a pack.
    skip_states: states that are left out of the packs besides `done` and `diverged` (`failed` runs wait for
        `retry`).
    conditions_of: precision and threads in which a run is trained. A begun run keeps its own
        (`training.begun.conditions_of`); runs that differ in them are not trained together.
    max_seconds, seconds_of: split packs until `seconds_of(runs) <= max_seconds`; a single run may take
        longer.

    Raises `InputError` if a newer version of kd-tables wrote the record of one of the runs.
    """
    everything = closure(runs)
    states = _states(everything, store)
    left_out = {"done", "diverged"} | skip_states
    todo = [r for r in everything if states[r.key] not in left_out]
    levels: dict[str, int] = {}
    pack_keys = {r.key: (*pack_key(r), conditions_of(r)) for r in todo}
    highest_level: dict[tuple[Any, ...], int] = {}
    for run in todo:
        level = 1 + max((levels[n.key] for n in run.needs_runs if n.key in levels), default=-1)
        levels[run.key] = level
        highest_level[pack_keys[run.key]] = max(highest_level.get(pack_keys[run.key], 0), level)
    needed = {n.key for r in todo for n in r.needs_runs}
    groups: dict[tuple[int, tuple[Any, ...]], list[Run]] = {}
    for run in todo:
        # a run that no other run needs joins a later level's pack of the same key, which saves a teacher pass
        level = levels[run.key] if run.key in needed else highest_level[pack_keys[run.key]]
        groups.setdefault((level, pack_keys[run.key]), []).append(run)
    packs = [
        Pack(tuple(part), level)
        for (level, _), members in groups.items()
        for part in _split(members, max_pack, max_seconds=max_seconds, seconds_of=seconds_of)
    ]
    packs.sort(key=lambda pack: pack.level)
    return Plan(tuple(everything), states, tuple(packs))


def _states(runs: Sequence[Run], store: Store | None) -> dict[str, str]:
    """Return the state of each run by its key.

    A blocked run counts as absent once nothing that it needs has failed. Raises `InputError` for a record of
    a newer version.
    """
    states: dict[str, str] = {}
    for run in longwork.each(runs, "looking up the runs", "runs"):  # required runs first
        state = "absent" if store is None else store.state(run.key)
        if store is not None and state not in ("done", "diverged") and (line := store.newer_record(run.key)):
            raise InputError(line)
        blocked = store is not None and state == "failed" and store.was_blocked(run.key)
        if blocked and all(states[n.key] not in ("failed", "diverged") for n in run.needs_runs):
            state = "absent"
        states[run.key] = state
    return states


def _split(
    members: list[Run],
    max_pack: int,
    *,
    max_seconds: float | None,
    seconds_of: Callable[[Sequence[Run]], float] | None,
) -> list[list[Run]]:
    """Split runs into even parts of at most `max_pack`, then halve each part that takes too long."""
    count = -(-len(members) // max_pack)
    size = -(-len(members) // count)
    parts = [members[i : i + size] for i in range(0, len(members), size)]
    if max_seconds is None or seconds_of is None:
        return parts
    fitting: list[list[Run]] = []
    while parts:
        part = parts.pop(0)
        if len(part) > 1 and seconds_of(part) > max_seconds:
            parts[:0] = [part[: len(part) // 2], part[len(part) // 2 :]]
        else:
            fitting.append(part)
    return fitting


def summary(plan: Plan, device: str, *, keep: str = "all", factor: float | None = None) -> dict[str, Any]:
    """Return the plan in numbers, as plain JSON data (`plan --json`)."""
    estimate = cost.estimate([pack.runs for pack in plan.packs], device, keep=keep, factor=factor)
    lines: list[str] = []
    if plan.packs and device == "cuda":
        dataset = plan.packs[0].runs[0].dataset
        lines = decoding.assumptions(dataset, estimate.hours, estimate.decode_hours)
    return {
        "runs": len(plan.runs),
        "states": dict(Counter(plan.states.values())),
        "missing": len(plan.missing),
        "packs": len(plan.packs),
        "levels": plan.levels,
        "device": device,
        "gpu_hours" if device == "cuda" else "hours": round(estimate.hours, 3),
        "macs": estimate.macs,
        "disk_bytes": estimate.disk_bytes,
        "checkpoint_bytes": estimate.peak_bytes,
        "assumptions": cost.assumptions(device, factor),
        **({"large_images": lines} if lines else {}),
    }
