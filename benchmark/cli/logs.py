"""logs, retry: why runs failed, and trying them again."""

from __future__ import annotations

import argparse
from typing import Any

from benchmark.cli import common, options
from benchmark.cli.output import print_note, print_text
from benchmark.cli.parser import add_verb
from benchmark.cli.run_names import find_key
from benchmark.cli.selection import select
from benchmark.errors import InputError
from benchmark.spec.runs import closure
from benchmark.text import plural
from results.files import tail
from slurm import registry

LOG_FILES = ("log.txt", "failure.json")
"""Files of a run that `logs` can print."""


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "logs",
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

    p = add_verb(
        verbs,
        "retry",
        details="Deletes the stored failures of the chosen runs and prints their keys, so that `run` and "
        "`submit`, which skip failed runs, train them again. It trains nothing itself. --diverged includes "
        "runs that diverged. Under the same conditions they diverge again, so use it for another device or "
        "precision, or after a correction that raised no `revision`.",
        example="retry crd-table1 --methods kd",
    )
    options.add_selection_options(p)
    p.add_argument(
        "--diverged",
        action="store_true",
        help="also the runs that diverged; their records are kept as record.diverged.json",
    )
    options.add_folder_options(p)
    p.set_defaults(do=do_retry)


def do_logs(args: argparse.Namespace) -> int:
    if args.lines < 1:
        raise InputError(f"--lines {args.lines}; allowed: 1 and more")
    store = common.store_to_read(args)
    key = find_key(store, args.run, LOG_FILES)
    print(f"{key}: {store.state(key)}")
    if line := store.unusable(key):
        print_note(f"skipped: {line}")
    for line in tail(store.path(key) / "log.txt", args.lines):
        print_text(line)
    if failure := store.failure(key):
        print_text(f"failed {failure.get('time', '')}: {failure.get('reason', '')}")
        print(failure.get("traceback", ""))
    if common.was_submitted(store) and (job := registry.last_job(store.folder, key)):
        job_id, log = job
        print_text(f"last submitted as job {job_id}; the end of {log}:")
        for line in tail(log, args.lines):
            print_text(line)
    return 0


def do_retry(args: argparse.Namespace) -> int:
    chosen = select(args)
    store = common.store_to_read(args)
    runs = closure(chosen.runs)
    cleared = [r.key for r in runs if store.clear_failure(r.key)]
    diverged = [r.key for r in runs if args.diverged and store.set_diverged_aside(r.key)]
    for key in cleared + diverged:
        print(key)
    if cleared:
        print_note(f"{plural(len(cleared), 'failure')} forgotten; `run` or `submit` will try again")
    if diverged:
        print_note(
            f"{plural(len(diverged), 'diverged run')} will be trained again by `run` or `submit`; the old "
            "records are kept as record.diverged.json"
        )
    if not cleared and not diverged:
        print_note("no failed or diverged runs" if args.diverged else "no failed runs")
    return 0
