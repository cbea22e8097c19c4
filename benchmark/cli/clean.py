"""clean: remove stale runs and teacher caches, and what killed processes left.

The rules are in `benchmark.work.stale`, `stale_caches` and `left_files`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmark import longwork
from benchmark.cli import common, options
from benchmark.cli.output import print_note, print_text
from benchmark.cli.parser import add_verb
from benchmark.cli.selection import resolver_of
from benchmark.text import plural
from benchmark.work import left_files, stale, stale_caches
from results.store import Store


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "clean",
        details="Lists three things: runs that no table uses any more (because the code, a method's "
        "revision or the data have changed), teacher caches that nothing can use any more, and files that "
        "killed processes left in finished runs. With --yes, it removes them. It always keeps folders that "
        "are not runs, damaged records, and whatever a process is working on.",
        example="clean --unfinished --yes",
    )
    p.add_argument(
        "--unfinished",
        action="store_true",
        help="also remove runs and teacher caches that were begun and not finished (their progress is lost)",
    )
    p.add_argument(
        "--damaged",
        action="store_true",
        help="also remove runs whose weights do not fit their record, so that they are trained again "
        "(reads all weights)",
    )
    p.add_argument("--yes", action="store_true", help="remove them (default: only list them)")
    options.add_folder_options(p)
    p.set_defaults(do=do_clean)


def do_clean(args: argparse.Namespace) -> int:
    store = common.store_to_read(args)
    runs = stale.find_stale(
        store, resolver_of(args), include_unfinished=args.unfinished, include_damaged=args.damaged
    )
    for verdict in runs.to_remove:
        print_text(f"{verdict.key}: {verdict.why}")
    for verdict in runs.kept:
        print_text(f"{verdict.key}: kept: {verdict.why}")
    if runs.foreign_folders:
        print_note(
            f"{plural(runs.foreign_folders, 'folder')} kept: not named like a run's key, or with other runs' "
            "records below"
        )
    caches = [c for c in stale_caches.find(store) if args.unfinished or not c.unfinished]
    for cache in caches:
        print(stale_caches.describe(cache))
    left = list(left_files.find(store, leave_out={verdict.key for verdict in runs.to_remove}))
    for files in left:
        print(files.describe())
    what = []
    if runs.to_remove:
        what.append(plural(len(runs.to_remove), "run"))
    if caches:
        what.append(f"{plural(len(caches), 'file')} of teacher caches")
    if left:
        what.append(f"what is left in {plural(len(left), 'finished run')}")
    if not runs.to_remove and not caches and not left:
        print_note("nothing is stale")
    elif not args.yes:
        print_note(f"{' and '.join(what)} would be removed; add --yes to remove them")
    else:
        _remove(store, runs, caches)
        if left:
            number = sum(left_files.remove(store, files) for files in left)
            print_note(f"what was left in {plural(number, 'finished run')} removed")
    return 0


def _remove(store: Store, runs: stale.StaleRuns, caches: Sequence[stale_caches.StaleCache]) -> None:
    removed = 0
    for verdict in longwork.each(runs.to_remove, "removing runs", "runs"):
        kept_because = stale.remove(store, verdict)
        if kept_because is None:
            removed += 1
        else:
            print_text(f"{verdict.key}: kept: {kept_because.value}")
    print_note(f"{plural(removed, 'run')} removed")
    if caches:
        number = sum(map(stale_caches.remove, caches))
        print_note(f"{plural(number, 'file')} of teacher caches removed")
