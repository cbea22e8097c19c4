"""teachers: which teachers exist, and how accurate they are."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmark import data, methods
from benchmark.cli import common, options
from benchmark.cli.names import DATASETS, NameOption
from benchmark.cli.output import print_json, print_note, print_text
from benchmark.cli.parser import add_json_option, add_verb
from benchmark.cli.selection import resolver_of
from benchmark.data.clips import NAME as CLIPS
from benchmark.errors import InputError
from benchmark.spec import matrix, profiles, protocols, teacher_table
from benchmark.spec.imported import require_weights
from benchmark.spec.resolver import Resolver, normalisation
from benchmark.spec.runs import NONE, Request, Run, TeacherRef
from benchmark.training.execution import ExecutionRequest
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from results import published
from results.store import REFERENCE, Store
from tables.text import terminal_width

KINDS = (frozenset({CLIPS}), frozenset({"imagenet", "imagenet64", "pictures"}))
"""Data sets with tables, and thus teachers, of their own; all others share those of CIFAR-100's tables."""

STATE_WIDTH = 12
"""The columns of a state on a terminal that is too narrow for the list."""


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "teachers",
        details="Lists the teachers that the tables need, whether they are trained, their top-1 and the "
        "published values. Checkpoints of TEACHERS= and of teachers.toml (KD_PLUGINS) are listed too; --test "
        "measures them, with the normalisation of each protocol that they teach in.",
        example="teachers --teachers my-checkpoints --test",
    )
    p.add_argument(
        "--dataset",
        action=NameOption,
        names=DATASETS,
        default=None,
        help="%(names)s, folder:NAME (default: the profile's, else cifar100)",
    )
    p.add_argument(
        "--profile",
        default=options.variable("PROFILE", "paper"),
        help=f"{', '.join(profiles.PROFILES)} (default: $PROFILE, else paper)",
    )
    p.add_argument(
        "--protocol",
        default=options.variable("PROTOCOL") or None,
        help="only the teachers of this protocol; it normalises the images of the test "
        "(default: $PROTOCOL, else those of all tables)",
    )
    p.add_argument(
        "--test",
        action="store_true",
        help="measure the checkpoints on the test set, and store the results as records; what has a record "
        "already is not measured again",
    )
    p.add_argument(
        "--per-class",
        action="store_true",
        help="also print the accuracy of measured checkpoints on each class",
    )
    options.add_folder_options(p)
    add_json_option(p)
    p.set_defaults(do=do_teachers)


def teacher_rows(
    args: argparse.Namespace, imported: Sequence[TeacherRef], only: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return one row for each teacher of the tables: state, accuracy, published accuracies, origin.

    imported: the checkpoints of this data set. They have a row for each normalisation that the protocols use.
    only: `_Listed.only`.
    """
    store = common.store_of(args)
    resolver = Resolver()
    rows = []
    for network, protocol in _teachers_of_tables(args.dataset):
        if args.protocol and protocol != protocols.get_protocol(args.protocol).teacher_protocol:
            continue
        run = resolver.run(Request(args.dataset, protocol, args.profile, NONE, network, methods.PLAIN), 0)
        record = store.record(run.key) or {}
        rows.append(
            {
                "network": network,
                "protocol": protocol,
                "origin": "trained here",
                "state": store.state(run.key),
                "top1_last": record.get("top1_last"),
                "top1_best": record.get("top1_best"),
                "published": _published_values(network, args.dataset, paper=protocol),
                "key": run.key,
            }
        )
    return rows + [
        _imported_row(ref, names, run, store, only.get(ref.weights, ""))
        for ref, names, run in _measurements(args, imported)
    ]


@dataclass(frozen=True)
class _Listed:
    """The checkpoints that teachers.toml names for a data set."""

    refs: tuple[TeacherRef, ...]
    """Each file once."""
    only: Mapping[str, str]
    """Hash of the weights -> the runs that they teach, e.g. `, for resnet14:resnet8 in mytable`."""


def _listed(dataset: str) -> _Listed:
    """Read the checkpoints of teachers.toml. A note names those that cannot be read."""
    refs: dict[str, TeacherRef] = {}
    for_runs: dict[str, list[str]] = {}
    for entry in teacher_table.entries():
        if entry.dataset != dataset:
            continue
        try:
            ref = entry.ref()
        except InputError as error:
            print_note(f"left out: {error}")
            continue
        refs.setdefault(ref.weights, ref)
        table = f"table {entry.table}" if entry.table else ""
        runs = " in ".join(filter(None, (entry.pair, table))) or "all pairs"
        for_runs.setdefault(ref.weights, []).append(runs)
    return _Listed(tuple(refs.values()), {w: f", for {' and '.join(runs)}" for w, runs in for_runs.items()})


def _measurements(
    args: argparse.Namespace, imported: Sequence[TeacherRef]
) -> list[tuple[TeacherRef, list[str], Run]]:
    """Return the runs that measure the checkpoints, each with its protocols.

    Protocols that normalise the images in the same way share one, except those in which another epoch of the
    checkpoint's training teaches.
    """
    of_network: dict[str, list[str]] = {}
    for network, protocol in _teachers_of_tables(args.dataset):
        of_network.setdefault(network, []).append(protocol)
    measurements = []
    both = {w.weights for ref in imported if ref.other_epoch is not None for w in (ref, ref.other_epoch)}
    for ref in imported:
        names = [args.protocol] if args.protocol else of_network.get(ref.network, ["crd"])
        groups: dict[Any, list[str]] = {}
        for name in names:
            if ref.weights not in both or protocols.get_protocol(name).teacher_epoch == ref.epoch:
                groups.setdefault(normalisation(name, args.dataset), []).append(name)
        for group in groups.values():
            run = Resolver().imported_run(ref, dataset=args.dataset, protocol=group[0], profile=args.profile)
            measurements.append((ref, group, run))
    return measurements


def _teachers_of_tables(dataset: str) -> list[tuple[str, str]]:
    """Return network and protocol of every teacher in the tables of this kind of data (`KINDS`).

    Self-supervised ones are left out: their top-1 says nothing about them.
    """
    teachers: dict[tuple[str, str], None] = {}
    for name in matrix.table_names():
        table = matrix.load_table(name)
        if all((table.dataset in kind) == (dataset in kind) for kind in KINDS):
            protocol = protocols.get_protocol(table.protocol).teacher_protocol
            if protocols.get_protocol(table.protocol).teacher_method != methods.PLAIN:
                continue
            teachers.update(((t, protocol), None) for t, _ in table.columns if t != NONE)
    return list(teachers)


def _published_values(network: str, dataset: str, paper: str | None = None) -> list[float]:
    """Return the published top-1 of a teacher in ascending order, of one paper or of all."""
    frame = published.load()
    rows = frame[
        (frame["teacher"] == network) & (frame["method"] == "teacher") & (frame["dataset"] == dataset)
    ]
    if paper is not None:
        rows = rows[rows["paper"] == paper]
    return sorted({float(v) for v in rows["value"].dropna()})


def _imported_row(ref: TeacherRef, names: list[str], run: Run, store: Store, only: str) -> dict[str, Any]:
    record, origin = _measured_record(store, run)
    return {
        "network": ref.network,
        "protocol": ", ".join(names),
        "origin": f"imported: {Path(ref.path).name} (weights {ref.weights}){only}",
        "state": f"tested{origin}" if record else "not tested (--test)",
        "top1_last": record.get("top1_last"),
        "top1_best": record.get("top1_best"),
        "published": _published_values(ref.network, run.dataset),
        "key": record.get("key", run.key),
        "per_class": record.get("per_class", {}),
    }


def _measured_record(store: Store, run: Run) -> tuple[dict[str, Any], str]:
    """Return the record of an imported checkpoint on the whole test set, and its origin in words.

    It is the record of the run itself, else that of another protocol or profile with the same normalisation,
    else a reference record; empty if there is none. Only reference records have an origin that is not empty.
    """
    if record := store.record(run.key):
        return record, ""
    pattern = f"{run.dataset}/*/*/none-{run.student}/imported/{run.key.rpartition('/')[2]}/record.json"
    for folder, origin in ((store.folder, ""), (REFERENCE, " (reference results)")):
        for path in sorted(folder.glob(pattern)):
            record = Store(folder).record(path.parent.relative_to(folder).as_posix()) or {}
            if (
                record.get("test_images") == data.info(run.dataset).test_images
                and record["settings"].get("normalise") == run.settings["normalise"]
            ):
                return record, origin
    return {}, ""


def _class_range(per_class: dict[str, float]) -> str:
    """Return the worst and the best class, e.g. `44.0 (seal) to 95.0 (road)`."""
    if not per_class:
        return ""
    worst, best = min(per_class, key=per_class.__getitem__), max(per_class, key=per_class.__getitem__)
    return f"{per_class[worst]:.1f} ({worst}) to {per_class[best]:.1f} ({best})"


def _test_checkpoints(args: argparse.Namespace, imported: Sequence[TeacherRef]) -> None:
    """Measure the checkpoints that have no record yet, and store the results as records."""
    store = common.store_of(args)
    execution = ExecutionRequest(precision="fp32").resolve()
    training_options = TrainingOptions(execution, data_folder=common.path_of(args.data))
    for _, _, run in _measurements(args, imported):
        record, origin = _measured_record(store, run)
        if not record or origin:
            train_pack([run], store, training_options)


def do_teachers(args: argparse.Namespace) -> int:
    profile = profiles.get_profile(args.profile)
    if args.protocol:
        protocols.get_protocol(args.protocol)
    if args.dataset is None:
        args.dataset = profile.dataset or "cifar100"
    data.check_name(args.dataset)
    imported = []
    for (dataset, _), ref in resolver_of(args).imported.items():
        if not ref.has_classifier:
            if dataset == args.dataset:
                print_note(
                    f"{Path(ref.path).name} is left out: it is a self-supervised {ref.network} without a "
                    "classifier, so it has no top-1"
                )
        elif dataset == args.dataset:
            imported += [ref] if ref.other_epoch is None else [ref, ref.other_epoch]
        else:
            print_note(
                f"{Path(ref.path).name} is left out: by its number of classes it is for {dataset}, not for "
                f"{args.dataset}"
            )
    listed = _listed(args.dataset)
    imported += [ref for ref in listed.refs if ref.weights not in {other.weights for other in imported}]
    if args.test and not imported and not args.teachers:
        raise InputError("--test needs checkpoints: give --teachers or TEACHERS=, or write teachers.toml")
    if args.test:
        require_weights(imported)
        _test_checkpoints(args, imported)
    rows = teacher_rows(args, imported, listed.only)
    if args.json:
        print_json(rows)
        return 0
    _print_rows(rows)
    if args.per_class:
        _print_classes(rows)
    return 0


def _print_rows(rows: list[dict[str, Any]]) -> None:
    def percent(x: float | None) -> str:
        return "" if x is None else f"{x:.2f}"

    columns = {
        "teacher": [r["network"] for r in rows],
        "protocol": [r["protocol"] for r in rows],
        "state": [r["state"] for r in rows],
        "last": [percent(r["top1_last"]) for r in rows],
        "best*": [percent(r["top1_best"]) for r in rows],
        "published": [" ".join(map(percent, r["published"])) for r in rows],
        "worst and best class": [_class_range(r.get("per_class", {})) for r in rows],
        "origin": [r["origin"] for r in rows],
    }
    columns = {name: texts for name, texts in columns.items() if any(texts)}
    notes: list[str] = []
    if sum(max(map(len, (name, *texts))) + 2 for name, texts in columns.items()) - 2 > terminal_width():
        columns.pop("worst and best class", None)
        columns["note"] = [_noted(text, notes) for text in columns.pop("origin")]
    widest = [STATE_WIDTH if notes and name == "state" else None for name in columns]
    print(tabulate(columns, headers="keys", disable_numparse=True, maxcolwidths=widest))
    if notes:
        print("without a note: trained here")
    for i, note in enumerate(notes, 1):
        print_text(f"[{i}] {note}")
    best = " * the best epoch is chosen on the test set, as the papers do" if "best*" in columns else ""
    print_text(f"top-1 in %.{best}")


def _noted(origin: str, notes: list[str]) -> str:
    """Return an origin for a narrow list: that of a checkpoint is a reference to a note."""
    if not origin.startswith("imported"):
        return ""
    if origin not in notes:
        notes.append(origin)
    return f"[{notes.index(origin) + 1}]"


def _print_classes(rows: list[dict[str, Any]]) -> None:
    for r in rows:
        per_class = r.get("per_class") or {}
        if per_class:
            ascending = sorted(per_class.items(), key=lambda item: item[1])
            print(f"\n{r['network']}, {r['origin']}: top-1 of each class, ascending")
            print(
                textwrap.fill(
                    "; ".join(f"{name} {top1:.1f}" for name, top1 in ascending), min(110, terminal_width())
                )
            )
