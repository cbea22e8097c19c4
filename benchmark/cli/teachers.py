"""methods, teachers: what there is to run."""

from __future__ import annotations

import argparse
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

from benchmark import data, methods
from benchmark.cli import common
from benchmark.errors import InputError
from benchmark.spec import matrix, protocols
from benchmark.spec.runs import NONE, Request, Resolver, Run
from benchmark.training.execution import choose
from benchmark.training.pack import Options, train_pack
from results.store import REFERENCE, Store


def register(verbs: Any) -> None:
    p = verbs.add_parser(
        "methods", help="every method with formula, citation, needs, hyper-parameters and their sources"
    )
    p.add_argument(
        "name",
        nargs="?",
        default="",
        metavar="NAME",
        help="a method, a combination (kd+at), or a table: all its methods",
    )
    p.add_argument("--bibtex", action="store_true", help="BibTeX entries; of a table: all that it rests on")
    p.add_argument("--markdown", action="store_true", help="the README's table of methods")
    common.add_json(p)
    p.set_defaults(do=do_methods)

    p = verbs.add_parser(
        "teachers",
        help="teachers of the tables: which exist, their accuracy beside the published ones, where each came from",
    )
    p.add_argument(
        "--dataset", default=None, help=f"{', '.join(data.DATASETS)} (default: the profile's, else cifar100)"
    )
    p.add_argument(
        "--profile",
        default=common.variable("PROFILE", "paper"),
        help=f"{', '.join(protocols.PROFILES)} (default: $PROFILE, else paper)",
    )
    p.add_argument(
        "--test",
        action="store_true",
        help="measure the checkpoints of TEACHERS= on the test set (stored as records)",
    )
    p.add_argument(
        "--per-class", action="store_true", help="also the accuracy of imported checkpoints in each class"
    )
    common.add_places(p)
    common.add_json(p)
    p.set_defaults(do=do_teachers)


def describe(name: str) -> dict[str, Any]:
    """All that a method says of itself, as JSON data."""
    m = methods.get(name)
    spec = methods.MethodSpec(
        name, (methods.Component(m, m.Config()),), 1.0
    )  # not parsed: a wrapper cannot stand alone
    needs = spec.needs()
    return {
        "name": m.name,
        "title": m.title,
        "formula": m.formula,
        "paper": m.paper,
        "bibtex": m.bibtex,
        "revision": m.revision,
        "source": m.source,
        "student": sorted(needs.student),
        "teacher": sorted(needs.teacher),
        "views": [v.name for v in needs.views],
        "teacher_views": [v.name for v in needs.passes],
        "sampler": m.sampler.name,
        "init_epochs": m.init_epochs,
        "requires": list(spec.requires),
        "trains_student": m.trains_student,
        "combined": dict(m.combined),
        "at_test": m.at_test,
        "hyper_parameters": methods.hyper_parameters(m.Config),
        "doc": inspect.getdoc(sys.modules[m.__module__]) or "",
    }


def markdown_table() -> str:
    """The README's table of methods, generated from the methods themselves."""
    lines = ["| method | loss | reads | paper |", "|---|---|---|---|"]
    for name in methods.names():
        d = describe(name)
        formula = d["formula"].replace("|", "\\|").replace("\n", " ")
        stage = f", after {d['init_epochs']} epochs of initialisation" if d["init_epochs"] else ""
        reads = ", ".join(x for x in d["student"] if x != "logits" or d["student"] == ["logits"]) + stage
        lines.append(f"| `{name}` | {formula} | {reads or 'teacher only'} | {d['paper']} |")
    return "\n".join(lines)


def do_methods(args: argparse.Namespace) -> int:
    if args.name in matrix.table_names() or args.name.endswith(".toml"):
        of_rows = [
            r.method for r in matrix.load_table(args.name).rows if r.method not in ("teacher", "student")
        ]
        names = [n for n in of_rows if all(w in methods.names() for w in n.split("+"))]
    else:
        names = [args.name.lower()] if args.name else list(methods.names())
    names = list(dict.fromkeys(w for n in names for w in n.split("+")))
    found = [describe(n) for n in names]
    if args.json:
        common.print_json(found[0] if args.name and len(found) == 1 else found)
    elif args.bibtex:
        print("\n\n".join(dict.fromkeys(d["bibtex"] for d in found)))
    elif args.markdown:
        print(markdown_table())
    elif args.name:
        for d in found:
            _print_method(d)
    else:
        for d in found:
            print(f"{d['name']:<12} {d['title']}: {d['formula']}")
            print(f"{'':<12} {d['paper']}")
            values = ", ".join(f"{h['name']} {h['default']}" for h in d["hyper_parameters"])
            print(
                f"{'':<12} reads {', '.join(d['student']) or 'no student'}; of the teacher {', '.join(d['teacher']) or 'nothing'}; {values}"
            )
        print("\n`methods NAME` says where each constant comes from; `a+b` combines (kd+at).")
    return 0


def _print_method(d: dict[str, Any]) -> None:
    print(
        f"{d['name']} (revision {d['revision']}, source {d['source']}): {d['title']}\n  {d['formula']}\n  {d['paper']}\n"
    )
    print(d["doc"])
    print(
        f"\nreads of the student: {', '.join(d['student']) or 'nothing'}; of the teacher: {', '.join(d['teacher']) or 'nothing'}; "
        f"views: {', '.join(d['views'])}"
        + (f"; initialisation stage of {d['init_epochs']} epochs" if d["init_epochs"] else "")
    )
    if d["at_test"]:
        print(f"kept at test time beside the student: {d['at_test']}")
    for h in d["hyper_parameters"]:
        print(f"  {h['name']} = {h['default']!r} ({h['type']}): {h['help']} [{h['source']}]")
    if d["combined"]:
        print(f"  in a combination: {', '.join(f'{k} = {v}' for k, v in d['combined'].items())}")


def teacher_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a teacher network and protocol of the tables: state, accuracy, the published accuracies, origin."""
    from results import published

    store = common.store_of(args)
    imported = common.imported_of(args)
    wanted: dict[tuple[str, str], None] = {}
    for name in matrix.table_names():
        table = matrix.load_table(name)
        if data.info(table.dataset).of_folder != data.info(args.dataset).of_folder:
            continue  # sounds and images have teachers of their own
        for teacher, _ in table.columns:
            if teacher != NONE:
                wanted[teacher, protocols.get_protocol(table.protocol).teacher_protocol] = None
    resolver = Resolver()
    rows = []
    for network, protocol in wanted:
        run = resolver.run(Request(args.dataset, protocol, args.profile, NONE, network, methods.PLAIN), 0)
        record = store.record(run.key) or {}
        prints = published.load()
        rule = prints[
            (prints["teacher"] == network)
            & (prints["method"] == "teacher")
            & (prints["paper"] == protocol)
            & (prints["dataset"] == args.dataset)
        ]
        values = sorted({float(v) for v in rule["value"].dropna()})
        rows.append(
            {
                "network": network,
                "protocol": protocol,
                "origin": "trained here",
                "state": store.state(run.key),
                "top1_last": record.get("top1_last"),
                "top1_best": record.get("top1_best"),
                "published": values,
                "key": run.key,
            }
        )
    for (dataset, network), ref in imported.items():
        if dataset != args.dataset:
            continue
        run = Resolver(imported).imported_run(dataset, args.profile, ref, "crd")
        record, where = _measured(store, run)
        prints = published.load()
        rule = prints[
            (prints["teacher"] == network)
            & (prints["method"] == "teacher")
            & (prints["dataset"] == args.dataset)
        ]
        values = sorted({float(v) for v in rule["value"].dropna()})
        rows.append(
            {
                "network": network,
                "protocol": "any",
                "origin": f"imported: {Path(ref.path).name} (weights {ref.weights})",
                "state": f"tested{where}" if record else "not tested (--test)",
                "top1_last": record.get("top1_last"),
                "top1_best": record.get("top1_best"),
                "published": values,
                "key": record.get("key", run.key),
                "per_class": record.get("per_class", {}),
            }
        )
    return rows


def _measured(store: Store, run: Run) -> tuple[dict[str, Any], str]:
    """The record of an imported checkpoint on the whole test set and where it is from: that of the run itself, else of any protocol (they
    differ in the fourth decimal of the mean that is subtracted), else of the reference results. Empty where there is none."""
    if record := store.record(run.key):
        return record, ""
    pattern = f"{run.dataset}/*/*/none-{run.student}/imported/{run.key.rpartition('/')[2]}/record.json"
    for folder, where in ((store.folder, ""), (REFERENCE, " (reference results)")):
        for path in sorted(folder.glob(pattern)):
            record = Store(folder).record(path.parent.relative_to(folder).as_posix()) or {}
            if record.get("test_images") == data.info(run.dataset).test_images:
                return record, where
    return {}, ""


def _classes(found: dict[str, float]) -> str:
    """`44.0 (seal) to 95.0 (road)`."""
    if not found:
        return ""
    low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    return f"{found[low]:.1f} ({low}) to {found[high]:.1f} ({high})"


def do_teachers(args: argparse.Namespace) -> int:
    from tabulate import tabulate

    profile = protocols.get_profile(args.profile)
    if args.dataset is None:
        args.dataset = profile.dataset or "cifar100"
    data.info(args.dataset)
    if args.test:
        if not args.teachers:
            raise InputError("teachers --test needs TEACHERS= or --teachers: a folder of checkpoints")
        resolver = common.resolver_of(args)
        store = common.store_of(args)
        options = Options(choose(precision="fp32"), common.path_of(args.data))
        for (dataset, _), ref in resolver.imported.items():
            if dataset == args.dataset:
                train_pack([resolver.imported_run(dataset, args.profile, ref, "crd")], store, options)
    rows = teacher_rows(args)
    for (dataset, _), ref in common.imported_of(args).items():
        if dataset != args.dataset:
            common.say(
                f"{Path(ref.path).name} is left out: by its number of classes it counts for {dataset}, not for {args.dataset}"
            )
    if args.json:
        common.print_json(rows)
        return 0

    def number(x: float | None) -> str:
        return "" if x is None else f"{x:.2f}"

    body = [
        [
            r["network"],
            r["protocol"],
            r["state"],
            number(r["top1_last"]),
            number(r["top1_best"]),
            " ".join(map(number, r["published"])),
            _classes(r.get("per_class", {})),
            r["origin"],
        ]
        for r in rows
    ]
    print(
        tabulate(
            body,
            [
                "teacher",
                "protocol",
                "state",
                "top-1 last",
                "top-1 best*",
                "published",
                "by class, from the worst to the best",
                "origin",
            ],
            disable_numparse=True,
        )
    )
    print("* the best epoch is chosen on the test set, as the papers do")
    for r in rows if args.per_class else ():
        if found := r.get("per_class"):
            print(f"\n{r['network']}, {r['origin']}: top-1 by class")
            print(
                textwrap.fill(
                    "; ".join(f"{n} {v:.1f}" for n, v in sorted(found.items(), key=lambda x: x[1])), 140
                )
            )
    return 0
