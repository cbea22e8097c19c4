"""table, diff: the regenerated tables beside the published ones."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark import longwork
from benchmark.cli import common, options, summary
from benchmark.cli.output import print_note
from benchmark.cli.parser import add_verb
from benchmark.cli.selection import Selection, select, split_list
from benchmark.errors import InputError
from benchmark.spec.matrix import Table
from benchmark.spec.runs import Run
from results import imported_logs
from results.store import Store, load
from tables import curves, diff, diff_text, plots, published_cells, render
from tables.verdicts import FAILING, MAY_FAIL


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "table",
        details="Makes the table from the records that exist. Cells without a record stay empty. Trains "
        "nothing.",
        example="table crd-table1 --profile paper --format md",
    )
    options.add_selection_options(p, single_runs=False)
    options.add_folder_options(p)
    options.add_out_option(p, "tables/out", "folder for the files; /dev/null writes none")
    p.add_argument(
        "--format",
        default="plain",
        choices=("plain", "md", "tex", "csv"),
        help="format to print (default: plain)",
    )
    p.add_argument(
        "--figures",
        action="store_true",
        help="also draw the differences, a forest plot, and the training curves of every cell, as png, pdf "
        "and svg",
    )
    p.set_defaults(do=do_table)

    p = add_verb(
        verbs,
        "diff",
        details="Prints our value and the published value of each cell, their difference and a verdict. "
        "Exits with 1 if a cell differs from the published value, by a rule that allows for seeds, other "
        "teachers and the number of cells.",
        example="diff crd-table1 --profile paper",
    )
    options.add_selection_options(p, single_runs=False)
    options.add_folder_options(p)
    p.add_argument(
        "--format",
        default=None,
        choices=("plain", "md", "tex", "csv", "json"),
        help="format to print (default: plain)",
    )
    p.add_argument("--json", action="store_true", help="the same as --format json")
    p.add_argument(
        "--against",
        default=None,
        metavar="PAPER",
        help="compare with this paper's values of the same cells (default: the table's own paper)",
    )
    p.add_argument(
        "--fail-on",
        default=None,
        metavar="V,..",
        help="verdicts that make the exit code 1: differs, undecided, or none (default: differs)",
    )
    p.add_argument(
        "--curves",
        action="store_true",
        help="compare with the published training curves instead, epoch by epoch",
    )
    p.set_defaults(do=do_diff)


def load_records(store: Store, runs: Iterable[Run]) -> pd.DataFrame:
    """Return the records of runs, ours and the reference records, and all imported logs.

    Files that are not records are named on stderr.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with longwork.task(f"reading the records in {store.folder}"):
            frame = load(store.folder, reference=True, keys=[run.key for run in runs])
        logs = imported_logs.load(store.folder)
    for w in caught:
        print_note(f"skipped: {w.message}")
    return join(frame, logs)


def join(*frames: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all frames. Empty ones are left out, because pandas warns of them."""
    filled = [f for f in frames if len(f)]
    return pd.concat(filled, ignore_index=True) if len(filled) > 1 else (filled or [frames[0]])[0]


def note_unpublished(table: Table) -> None:
    """Print notes if the table has no published values, or has some that no cell takes.

    A name in them may be mistyped.
    """
    if line := published_cells.nothing_published(table):
        print_note(f"note: {line}")
    for line in published_cells.rows_without_cell(table):
        print_note(f"note: {line}")


def show(
    args: argparse.Namespace, chosen: Selection, store: Store, out: Path, alias: str | None, seconds: float
) -> None:
    """Write the table's files, and print one screen about it.

    alias: a second name for the files. seconds: how long the command has trained.
    """
    note_unpublished(chosen.expansion.table)
    frame = load_records(store, chosen.expansion.runs)
    with longwork.task("writing the table"):
        paths = render.write_all(chosen.expansion, frame, out, alias=alias, store=store)
    lines = summary.lines(
        args,
        chosen,
        store,
        layout=render.lay_out(chosen.expansion, frame, store),
        diffs=diff.diff_table(chosen.expansion, frame, store=store),
        paths=paths,
        seconds=seconds,
    )
    print("\n".join(line.rstrip() for line in lines))


def do_table(args: argparse.Namespace) -> int:
    chosen = select(args)
    writes = args.out != os.devnull
    store = common.store_to_read(args)
    out = common.writable(common.path_of(args.out), "--out") if writes else Path(args.out)
    frame = load_records(store, chosen.expansion.runs)
    with longwork.task("writing the table"):
        paths = render.write_all(chosen.expansion, frame, out, store=store) if writes else []
    print(render.render(chosen.expansion, frame, args.format, store))
    if args.figures and writes:
        with longwork.task("drawing the figures"):
            paths += plots.write_figures(chosen.expansion, frame, store, out)
    print_note("wrote " + (", ".join(str(p) for p in paths) or "nothing"))
    return 0


def do_diff(args: argparse.Namespace) -> int:
    fail_on = set(FAILING) if args.fail_on is None else set(split_list(args.fail_on)) - {"none"}
    if not fail_on <= set(MAY_FAIL):
        raise InputError(f"--fail-on {args.fail_on}; allowed: {', '.join(MAY_FAIL)}, none")
    if args.json and args.format not in (None, "json"):
        raise InputError(f"--json cannot be combined with --format {args.format}; give one of them")
    if args.curves and not (args.fail_on is None and args.against is None):
        raise InputError(
            "--curves cannot be combined with --fail-on or --against, which concern the cells of the table"
        )
    chosen = select(args)
    store = common.store_to_read(args)
    fmt = "json" if args.json else args.format or "plain"
    if args.curves:
        print(curves.format_curves(chosen.expansion, load_records(store, chosen.expansion.runs), store, fmt))
        return 0
    if args.against is None:
        note_unpublished(chosen.expansion.table)
    frame = load_records(store, chosen.expansion.runs)
    with longwork.task("comparing with the published values"):
        cells = diff.diff_table(chosen.expansion, frame, against=args.against, store=store)
    print(diff_text.format_diff(cells, fmt, color=sys.stdout.isatty()))
    return diff.exit_code(cells, fail_on)
