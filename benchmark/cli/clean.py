"""clean: remove stale runs. The rules are in `benchmark.work.stale`."""

from __future__ import annotations

import argparse
from typing import Any

from benchmark.cli import common, options
from benchmark.cli.common import print_note
from benchmark.cli.selection import resolver_of
from benchmark.text import plural
from benchmark.work import stale


def register(verbs: Any) -> None:
    p = options.add_verb(
        verbs,
        "clean",
        summary="remove stale runs; without --yes they are only listed",
        details="Lists the runs that no table uses any more, because the code, a method's revision or the "
        "data have changed since. With --yes they are removed. Folders that are not runs, damaged records "
        "and runs that are being worked on are always kept.",
        example="clean --unfinished --yes",
    )
    p.add_argument(
        "--unfinished",
        action="store_true",
        help="also remove runs that were started and not finished (their progress is lost)",
    )
    p.add_argument(
        "--damaged",
        action="store_true",
        help="also remove runs whose weights do not fit their record, so that they are trained again "
        "(reads all weights)",
    )
    p.add_argument("--yes", action="store_true", help="remove the runs (default: only list them)")
    options.add_folder_options(p)
    p.set_defaults(do=do_clean)


def do_clean(args: argparse.Namespace) -> int:
    store = common.store_to_read(args)
    runs = stale.find_stale(
        store, resolver_of(args), include_unfinished=args.unfinished, include_damaged=args.damaged
    )
    for verdict in runs.to_remove:
        print(f"{verdict.key}: {verdict.why}")
    for verdict in runs.kept:
        print(f"{verdict.key}: kept: {verdict.why}")
    if runs.foreign_folders:
        print_note(
            f"{plural(runs.foreign_folders, 'folder')} kept: not named like a run's key, or with other runs' "
            "records below"
        )
    if not runs.to_remove:
        print_note("nothing is stale")
    elif not args.yes:
        print_note(f"{plural(len(runs.to_remove), 'run')} would be removed; add --yes to remove them")
    else:
        removed = 0
        for verdict in runs.to_remove:
            kept_because = stale.remove(store, verdict)
            if kept_because is None:
                removed += 1
            else:
                print(f"{verdict.key}: kept: {kept_because.value}")
        print_note(f"{plural(removed, 'run')} removed")
    return 0
