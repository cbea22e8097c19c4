"""Where a table's jobs are: cancelling them, and those that ended without a result."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.store import Store
from slurm import commands, registry


@dataclass(frozen=True)
class Cancelled:
    """ids: cancelled jobs. kept: `(job, why)` of jobs that are left alone."""

    ids: tuple[str, ...]
    kept: tuple[tuple[str, str], ...]


def cancel(store: Store, keys: Collection[str]) -> Cancelled:
    """Cancels the queued and running jobs of these runs. A job that also trains other runs, or that other runs' jobs wait for, is kept.

    Nothing is lost: what was trained up to the last epoch is on disk. Raises `SlurmError` if Slurm does not answer.
    """
    with registry.lock(store.folder):
        places = registry.places(store.folder)
        packs: dict[str, set[str]] = {}
        waits: dict[str, set[str]] = {}
        for key, place in places.items():
            packs.setdefault(place.job.id, set()).add(key)
            for needed in place.array.depends:
                waits.setdefault(needed, set()).add(place.job.id)
        touched = {j for j, pack in packs.items() if pack & set(keys)}
        kept: dict[str, str] = {}
        for job in touched:
            if other := sorted(k for k in packs[job] - set(keys) if not store.is_done(k)):
                kept[job] = f"it also trains {other[0]}" + (
                    f" and {len(other) - 1} more" if len(other) > 1 else ""
                )
        while True:  # keeping a job keeps those it waits for
            more = {
                j: w
                for j in touched - set(kept)
                if (w := sorted(waits.get(j, set()) - (touched - set(kept))))
            }
            if not more:
                break
            kept |= {j: f"job {w[0]} waits for it" for j, w in more.items()}
        ids = sorted(touched - set(kept))
        commands.scancel(ids)
        return Cancelled(tuple(ids), tuple(sorted(kept.items())))


def lost(store: Store, states: dict[str, str]) -> list[dict[str, Any]]:
    """Runs that were submitted, are no longer in the queue, and have neither a result nor a failure: their jobs ended before they could
    say why (a kill, a broken node or setup line). `{job, keys, says, last_lines}` a job; `says` is accounting's word where there is one.
    states: of each run by key. Empty if Slurm does not answer."""
    jobs: dict[str, tuple[Path, list[str]]] = {}
    known = registry.arrays(store.folder)
    try:
        queued = registry.places(store.folder, known)
    except commands.SlurmError:
        return []
    latest: dict[str, tuple[str, str]] = {}
    for array in known:
        for job_id, pack in zip(array.ids(), array.packs, strict=False):
            latest.update((key, (job_id, array.folder)) for key in pack)
    for key, state in states.items():
        if state in ("absent", "started") and key in latest and key not in queued:
            job_id, folder = latest[key]
            jobs.setdefault(job_id, (Path(folder) / f"{job_id}_0_log.err", []))[1].append(key)
    says = commands.sacct(list(jobs)[:500])
    return [
        {
            "job": job,
            "keys": keys,
            "says": says.get(job, "left the queue"),
            "last_lines": registry.last_words(log),
        }
        for job, (log, keys) in jobs.items()
    ]
