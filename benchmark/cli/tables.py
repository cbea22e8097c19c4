"""table, diff, report, published: the regenerated tables beside the printed numbers."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

import models
from benchmark import data, methods
from benchmark.cli import common
from benchmark.cli.common import say
from benchmark.data.clips import NAME as CLIPS
from benchmark.errors import InputError, unknown
from benchmark.spec import matrix, protocols
from benchmark.spec.runs import NONE, parse_pair
from results.store import Store, load


def register(verbs: Any) -> None:
    p = verbs.add_parser(
        "table", help="the regenerated table, from the records that are there; writes md, tex, csv, png"
    )
    common.add_selection(p, only=False)
    common.add_places(p)
    p.add_argument(
        "--out",
        default="tables/out",
        metavar="DIR",
        help="where the files go (default: tables/out; /dev/null: nowhere)",
    )
    p.add_argument("--format", default="plain", choices=("plain", "md", "tex", "csv"), help="what is printed")
    p.add_argument(
        "--figures",
        action="store_true",
        help="also png of the differences, a forest plot, and every cell's training curves",
    )
    p.set_defaults(do=do_table)

    p = verbs.add_parser(
        "diff", help="ours beside the printed numbers, with verdicts; exit 1 if one is above or below"
    )
    common.add_selection(p, only=False)
    common.add_places(p)
    p.add_argument(
        "--format",
        default=None,
        choices=("plain", "md", "tex", "csv", "json"),
        help="what is printed (default: plain)",
    )
    p.add_argument("--json", action="store_true", help="the same as --format json")
    p.add_argument(
        "--against", default=None, metavar="PAPER", help="another paper's printed numbers for the same cells"
    )
    p.add_argument(
        "--fail-on",
        default=None,
        metavar="V,..",
        help="verdicts that make the exit code 1: above, below, or none (default: above,below)",
    )
    p.add_argument(
        "--curves", action="store_true", help="epoch by epoch against the published training curves"
    )
    p.set_defaults(do=do_diff)

    p = verbs.add_parser("report", help="one self-contained HTML page with all tables, curves and verdicts")
    p.add_argument("tables", nargs="*", metavar="TABLE", help="tables (default: all that have a record)")
    common.add_selection(p, table=False, only=False)
    common.add_places(p)
    p.add_argument("--out", default="report", metavar="DIR", help="where index.html goes (default: report)")
    p.set_defaults(do=do_report)

    p = verbs.add_parser("published", help="every printed value of a cell, and how they disagree")
    p.add_argument(
        "--pair", default="", metavar="T:S", help="networks of models/ or of the registry (ResNet34:ResNet18)"
    )
    p.add_argument("--method", default="", help="as in the registry: kd, crd+kd, teacher, student ...")
    p.add_argument("--dataset", default="", help="only this data set's numbers (default: of every data set)")
    p.add_argument("--metric", default="top1", help="top1 (default) or top5")
    p.add_argument(
        "--validate", action="store_true", help="check the registry instead; exit 1 if something is wrong"
    )
    common.add_json(p)
    p.set_defaults(do=do_published)


def frame_of(store: Store) -> pd.DataFrame:
    """All records (and the reference records) as one frame; files that are no records are named on standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = load(store.folder, reference=True)
    for w in caught:
        say(f"skipped: {w.message}")
    return frame


def _note_nothing_published(chosen: common.Selection) -> None:
    from tables import published_cells

    if line := published_cells.nothing_published(chosen.expansion.table):
        say(f"note: {line}")


def show(chosen: common.Selection, store: Store, out: Path, alias: str | None) -> None:
    """Writes the table's files, prints the table and its diff."""
    from tables import diff, diff_text, render

    _note_nothing_published(chosen)
    frame = frame_of(store)
    paths = render.write_all(chosen.expansion, frame, out, alias=alias, store=store)
    print(render.render(chosen.expansion, frame, "plain", store))
    print()
    print(
        diff_text.format_diff(
            diff.diff_table(chosen.expansion, frame, store=store), "plain", color=sys.stdout.isatty()
        )
    )
    say("wrote " + ", ".join(str(p) for p in paths))


def do_table(args: argparse.Namespace) -> int:
    from tables import render

    chosen = common.select(args)
    nowhere = args.out == os.devnull
    store = common.store_to_read(args)
    out = Path(args.out) if nowhere else common.writable(common.path_of(args.out), "--out")
    frame = frame_of(store)
    paths = [] if nowhere else render.write_all(chosen.expansion, frame, out, store=store)
    print(render.render(chosen.expansion, frame, args.format, store))
    if args.figures and not nowhere:
        from tables import plots

        paths += plots.write_figures(chosen.expansion, frame, store, out)
    say("wrote " + (", ".join(str(p) for p in paths) or "nothing"))
    return 0


def do_diff(args: argparse.Namespace) -> int:
    from tables import diff, diff_text

    allowed = {"above", "below"}
    fail_on = allowed if args.fail_on is None else set(common.words(args.fail_on)) - {"none"}
    if fail_on - allowed:
        raise InputError(f"--fail-on {args.fail_on}; allowed: above, below, none")
    if args.json and args.format not in (None, "json"):
        raise InputError(f"--json with --format {args.format}; allowed: one of them")
    if args.curves and not (args.fail_on is None and args.against is None):
        raise InputError(
            "--curves with --fail-on or --against, which are about the table's cells; allowed: one of them"
        )
    chosen = common.select(args)
    store = common.store_to_read(args)
    fmt = "json" if args.json else args.format or "plain"
    if args.curves:
        from tables import curves

        print(curves.format_curves(chosen.expansion, frame_of(store), store, fmt))
        return 0
    if args.against is None:
        _note_nothing_published(chosen)
    found = diff.diff_table(chosen.expansion, frame_of(store), against=args.against, store=store)
    print(diff_text.format_diff(found, fmt, color=sys.stdout.isatty()))
    return diff.exit_code(found, fail_on)


def do_report(args: argparse.Namespace) -> int:
    from tables import report

    out, store = common.folder_of(common.path_of(args.out), "--out"), common.store_to_read(args)
    frame = frame_of(store)
    chosen, profile = _reported(args, set(frame["key"]))
    common.writable(out, "--out")
    if not args.tables and args.profile is None and profile != chosen[0].expansion.profile:
        say(
            f"no record of profile {profile}; shown is {chosen[0].expansion.profile} (PROFILE= or --profile chooses)"
        )
    if not args.tables and not data.info(CLIPS).identity and (frame["dataset"] == CLIPS).any():
        say(
            f"runs of clips are left out: {args.data} holds none (DATA= or --data names the folder that they were made of)"
        )
    if not frame["key"].isin([r.key for c in chosen for r in c.runs]).any():
        names = ", ".join(c.expansion.table.name for c in chosen)
        say(
            f"no record of profile {chosen[0].profile} in {store.folder}: the page shows {names} without results"
        )
    for c in chosen if args.tables else ():
        _note_nothing_published(c)
    print(report.write_report([c.expansion for c in chosen], frame, store, out))
    return 0


def _reported(args: argparse.Namespace, keys: set[str]) -> tuple[list[common.Selection], str]:
    """The tables that are shown, one at least, and the profile that was meant: the tables named, or all that have a record.

    keys: of the records. Where no profile is asked for and the usual one has no record, another that has some is shown.
    """
    if args.tables:
        named = [common.select(args, name=n, quiet=True) for n in args.tables]
        return named, named[0].profile
    asked = _tables_with(args)
    named, lacking = _selected(asked)
    if not named:
        raise lacking[0]
    usual = named[0].profile
    others = [] if args.profile else [p for p in protocols.PROFILES if p != usual]
    for profile in (usual, *others):
        every = (
            named
            if profile == usual
            else _selected({n: _with_profile(a, profile) for n, a in asked.items()})[0]
        )
        if shown := [s for s in every if any(r.key in keys for r in s.runs)]:
            return shown, usual
    return named[:1], usual


def _tables_with(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """All tables that have one of the pairs and one of the methods asked for, each with the arguments that ask for those that it has.

    `InputError` for a name that no table has, and where no table has both."""
    pairs = [":".join(parse_pair(p)) for p in common.narrowed("--pairs", args.pairs)]
    rows = common.narrowed("--methods", args.methods)
    found, columns, labels = {}, set[str](), set[str]()
    for name in matrix.table_names():
        table = matrix.load_table(name)
        own_columns = {f"{a}:{b}" for a, b in table.columns}
        own = [r for r in table.rows if r.method not in ("teacher", "student")]
        own_labels = {x.lower() for r in own for x in (r.method, r.label)}
        columns, labels = columns | own_columns, labels | own_labels
        here, made = [p for p in pairs if p in own_columns], [m for m in rows if m.lower() in own_labels]
        if (here or not pairs) and (made or not rows):
            found[name] = argparse.Namespace(
                **{**vars(args), "pairs": ",".join(here) or None, "methods": ",".join(made) or None}
            )
    for pair in pairs:
        if pair not in columns:
            raise unknown("pair in all tables:", pair, sorted(columns))
    for method in rows:
        if method.lower() not in labels:
            raise unknown("method in all tables:", method, sorted(labels))
    if not found:
        raise InputError(
            f"no table has both --pairs {args.pairs} and --methods {args.methods}; allowed: those of one table"
        )
    return found


def _selected(asked: dict[str, argparse.Namespace]) -> tuple[list[common.Selection], list[InputError]]:
    """The tables that have what `--set` asks for and whose clips are there, and what was said of the others."""
    found, lacking = [], list[InputError]()
    for name, args in asked.items():
        try:
            found.append(common.select(args, name=name, quiet=True))
        except common.NotInTable as error:
            lacking.append(error)
    return found, lacking


def _with_profile(args: argparse.Namespace, profile: str) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), "profile": profile})


def do_published(args: argparse.Namespace) -> int:
    from results import published

    if args.validate:
        if args.pair or args.method or args.dataset or args.json or args.metric != "top1":
            raise InputError("published --validate with a cell or --json; allowed: it alone")
        problems = published.validate()
        for line in problems:
            print(line)
        say(
            common.plural(len(problems), "problem")
            if problems
            else f"{len(published.load())} printed numbers, no problem"
        )
        return 1 if problems else 0
    if not args.pair or not args.method:
        raise InputError(
            "published needs --pair T:S and --method M (or --validate); allowed: e.g. --pair resnet32x4:resnet8x4 --method kd"
        )
    teacher, student, method, datasets = _printed_cell(args)
    if args.json:
        rows = published.cells(
            teacher=teacher, student=student, method=method, dataset=args.dataset or None, metric=args.metric
        )
        print(rows.to_json(orient="records", indent=1))
        return 0
    print("\n\n".join(published.format_cell(teacher, student, method, d, args.metric) for d in datasets))
    return 0


def _printed_cell(args: argparse.Namespace) -> tuple[str, str, str, list[str]]:
    """Teacher, student, method and the data sets that print a number of them (one at least). `InputError` for a name that nobody knows.

    The registry holds pairs and methods that are not trained here: ImageNet's, and networks that only share a name with ours.
    """
    from results import published

    frame = published.load()
    teacher, colon, student = args.pair.partition(":")
    if not colon or not teacher or not student:
        raise InputError(
            f"pair '{args.pair}' is not of the form teacher:student; allowed: e.g. resnet56:resnet20"
        )
    networks = [*models.names(), NONE, *sorted({*frame["teacher"], *frame["student"]})]
    for name in (teacher, student):
        if name not in networks:
            raise unknown("network", name, dict.fromkeys(networks))
    method = args.method.lower()
    printed = sorted(set(frame["method"]))
    if method not in printed and any(w not in (*printed, *methods.names()) for w in method.split("+")):
        raise unknown("method", method, printed)
    for kind, name in (("dataset", args.dataset), ("metric", args.metric)):
        if name and name not in set(frame[kind]):
            raise unknown("data set" if kind == "dataset" else kind, name, sorted(set(frame[kind])))
    if args.dataset:
        return teacher, student, method, [args.dataset]
    of_pair = frame[
        (frame["teacher"] == teacher) & (frame["student"] == student) & (frame["metric"] == args.metric)
    ]
    of_pair = of_pair[of_pair["value"].notna()]
    usual = {"cifar100"} if NONE in (teacher, student) else set(of_pair["dataset"][:1]) or {"cifar100"}
    found = set(of_pair[of_pair["method"] == method]["dataset"]) or usual
    return teacher, student, method, sorted(found, key=lambda d: (d != "cifar100", d))
