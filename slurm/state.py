"""The jobs of a table: cancel them, and list those that ended without a result."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.store import Store
from slurm import commands, registry


@dataclass(frozen=True)
class Cancelled:
    """What `cancel` did."""

    ids: tuple[str, ...]
    """The cancelled jobs."""
    kept: tuple[tuple[str, str], ...]
    """`(job, reason)` of each job that was not cancelled."""


def cancel(store: Store, keys: Collection[str]) -> Cancelled:
    """Cancel the jobs in the queue that train these runs. Raises `SlurmError`.

    A job is kept if it also trains other runs, or if a job that is kept waits for it. Nothing is lost:
    everything up to the last finished epoch is on disk.
    """
    with registry.submission_lock(store.folder):
        packs: dict[str, set[str]] = {}
        waiting_for: dict[str, set[str]] = {}
        for key, queued in registry.queued_runs(store.folder).items():
            packs.setdefault(queued.job.id, set()).add(key)
            for needed in queued.array.depends:
                waiting_for.setdefault(needed, set()).add(queued.job.id)
        candidates = {job for job, pack in packs.items() if pack & set(keys)}
        kept: dict[str, str] = {}
        for job in candidates:
            if others := sorted(key for key in packs[job] - set(keys) if not store.is_done(key)):
                more = f" and {len(others) - 1} more" if len(others) > 1 else ""
                kept[job] = f"it also trains {others[0]}{more}"
        while True:  # a kept job keeps those it waits for, and so on
            cancelled = candidates - set(kept)
            still_needed = {job: sorted(waiting_for.get(job, set()) - cancelled) for job in cancelled}
            newly_kept = {job: f"job {w[0]} waits for it" for job, w in still_needed.items() if w}
            if not newly_kept:
                break
            kept |= newly_kept
        ids = sorted(cancelled)
        commands.scancel(ids)
        registry.mark_cancelled(store.folder, ids)
        return Cancelled(ids=tuple(ids), kept=tuple(sorted(kept.items())))


def cancelled_runs(store: Store, keys: Collection[str]) -> set[str]:
    """Return those of these runs whose latest job was cancelled. keys: of runs that are not in the queue."""
    jobs = {key: job for key, (job, _) in registry.latest_jobs(registry.read_arrays(store.folder)).items()}
    return {key for key in keys if key in jobs and registry.was_cancelled(store.folder, jobs[key])}


def lost(store: Store, states: dict[str, str]) -> list[dict[str, Any]]:
    """Return the jobs that ended without a result or a recorded failure (killed, a broken node, a bad setup).

    states: the state of each run, by key. Each job is `{job, keys, says, last_lines}`: `says` is its state in
    accounting ("left the queue" without accounting), `last_lines` the end of its error output. Empty if Slurm
    does not answer.
    """
    arrays = registry.read_arrays(store.folder)
    try:
        queued = registry.queued_runs(store.folder, arrays)
    except commands.SlurmError:
        return []
    latest = registry.latest_jobs(arrays)
    jobs: dict[str, tuple[Path, list[str]]] = {}
    for key, state in states.items():
        if state in ("absent", "started") and key in latest and key not in queued:
            job_id, array = latest[key]
            jobs.setdefault(job_id, (registry.error_output(array.folder, job_id), []))[1].append(key)
    states_of_jobs = commands.sacct(list(jobs)[:500])
    return [
        {
            "job": job,
            "keys": keys,
            "says": states_of_jobs.get(job, "left the queue"),
            "last_lines": registry.last_lines(output),
        }
        for job, (output, keys) in jobs.items()
    ]
