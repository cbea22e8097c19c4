"""methods: what each method computes, and where its constants come from."""

from __future__ import annotations

import argparse
import inspect
import sys
from typing import Any

from benchmark import methods
from benchmark.cli.output import print_json, print_text
from benchmark.cli.parser import add_json_option, add_verb
from benchmark.spec import matrix


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "methods",
        details="Lists all methods. With a NAME, it also prints which views and features the method needs, "
        "where each of its constants comes from, and the constants that its authors chose for each pair.",
        example="methods crd",
    )
    p.add_argument(
        "name",
        nargs="?",
        default="",
        metavar="NAME",
        help="a method, a combination such as kd+at, or a table for all its methods (default: all methods)",
    )
    p.add_argument("--bibtex", action="store_true", help="print BibTeX entries to cite")
    p.add_argument("--markdown", action="store_true", help="print the table of all methods for the docs")
    add_json_option(p)
    p.set_defaults(do=do_methods)


def describe(name: str) -> dict[str, Any]:
    """Return everything that a method declares, as JSON data."""
    m = methods.get(name)
    # Built directly: `methods.parse` refuses a wrapper that wraps nothing.
    spec = methods.MethodSpec(name, (methods.Component(m, m.Config()),), 1.0)
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
        "teacher": sorted(needs.teacher | needs.teacher_in_train),
        "views": [v.name for v in needs.views],
        "teacher_views": [v.name for v in needs.passes],
        "sampler": m.sampler.name,
        "init_epochs": m.init_epochs,
        "requires": list(spec.requires),
        "trains_student": m.trains_student,
        "combined": dict(m.combined_defaults),
        "pair_constants": [
            {
                "settings": list(t.settings),
                "source": t.source,
                "pairs": {p: list(v) for p, v in t.pairs.items()},
            }
            for t in m.pair_constants
        ],
        "at_test": m.at_test,
        "hyper_parameters": methods.hyper_parameters(m.Config),
        "doc": inspect.getdoc(sys.modules[m.__module__]) or "",
    }


def markdown_table() -> str:
    """Return the documentation's table of methods."""
    lines = ["| method | loss | reads | paper |", "|---|---|---|---|"]
    for name in methods.names():
        d = describe(name)
        formula = d["formula"].replace("|", "\\|").replace("\n", " ")
        stage = f", after {d['init_epochs']} epochs of initialisation" if d["init_epochs"] else ""
        features = ", ".join(x for x in d["student"] if x != "logits" or d["student"] == ["logits"]) + stage
        lines.append(f"| `{name}` | {formula} | {features or 'teacher only'} | {d['paper']} |")
    return "\n".join(lines)


def chosen_methods(name: str) -> list[str]:
    """Return the methods of a table, the parts of a combination, one method, or all of them.

    Raises `InputError` for a combination that no run can have.
    """
    if not name:
        return list(methods.names())
    if name in matrix.table_names() or name.endswith(".toml"):
        rows = [r.method for r in matrix.load_table(name).rows if r.method not in ("teacher", "student")]
        names = [n for n in rows if all(part in methods.names() for part in n.split("+"))]
    else:
        names = [methods.parse(name.lower()).name if "+" in name else name.lower()]
    return list(dict.fromkeys(part for n in names for part in n.split("+")))


def do_methods(args: argparse.Namespace) -> int:
    described = [describe(n) for n in chosen_methods(args.name)]
    if args.json:
        print_json(described[0] if args.name and len(described) == 1 else described)
    elif args.bibtex:
        print("\n\n".join(dict.fromkeys(d["bibtex"] for d in described)))
    elif args.markdown:
        print(markdown_table())
    elif args.name:
        for d in described:
            _print_method(d)
    else:
        for d in described:
            _print_summary(d)
        print_text("\n`methods NAME` prints the source of each constant. Combine methods with +, e.g. kd+at.")
    return 0


def _print_summary(d: dict[str, Any]) -> None:
    values = ", ".join(f"{h['name']} {h['default']}" for h in d["hyper_parameters"])
    print_text(f"{d['name']:<12} {d['title']}: {d['formula']}")
    print_text(f"{'':<12} {d['paper']}")
    print_text(
        f"{'':<12} reads from the student: {', '.join(d['student']) or 'nothing'}; "
        f"from the teacher: {', '.join(d['teacher']) or 'nothing'}; {values}"
    )


def _print_method(d: dict[str, Any]) -> None:
    print_text(f"{d['name']} (revision {d['revision']}, source {d['source']}): {d['title']}")
    print_text(f"  {d['formula']}\n  {d['paper']}\n")
    print_text(d["doc"])
    stage = f"; initialisation stage of {d['init_epochs']} epochs" if d["init_epochs"] else ""
    print_text(
        f"\nreads from the student: {', '.join(d['student']) or 'nothing'}; "
        f"from the teacher: {', '.join(d['teacher']) or 'nothing'}; views: {', '.join(d['views'])}{stage}"
    )
    if d["at_test"]:
        print_text(f"needed at test time in addition to the student: {d['at_test']}")
    for h in d["hyper_parameters"]:
        print_text(f"  {h['name']} = {h['default']!r} ({h['type']}): {h['help']} [{h['source']}]")
    if d["combined"]:
        print_text(f"  in a combination: {', '.join(f'{k} = {v}' for k, v in d['combined'].items())}")
    for table in d["pair_constants"]:
        _print_pair_constants(table)


def _print_pair_constants(table: dict[str, Any]) -> None:
    """Print the constants by pair: one line for each pair, one column for each setting."""
    rows = [["pair", *table["settings"]]]
    rows += [[pair, *("-" if v is None else str(v) for v in vs)] for pair, vs in table["pairs"].items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print_text(f"\nby pair (* is any network, - leaves the default) [{table['source']}]:")
    for row in rows:
        print("  " + "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
