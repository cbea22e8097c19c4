"""published: the published values of a cell."""

from __future__ import annotations

import argparse
from typing import Any

from benchmark.cli.output import print_note
from benchmark.cli.parser import add_json_option, add_verb
from benchmark.errors import InputError, unknown
from benchmark.text import plural
from results import published
from results.published.evidence import NONE
from results.published.reader import as_frame, choose, teacher_weights
from results.published.spelling import published_name
from tables.text import terminal_width


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "published",
        details="Prints the values that papers report for one pair and method, and the table of each. This "
        "includes networks and methods that cannot be trained here. You can name ImageNet's pairs as in the "
        "papers or as in the tables (resnet34_imagenet:resnet18_imagenet).",
        example="published --pair resnet32x4:resnet8x4 --method kd",
    )
    p.add_argument("--pair", default="", metavar="T:S", help="teacher:student, e.g. ResNet34:ResNet18")
    p.add_argument("--method", default="", help="a method, e.g. kd or crd+kd; or teacher, student")
    p.add_argument("--dataset", default="", help="only values on this data set (default: on all)")
    p.add_argument("--metric", default="top1", help="top1, top5, probe_top1 ... (default: top1)")
    p.add_argument(
        "--validate",
        action="store_true",
        help="check all published values instead; exit with 1 if there is a problem",
    )
    p.add_argument(
        "--spread",
        action="store_true",
        help="print instead how far published values lie apart, between seeds and between papers",
    )
    add_json_option(p)
    p.set_defaults(do=do_published)


def do_published(args: argparse.Namespace) -> int:
    if args.validate or args.spread:
        alone = "--validate" if args.validate else "--spread"
        others = args.pair or args.method or args.dataset or args.json or args.metric != "top1"
        if others or (args.validate and args.spread):
            raise InputError(f"{alone} cannot be combined with other options")
        if args.validate:
            return _validate()
        print(published.format_spread())
        return 0
    if not args.pair or not args.method:
        raise InputError(
            "give --pair and --method, e.g. --pair resnet32x4:resnet8x4 --method kd; or --validate or "
            "--spread alone"
        )
    teacher, student, method, datasets = published_cell(args)
    if args.json:
        chosen = choose(
            teacher=teacher, student=student, method=method, dataset=args.dataset or None, metric=args.metric
        )
        rows = as_frame(chosen)
        rows["teacher_weights"] = [teacher_weights(number) for number in chosen]
        print(rows.to_json(orient="records", indent=1))
        return 0
    cells = [
        published.format_cell(teacher, student, method, d, args.metric, width=terminal_width())
        for d in datasets
    ]
    print("\n\n".join(cells))
    return 0


def _networks_here() -> list[str]:
    """Return the networks that can be trained here. Imported on request, because it brings PyTorch."""
    import models
    from benchmark.plugins.networks import user_networks

    return list(dict.fromkeys([*models.names(), *user_networks()]))


def _methods_here() -> list[str]:
    """Return the methods that can be trained here. Imported on request, because it brings PyTorch."""
    from benchmark import methods

    return list(methods.names())


def _validate() -> int:
    problems = published.validate(known=(*_networks_here(), *_methods_here()))
    for line in problems:
        print(line)
    if problems:
        print_note(plural(len(problems), "problem"))
    else:
        print_note(f"{len(published.load())} published values, no problem")
    return 1 if problems else 0


def _method(text: str, published_methods: list[str]) -> str:
    """Return the method that a text names: as it is published, else as runs here are called.

    Raises `InputError` for an unknown name, and for methods that cannot be combined.
    """
    words = [word.strip() for word in text.lower().split("+")]
    name = "+".join(words)
    if name in published_methods:
        return name
    if name == "plain":
        raise InputError("method 'plain' is how runs name training without a method; give student or teacher")
    here = _methods_here()
    alone = ("teacher", "student") if len(words) > 1 else ()
    if any(word not in {*published_methods, *here} or word in alone for word in words):
        raise unknown("method", name, published_methods)
    if len(set(words)) < len(words):
        raise InputError(f"method '{name}' contains a method twice; name each method once")
    if not set(words) <= set(here):
        return name
    from benchmark import methods

    return methods.parse(name).name if len(words) > 1 else name


def published_cell(args: argparse.Namespace) -> tuple[str, str, str, list[str]]:
    """Return teacher, student, method, and the data sets (at least one) that they have values on.

    The published values include pairs and methods that cannot be trained here, and networks that only share
    a name with ours. Networks of `models` for ImageNet get their published names. Raises `InputError` for a
    name that is unknown to both.
    """
    frame = published.load()
    teacher, colon, student = args.pair.partition(":")
    if not colon or not teacher or not student:
        raise InputError(
            f"pair '{args.pair}' is not of the form teacher:student; allowed: e.g. resnet56:resnet20"
        )
    renamed = published_name(teacher), published_name(student)
    if renamed != (teacher, student):
        teacher, student = renamed
        args.dataset = args.dataset or "imagenet"  # a network for CIFAR has the same name in the papers
    networks = [NONE, *sorted({*frame["teacher"], *frame["student"]})]
    for name in (teacher, student):
        if name not in networks and name not in (trained := _networks_here()):
            raise unknown("network", name, dict.fromkeys([*trained, *networks]))
    method = _method(args.method, sorted(set(frame["method"])))
    for kind, column, value in (("data set", "dataset", args.dataset), ("metric", "metric", args.metric)):
        if value and value not in set(frame[column]):
            raise unknown(kind, value, sorted(set(frame[column])))
    if args.dataset:
        return teacher, student, method, [args.dataset]
    of_pair = frame[
        (frame["teacher"] == teacher) & (frame["student"] == student) & (frame["metric"] == args.metric)
    ]
    of_pair = of_pair[of_pair["value"].notna()]
    datasets = set(of_pair[of_pair["method"] == method]["dataset"])
    if not datasets:
        first = set() if NONE in (teacher, student) else set(of_pair["dataset"][:1])
        datasets = first or {"cifar100"}
    return teacher, student, method, sorted(datasets, key=lambda d: (d != "cifar100", d))
