"""logs, retry: why runs failed, and trying them again."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from benchmark.cli import common, options
from benchmark.cli.common import print_note
from benchmark.cli.selection import key_matches, select
from benchmark.errors import InputError
from benchmark.spec.runs import closure
from benchmark.text import plural
from results.files import tail
from results.store import Store
from slurm import registry


def register(verbs: Any) -> None:
    p = options.add_verb(
        verbs,
        "logs",
        summary="print a run's log, and why it failed",
        details="Prints the end of a run's log, the reason and traceback of its last failure, and the end "
        "of the output of the Slurm job that it was last submitted in.",
        example="logs resnet56:resnet20/kd/seed0",
    )
    p.add_argument("run", metavar="RUN", help="a run's key, or a part of it that matches only one run")
    p.add_argument(
        "--lines",
        type=options.whole_number,
        default=40,
        metavar="N",
        help="print the last N lines of each log (default: 40)",
    )
    options.add_folder_options(p)
    p.set_defaults(do=do_logs)

    p = options.add_verb(
        verbs,
        "retry",
        summary="forget the failures of a table, so that `run` or `submit` tries again",
        details="`run` and `submit` skip runs that failed before. `retry` deletes the stored failures of "
        "the chosen runs and prints their keys. It trains nothing itself.",
        example="retry crd-table1 --methods kd",
    )
    options.add_selection_options(p)
    options.add_folder_options(p)
    p.set_defaults(do=do_retry)


def find_key(store: Store, text: str) -> str:
    """Return the key of the only run that `text` matches. Raises `InputError` if none or several match."""
    text = text.replace(":", "-").strip("/")
    log_files = ("log.txt", "failure.json")
    with contextlib.suppress(OSError):  # for example a loop of links, or too long a name
        if any((store.folder / text / name).exists() for name in log_files):
            return text
    keys = sorted(
        {
            path.parent.relative_to(store.folder).as_posix()
            for name in log_files
            for path in store.folder.rglob(name)
        }
    )
    matching = [k for k in keys if key_matches(k, text)]
    if len(matching) != 1:
        examples = "; ".join(matching[:5] or keys[:5]) or "none"
        raise InputError(
            f"'{text}' matches {len(matching)} runs; allowed: a key, or a part of it that matches one run, "
            f"such as {examples}"
        )
    return matching[0]


def do_logs(args: argparse.Namespace) -> int:
    if args.lines < 1:
        raise InputError(f"--lines {args.lines}; allowed: 1 and more")
    store = common.store_to_read(args)
    key = find_key(store, args.run)
    print(f"{key}: {store.state(key)}")
    if line := store.unusable(key):
        print_note(f"skipped: {line}")
    for line in tail(store.path(key) / "log.txt", args.lines):
        print(line)
    if failure := store.failure(key):
        print(f"failed {failure.get('time', '')}: {failure.get('reason', '')}")
        print(failure.get("traceback", ""))
    if common.was_submitted(store) and (job := registry.last_job(store.folder, key)):
        job_id, log = job
        print(f"last submitted as job {job_id}; the end of {log}:")
        for line in tail(log, args.lines):
            print(line)
    return 0


def do_retry(args: argparse.Namespace) -> int:
    chosen = select(args)
    store = common.store_to_read(args)
    cleared = [r.key for r in closure(chosen.runs) if store.clear_failure(r.key)]
    for key in cleared:
        print(key)
    if cleared:
        print_note(f"{plural(len(cleared), 'failure')} forgotten; `run` or `submit` will try again")
    else:
        print_note("no failed runs")
    return 0
