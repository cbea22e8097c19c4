"""status, logs, retry, clean: what the runs of a table are doing, why they failed, and tidying up."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from benchmark import data
from benchmark.cli import common
from benchmark.cli.common import plural, say
from benchmark.errors import InputError
from benchmark.plan import closure
from benchmark.runs import Run
from results.files import tail
from results.store import Store


def register(verbs: Any) -> None:
    p = verbs.add_parser("status", help="how far a table is: per pair and method the runs done, running, failed ...")
    common.add_selection(p)
    common.add_places(p)
    common.add_json(p)
    p.add_argument("--watch", action="store_true", help="again every few seconds, until nothing runs any more")
    p.set_defaults(do=do_status)

    p = verbs.add_parser("logs", help="a run's log, and why it failed")
    p.add_argument("run", metavar="RUN", help="a run's key, or a part of it that only one run has")
    p.add_argument("--lines", type=int, default=40)
    common.add_places(p)
    p.set_defaults(do=do_logs)

    p = verbs.add_parser("retry", help="forget failures, so that the next run (or submit) tries again")
    common.add_selection(p)
    common.add_places(p)
    p.set_defaults(do=do_retry)

    p = verbs.add_parser("clean", help="remove what is stale: runs of old keys, unfinished runs; shows it first")
    p.add_argument(
        "--unfinished",
        action="store_true",
        help="also runs that were begun and are not finished (their progress is lost)",
    )
    p.add_argument("--yes", action="store_true", help="remove; without it only shown")
    common.add_places(p)
    p.set_defaults(do=do_clean)


STATES = ("done", "running", "queued", "started", "failed", "diverged", "absent")


def queued_keys(store: Store) -> dict[str, str]:
    """Runs that wait in a Slurm queue: key -> job. Empty where nothing was ever submitted."""
    if not (store.folder / ".slurm").is_dir():
        return {}
    try:
        from slurm.registry import queued
    except ImportError:
        return {}
    return queued(store.folder)


def lost_jobs(states: dict[str, str], store: Store) -> list[dict[str, Any]]:
    """Slurm jobs of these runs (key -> state) that ended without a result and without saying why (see `slurm.state.lost`)."""
    if not (store.folder / ".slurm").is_dir():
        return []
    from slurm.state import lost

    return lost(store, states)


def format_lost(jobs: list[dict[str, Any]]) -> str:
    text = ""
    for j in jobs:
        keys = ", ".join(j["keys"][:3]) + (" ..." if len(j["keys"]) > 3 else "")
        text += f"\njob {j['job']} ended without a result ({j['says']}): {keys}; submit again"
        text += "".join(f"\n    {line}" for line in j["last_lines"])
    return text


def state_of(run: Run, store: Store, queued: dict[str, str]) -> str:
    state = store.state(run.key)
    return "queued" if state in ("absent", "started", "failed") and run.key in queued else state


def rows_of(
    runs: tuple[Run, ...] | list[Run], store: Store, states: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """A row for each pair and method: counts by state, and what the running ones say. states: is filled with each run's."""
    states = {} if states is None else states
    queued = queued_keys(store)
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in runs:
        row = groups.setdefault(
            (run.protocol, run.pair, run.method),
            {
                "protocol": run.protocol,
                "pair": run.pair,
                "method": run.method,
                **dict.fromkeys(STATES, 0),
                "live": [],
                "jobs": [],
                "errors": [],
            },
        )
        state = states[run.key] = state_of(run, store, queued)
        row[state] += 1
        if state == "running":
            progress, holder = store.progress(run.key) or {}, store.holder(run.key) or {}
            row["live"].append(
                {
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
            )
        if state == "queued" and queued[run.key] not in row["jobs"]:
            row["jobs"].append(queued[run.key])
        if state == "failed":
            failure = store.failure(run.key) or {}
            row["errors"].append(
                {
                    "key": run.key,
                    "reason": failure.get("reason", ""),
                    "last_lines": str(failure.get("traceback", "")).splitlines()[-3:],
                }
            )
    return list(groups.values())


def format_status(rows: list[dict[str, Any]]) -> str:
    from tabulate import tabulate

    shown = [s for s in STATES if any(r[s] for r in rows)]
    body = [[r["protocol"], r["pair"], r["method"], *(r[s] or "" for s in shown), _live(r)] for r in rows]
    text = tabulate(body, ["protocol", "pair", "method", *shown, "now"])
    for r in rows:
        for e in r["errors"]:
            text += f"\nfailed: {e['key']}: {e['reason']}" + "".join(f"\n    {line}" for line in e["last_lines"])
    total = {s: sum(r[s] for r in rows) for s in shown}
    return text + "\n" + ", ".join(f"{n} {s}" for s, n in total.items())


def _live(row: dict[str, Any]) -> str:
    parts = []
    for x in row["live"][:2]:
        top1 = "" if x["top1"] is None else f" top-1 {x['top1']:.2f}"
        eta = "" if x["eta_seconds"] is None else f" {_span(x['eta_seconds'])} left"
        parts.append(
            f"seed {x['seed']} {x['stage'] or ''} {x['epoch']}/{x['epochs']}{top1}{eta} on {x['node']} ({x['heartbeat_age']:.0f} s ago)"
        )
    parts += [f"job {j}" for j in row["jobs"][:2]]
    return "; ".join(parts)


def _span(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.0f} min"
        if seconds >= 60
        else f"{seconds:.0f} s"
    )


def do_status(args: argparse.Namespace) -> int:
    chosen = common.select(args)
    store = common.store_of(args)
    runs = closure(chosen.runs)
    while True:
        states: dict[str, str] = {}
        rows, lost = rows_of(runs, store, states), lost_jobs(states, store)
        if args.json:
            common.print_json({"table": chosen.expansion.table.name, "profile": chosen.profile, "rows": rows, "lost_jobs": lost})
        else:
            print(format_status(rows) + format_lost(lost), flush=True)
        if not args.watch or not any(r["running"] or r["queued"] for r in rows):
            return 0
        time.sleep(5)
        print()


def find(store: Store, text: str) -> str:
    """The key of the run that `text` means; `InputError` if none or several do."""
    text = text.replace(":", "-").strip("/")
    if (store.folder / text / "log.txt").exists() or (store.folder / text / "failure.json").exists():
        return text
    keys = sorted(
        {
            p.parent.relative_to(store.folder).as_posix()
            for name in ("log.txt", "failure.json")
            for p in store.folder.rglob(name)
        }
    )
    found = [k for k in keys if common.matches(k, text)]
    if len(found) != 1:
        some = "; ".join(found[:5] or keys[:5]) or "none"
        raise InputError(
            f"'{text}' means {len(found)} runs; allowed: one run's key, or a part of it that only one has, among: {some}"
        )
    return found[0]


def do_logs(args: argparse.Namespace) -> int:
    store = common.store_of(args)
    key = find(store, args.run)
    print(f"{key}: {store.state(key)}")
    for line in tail(store.path(key) / "log.txt", args.lines):
        print(line)
    if failure := store.failure(key):
        print(f"failed {failure.get('time', '')}: {failure.get('reason', '')}")
        print(failure.get("traceback", ""))
    if (store.folder / ".slurm").is_dir():
        from slurm.registry import last_job

        if job := last_job(store.folder, key):
            print(f"last submitted as job {job[0]}; the end of {job[1]}:")
            for line in tail(job[1], args.lines):
                print(line)
    return 0


def do_retry(args: argparse.Namespace) -> int:
    chosen = common.select(args)
    store = common.store_of(args)
    cleared = [r.key for r in closure(chosen.runs) if store.clear_failure(r.key)]
    for key in cleared:
        print(key)
    say(
        f"{plural(len(cleared), 'failure')} forgotten; `run` or `submit` will try again"
        if cleared
        else "no failed runs"
    )
    return 0


def _folders(store: Store) -> list[Path]:
    """Every run folder: one that holds any of a run's files."""
    if not store.folder.is_dir():
        return []
    names = ("record.json", "checkpoint.pt", "log.txt", "failure.json")
    return sorted({p.parent for name in names for p in store.folder.rglob(name)})


def stale(store: Store, args: argparse.Namespace) -> list[tuple[str, str]]:
    """`(key, why)` of what `clean` removes: runs whose order resolves to another key today, and on request unfinished ones."""
    resolver = common.resolver_of(args)
    found = []
    for folder in _folders(store):
        key = folder.relative_to(store.folder).as_posix()
        if store.holder(key) is not None:
            continue
        record = store.record(key)
        if record is None:
            if (folder / "record.json").exists():
                continue  # damaged or foreign: named by `load`, never deleted
            if args.unfinished:
                found.append((key, "unfinished"))
            continue
        try:
            resolver.from_order(record["order"])
        except (InputError, KeyError) as error:
            imported = (
                isinstance(record.get("order"), dict) and record["order"].get("evaluates")
            ) or "weights:" in str(record.get("teacher_info"))
            if imported:
                continue  # its teacher is simply not at hand now
            dataset = record.get("dataset")
            if dataset in data.DATASETS and data.info(dataset).of_folder:
                continue  # made of files that DATA= does not name now
            found.append((key, f"old key ({error})" if isinstance(error, InputError) else "no order"))
    return found


def do_clean(args: argparse.Namespace) -> int:
    store = common.store_of(args)
    found = stale(store, args)
    for key, why in found:
        print(f"{key}: {why}")
    if not found:
        say("nothing is stale")
    elif not args.yes:
        say(f"{plural(len(found), 'run')} would be removed; --yes removes")
    else:
        for key, _ in found:
            shutil.rmtree(store.path(key))
        say(f"{plural(len(found), 'run')} removed")
    return 0
