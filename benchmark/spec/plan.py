"""The plan: which runs are missing, in which packs, in which order, at what cost.

A pack holds runs that share a teacher pass (same teacher, seed, batches; see `pack_key`). Packs are put in
levels: all that a level needs is done in the levels before (teachers and plain students; teachers' heads;
students).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.spec import cost
from benchmark.spec.runs import Run, closure
from results.store import Store

DEFAULT_PACK = {"cpu": 16, "cuda": 32}
"""Most runs in a pack: enough to make the teacher's pass cheap, few enough that an epoch of all of them is
soon over."""


@dataclass(frozen=True)
class Pack:
    """Runs trained together. level: 0 for what needs nothing, else one more than the highest level of what it
    needs."""

    runs: tuple[Run, ...]
    level: int

    @property
    def name(self) -> str:
        """Readable, not unique: teacher, students, number of runs, seed."""
        first = self.runs[0]
        students = sorted({r.student for r in self.runs})
        return f"{first.teacher}:{','.join(students)} x{len(self.runs)} seed{first.seed} ({first.protocol}, {first.profile})"


def pack_key(run: Run) -> tuple[Any, ...]:
    """Runs with equal pack keys can be trained together: same data, teacher, seed, batches and
    normalisation."""
    return (
        run.dataset,
        run.recipe.train_images,
        run.recipe.test_images,
        None if run.teacher_ref is None else run.teacher_ref.identity,
        run.seed,
        run.recipe.batch_size,
        run.recipe.drop_last,
        run.recipe.augment,
        run.spec.sampler.name,
        _normalisation(run.settings_json),
        run.evaluates is not None,
        run.profile,
    )


@functools.lru_cache(maxsize=4096)
def _normalisation(settings_json: str) -> str:
    """Runs that differ in their seed alone share their settings, so plans of very many runs parse few of
    them."""
    return str(json.loads(settings_json)["normalise"])


@dataclass(frozen=True)
class Plan:
    """runs: all that were asked for and all they need; states: of each by key; packs: of the missing ones, in
    the order of their levels."""

    runs: tuple[Run, ...]
    states: dict[str, str]
    packs: tuple[Pack, ...]

    @property
    def missing(self) -> tuple[Run, ...]:
        return tuple(r for p in self.packs for r in p.runs)

    def level(self, n: int) -> tuple[Pack, ...]:
        return tuple(p for p in self.packs if p.level == n)

    @property
    def levels(self) -> int:
        return 1 + max((p.level for p in self.packs), default=-1)


def make_plan(
    runs: Sequence[Run],
    store: Store | None,
    *,
    max_pack: int = 16,
    skip_states: frozenset[str] = frozenset(),
    max_seconds: float | None = None,
    seconds_of: Callable[[Sequence[Run]], float] | None = None,
) -> Plan:
    """The plan for runs (what they need is added).

    store: where finished runs lie (None: nothing is done). skip_states: states besides `done` and `diverged`
    that are left out of the packs (`failed` runs wait for `retry`). max_seconds, seconds_of: packs are cut so
    that `seconds_of(runs) <= max_seconds` (a lone run may be longer).
    """
    everything = closure(runs)
    states: dict[str, str] = {}
    for run in everything:
        states[run.key] = "absent" if store is None else store.state(run.key)
        if store is not None and states[run.key] == "failed" and _needs_met(run, states, store):
            states[run.key] = "absent"
    left_out = {"done", "diverged"} | skip_states
    todo = [r for r in everything if states[r.key] not in left_out]
    levels: dict[str, int] = {}
    keys = {r.key: pack_key(r) for r in todo}
    highest: dict[tuple[Any, ...], int] = {}
    needed = {n.key for r in todo for n in r.needs_runs}
    for run in todo:
        levels[run.key] = 1 + max((levels[n.key] for n in run.needs_runs if n.key in levels), default=-1)
        highest[keys[run.key]] = max(highest.get(keys[run.key], 0), levels[run.key])
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in todo:
        # a run that nobody waits for joins the pack-mates that must come later: one teacher pass instead of two
        level = levels[run.key] if run.key in needed else highest[keys[run.key]]
        groups.setdefault((level, *keys[run.key]), []).append(run)
    packs: list[Pack] = []
    for group, members in groups.items():
        for part in _cut(members, max_pack, max_seconds, seconds_of):
            packs.append(Pack(tuple(part), int(group[0])))
    packs.sort(key=lambda p: p.level)
    return Plan(tuple(everything), states, tuple(packs))


def _needs_met(run: Run, states: dict[str, str], store: Store) -> bool:
    """Whether the run failed only because what it needs was not there, and that has not failed now."""
    return store.was_blocked(run.key) and all(
        states[n.key] not in ("failed", "diverged") for n in run.needs_runs
    )


def _cut(
    members: list[Run],
    max_pack: int,
    max_seconds: float | None,
    seconds_of: Callable[[Sequence[Run]], float] | None,
) -> list[list[Run]]:
    """Even parts of at most `max_pack` runs; then each part is halved while it is longer than allowed."""
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


def summary(plan: Plan, device: str, keep: str = "all", factor: float | None = None) -> dict[str, Any]:
    """The plan in numbers, plain JSON data (`plan --json`)."""
    found = cost.estimate([p.runs for p in plan.packs], device, keep, factor)
    counts: dict[str, int] = {}
    for state in plan.states.values():
        counts[state] = counts.get(state, 0) + 1
    return {
        "runs": len(plan.runs),
        "states": counts,
        "missing": len(plan.missing),
        "packs": len(plan.packs),
        "levels": plan.levels,
        "device": device,
        "gpu_hours" if device == "cuda" else "hours": round(found.hours, 3),
        "macs": found.macs,
        "disk_bytes": found.disk_bytes,
        "checkpoint_bytes": found.peak_bytes,
        "assumptions": cost.assumptions(device, factor),
    }
