"""contribute: records as a pull request needs them to become reference records."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.cli import common, options
from benchmark.cli.output import print_note, print_text
from benchmark.cli.parser import add_verb
from benchmark.cli.run_names import named_keys
from benchmark.errors import InputError
from benchmark.text import plural, size
from benchmark.training.finished import EPOCHS
from benchmark.work import contribution
from benchmark.work.contribution import Contribution
from results.files import atomic
from results.store import REFERENCE

FOLDER = Path("results", "reference")
"""Where the records belong in a checkout."""

TEXT = "PULL_REQUEST.md"


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "contribute",
        details="Writes records and curves of finished runs in the form of results/reference, without the "
        "names of your machines, and a text for the pull request. It refuses runs of profile quick, of code "
        "with uncommitted changes, and of methods that are not part of kd-tables or have changed since, and "
        "runs whose curve or weights do not fit their record. The records state the hashes of the weights; "
        "the weights themselves are added only with --weights.",
        example="contribute sskd/paper/none-resnet20 --all",
    )
    p.add_argument(
        "runs", metavar="RUN", nargs="*", help="a run's key, or a part of it that matches only one run"
    )
    p.add_argument("--all", action="store_true", help="every run that a RUN matches, not only a single one")
    options.add_out_option(p, "contribution", "folder to write into")
    p.add_argument(
        "--weights",
        default="",
        choices=EPOCHS,
        help="add the weights of this epoch (default: none); small networks only, because every clone of "
        "the project loads them",
    )
    p.add_argument(
        "--check",
        action="store_true",
        help="check the reference records of this checkout instead, as CI does",
    )
    p.add_argument(
        "--list-weights",
        action="store_true",
        help="list the weights that the reference records of this checkout bring: hash, top-1, size",
    )
    options.add_results_option(p)
    p.set_defaults(do=do_contribute)


def do_contribute(args: argparse.Namespace) -> int:
    if args.list_weights:
        if args.runs or args.check:
            raise InputError("--list-weights lists all weights of the reference; leave RUN and --check out")
        for line in manifest():
            print_text(line)
        return 0
    if args.check:
        if args.runs:
            raise InputError("--check looks at all reference records; leave RUN out")
        lines = list(contribution.check())
        for line in lines:
            print_text(line)
        print_note(
            f"{plural(len(lines), 'fault')} in {REFERENCE}" if lines else "all reference records are fit"
        )
        return 1 if lines else 0
    if not args.runs:
        raise InputError("no run is named; give a run's key, or a part of it")
    store = common.store_to_read(args)
    keys = named_keys(store, args.runs, ("record.json",), every=args.all)
    prepared, refused = list[Contribution](), list[str]()
    for key in keys:
        try:
            prepared.append(contribution.prepare(store, key, args.weights))
        except InputError as error:
            refused.append(str(error))
    for line in refused:
        print_note(f"refused: {line}")
    if prepared:
        out = common.writable(common.path_of(args.out), "--out")
        for entry in prepared:
            print(contribution.write(entry, out / FOLDER))
        with atomic(out / TEXT) as file:
            file.write(text(prepared))
        print_note(
            f"{plural(len(prepared), 'record')} in {out}; copy {out / FOLDER} into a checkout, run "
            f"`contribute --check` there, and open a pull request with {out / TEXT}"
        )
    return 1 if refused else 0


def manifest() -> list[str]:
    """Return a line for each file of weights that the reference records bring."""
    return [
        f"{record['key']}: {epoch} epoch, top-1 {record[f'top1_{epoch}']:.2f}, weights "
        f"{record['weights'][epoch]}, {size(file.stat().st_size)}"
        for record, epoch, file in contribution.weights_files()
    ]


def text(prepared: Sequence[Contribution]) -> str:
    """Return the text of a pull request."""
    rows = "\n".join(f"| {' | '.join(_row(entry.record))} |" for entry in prepared)
    return f"""# {plural(len(prepared), "reference record")}

| run | top-1 last, best | seconds | device, precision | torch | commit | weights (last epoch) |
|---|---|---|---|---|---|---|
{rows}

"Best" is chosen on the test set. Each record states every hyper-parameter; its curve is beside it.
{_teachers(prepared)}
- [ ] The runs were chosen before their results were known, and all of them are here (say so if not).
- [ ] `python -m benchmark contribute --check` and `make docs` were run.
- [ ] The weights are kept, so that somebody who asks can have them.
"""


def _row(record: Any) -> list[str]:
    def percent(name: str) -> str:
        value = record.get(name)
        return "-" if value is None else f"{value:.2f}"

    return [
        f"`{record['key']}`",
        f"{percent('top1_last')}, {percent('top1_best')}",
        f"{record.get('share_seconds') or record.get('seconds') or 0:.0f}",
        f"{record.get('device_name') or record.get('device')}, {record.get('precision')}",
        str((record.get("versions") or {}).get("torch")),
        str((record.get("git") or {}).get("commit"))[:10],
        str((record.get("weights") or {}).get("last", "-")),
    ]


def _teachers(prepared: Sequence[Contribution]) -> str:
    """Return a line for each imported teacher that the runs learnt from."""
    infos = [entry.record.get("teacher_info") or {} for entry in prepared]
    imported = {
        info.get("weights"): info.get("network")
        for info in infos
        if str(info.get("identity")).startswith("weights:")
    }
    return "".join(
        f"Learnt from an imported {network} with the weights {weights}: who trained it, and where is it?\n"
        for weights, network in sorted(imported.items())
    )
