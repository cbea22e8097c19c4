"""bench: how fast the naive loop and ours are, in one process, turn by turn."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from benchmark.bench import cells, clock, growth, parts
from benchmark.bench.ours import random_split
from benchmark.cli import bench_precision, common, options
from benchmark.cli.common import plural, print_note
from benchmark.cli.selection import listed_names, split_list
from benchmark.errors import InputError, unknown
from benchmark.spec.matrix import MOST_SEEDS, load_table
from benchmark.training.execution import Execution
from results.files import write_json

TABLES = ("crd-table1", "crd-table2")
KINDS = ("parts", "students", "compile", "drift", "biases", "finals")


def register(verbs: Any) -> None:
    p = verbs.add_parser(
        "bench", help="the usual loop against this one: student-images/s, ratio, peak memory; parts of a step"
    )
    p.add_argument(
        "--tables",
        default=",".join(TABLES),
        metavar="T,..",
        help=f"whose pairs and packs (default: {','.join(TABLES)})",
    )
    p.add_argument("--pairs", default=None, metavar="T:S,..", help="only these pairs")
    p.add_argument(
        "--parts",
        action="store_true",
        help="instead: data, teacher pass, student step, losses, evaluation; fast losses against plain ones",
    )
    p.add_argument(
        "--students",
        default="",
        metavar="N,..",
        help="instead: cost of a step with so many students, e.g. 1,2,4,8,16",
    )
    p.add_argument(
        "--compile",
        action="store_true",
        help="instead: torch.compile of teacher and student, warm-up included",
    )
    p.add_argument(
        "--drift",
        action="store_true",
        help="instead: losses in bf16 (on a GPU in fp32 too) against fp32 on the CPU, every method",
    )
    p.add_argument(
        "--save",
        default="",
        metavar="FILE",
        help="with --drift: only compute the CPU's losses, for --reference",
    )
    p.add_argument(
        "--reference", default="", metavar="FILE", help="with --drift: the CPU's losses, saved before"
    )
    p.add_argument(
        "--finals",
        action="store_true",
        help="instead: final quick top-1 in bf16 against fp32 over seeds, every method, paired",
    )
    p.add_argument(
        "--biases",
        action="store_true",
        help="instead: mean difference of --drift's losses over seeds, of bf16 and of fp32 from weights moved by 2^-9",
    )
    p.add_argument(
        "--seeds", type=int, default=10, metavar="N", help="seeds of --biases and --finals (default: 10)"
    )
    p.add_argument(
        "--steps", type=int, default=200, metavar="N", help="steps of --drift and --biases (default: 200)"
    )
    p.add_argument(
        "--methods", default=None, metavar="M,..", help="only these methods of --drift, --biases or --finals"
    )
    p.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of each loop (default: 5)")
    p.add_argument(
        "--budget",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="measuring time of one loop of one pair, or of all of one part's calls (default: 10)",
    )
    p.add_argument(
        "--images",
        type=int,
        default=50_000,
        metavar="N",
        help="random training images (default: 50000; CRD's banks have as many rows)",
    )
    options.add_arithmetic_options(p, precision="of our loop: auto, fp32, tf32, bf16 (the naive one is fp32)")
    p.add_argument("--plot", default="", metavar="FILE", help="with --students: the plot, .png or .pdf")
    p.add_argument("--json", default="", metavar="FILE", help="all numbers, for programs")
    p.set_defaults(do=do_bench)


def _numbers(args: argparse.Namespace) -> list[int]:
    try:
        found = [int(w) for w in split_list(args.students)]
    except ValueError:
        found = []
    if args.students and (not found or min(found) < 1 or len(set(found)) < len(found)):
        raise InputError(
            f"--students {args.students}; allowed: different numbers of 1 and more, such as 1,2,4,8,16"
        )
    return found


def _check(args: argparse.Namespace) -> None:
    for name, value, low in (
        ("repeats", args.repeats, 1),
        ("steps", args.steps, 1),
        ("images", args.images, 200),
        ("seeds", args.seeds, 2),
    ):
        if value < low:
            raise InputError(f"--{name} {value}; allowed: {low} and more")
    if args.seeds > MOST_SEEDS:
        raise InputError(f"--seeds {args.seeds}; allowed: 2 to {MOST_SEEDS}")
    if not (math.isfinite(args.budget) and args.budget > 0):
        raise InputError(f"--budget {args.budget}; allowed: seconds above 0")
    chosen = [k for k in KINDS if getattr(args, k)]
    if len(chosen) > 1:
        raise InputError(f"--{' and --'.join(chosen)}; allowed: one of them")
    if args.plot and not args.students:
        raise InputError("--plot without --students; allowed: both")
    if args.plot and Path(args.plot).suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"--plot {args.plot}; allowed: a .png, .pdf or .svg file")
    if args.methods is not None and not (args.drift or args.biases or args.finals):
        raise InputError(
            "--methods without --drift, --biases or --finals; allowed: one of them (a pack has all methods of its table)"
        )
    if (args.save or args.reference) and not args.drift:
        raise InputError("--save or --reference without --drift; allowed: with it")
    for option in ("json", "plot", "save"):
        path = getattr(args, option)
        if path and not Path(path).resolve().parent.is_dir():
            raise InputError(f"--{option} {path}: no such folder; allowed: a file in a folder that is there")
        if (
            path and Path(path).exists() and not Path(path).is_file()
        ):  # a device too: it would be replaced by the file
            raise InputError(f"--{option} {path} is no file; allowed: a file in a folder that is there")
        if path:
            common.writable(Path(path).resolve().parent, f"--{option}")


def chosen_cells(args: argparse.Namespace) -> list[tuple[str, str]]:
    """`(table, pair)` of all that is measured; each wanted pair must be in some table."""
    names = split_list(args.tables)
    if not names:
        raise InputError("--tables is empty; allowed: names of tables")
    found = [(name, f"{a}:{b}") for name in names for a, b in load_table(name).columns if a != "none"]
    wanted = listed_names("--pairs", args.pairs)
    for pair in wanted:
        if pair not in {p for _, p in found}:
            raise unknown(f"pair in {args.tables}:", pair, sorted({p for _, p in found}))
    return [(t, p) for t, p in found if not wanted or p in wanted]


def do_bench(args: argparse.Namespace) -> int:
    _check(args)
    counts = _numbers(args)
    chosen = chosen_cells(args)
    execution = common.arithmetic_of(args)
    common.note_many_threads(execution)
    report: dict[str, Any] = {"conditions": clock.conditions(execution)}
    _print_conditions(report["conditions"])
    with execution.applied():
        if args.drift:
            code = bench_precision.show_drift(args, execution, report, _table)
        elif args.biases:
            code = bench_precision.show_biases(args, report, _table)
        elif args.finals:
            code = bench_precision.show_finals(args, report, _table)
        else:
            split = random_split(args.images, 100, seed=0).to(execution.torch_device)
            code = 0
            if args.parts:
                _parts(args, chosen, split, execution, report)
            elif counts:
                _students(args, chosen, counts, split, execution, report)
            elif args.compile:
                _compile(args, chosen, split, execution, report)
            else:
                _cells(args, chosen, split, execution, report)
    if args.json:
        write_json(Path(args.json), report)
    return code


def _print_conditions(c: dict[str, Any]) -> None:
    v = c["versions"]
    threads = plural(c["threads"], "thread") + (
        f", {c['student_threads']} a student" if (c["student_threads"] or 1) > 1 else ""
    )
    form = ", ".join(
        [
            c["precision"],
            *(["channels_last"] if c["channels_last"] else []),
            *([f"kernels {c['kernels']}"] if c["kernels"] else []),
        ]
    )
    print(
        f"{c['device_name']}; {c['cores_allowed']} of {c['cores_of_machine']} cores, {threads}, load {c['load']}; "
        f"ours {form}; naive fp32; torch {v['torch']}, Python {v['python']}, "
        f"commit {c['git']['commit'][:10]}{' (changed)' if c['git']['dirty'] else ''}"
    )


def _table(rows: list[list[Any]], head: list[str]) -> None:
    from tabulate import tabulate

    print(tabulate(rows, head, tablefmt="github", disable_numparse=True))


def _mb(n: int | None) -> str:
    return "" if n is None else f"{n / 1e6:.0f}"


def _cells(
    args: argparse.Namespace,
    chosen: list[tuple[str, str]],
    split: Any,
    execution: Execution,
    report: dict[str, Any],
) -> None:
    def told(line: str, rows: list[dict[str, Any]]) -> None:
        print_note(line)
        if args.json:  # what there is stays, should the rest be interrupted
            write_json(Path(args.json), {**report, "cells": rows})

    rows = report["cells"] = cells.measure(
        chosen, split, execution, cells.Effort(args.repeats, args.budget), told
    )
    body = []
    for r in rows:
        n, a, p = r["naive"], r["alone"], r["pack"]
        body.append(
            [
                r["table"],
                r["pair"],
                f"{n['images_per_second']:.0f}",
                f"{a['images_per_second']:.0f}",
                f"{a['ratio']:.2f}",
                p["students"],
                f"{p['images_per_second']:.0f}",
                f"{p['ratio']:.2f}",
                f"{min(p['turn_ratios']):.1f}-{max(p['turn_ratios']):.1f}",
                f"{p['quiet_ratio']:.2f}",
                " / ".join(_mb(m["peak_bytes"]) for m in (n, a, p)),
            ]
        )
    _table(
        body,
        [
            "table",
            "pair",
            "naive",
            "alone",
            "ratio",
            "students",
            "pack",
            "ratio",
            "turns",
            "quiet",
            "peak MB",
        ],
    )
    means = report["geometric_means"] = cells.geometric_means(rows)
    for table, m in means.items():
        print(
            f"{table}: geometric mean of the ratios, alone {m['alone_ratio']:.2f} (quiet {m['alone_quiet_ratio']:.2f}), "
            f"pack {m['pack_ratio']:.2f} (quiet {m['pack_quiet_ratio']:.2f})"
        )
    print(
        "student-images/s; ratio to the naive loop of the same turn, median of turns (turns: least and most; quiet: fastest "
        "turn of both); peak MB (naive / alone / pack): "
        + (
            "of the GPU"
            if execution.torch_device.type == "cuda"
            else "resident memory of the process, images and all loops' networks included"
        )
    )


def _parts(
    args: argparse.Namespace,
    chosen: list[tuple[str, str]],
    split: Any,
    execution: Execution,
    report: dict[str, Any],
) -> None:
    report["parts"] = []
    for table, pair in chosen:
        rows = parts.measure_parts(table, pair, split, execution, args.budget)
        report["parts"] += rows
        print(f"\n{table} {pair}")
        _table([[r["part"], f"{r['ms']:.2f}", r["note"]] for r in rows], ["part", "ms", ""])
    forms = report["forms"] = parts.measure_forms(args.budget)
    print("\nlosses with their gradient, fp32, batch of 64, on the CPU")
    _table(
        [
            [
                r["loss"],
                f"{r['ours_ms']:.2f}",
                f"{r['plain_ms']:.2f}",
                f"{r['ratio']:.1f}",
                f"{r['value_difference']:.0e}",
                f"{r['gradient_difference']:.0e}",
            ]
            for r in forms
        ],
        ["loss", "ours ms", "plain ms", "ratio", "value differs by", "gradient by"],
    )
    if execution.kernels:
        norms = report["norms"] = parts.measure_norms(args.budget)
        print("\nbatch norm with ReLU, forward and backward, bf16, batch of 64, on the CPU")
        named = {"own_ms": "own kernels ms", "pytorch_ms": "PyTorch ms", "ratio": "ratio"}
        shapes = [
            f"{r['channels']} of {r['side']}x{r['side']}{', shortcut' if r['shortcut'] else ''}"
            for r in norms
        ]
        _table(
            [[shape, *(f"{r[k]:.2f}" for k in named)] for shape, r in zip(shapes, norms, strict=True)],
            ["channels", *named.values()],
        )


def _students(
    args: argparse.Namespace,
    chosen: list[tuple[str, str]],
    counts: list[int],
    split: Any,
    execution: Execution,
    report: dict[str, Any],
) -> None:
    report["students"] = []
    for table, pair in chosen:
        one = growth.measure(table, pair, counts, split, execution, args.repeats, args.budget)
        report["students"].append(one)
        print(f"\n{pair}: {one['factor']:.2f} times the cost model (median)")
        _table(
            [
                [
                    r["students"],
                    f"{r['step_ms']:.1f}",
                    f"{r['student_images_per_second']:.0f}",
                    f"{r['model_ms']:.1f}",
                    f"{r['fitted_ms']:.1f}",
                ]
                for r in one["rows"]
            ],
            ["students", "ms a step", "student-images/s", "cost model", "times the factor"],
        )
    if args.plot:
        growth.plot(report["students"], Path(args.plot))
        print_note(f"plot: {args.plot}")


def _compile(
    args: argparse.Namespace,
    chosen: list[tuple[str, str]],
    split: Any,
    execution: Execution,
    report: dict[str, Any],
) -> None:
    rows = report["compile"] = parts.measure_compile(chosen, split, execution, args.budget)
    body = []
    for r in rows:
        if "error" in r:
            body.append(
                [r["pair"], f"{r['what']} {r['network']}", f"{r['eager_ms']:.1f}", r["error"], "", ""]
            )
            continue
        back = r["epochs_to_pay_back"]
        body.append(
            [
                r["pair"],
                f"{r['what']} {r['network']}",
                f"{r['eager_ms']:.1f}",
                f"{r['compiled_ms']:.1f}",
                f"{r['warm_up_seconds']:.0f}",
                "never" if back is None else f"{back:.2f}",
            ]
        )
    _table(body, ["pair", "network", "eager ms", "compiled ms", "warm-up s", "paid back after epochs"])
