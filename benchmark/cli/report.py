"""report: one HTML page with all tables."""

from __future__ import annotations

import argparse
from typing import Any

from benchmark import data, longwork
from benchmark.cli import common, options
from benchmark.cli.output import print_note
from benchmark.cli.parser import add_verb
from benchmark.cli.report_groups import more_tables
from benchmark.cli.selection import NotInTable, Selection, listed_names, select
from benchmark.cli.tables import load_records, note_unpublished
from benchmark.data.clips import NAME as CLIPS
from benchmark.errors import InputError, unknown
from benchmark.spec import matrix, profiles
from benchmark.spec.runs import parse_pair
from benchmark.text import plural
from results.store import REFERENCE, Store, record_keys
from tables.report import write_report


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "report",
        details="Writes a self-contained index.html from the records that exist, and prints its path. "
        "Without a TABLE it shows all tables that have a record, and again those of other profiles, settings "
        "(--set) or teachers that have some.",
        example="report crd-table1 --profile paper",
    )
    p.add_argument(
        "tables", nargs="*", metavar="TABLE", help="tables to show (default: all that have a record)"
    )
    options.add_selection_options(p, table=False, single_runs=False)
    options.add_folder_options(p)
    options.add_out_option(p, "report", "folder for index.html")
    p.set_defaults(do=do_report)


def do_report(args: argparse.Namespace) -> int:
    out, store = common.folder_of(common.path_of(args.out), "--out"), common.store_to_read(args)
    keys = set() if args.tables else record_keys(store.folder) | record_keys(REFERENCE)
    chosen, profile = choose_tables(args, keys)
    suffix = max((c.expansion.suffix for c in chosen), default="")
    if not args.tables:
        chosen = with_groups(args, chosen, keys, store)
    common.writable(out, "--out")
    frame = load_records(store, (run for c in chosen for run in c.expansion.runs))
    shown = dict.fromkeys(c.expansion.profile for c in chosen)
    if not args.tables and args.profile is None and profile not in shown:
        print_note(
            f"no record of profile {profile}; showing {', '.join(shown)} instead "
            "(choose with PROFILE= or --profile)"
        )
    if not args.tables and not data.info(CLIPS).identity and any(key.startswith(f"{CLIPS}/") for key in keys):
        print_note(
            f"runs on clips are left out: {args.data} has no clips "
            "(give the folder that they were trained on by DATA= or --data)"
        )
    if not frame["key"].isin([r.key for c in chosen for r in c.runs]).any():
        names = ", ".join(c.expansion.table.name for c in chosen)
        print_note(
            f"no record of profile {chosen[0].profile} in {store.folder}: the page shows {names} without "
            "results"
        )
    if args.tables:
        for c in chosen:
            note_unpublished(c.expansion.table)
    with longwork.task(f"writing the report on {plural(len(chosen), 'table')}"):
        page = write_report([c.expansion for c in chosen], frame, store, out, suffix=suffix)
    print(page)
    return 0


def choose_tables(args: argparse.Namespace, keys: set[str]) -> tuple[list[Selection], str]:
    """Return the tables to show, at least one, and the profile that was asked for or is the default.

    These are the tables that were named, or all that have a record. If no profile was asked for and the
    default one has no record, another one that has records is shown. keys: those of all records, which count
    if no table is named.
    """
    if args.tables:
        named = [select(args, table_name=n, quiet=True) for n in args.tables]
        return named, named[0].profile
    args_by_table = narrow_by_table(args)
    selections, errors = select_all(args_by_table)
    if not selections:
        raise errors[0]
    default = selections[0].profile
    others = [] if args.profile else [p for p in profiles.PROFILES if p != default]
    for profile in (default, *others):
        if profile != default:
            with_profile = {n: _replace(a, profile=profile) for n, a in args_by_table.items()}
            candidates = select_all(with_profile)[0]
        else:
            candidates = selections
        if with_records := [s for s in candidates if any(r.key in keys for r in s.runs)]:
            return with_records, default
    return selections[:1], default


def with_groups(
    args: argparse.Namespace, chosen: list[Selection], keys: set[str], store: Store
) -> list[Selection]:
    """Return the tables, and more for the records that they lack.

    A table whose only records are reference records that those have too gives way.
    """
    more = more_tables(narrow_by_table(args), chosen, keys, store)
    others = {r.key for c in more for r in c.expansion.runs} - record_keys(store.folder)
    kept = [c for c in chosen if any(r.key in keys - others for r in c.expansion.runs)]
    return [*kept, *more] or chosen


def narrow_by_table(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Return the tables that have one of the pairs and one of the methods asked for, by name.

    Each comes with its arguments: they ask only for the pairs and methods that it has. Raises `InputError`
    for a name that no table has, and if no table has both.
    """
    pairs = [":".join(parse_pair(p)) for p in listed_names("--pairs", args.pairs)]
    method_names = listed_names("--methods", args.methods)
    narrowed: dict[str, argparse.Namespace] = {}
    all_pairs, all_labels = set[str](), set[str]()
    for name in matrix.table_names():
        table = matrix.load_table(name)
        table_pairs = {f"{teacher}:{student}" for teacher, student in table.columns}
        rows = [r for r in table.rows if r.method not in ("teacher", "student")]
        labels = {text.lower() for r in rows for text in (r.method, r.label)}
        all_pairs, all_labels = all_pairs | table_pairs, all_labels | labels
        shared_pairs = [p for p in pairs if p in table_pairs]
        shared_methods = [m for m in method_names if m.lower() in labels]
        if (shared_pairs or not pairs) and (shared_methods or not method_names):
            narrowed[name] = _replace(
                args, pairs=",".join(shared_pairs) or None, methods=",".join(shared_methods) or None
            )
    for pair in pairs:
        if pair not in all_pairs:
            raise unknown("pair in all tables:", pair, sorted(all_pairs))
    for method in method_names:
        if method.lower() not in all_labels:
            raise unknown("method in all tables:", method, sorted(all_labels))
    if not narrowed:
        raise InputError(
            f"no table has both --pairs {args.pairs} and --methods {args.methods}; "
            "give a pair and a method of one table"
        )
    return narrowed


def select_all(
    args_by_table: dict[str, argparse.Namespace],
) -> tuple[list[Selection], list[InputError]]:
    """Return the selections of the tables that have what is asked for, and the errors of the others."""
    selections, errors = list[Selection](), list[InputError]()
    for name, args in longwork.each(args_by_table.items(), "looking at all tables", "tables"):
        try:
            selections.append(select(args, table_name=name, quiet=True))
        except NotInTable as error:
            errors.append(error)
    return selections, errors


def _replace(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **changes})
