"""bench cells, parts, students, compile: how fast training is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmark import longwork
from benchmark.bench import cells, growth, norm_trials, parts
from benchmark.cli import options
from benchmark.cli.bench_options import (
    add_budget_option,
    add_json_file_option,
    add_pair_options,
    add_repeats_option,
    check,
    chosen_pairs,
    measurement,
    print_table,
    random_images,
)
from benchmark.cli.output import print_note
from benchmark.cli.parser import add_verb
from benchmark.cli.selection import split_list
from benchmark.errors import InputError
from benchmark.text import whole
from benchmark.training.execution import Execution
from models import gpu_norms
from results.files import write_json


def register(measurements: Any) -> None:
    p = add_verb(
        measurements,
        "cells",
        summary="images per second against a naive training loop (the default)",
        details="Trains each pair in three loops that take turns: the naive loop (plain PyTorch, PIL in 8 "
        "workers, fp32, one student), our loop with one student, and our loop with all methods of the table "
        "in one pack. Prints student-images per second, the ratio to the naive loop, and peak memory.",
        example="bench cells --pairs resnet56:resnet20 --budget 3",
    )
    add_pair_options(p)
    add_repeats_option(p)
    add_budget_option(p, "one loop of one pair")
    options.add_arithmetic_options(p)
    add_json_file_option(p)
    p.set_defaults(do=do_cells)

    p = add_verb(
        measurements,
        "parts",
        summary="time of each part of a training step",
        details="Measures data loading, the teacher pass, the student's step, each method's loss and the "
        "evaluation one by one. It also compares our faster forms of losses and batch norms with their "
        "plain forms.",
        example="bench parts --pairs resnet56:resnet20 --budget 0.5",
    )
    add_pair_options(p)
    add_budget_option(p, "one part")
    options.add_arithmetic_options(p)
    add_json_file_option(p)
    p.set_defaults(do=do_parts)

    p = add_verb(
        measurements,
        "students",
        summary="time of a step by the number of students behind one teacher pass",
        details="Measures a step of packs of different sizes (KD students), and compares it with the time "
        "that the cost model of `plan` predicts.",
        example="bench students --pairs resnet56:resnet20 --counts 1,2,4,8",
    )
    p.add_argument(
        "--counts",
        default="1,2,4,8,16",
        metavar="N,..",
        help="numbers of students to measure (default: 1,2,4,8,16)",
    )
    add_pair_options(p)
    add_repeats_option(p)
    add_budget_option(p, "one number of students")
    options.add_arithmetic_options(p)
    p.add_argument(
        "--plot", default="", metavar="FILE", help="also plot the times to this .png, .pdf or .svg file"
    )
    add_json_file_option(p)
    p.set_defaults(do=do_students)

    p = add_verb(
        measurements,
        "compile",
        summary="what torch.compile gains, and after how many epochs its warm-up is paid back",
        details="Compiles the teacher's pass and the student's network of each pair with torch.compile, and "
        "measures the time before and after, and the warm-up.",
        example="bench compile --pairs resnet56:resnet20",
    )
    add_pair_options(p)
    add_budget_option(p, "one network")
    options.add_arithmetic_options(p)
    add_json_file_option(p)
    p.set_defaults(do=do_compile)


# --- cells ------------------------------------------------------------------------------------------------


def do_cells(args: argparse.Namespace) -> int:
    check(args)
    pairs = chosen_pairs(args)
    with measurement(args, with_precision=True) as (execution, report):

        def save_rows(line: str, rows: list[dict[str, Any]]) -> None:
            print_note(line)
            if args.json:  # so that an interruption loses only the current pair
                write_json(Path(args.json), {**report, "cells": rows})

        effort = cells.Effort(args.repeats, args.budget)
        split = random_images(args, execution)
        rows = report["cells"] = cells.measure(pairs, split, execution, effort=effort, on_row=save_rows)
        report["geometric_means"] = cells.geometric_means(rows)
        _print_cells(rows, report["geometric_means"], execution)
    return 0


def _print_cells(
    rows: list[dict[str, Any]], means: dict[str, dict[str, float]], execution: Execution
) -> None:
    body = []
    for r in rows:
        naive, alone, pack = r["naive"], r["alone"], r["pack"]
        body.append(
            [
                r["table"],
                r["pair"],
                f"{naive['images_per_second']:.0f}",
                f"{alone['images_per_second']:.0f}",
                f"{alone['ratio']:.2f}",
                pack["students"],
                f"{pack['images_per_second']:.0f}",
                f"{pack['ratio']:.2f}",
                f"{min(pack['turn_ratios']):.1f}-{max(pack['turn_ratios']):.1f}",
                f"{pack['quiet_ratio']:.2f}",
                " / ".join(_megabytes(loop["peak_bytes"]) for loop in (naive, alone, pack)),
            ]
        )
    head = ["table", "pair", "naive", "alone", "ratio", "students", "pack", "ratio", "turns", "quiet"]
    print_table(body, [*head, "peak MB"])
    for table, m in means.items():
        print(
            f"{table}: geometric mean of the ratios, "
            f"alone {m['alone_ratio']:.2f} (quiet {m['alone_quiet_ratio']:.2f}), "
            f"pack {m['pack_ratio']:.2f} (quiet {m['pack_quiet_ratio']:.2f})"
        )
    memory = (
        "of the GPU"
        if execution.torch_device.type == "cuda"
        else "resident memory of the process, with the images and the networks of all loops"
    )
    print(
        "naive, alone, pack: student-images per second (naive in fp32); ratio: to naive in the same turn, "
        "median of the turns;\n"
        "turns: least and largest ratio; quiet: ratio of the fastest turns of both; "
        f"peak MB (naive / alone / pack): {memory}"
    )


def _megabytes(n: int | None) -> str:
    return "" if n is None else f"{n / 1e6:.0f}"


# --- parts ------------------------------------------------------------------------------------------------


def do_parts(args: argparse.Namespace) -> int:
    check(args)
    pairs = chosen_pairs(args)
    with measurement(args, with_precision=True) as (execution, report):
        split = random_images(args, execution)
        report["parts"] = []
        for table, pair in longwork.each(pairs, "measuring", "pairs", bar=False):
            rows = parts.measure_parts(table, pair, split=split, execution=execution, budget=args.budget)
            report["parts"] += rows
            print(f"\n{table} {pair}")
            print_table([[r["part"], f"{r['ms']:.2f}", r["note"]] for r in rows], ["part", "ms", ""])
        report["forms"] = parts.measure_forms(args.budget)
        _print_forms(report["forms"])
        if execution.torch_device.type == "cuda":
            built = gpu_norms.built(execution.torch_device)
            if built.norms is None:
                print_note(f"batch norms use PyTorch's operators: {built.error}")
            else:
                report["norm_trials"] = norm_trials.measure(built.norms)
                _print_norm_trials(report["norm_trials"])
        elif execution.kernels:
            report["norms"] = parts.measure_norms(args.budget)
            _print_norms(report["norms"])
    return 0


def _print_forms(rows: list[dict[str, Any]]) -> None:
    print("\nlosses with their gradient, fp32, batch of 64, on the CPU")
    print_table(
        [
            [
                r["loss"],
                f"{r['ours_ms']:.2f}",
                f"{r['plain_ms']:.2f}",
                f"{r['ratio']:.1f}",
                f"{r['value_difference']:.0e}",
                f"{r['gradient_difference']:.0e}",
            ]
            for r in rows
        ],
        ["loss", "ours ms", "plain ms", "ratio", "value differs by", "gradient by"],
    )


def _print_norms(rows: list[dict[str, Any]]) -> None:
    print("\nbatch norm with ReLU, forward and backward, bf16, batch of 64, on the CPU")
    print_table(
        [
            [
                f"{r['channels']} of {r['side']}x{r['side']}{', shortcut' if r['shortcut'] else ''}",
                f"{r['own_ms']:.2f}",
                f"{r['pytorch_ms']:.2f}",
                f"{r['ratio']:.2f}",
            ]
            for r in rows
        ],
        ["channels", "our kernels ms", "PyTorch ms", "ratio"],
    )


def _print_norm_trials(rows: list[dict[str, Any]]) -> None:
    print(f"\nbatch norm with ReLU, bf16, batch of {norm_trials.BATCH}, on the GPU: the kernels' trials")
    print_table(
        [
            [
                f"{r['channels']} of {r['side']}x{r['side']}{', shortcut' if r['shortcut'] else ''}",
                "train" if r["training"] else "eval",
                r["error"] or ("yes" if r["right"] else "no"),
                "" if r["pytorch_ms"] is None else f"{r['pytorch_ms']:.3f}",
                "" if r["kernel_ms"] is None else f"{r['kernel_ms']:.3f}",
                "yes" if r["used"] else "no",
            ]
            for r in rows
        ],
        ["channels", "mode", "values ok", "PyTorch ms", "our kernels ms", "used"],
    )


# --- students ---------------------------------------------------------------------------------------------


def _counts(text: str) -> list[int]:
    try:
        counts = [whole(w) for w in split_list(text)]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
        raise InputError(f"--counts {text}; allowed: different numbers of 1 and more, such as 1,2,4,8,16")
    return counts


def do_students(args: argparse.Namespace) -> int:
    check(args)
    counts = _counts(args.counts)
    pairs = chosen_pairs(args)
    with measurement(args, with_precision=True) as (execution, report):
        split = random_images(args, execution)
        report["students"] = []
        for table, pair in longwork.each(pairs, "measuring", "pairs", bar=False):
            measured = growth.measure(
                table,
                pair,
                counts=counts,
                split=split,
                execution=execution,
                repeats=args.repeats,
                budget=args.budget,
            )
            report["students"].append(measured)
            _print_growth(measured)
        if args.plot:
            growth.plot(report["students"], Path(args.plot))
            print_note(f"wrote {args.plot}")
    return 0


def _print_growth(measured: dict[str, Any]) -> None:
    print(f"\n{measured['pair']}: measured time is {measured['factor']:.2f} times the cost model's (median)")
    print_table(
        [
            [
                r["students"],
                f"{r['step_ms']:.1f}",
                f"{r['student_images_per_second']:.0f}",
                f"{r['model_ms']:.1f}",
                f"{r['fitted_ms']:.1f}",
            ]
            for r in measured["rows"]
        ],
        ["students", "ms a step", "student-images/s", "cost model", "times the factor"],
    )


# --- compile ----------------------------------------------------------------------------------------------


def do_compile(args: argparse.Namespace) -> int:
    check(args)
    pairs = chosen_pairs(args)
    with measurement(args, with_precision=True) as (execution, report):
        split = random_images(args, execution)
        rows = report["compile"] = parts.measure_compile(
            pairs, split=split, execution=execution, budget=args.budget
        )
        print_table(
            [
                [r["pair"], f"{r['what']} {r['network']}", f"{r['eager_ms']:.1f}", *_compiled_columns(r)]
                for r in rows
            ],
            ["pair", "network", "eager ms", "compiled ms", "warm-up s", "paid back after epochs"],
        )
    return 0


def _compiled_columns(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["error"], "", ""]
    epochs = row["epochs_to_pay_back"]
    return [
        f"{row['compiled_ms']:.1f}",
        f"{row['warm_up_seconds']:.0f}",
        "never" if epochs is None else f"{epochs:.2f}",
    ]
