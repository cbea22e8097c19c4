"""status, logs, retry, clean: what the runs of a table are doing, why they failed, and tidying up."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import time
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
from benchmark import data, methods
from benchmark.cli import common
from benchmark.cli.common import plural, say
from benchmark.errors import InputError
from benchmark.spec import protocols
from benchmark.spec.plan import closure
from benchmark.spec.runs import NONE, Resolver, Run
from results.files import tail
from results.store import Store


def register(verbs: Any) -> None:
    p = verbs.add_parser(
        "status", help="how far a table is: per pair and method the runs done, running, failed ..."
    )
    common.add_selection(p)
    common.add_places(p)
    common.add_json(p)
    p.add_argument(
        "--watch", action="store_true", help="again every few seconds, until nothing runs any more"
    )
    p.set_defaults(do=do_status)

    p = verbs.add_parser("logs", help="a run's log, and why it failed")
    p.add_argument("run", metavar="RUN", help="a run's key, or a part of it that only one run has")
    p.add_argument(
        "--lines",
        type=int,
        default=40,
        metavar="N",
        help="so many lines of the end of each log (default: 40)",
    )
    common.add_places(p)
    p.set_defaults(do=do_logs)

    p = verbs.add_parser("retry", help="forget failures, so that the next run (or submit) tries again")
    common.add_selection(p)
    common.add_places(p)
    p.set_defaults(do=do_retry)

    p = verbs.add_parser(
        "clean", help="remove what is stale: runs of old keys, unfinished runs; shows it first"
    )
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
            text += f"\nfailed: {e['key']}: {e['reason']}" + "".join(
                f"\n    {line}" for line in e["last_lines"]
            )
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
    store = common.store_to_read(args, first=True)
    runs = closure(chosen.runs)
    while True:
        states: dict[str, str] = {}
        rows, lost = rows_of(runs, store, states), lost_jobs(states, store)
        if args.json:
            common.print_json(
                {
                    "table": chosen.expansion.table.name,
                    "profile": chosen.profile,
                    "rows": rows,
                    "lost_jobs": lost,
                }
            )
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
    if args.lines < 1:
        raise InputError(f"--lines {args.lines}; allowed: 1 and more")
    store = common.store_to_read(args)
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
    store = common.store_to_read(args)
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


_PART = r"[^/.][^/]*"
_KEY = re.compile(rf"(?:{_PART}/){{4}}(?:{_PART}/seed\d+-[0-9a-f]{{10}}|imported/[0-9a-f]{{8,64}})")
"""The form of a run's key (see `benchmark.spec.runs`): whatever else lies below the results folder is not ours to remove."""


def unknown_here(order: dict[str, Any]) -> str:
    """The first name of an order that means nothing here ("" if all do): e.g. a method of a KD_METHODS that is not set now."""
    methods_of = [
        *order["method"].split("+"),
        *(str(k).partition(".")[0] for k, _ in order["overrides"] if "." in str(k)),
    ]
    kinds: list[tuple[str, list[str], Container[str]]] = [
        ("data set", [order["dataset"]], data.DATASETS),
        ("protocol", [order["protocol"]], protocols.PROTOCOLS),
        ("profile", [order["profile"]], protocols.PROFILES),
        ("network", [order["teacher"], order["student"]], (NONE, *models.names())),
        ("method", methods_of, (methods.PLAIN, "recipe", *methods.names())),
    ]
    return next(
        (f"{kind} '{name}'" for kind, names, known in kinds for name in names if name not in known), ""
    )


def _judged(record: dict[str, Any], resolver: Resolver) -> tuple[bool, str]:
    """`(stale, why)` of a finished run. Only an order that is understood and resolves to another key is stale."""
    order = record.get("order")
    if not isinstance(order, dict):
        return False, "its record has no order"
    try:
        try:
            resolver.from_order(order)
        except InputError as error:
            if order["evaluates"] or "weights:" in str(record.get("teacher_info")):
                return False, ""  # its teacher is simply not at hand now
            if name := unknown_here(order):
                return False, f"unknown here: {name}"
            if data.info(order["dataset"]).of_folder:
                return False, ""  # made of files that DATA= does not name now
            return True, f"old key ({error})"
    except (KeyError, TypeError, ValueError, AttributeError):
        return False, "its record's order is damaged"
    return False, ""


BUSY = "being worked on"


@dataclass
class Stale:
    """What `clean` finds: `(key, why)` of what it removes and of what it keeps though it looks stale; foreign: folders that are no run's."""

    removed: list[tuple[str, str]] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    foreign: int = 0


def stale(store: Store, args: argparse.Namespace) -> Stale:
    """What `clean` removes: runs whose order resolves to another key today, and on request unfinished ones."""
    resolver = common.resolver_of(args)
    found = Stale()
    for folder in _folders(store):
        key = folder.relative_to(store.folder).as_posix()
        record = store.record(key)
        if record is None and (not args.unfinished or os.path.lexists(folder / "record.json")):
            continue  # a damaged or foreign record is named by `load`, never deleted
        is_stale, why = (True, "unfinished") if record is None else _judged(record, resolver)
        if not is_stale:
            if why:
                found.kept.append((key, why))
        elif not _KEY.fullmatch(key) or any(p.parent != folder for p in folder.rglob("record.json")):
            found.foreign += 1
        elif store.holder(key) is not None:
            found.kept.append((key, BUSY))
        else:
            found.removed.append((key, why))
    return found


def _remove(store: Store, key: str, unfinished: bool) -> str:
    """Removes a run's folder under the run's claim, so that no worker begins it meanwhile. Returns why it did not ("" if it did)."""
    folder = store.path(key)
    claim = store.claim(key, "clean")
    if claim is None:
        return BUSY
    try:
        if unfinished and os.path.lexists(folder / "record.json"):
            return "finished meanwhile"
        # the record last: what is left by an interrupted removal is still a stale run, which the next one removes
        for path in sorted(folder.iterdir(), key=lambda p: p.name == "record.json"):
            if path != claim.path:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(
                    missing_ok=True
                )
                claim.beat()
    finally:
        claim.release()
    with contextlib.suppress(OSError):  # a worker that began it anew since the release keeps its folder
        folder.rmdir()
    return ""


def do_clean(args: argparse.Namespace) -> int:
    store = common.store_to_read(args)
    found = stale(store, args)
    for key, why in found.removed:
        print(f"{key}: {why}")
    for key, why in found.kept:
        print(f"{key}: kept: {why}")
    if found.foreign:
        say(
            f"{plural(found.foreign, 'folder')} kept: not of the form of a run's key, or with other runs' records below"
        )
    if not found.removed:
        say("nothing is stale")
    elif not args.yes:
        say(f"{plural(len(found.removed), 'run')} would be removed; --yes removes")
    else:
        removed = 0
        for key, why in found.removed:
            if kept := _remove(store, key, why == "unfinished"):
                print(f"{key}: kept: {kept}")
            else:
                removed += 1
        say(f"{plural(removed, 'run')} removed")
    return 0
