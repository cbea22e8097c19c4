"""Submitting a table: what is neither done nor in the queue becomes packs, packs become job arrays.

Packs of teachers and plain students are submitted first; an array of students waits for the jobs of its teachers (`afterany`: whether the
teacher is there the job looks itself, and says so beside the run). It returns at once and can be repeated.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark.errors import InputError, unknown
from benchmark.provenance import git_state
from benchmark.spec import cost, teacher_cache_rule
from benchmark.spec.plan import DEFAULT_PACK, Pack, make_plan
from benchmark.spec.runs import Run, closure
from benchmark.work.order import WorkSettings, work_order
from results.store import Store
from slurm import commands, registry, script, snapshot
from slurm.cluster import Cluster
from slurm.job import PackJob
from slurm.registry import Array

OF_THE_LIMIT = 0.8
"""Part of the time limit that a pack is sized to."""


@dataclass(frozen=True)
class _Seen(Store):
    """A store whose states were looked up before (and know of the queue)."""

    states: dict[str, str] = field(default_factory=dict)

    def state(self, key: str) -> str:
        return self.states[key]


@dataclass
class Planned:
    """An array of the submission. script: the batch script, where it was asked for."""

    array: Array
    level: int
    packs: list[Pack]
    script: str = ""


@dataclass
class Report:
    """What was submitted, or would be. states: of all runs, by how many; hours: estimated, of one device each; left: packs that a
    limit keeps back, and why."""

    cluster: Cluster
    dry_run: bool
    arrays: list[Planned] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)
    hours: float = 0.0
    assumptions: str = ""
    left: list[Pack] = field(default_factory=list)
    left_why: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def jobs(self) -> int:
        return sum(len(a.packs) for a in self.arrays)

    @property
    def runs(self) -> int:
        return sum(len(p.runs) for a in self.arrays for p in a.packs)

    def json(self) -> dict[str, Any]:
        """Plain data, for programs."""
        return {
            "cluster": self.cluster.name,
            "dry_run": self.dry_run,
            "states": self.states,
            "jobs": self.jobs,
            "runs": self.runs,
            ("gpu_hours" if self.cluster.torch_device == "cuda" else "hours"): round(self.hours, 3),
            "assumptions": self.assumptions,
            "arrays": [
                {
                    "name": a.array.name,
                    "job": a.array.job,
                    "level": a.level,
                    "depends": list(a.array.depends),
                    "script": a.script,
                    "packs": [[r.key for r in p.runs] for p in a.packs],
                }
                for a in self.arrays
            ],
            "left": [[r.key for r in p.runs] for p in self.left],
            "left_why": self.left_why,
            "notes": self.notes,
        }


def survey(runs: Sequence[Run], store: Store, queued: dict[str, Any]) -> dict[str, str]:
    """The state of each run: those of `Store.state`, `queued`, and `blocked` (what it needs has failed).

    A run that failed only because its teacher was not there is no failure any more when the teacher has none.
    """
    states: dict[str, str] = {}
    for run in runs:
        state = store.state(run.key)
        if state not in ("done", "diverged", "running"):
            hopeless = any(states.get(n.key) in ("failed", "diverged", "blocked") for n in run.needs_runs)
            if run.key in queued:
                state = "queued"
            elif hopeless:
                state = "blocked"
            elif state == "failed" and store.was_blocked(run.key):
                state = "absent"
        states[run.key] = state
    return states


def submit_runs(
    runs: Sequence[Run],
    table: str,
    store: Store,
    settings: WorkSettings,
    cluster: Cluster,
    *,
    dry_run: bool = False,
    max_pack: int = 0,
    factor: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Submits what is missing of `runs` and all that they need. `InputError` without Slurm, or for what the cluster refuses.

    factor: what earlier packs took on such a device over what the cost model says, for the size of packs and the estimate; None: no records.
    """
    if not dry_run:
        commands.require()
    site = commands.site() if not commands.missing() else None
    if site is not None:
        for name in cluster.partition.split(","):
            if name not in site.partitions:
                raise unknown(f"partition in {cluster.name}.toml:", name, site.partitions)
    elif dry_run:
        say("no Slurm here: array sizes are those of a cluster with Slurm's default limits")
    settings = cluster.work_settings(settings)
    if dry_run:
        return _submit(runs, table, store, settings, cluster, site, True, max_pack, factor)
    with registry.lock(store.folder, say):
        return _submit(runs, table, store, settings, cluster, site, False, max_pack, factor)


def _submit(
    runs: Sequence[Run],
    table: str,
    store: Store,
    settings: WorkSettings,
    cluster: Cluster,
    site: commands.Site | None,
    dry_run: bool,
    max_pack: int,
    factor: float | None,
) -> Report:
    device = cluster.torch_device
    everything = closure(runs)
    places = registry.places(store.folder) if site is not None else {}
    seen = _Seen(store.folder, survey(everything, store, places))
    plan = make_plan(
        everything,
        seen,
        max_pack=max_pack or cluster.max_pack or DEFAULT_PACK[device],
        skip_states=frozenset({"running", "queued", "failed", "blocked"}),
        max_seconds=OF_THE_LIMIT * 60 * cluster.time_minutes,
        seconds_of=lambda part: cost.pack_seconds(part, device, factor),
    )
    report = Report(cluster, dry_run, assumptions=cost.assumptions(device, factor))
    for state in plan.states.values():
        report.states[state] = report.states.get(state, 0) + 1
    packs = list(plan.packs)
    # decided for the plan: a job that decided for its own pack would make a run's numbers depend on what else is in it
    tables = teacher_cache_rule.cached_teachers(
        settings.teacher_cache, [p.runs for p in packs], settings.execution.precision
    )
    if site is not None and packs:
        allowed, why = room(cluster, site)
        report.left, report.left_why = packs[allowed:], why
        packs = packs[:allowed]
    report.hours = cost.estimate([p.runs for p in packs], device, factor=factor).hours
    if not packs:
        return report
    stamp = f"{re.sub(r'[^A-Za-z0-9_.]+', '-', table)}-{time.strftime('%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    home = registry.home(store.folder).resolve()
    folder, code = home / "jobs" / stamp, home / "snapshots" / ("DRY-RUN" if dry_run else "")
    if not dry_run:
        code = snapshot.take(home / "snapshots")
        if git_state()["dirty"]:
            report.notes.append(
                "the working tree has changes that are not committed: the records will say so"
            )
    job_of = {key: p.job.id for key, p in places.items()}
    size = site.max_array if site is not None else 1001
    for number, (level, depends, part) in enumerate(_arrays(packs, job_of, size)):
        array = Array(
            f"{stamp}-{number}",
            table,
            cluster.name,
            str(folder),
            tuple(tuple(r.key for r in p.runs) for p in part),
            tuple(depends()),
            time=time.time(),
            snapshot=str(code),
            user=commands.me(),
        )
        entry = Planned(array, level, part)
        if dry_run:
            entry.array = replace(array, job=f"<{array.name}>")
            entry.script = script.text(cluster, folder, code, array.name, array.depends, len(part))
        else:
            try:
                entry.array = _send(array, part, settings, tables, cluster, store, code, folder)
            except InputError as error:
                if not report.arrays:
                    raise
                report.left = [
                    p for p in packs if p not in {q for a in report.arrays for q in a.packs}
                ] + report.left
                report.left_why = str(error)
                break
        report.arrays.append(entry)
        job_of |= {key: job for job, pack in zip(entry.array.ids(), array.packs, strict=True) for key in pack}
    return report


def _arrays(packs: list[Pack], job_of: dict[str, str], size: int) -> Any:
    """`(level, depends, packs)` of each array: packs of one level that wait for the same jobs, at most `size` of them. Lazy: the jobs of a
    level are looked up when those before have been submitted."""
    for level in sorted({p.level for p in packs}):
        groups: dict[tuple[str, ...], list[Pack]] = {}
        for pack in (p for p in packs if p.level == level):
            needs = sorted({job_of[n.key] for r in pack.runs for n in r.needs_runs if n.key in job_of})
            groups.setdefault(tuple(needs), []).append(pack)
        for needed, members in groups.items():
            for start in range(0, len(members), size):
                yield level, lambda needed=needed: needed, members[start : start + size]


def _send(
    array: Array,
    packs: list[Pack],
    settings: WorkSettings,
    tables: Collection[str],
    cluster: Cluster,
    store: Store,
    code: Path,
    folder: Path,
) -> Array:
    """tables: identities of the teachers that jobs read from a table."""
    caches = ["on" if teacher_cache_rule.teacher_identity(p.runs) in tables else "off" for p in packs]
    jobs = [
        PackJob(work_order(p.runs, replace(settings, teacher_cache=c)))
        for p, c in zip(packs, caches, strict=True)
    ]
    registry.write(store.folder, array)
    try:
        job = script.send(cluster, folder, code, array.name, array.depends, jobs)
    except Exception as error:
        registry.forget(store.folder, array)
        lines = [line for line in str(error).splitlines() if "sbatch: error" in line] or str(
            error
        ).splitlines()[-1:]
        words = " ".join(
            line.replace("sbatch: error: ", "").replace("Batch job submission failed: ", "") for line in lines
        )
        raise InputError(
            f"the cluster refuses the jobs of {cluster.name}.toml: {words}; allowed: what sbatch accepts there"
        ) from error
    array = replace(array, job=job)
    registry.write(store.folder, array)
    return array


def room(cluster: Cluster, site: commands.Site) -> tuple[int, str]:
    """How many more jobs may be submitted now, and the limit that says so."""
    queue = commands.squeue()
    mine = sum(q.user == commands.me() for q in queue)
    limits = [(site.max_jobs - len(queue), f"MaxJobCount {site.max_jobs}")]
    if cluster.max_submit:
        limits.append((cluster.max_submit - mine, f"max_submit {cluster.max_submit}"))
    if site.accounting and (limit := commands.submit_limit()) is not None:
        limits.append((limit - mine, f"MaxSubmitJobs {limit}"))
    number, why = min(limits)
    return max(number, 0), f"{why}, {mine} of yours in the queue"


def format_report(report: Report) -> str:
    """The report for a person; a dry run with its batch scripts."""
    lines = []
    if report.dry_run:
        for a in report.arrays:
            lines += [
                f"# {'-' * 20} {a.array.name}: {_count(len(a.packs), 'job')}, level {a.level}",
                a.script,
            ]
    states = ", ".join(f"{n} {s}" for s, n in sorted(report.states.items()))
    lines.append(f"{_count(sum(report.states.values()), 'run')} with teachers: {states}")
    for a in report.arrays:
        waits = f", after {', '.join(a.array.depends)}" if a.array.depends else ""
        runs = sum(len(p.runs) for p in a.packs)
        lines.append(
            f"level {a.level}: {'' if report.dry_run else f'job {a.array.job}, '}array of {len(a.packs)} ({_count(runs, 'run')}){waits}"
        )
        if report.dry_run:
            lines += [
                f"    {i}: {p.name}" + "".join(f"\n        {r.key}" for r in p.runs)
                for i, p in enumerate(a.packs)
            ]
    unit = "GPU-hours" if report.cluster.torch_device == "cuda" else "CPU hours"
    verb = "would be submitted" if report.dry_run else "submitted"
    if report.arrays:
        lines.append(
            f"{_count(report.runs, 'run')} in {_count(report.jobs, 'job')} {verb} to {report.cluster.name}: about {report.hours:.2f} {unit}"
        )
        lines.append(f"({report.assumptions})")
    else:
        lines.append(
            "nothing to submit" + (": `retry` forgets failures" if report.states.get("failed") else "")
        )
    if report.left:
        lines.append(
            f"{_count(len(report.left), 'pack')} not submitted ({report.left_why}); submit again when there is room"
        )
    return "\n".join(lines + report.notes)


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"
