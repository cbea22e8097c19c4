"""Submit a table: runs that are neither done nor in the queue become packs, and packs become job arrays.

Packs of teachers and plain students are submitted first. An array of students depends on the jobs of its
teachers by `afterany`, so it starts when they have ended, successfully or not. A student job checks for its
teacher when it starts; if the teacher is missing, the job exits and records the reason. `submit_runs` returns
at once and can be repeated.
"""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark import longwork
from benchmark.errors import InputError, unknown
from benchmark.provenance import git_state
from benchmark.spec import cost, teacher_cache_rule
from benchmark.spec.plan import DEFAULT_PACK, Pack, Plan, make_plan
from benchmark.spec.runs import Run, closure
from benchmark.text import plural
from benchmark.training import begun
from benchmark.training.execution import Execution
from benchmark.work.order import WorkSettings, work_order
from results.store import Store
from slurm import commands, registry, script, snapshot
from slurm.cluster import Cluster
from slurm.commands import ClusterLimits, SlurmError
from slurm.job import PackJob
from slurm.registry import JobArray, QueuedRun
from slurm.script import ArraySpec

TIME_LIMIT_SHARE = 0.8
"""Packs are sized to this share of the time limit."""
DEFAULT_MAX_ARRAY = 1001
"""Slurm's default of MaxArraySize, for a dry run on a machine without Slurm."""


@dataclass(frozen=True)
class _SurveyedStore(Store):
    """A store whose states were determined before. They include the queue, which a store does not know."""

    states: dict[str, str] = field(default_factory=dict)

    def state(self, key: str) -> str:
        return self.states[key]


@dataclass
class PlannedArray:
    """An array that was submitted, or would be in a dry run."""

    array: JobArray
    level: int
    """0 for teachers and plain students, 1 for what needs them, and so on."""
    packs: list[Pack]
    script: str = ""
    """The batch script; only in a dry run."""

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(len(pack.runs) for pack in self.packs)


@dataclass
class SubmissionReport:
    """What was submitted, or would be in a dry run."""

    cluster: Cluster
    dry_run: bool
    arrays: list[PlannedArray] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)
    """Number of runs in each state, before the submission."""
    hours: float = 0.0
    """Estimated hours of one device for all that is submitted."""
    assumptions: str = ""
    """What the estimate rests on."""
    withheld: list[Pack] = field(default_factory=list)
    """Packs that were not submitted because of a limit of the cluster."""
    withheld_reason: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def jobs(self) -> int:
        """Number of jobs."""
        return sum(len(a.packs) for a in self.arrays)

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(a.runs for a in self.arrays)

    def json(self) -> dict[str, Any]:
        """Return the report as plain data (`submit --json`)."""
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
            "withheld": [[r.key for r in p.runs] for p in self.withheld],
            "withheld_reason": self.withheld_reason,
            "notes": self.notes,
        }


def run_states(runs: Sequence[Run], store: Store, queued: dict[str, Any]) -> dict[str, str]:
    """Return the state of each run by key: the store's, `queued`, or `blocked` (a needed run has failed).

    runs: ordered so that a run follows those that it needs. queued: the runs in the queue, by key. A run that
    failed only because its teacher was missing counts as absent again once the teacher is no longer failed.
    """
    states: dict[str, str] = {}
    for run in runs:
        state = store.state(run.key)
        if state not in ("done", "diverged", "running"):
            blocked = any(states.get(n.key) in ("failed", "diverged", "blocked") for n in run.needs_runs)
            if run.key in queued:
                state = "queued"
            elif blocked:
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
    note: Callable[[str], None] = lambda text: None,
) -> SubmissionReport:
    """Submit what is missing of `runs` and of all that they need.

    table: for the job names. max_pack: most runs of a pack; 0: the cluster file's. factor: measured time of
    earlier packs on this kind of device divided by the cost model's, None without such records; it scales
    pack sizes and the estimate. note: receives lines for the user. Raises `InputError` if Slurm is not
    available (unless `dry_run`) or refuses the jobs.
    """
    if not dry_run:
        commands.require_slurm()
    limits = commands.cluster_limits() if not commands.why_unavailable() else None
    if limits is None:
        note("no Slurm here: array sizes are those of a cluster with Slurm's default limits")
    else:
        for partition in cluster.partition.split(","):
            if partition not in limits.partitions:
                raise unknown(f"partition in {cluster.name}.toml:", partition, limits.partitions)
    submission = _Submission(
        table=table,
        store=store,
        settings=cluster.work_settings(settings),
        cluster=cluster,
        limits=limits,
        dry_run=dry_run,
        factor=factor,
    )
    if dry_run:
        return submission.submit(runs, max_pack)
    with registry.submission_lock(store.folder, note):
        return submission.submit(runs, max_pack)


@dataclass(frozen=True, kw_only=True)
class _Submission:
    """One call of `submit_runs`."""

    table: str
    store: Store
    settings: WorkSettings
    cluster: Cluster
    limits: ClusterLimits | None
    """None: no Slurm here."""
    dry_run: bool
    factor: float | None

    def submit(self, runs: Sequence[Run], max_pack: int) -> SubmissionReport:
        """Plan the packs, submit their arrays and return the report."""
        device = self.cluster.torch_device
        queued = registry.queued_runs(self.store.folder) if self.limits is not None else {}
        plan = self._plan(closure(runs), queued, max_pack)
        report = SubmissionReport(
            self.cluster,
            self.dry_run,
            states=dict(Counter(plan.states.values())),
            assumptions=cost.assumptions(device, self.factor),
        )
        packs = list(plan.packs)
        # Chosen for the whole plan: if each job chose for its pack, a run's numbers would depend on its pack.
        cached = self.settings.cached_teachers(
            [p.runs for p in packs], device=device, precision=self.settings.execution.precision
        )
        if self.limits is not None and packs:
            free, report.withheld_reason = free_job_slots(self.cluster, self.limits)
            packs, report.withheld = packs[:free], packs[free:]
        report.hours = cost.estimate([p.runs for p in packs], device, factor=self.factor).hours
        if packs:
            what = f"copying the code and submitting {plural(len(packs), 'job')}"
            with longwork.task(what):
                self._submit_arrays(packs, queued, cached, report)
        return report

    def _plan(self, runs: Sequence[Run], queued: dict[str, QueuedRun], max_pack: int) -> Plan:
        device = self.cluster.torch_device
        return make_plan(
            runs,
            _SurveyedStore(self.store.folder, run_states(runs, self.store, queued)),
            max_pack=max_pack or self.cluster.max_pack or DEFAULT_PACK[device],
            skip_states=frozenset({"running", "queued", "failed", "blocked"}),
            conditions_of=begun.conditions_of(self.store, Execution(**asdict(self.settings.execution))),
            max_seconds=TIME_LIMIT_SHARE * 60 * self.cluster.time_minutes,
            seconds_of=lambda part: cost.pack_seconds(part, device, self.factor),
        )

    def _submit_arrays(
        self,
        packs: list[Pack],
        queued: dict[str, QueuedRun],
        cached: frozenset[str],
        report: SubmissionReport,
    ) -> None:
        """Submit the packs as arrays and add them to the report.

        If Slurm refuses an array after others were accepted, the rest is withheld.
        """
        table = re.sub(r"[^A-Za-z0-9_.]+", "-", self.table)
        stamp = f"{table}-{time.strftime('%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
        folder = registry.registry_folder(self.store.folder).resolve()
        if self.dry_run:
            snapshot_folder = folder / "snapshots" / "DRY-RUN"
        else:
            snapshot_folder = snapshot.take(folder / "snapshots", note=report.notes.append)
            if git_state()["dirty"]:
                report.notes.append("the working tree has uncommitted changes; the records will state this")
        job_of = {key: run.job.id for key, run in queued.items()}
        max_array = self.limits.max_array if self.limits is not None else DEFAULT_MAX_ARRAY
        for number, (level, depends, part) in enumerate(_arrays(packs, job_of, max_array)):
            array = JobArray(
                name=f"{stamp}-{number}",
                table=self.table,
                cluster=self.cluster.name,
                folder=str(folder / "jobs" / stamp),
                packs=tuple(tuple(r.key for r in p.runs) for p in part),
                depends=depends,
                time=time.time(),
                snapshot=str(snapshot_folder),
                user=commands.user_name(),
            )
            planned = PlannedArray(array, level, part)
            if self.dry_run:
                planned.array = replace(array, job=f"<{array.name}>")
                planned.script = script.text(self._spec(array), len(part))
                if self.limits is not None:
                    self._try(array, len(part))
            else:
                try:
                    planned.array = self._send(array, part, cached)
                except InputError as error:
                    if not report.arrays:
                        raise
                    submitted = {pack for a in report.arrays for pack in a.packs}
                    report.withheld = [p for p in packs if p not in submitted] + report.withheld
                    report.withheld_reason = str(error)
                    return
            report.arrays.append(planned)
            for job, keys in zip(planned.array.ids(), array.packs, strict=True):
                job_of |= dict.fromkeys(keys, job)

    def _spec(self, array: JobArray) -> ArraySpec:
        return ArraySpec(
            cluster=self.cluster,
            folder=Path(array.folder),
            snapshot=Path(array.snapshot),
            name=array.name,
            depends=array.depends,
        )

    def _try(self, array: JobArray, elements: int) -> None:
        """Let sbatch check an array without submitting it. Raises `InputError` if sbatch refuses it."""
        # without its dependency: those jobs do not exist
        text = script.text(replace(self._spec(array), depends=()), elements)
        try:
            commands.call("sbatch", "--test-only", text=text)
        except SlurmError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> InputError:
        return InputError(
            f"Slurm refuses the jobs; correct {self.cluster.name}.toml: {_sbatch_message(error)}"
        )

    def _send(self, array: JobArray, packs: list[Pack], cached: frozenset[str]) -> JobArray:
        """Submit one array and return it with its job id. Raises `InputError` if sbatch refuses it.

        cached: the teachers (by `teacher_cache_rule.teacher_identity`) with a teacher cache.
        """
        jobs = []
        for pack in packs:
            mode = "on" if teacher_cache_rule.teacher_identity(pack.runs) in cached else "off"
            order = work_order(pack.runs, replace(self.settings, teacher_cache=mode))
            jobs.append(PackJob(order, processes=self.cluster.all_processes))
        registry.write_array(self.store.folder, array)
        try:
            job = script.send(self._spec(array), jobs)
        except Exception as error:
            registry.remove_array(self.store.folder, array)
            raise self._refusal(error) from error
        array = replace(array, job=job)
        registry.write_array(self.store.folder, array)
        return array


def _arrays(
    packs: list[Pack], job_of: dict[str, str], max_array: int
) -> Iterator[tuple[int, tuple[str, ...], list[Pack]]]:
    """Yield `(level, depends, packs)` of each array: at most `max_array` packs that wait for the same jobs.

    The caller adds the jobs of each array to `job_of` before it asks for the next, so that the jobs of a
    level are known when the next level is grouped.
    """
    for level in sorted({pack.level for pack in packs}):
        groups: dict[tuple[str, ...], list[Pack]] = {}
        for pack in (p for p in packs if p.level == level):
            needed = {job_of[n.key] for run in pack.runs for n in run.needs_runs if n.key in job_of}
            groups.setdefault(tuple(sorted(needed)), []).append(pack)
        for depends, members in groups.items():
            for start in range(0, len(members), max_array):
                yield level, depends, members[start : start + max_array]


def _sbatch_message(error: Exception) -> str:
    """Extract sbatch's message from an exception, as one line."""
    text = error.output if isinstance(error, SlurmError) else str(error)
    lines = [line.removeprefix("sbatch: ") for line in text.splitlines() if line.startswith("sbatch: ")]
    # the cause, not "Try sbatch --help" below it
    causes = [line.removeprefix("error: ").removeprefix("fatal: ") for line in lines if "--help" not in line]
    shown = dict.fromkeys(causes or text.splitlines()[-1:])
    return " ".join(shown).replace("Batch job submission failed: ", "")


def free_job_slots(cluster: Cluster, limits: ClusterLimits) -> tuple[int, str]:
    """Return how many more jobs may be submitted now, and the limit that decides."""
    queue = commands.squeue()
    jobs_of_user = sum(job.user == commands.user_name() for job in queue)
    slots = [(limits.max_jobs - len(queue), f"MaxJobCount {limits.max_jobs}")]
    if cluster.max_submit:
        slots.append((cluster.max_submit - jobs_of_user, f"max_submit {cluster.max_submit}"))
    if limits.accounting and (most := commands.submit_limit()) is not None:
        slots.append((most - jobs_of_user, f"MaxSubmitJobs {most}"))
    number, limit = min(slots)
    return max(number, 0), f"{limit}, {jobs_of_user} of your jobs in the queue"


def format_report(report: SubmissionReport) -> str:
    """Return the report as text; a dry run with its batch scripts."""
    lines = []
    if report.dry_run:
        for a in report.arrays:
            lines += [
                f"# {'-' * 20} {a.array.name}: {plural(len(a.packs), 'job')}, level {a.level}",
                a.script,
            ]
    states = ", ".join(f"{n} {state}" for state, n in sorted(report.states.items()))
    lines.append(f"{plural(sum(report.states.values()), 'run')} with teachers: {states}")
    for a in report.arrays:
        job = "" if report.dry_run else f"job {a.array.job}, "
        after = f", after {', '.join(a.array.depends)}" if a.array.depends else ""
        lines.append(f"level {a.level}: {job}array of {len(a.packs)} ({plural(a.runs, 'run')}){after}")
        if report.dry_run:
            for i, pack in enumerate(a.packs):
                lines += [f"    {i}: {pack.name}", *(f"        {run.key}" for run in pack.runs)]
    if report.arrays:
        verb = "would be submitted" if report.dry_run else "submitted"
        unit = "GPU-hours" if report.cluster.torch_device == "cuda" else "CPU hours"
        lines += [
            f"{plural(report.runs, 'run')} in {plural(report.jobs, 'job')} {verb} to {report.cluster.name}: "
            f"about {report.hours:.2f} {unit}",
            f"({report.assumptions})",
        ]
    elif report.states.get("failed"):
        lines.append("nothing to submit; `retry` makes failed runs count as missing again")
    else:
        lines.append("nothing to submit")
    if report.withheld:
        lines.append(
            f"{plural(len(report.withheld), 'pack')} not submitted ({report.withheld_reason}); "
            "submit again when jobs have ended"
        )
    return "\n".join(lines + report.notes)
