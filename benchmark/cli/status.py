"""status: the progress of a table's runs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from benchmark import longwork
from benchmark.cli import common, options
from benchmark.cli import plan as plan_verb
from benchmark.cli.output import print_json, print_text
from benchmark.cli.parser import add_json_option, add_verb
from benchmark.cli.selection import Selection, select
from benchmark.errors import InputError
from benchmark.spec import measured_speed, plan
from benchmark.spec.runs import Run, closure
from benchmark.text import duration, plural
from benchmark.training.execution import has_gpu
from results.store import Store
from slurm import registry
from slurm import state as slurm_state
from slurm.commands import QueuedJob

STATES = ("done", "running", "starting", "queued", "started", "cancelled", "failed", "diverged", "absent")
"""Those of `Store.state`, and those of Slurm jobs: `queued`, `starting` (the job has a node, and has not
begun with the run) and `cancelled` (by `cancel`, since the run was last submitted)."""

WATCH_SECONDS = 5


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "status",
        details="Prints one row for each pair and method with the number of runs in each state. Running "
        "runs show their epoch and the time left, failed ones the reason, and Slurm jobs that ended "
        "without a result are listed.",
        example="status crd-table1 --watch",
    )
    options.add_selection_options(p)
    options.add_folder_options(p)
    add_json_option(p)
    p.add_argument(
        "--watch",
        action="store_true",
        help=f"repeat every {WATCH_SECONDS} seconds until no run is running or queued",
    )
    p.set_defaults(do=do_status)


def queued_jobs(store: Store) -> dict[str, QueuedJob]:
    """Return the runs in a Slurm queue: key -> job. Empty if nothing was ever submitted."""
    return registry.queued_jobs(store.folder) if common.was_submitted(store) else {}


def lost_jobs(states: dict[str, str], store: Store) -> list[dict[str, Any]]:
    """Return the Slurm jobs of these runs that ended without a result or a failure (see `slurm.state.lost`).

    states: key of a run -> its state.
    """
    return slurm_state.lost(store, states) if common.was_submitted(store) else []


def format_lost(jobs: list[dict[str, Any]]) -> str:
    """Return the jobs of `lost_jobs` as text, "" if there are none."""
    text = ""
    for j in jobs:
        keys = ", ".join(j["keys"][:3]) + (" ..." if len(j["keys"]) > 3 else "")
        text += f"\njob {j['job']} ended without a result ({j['says']}): {keys}; submit again"
        text += "".join(f"\n    {line}" for line in j["last_lines"])
    return text


def states_of(runs: Sequence[Run], store: Store, queued: dict[str, QueuedJob]) -> dict[str, str]:
    """Return one of `STATES` for each run, by key."""
    states = {run.key: store.state(run.key) for run in longwork.each(runs, "looking up the runs", "runs")}
    waiting = {key for key, state in states.items() if state in ("absent", "started", "failed")}
    for key in waiting & queued.keys():
        if not queued[key].has_started:
            states[key] = "queued"
        elif states[key] != "failed":
            states[key] = "starting"
    if common.was_submitted(store):
        idle = {key for key in waiting - queued.keys() if states[key] != "failed"}
        states.update(dict.fromkeys(slurm_state.cancelled_runs(store, idle), "cancelled"))
    return states


def status_rows(runs: Sequence[Run], store: Store) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return one row for each protocol, pair and method, and the state of each run by key.

    A row has the number of runs in each state, the progress of those that are running (`live`), the jobs of
    those that are queued (`jobs`) and the reasons of those that failed (`errors`).
    """
    queued = queued_jobs(store)
    states = states_of(runs, store, queued)
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in runs:
        row = groups.setdefault(
            (run.protocol, run.pair, run.doing),
            {
                "protocol": run.protocol,
                "pair": run.pair,
                "method": run.doing,
                **dict.fromkeys(STATES, 0),
                "live": [],
                "jobs": [],
                "errors": [],
            },
        )
        state = states[run.key]
        row[state] += 1
        if state == "running":
            row["live"].append(_live_run(run, store))
        if state in ("queued", "starting"):
            line = registry.queue_line(queued[run.key])
            row["jobs"] += [line] * (line not in row["jobs"])
        if state == "failed":
            failure = store.failure(run.key) or {}
            last_lines = str(failure.get("traceback", "")).splitlines()[-3:]
            row["errors"].append(
                {"key": run.key, "reason": failure.get("reason", ""), "last_lines": last_lines}
            )
    return list(groups.values()), states


def _live_run(run: Run, store: Store) -> dict[str, Any]:
    progress, holder = store.progress(run.key) or {}, store.holder(run.key) or {}
    return {
        "seed": run.seed,
        "stage": progress.get("stage"),
        "epoch": progress.get("epoch"),
        "epochs": progress.get("epochs"),
        "top1": progress.get("top1"),
        "eta_seconds": progress.get("eta_seconds"),
        "node": progress.get("node") or holder.get("host"),
        "heartbeat_age": round(holder.get("age", 0.0), 1),
        "job": holder.get("job"),
    }


def format_status(rows: list[dict[str, Any]]) -> str:
    """Return the rows of `status_rows` as text: a table, the failures, and the totals."""
    shown = [s for s in STATES if any(r[s] for r in rows)]
    body = [[r["protocol"], r["pair"], r["method"], *(r[s] or "" for s in shown), _now(r)] for r in rows]
    text = tabulate(body, ["protocol", "pair", "method", *shown, "now"])
    for r in rows:
        for e in r["errors"]:
            text += f"\nfailed: {e['key']}: {e['reason']}"
            text += "".join(f"\n    {line}" for line in e["last_lines"])
    total = {s: sum(r[s] for r in rows) for s in shown}
    return text + "\n" + ", ".join(f"{n} {s}" for s, n in total.items())


def _now(row: dict[str, Any]) -> str:
    """Return what happens in a row now: its first two running runs and its first two jobs."""
    parts = []
    for live in row["live"][:2]:
        top1 = "" if live["top1"] is None else f" top-1 {live['top1']:.2f}"
        left = "" if live["eta_seconds"] is None else f" {duration(live['eta_seconds'])} left"
        epoch = f"{live['stage'] or ''} {live['epoch']}/{live['epochs']}"
        heartbeat = f"on {live['node']} ({live['heartbeat_age']:.0f} s ago)"
        parts.append(f"seed {live['seed']} {epoch}{top1}{left} {heartbeat}")
    parts += [f"job {j}" for j in row["jobs"][:2]]
    return "; ".join(parts)


def remaining(chosen: Selection, store: Store) -> dict[str, Any] | None:
    """Return what is left, in the numbers of `plan` and by the same estimate.

    It is that of this machine's kind of device with the default size of packs. None if it cannot be planned,
    because a newer version of kd-tables wrote a record.
    """
    here = "cuda" if has_gpu() else "cpu"
    device = plan_verb.estimated_device(chosen.profile, options.variable("DEVICE", "auto"), here)
    try:
        planned = plan.make_plan(chosen.runs, store, max_pack=plan.DEFAULT_PACK[here])
    except InputError:
        return None
    return plan.summary(planned, device, factor=measured_speed.factor_of(store, device, chosen.profile))


def format_remaining(numbers: dict[str, Any] | None) -> str:
    """Return the numbers of `remaining` as one line, "" if nothing is left or it is not known."""
    if numbers is None or not numbers["missing"]:
        return ""
    return (
        f"\nleft: {plural(numbers['missing'], 'run')}, about {plan_verb.time_of(numbers)} "
        f"({numbers['assumptions']})"
    )


def do_status(args: argparse.Namespace) -> int:
    chosen = select(args)
    store = common.store_to_read(args, may_be_missing=True)
    runs = closure(chosen.runs)
    named = False
    while True:
        rows, states = status_rows(runs, store)
        if not named:
            common.note_unusable(store, states)
            named = True
        lost = lost_jobs(states, store)
        left = remaining(chosen, store)
        if args.json:
            print_json(
                {
                    "table": chosen.expansion.table.name,
                    "profile": chosen.profile,
                    "rows": rows,
                    "lost_jobs": lost,
                    "left": left,
                }
            )
        else:
            print_text(format_status(rows) + format_remaining(left) + format_lost(lost))
        if not args.watch or not any(r["running"] or r["queued"] or r["starting"] for r in rows):
            return 0
        time.sleep(WATCH_SECONDS)
        print()
