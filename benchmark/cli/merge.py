"""merge: several people's results folders into one."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from benchmark.cli import common, options
from benchmark.cli.output import print_note, print_text
from benchmark.cli.parser import add_verb
from benchmark.errors import InputError
from benchmark.text import plural
from benchmark.work import merge
from benchmark.work.merge import Kind
from results.store import Store


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "merge",
        details="Copies records, curves, weights and the state of unfinished runs into the results folder. A "
        "run that has a result here is never overwritten. The command names runs whose numbers differ, "
        "damaged records, records of a newer version, and runs that somebody is training; it leaves them out "
        "and exits with 1. After an interruption, the same command continues.",
        example="merge /shared/anna/runs /shared/ben/runs --dry-run",
    )
    p.add_argument("folders", metavar="FOLDER", nargs="+", help="a results folder, such as results/runs")
    p.add_argument("--dry-run", action="store_true", help="only print what would be done")
    options.add_results_option(p)
    p.set_defaults(do=do_merge)


def do_merge(args: argparse.Namespace) -> int:
    store = common.store_of(args)
    sources = [_source(text, store) for text in args.folders]
    if not args.dry_run:
        common.writable(store.folder, "RESULTS")
    counts: Counter[Kind] = Counter()
    teachers: Counter[str] = Counter()
    for step in merge.merge(sources, store, args.dry_run):
        counts[step.kind] += 1
        if step.other_teacher:
            teachers[step.other_teacher] += 1
        if step.kind is not Kind.SAME:
            print_text(step.line(args.dry_run))
    for key, number in sorted(teachers.items()):
        print_note(
            f"{plural(number, 'added run')} learnt from other weights of {key} than those here; their "
            "records state the hash"
        )
    print_note(_summary(counts, store, args.dry_run))
    return 1 if any(counts[kind] for kind in merge.NOT_MERGED) else 0


def _source(text: str, store: Store) -> Path:
    """Return a folder to merge from. Raises `InputError` if it is not one."""
    folder = common.path_of(text)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the results folders of others")
    here, there = store.folder.resolve(), folder.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise InputError(f"{folder}: is the results folder {store.folder} itself, or one is in the other")
    if not merge.run_keys(folder):
        inner = folder / "runs"
        hint = f"give {inner}" if inner.is_dir() else "give a folder such as results/runs"
        raise InputError(f"{folder}: has no runs; {hint}")
    return folder


def _summary(counts: Counter[Kind], store: Store, dry_run: bool) -> str:
    finished, begun = counts[Kind.ADDED], counts[Kind.UNFINISHED_ADDED]
    verb = "would be added" if dry_run else "added"
    parts = [f"{plural(finished, 'finished run')} {verb} to {store.folder}"]
    if begun:
        parts.append(f"{plural(begun, 'unfinished run')} too")
    names = {
        Kind.COMPLETED: "completed by missing files",
        Kind.SAME: "here already",
        Kind.KEPT: "unfinished in both",
        Kind.CONFLICT: "in conflict: the run here stays",
        Kind.DAMAGED: "damaged",
        Kind.NEWER: "of a newer version: update kd-tables",
        Kind.BUSY: "being worked on",
    }
    return "; ".join(parts + [f"{counts[kind]} {words}" for kind, words in names.items() if counts[kind]])
