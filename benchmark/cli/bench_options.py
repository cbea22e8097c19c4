"""Helpers that the measurements of `bench` share: options, their checks, and the report."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmark.bench import clock
from benchmark.bench.ours import random_split
from benchmark.cli import common, options
from benchmark.cli.selection import listed_names, split_list
from benchmark.data.datasets import Split
from benchmark.errors import InputError, unknown
from benchmark.spec.matrix import MOST_SEEDS, load_table
from benchmark.spec.runs import NONE
from benchmark.text import plural
from benchmark.training.execution import Execution
from results.files import write_json

TABLES = ("crd-table1", "crd-table2")

RANGES = {
    "repeats": (1, math.inf),
    "steps": (1, math.inf),
    "images": (200, math.inf),
    "seeds": (2, MOST_SEEDS),
    "draws": (1, 1_000_000),
}
"""Least and largest value of an option."""

PLOT_SUFFIXES = (".png", ".pdf", ".svg")


# --- options ----------------------------------------------------------------------------------------------


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tables",
        default=",".join(TABLES),
        metavar="T,..",
        help=f"measure the pairs of these tables, with all their methods (default: {','.join(TABLES)})",
    )
    parser.add_argument(
        "--pairs", default=None, metavar="T:S,..", help="only these teacher:student pairs (default: all)"
    )
    add_images_option(parser)


def add_images_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images",
        type=options.whole_number,
        default=50_000,
        metavar="N",
        help="number of random training images; also the size of CRD's memory banks (default: 50000)",
    )


def add_budget_option(parser: argparse.ArgumentParser, what: str, default: float = 10.0) -> None:
    """Add `--budget`. what: what the time is for, in words. default: in seconds."""
    parser.add_argument(
        "--budget",
        type=options.decimal_number,
        default=default,
        metavar="SECONDS",
        help=f"time to measure {what} (default: {default:g})",
    )


def add_repeats_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repeats",
        type=options.whole_number,
        default=5,
        metavar="N",
        help="turns of each loop; the median is reported (default: 5)",
    )


def add_methods_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--methods", default=None, metavar="M,..", help="only these methods (default: all)")


def add_steps_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps",
        type=options.whole_number,
        default=200,
        metavar="N",
        help="number of training steps (default: 200)",
    )


def add_seeds_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds",
        type=options.whole_number,
        default=10,
        metavar="N",
        help="use the seeds 0 to N-1 (default: 10)",
    )


def add_json_file_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", default="", metavar="FILE", help="also write all numbers to this file")


# --- checks -----------------------------------------------------------------------------------------------


def check(args: argparse.Namespace) -> None:
    """Raise `InputError` for a wrong value of any option that this measurement has."""
    for name, (least, most) in RANGES.items():
        value = getattr(args, name, least)
        if not least <= value <= most:
            allowed = f"{least} and more" if most == math.inf else f"{least} to {most}"
            raise InputError(f"--{name} {value}; allowed: {allowed}")
    budget = getattr(args, "budget", 1.0)
    if not (math.isfinite(budget) and budget > 0):
        raise InputError(f"--budget {budget}; allowed: seconds above 0")
    plot = getattr(args, "plot", "")
    if plot and Path(plot).suffix not in PLOT_SUFFIXES:
        raise InputError(f"--plot {plot}; allowed: a file name that ends in {', '.join(PLOT_SUFFIXES)}")
    for option in ("json", "plot", "save"):
        if path := getattr(args, option, ""):
            _check_output_file(f"--{option}", Path(path))


def _check_output_file(option: str, path: Path) -> None:
    folder = path.resolve().parent
    if not folder.is_dir():
        raise InputError(f"{option} {path}: no such folder; give a file in a folder that exists")
    # A device is refused too, because the file would replace it.
    if path.exists() and not path.is_file():
        raise InputError(f"{option} {path} is not a file; give a file in a folder that exists")
    common.writable(folder, option)


def chosen_pairs(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return `(table, pair)` of everything to measure. Raises `InputError` for a pair that no table has."""
    tables = split_list(args.tables)
    if not tables:
        raise InputError("--tables is empty; give names of tables")
    available = [
        (table, f"{teacher}:{student}")
        for table in tables
        for teacher, student in load_table(table).columns
        if teacher != NONE
    ]
    wanted = listed_names("--pairs", args.pairs)
    all_pairs = sorted({pair for _, pair in available})
    for pair in wanted:
        if pair not in all_pairs:
            raise unknown(f"pair in {args.tables}:", pair, all_pairs)
    return [(table, pair) for table, pair in available if not wanted or pair in wanted]


# --- report -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def measurement(
    args: argparse.Namespace, with_precision: bool = False
) -> Iterator[tuple[Execution, dict[str, Any]]]:
    """Print the conditions, and yield the execution and a report to fill. The report is written to `--json`.

    with_precision: whether the conditions include the precision. Some measurements set it themselves.
    """
    execution = common.arithmetic_of(args)
    common.note_many_threads(execution)
    report: dict[str, Any] = {"conditions": clock.conditions(execution)}
    print_conditions(report["conditions"], with_precision=with_precision)
    with execution.applied():
        yield execution, report
    if args.json:
        write_json(Path(args.json), report)


def print_conditions(c: dict[str, Any], with_precision: bool) -> None:
    """Print the result of `clock.conditions` as one line."""
    threads = plural(c["threads"], "thread")
    if (c["student_threads"] or 1) > 1:
        threads += f", {c['student_threads']} a student"
    precision = [c["precision"]] if with_precision else []
    if with_precision and c["channels_last"]:
        precision.append("channels_last")
    if with_precision and c["kernels"]:
        precision.append(f"kernels {c['kernels']}")
    commit = f"{c['git']['commit'][:10]}{' (changed)' if c['git']['dirty'] else ''}"
    print(
        "; ".join(
            [
                c["device_name"],
                f"{c['cores_allowed']} of {c['cores_of_machine']} cores, {threads}, load {c['load']}",
                *([", ".join(precision)] if precision else []),
                f"torch {c['versions']['torch']}, Python {c['versions']['python']}, commit {commit}",
            ]
        )
    )


def random_images(args: argparse.Namespace, execution: Execution) -> Split:
    """Return `--images` random images of 100 classes on the device."""
    return random_split(args.images, 100, seed=0).to(execution.torch_device)


def print_table(rows: list[list[Any]], head: list[str]) -> None:
    print(tabulate(rows, head, tablefmt="github", disable_numparse=True))
