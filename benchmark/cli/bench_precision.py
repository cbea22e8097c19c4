"""bench drift, biases, finals: whether training in bf16 or on a GPU changes results."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark import longwork, methods
from benchmark.bench import drift, finals
from benchmark.bench.ours import small_run
from benchmark.cli import options
from benchmark.cli.bench_options import (
    add_json_file_option,
    add_methods_option,
    add_seeds_option,
    add_steps_option,
    check,
    measurement,
    print_table,
)
from benchmark.cli.output import print_note
from benchmark.cli.parser import add_verb
from benchmark.cli.selection import listed_names
from benchmark.errors import unknown
from benchmark.text import plural
from tables import statistics
from tables.between_methods import Paired, paired
from tables.text import signed

LAYERED = ("vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2")
"""Networks that use our custom layers in bf16 on a CPU (models/layers.py)."""

SIGNIFICANCE = 0.05


def register(measurements: Any) -> None:
    p = add_verb(
        measurements,
        "drift",
        summary="losses of the first steps in bf16, or on a GPU, against fp32 on the CPU",
        details="Trains every method for some steps on digits in fp32 on the CPU and in bf16 (on a GPU in "
        "fp32 too), from the same weights and on the same batches, and compares the losses. Exits with 1 if "
        "a difference is out of bounds.",
        example="bench drift --methods kd,crd",
    )
    add_methods_option(p)
    add_steps_option(p)
    p.add_argument(
        "--save",
        default="",
        metavar="FILE",
        help="only compute the fp32 losses, and save them for --reference",
    )
    p.add_argument(
        "--reference",
        default="",
        metavar="FILE",
        help="compare with the fp32 losses that --save wrote, e.g. on another machine",
    )
    options.add_device_option(p)
    options.add_threads_option(p)
    add_json_file_option(p)
    p.set_defaults(do=do_drift, precision="auto", student_threads=1)

    p = add_verb(
        measurements,
        "biases",
        summary="mean difference between losses in bf16 and in fp32, over seeds",
        details="Repeats the comparison of `bench drift` on the CPU over seeds. A bias that bf16 causes "
        "shows as a mean difference that is not 0. As a control, fp32 is compared with fp32 from weights "
        "changed by 2^-9.",
        example="bench biases --methods sskd --seeds 10",
    )
    add_methods_option(p)
    add_steps_option(p)
    add_seeds_option(p)
    options.add_threads_option(p)
    add_json_file_option(p)
    p.set_defaults(do=do_biases, device="cpu", precision="auto", student_threads=1)

    p = add_verb(
        measurements,
        "finals",
        summary="final top-1 in bf16 against fp32, over seeds",
        details="Trains every method under profile quick on the CPU, in fp32 and in bf16, and compares the "
        "last top-1 seed by seed. Exits with 1 if a difference is significant.",
        example="bench finals --seeds 10",
    )
    add_methods_option(p)
    add_seeds_option(p)
    options.add_threads_option(p)
    add_json_file_option(p)
    p.set_defaults(do=do_finals, device="cpu", precision="auto", student_threads=1)


def chosen_methods(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return `(method, student)` of the methods asked for.

    ab and fsp get a student with as many layers in each stage as the teacher, which they need.
    """
    trainable = [n for n in methods.names() if methods.get(n).trains_student]
    available = [methods.PLAIN, *(n for n in trainable if not methods.get(n).is_wrapper())]
    names = listed_names("--methods", args.methods) or available
    for name in names:
        if name not in available:
            raise unknown("method", name, available)
    return [(name, "resnet14" if name in ("ab", "fsp") else "resnet8") for name in names]


# --- drift ------------------------------------------------------------------------------------------------


def do_drift(args: argparse.Namespace) -> int:
    check(args)
    chosen = chosen_methods(args)
    if args.methods is None:
        chosen += [(methods.PLAIN, student) for student in LAYERED]
    with measurement(args) as (execution, report):
        reference = drift.Reference(args.steps)
        if args.reference:
            reference = drift.Reference.load(Path(args.reference), args.steps)
        rows = report["drift"] = []
        for method, student in longwork.each(chosen, "measuring", "methods", bar=False):
            run = small_run(method, student=student)
            for init in (True, False) if run.spec.init_stages else (False,):
                if args.save:
                    reference.add(run, init)
                    reference.save(Path(args.save))
                    print_note(f"{drift.row_name(run, init)}: saved")
                    continue
                for variant in drift.variants(execution):
                    row = drift.measure(run, reference, variant, init=init)
                    rows.append(row)
                    print_note(
                        f"{row['method']} {row['precision']}: first {100 * row['first']:.4f}%, "
                        f"gap {100 * row['gap']:.2f}%, bias {signed(100 * row['bias'])}%, "
                        f"floor {100 * row['floor']:.2f}%"
                    )
        if not args.save:
            print_drift(rows, args.steps)
    return 0 if all(r["within"] for r in rows) else 1


def print_drift(rows: list[dict[str, Any]], steps: int) -> None:
    """Print rows of `drift.measure`. steps: that they were trained for."""
    print_table(
        [
            [
                r["method"],
                f"{r['device']} {r['precision']}",
                f"{r['loss_first']:.4g}",
                f"{r['loss_last']:.4g}",
                f"{100 * r['first']:.3f}%",
                f"{100 * r['gap']:.2f}%",
                f"{signed(100 * r['bias'])}%",
                f"{100 * r['floor']:.2f}%",
                "yes" if r["within"] else "NO",
            ]
            for r in rows
        ],
        ["method", "device", "first loss", "last loss", "first step", "gap", "bias", "floor", "within"],
    )
    print(
        f"{steps} steps, in percent of the mean fp32 loss; floor: gap between fp32 and fp32 from weights "
        "changed by 2^-9;\n"
        f"within the bounds: first step {100 * drift.FIRST:g}%, gap {100 * drift.GAP:g}% + {drift.FLOORS:g} "
        "x floor"
    )


# --- biases -----------------------------------------------------------------------------------------------


def do_biases(args: argparse.Namespace) -> int:
    check(args)
    chosen = chosen_methods(args)
    with measurement(args) as (_, report):
        rows = report["biases"] = []
        for method, student in longwork.each(chosen, "measuring", "methods", bar=False):
            by_seed = [
                drift.biases(small_run(method, seed, student), args.steps) for seed in range(args.seeds)
            ]
            for variant in by_seed[0]:
                percent = {seed: 100 * biases[variant] for seed, biases in enumerate(by_seed)}
                pairing = paired(percent, dict.fromkeys(percent, 0.0))
                rows.append({"method": method, "of": variant, "percent": percent, **_paired_fields(pairing)})
                print_note(f"{method}, {variant}: {', '.join(signed(v) for v in percent.values())} %")
        print_table(
            [[r["method"], r["of"], *_paired_columns(r)] for r in rows],
            ["method", "variant", "mean bias %", "95% interval", "seeds", "p"],
        )
        print(
            f"bias: mean loss of the first {args.steps} steps minus that of fp32, in percent of fp32's; "
            "moved: fp32 from weights changed by 2^-9"
        )
    return 0


# --- finals -----------------------------------------------------------------------------------------------


def do_finals(args: argparse.Namespace) -> int:
    check(args)
    chosen = chosen_methods(args)
    with measurement(args) as (_, report):
        top1 = finals.measure(chosen, args.seeds, precisions=("fp32", "bf16"), on_seed=print_note)
        rows = report["finals"] = []
        for method, by_precision in top1.items():
            pairing = paired(by_precision["bf16"], by_precision["fp32"])
            rows.append({"method": method, "top1": by_precision, **_paired_fields(pairing)})
        return _print_finals(rows)


def _print_finals(rows: list[dict[str, Any]]) -> int:
    """Print the rows, and return the exit code: 1 if a difference is significant."""
    print_table(
        [
            [r["method"], _mean(r["top1"]["fp32"]), _mean(r["top1"]["bf16"]), *_paired_columns(r)]
            for r in rows
        ],
        ["method", "fp32", "bf16", "bf16 - fp32", "95% interval", "seeds", "p"],
    )
    least = min((r["p"] for r in rows if r["p"] is not None), default=1.0)
    significant = least * len(rows) <= SIGNIFICANCE
    print(
        "last top-1 under profile quick (digits, 256 test images) in percent, paired by seed; p: paired t "
        "test\n"
        f"{plural(len(rows), 'test')}: the least p, {least:.3f}, "
        f"{'IS BELOW' if significant else 'is not below'} {SIGNIFICANCE} / {len(rows)} (Bonferroni)"
    )
    return 1 if significant else 0


def _mean(by_seed: dict[int, float]) -> str:
    return f"{statistics.mean(list(by_seed.values())):.2f}" if by_seed else ""


# --- paired differences -----------------------------------------------------------------------------------


def paired_p(pairing: Paired | None) -> float | None:
    """Return the two-sided p of a paired t test, None if there is no spread to compare the mean with."""
    if pairing is None or not pairing.std:
        return None
    n = len(pairing.seeds)
    from scipy import stats  # takes half a second, which the other verbs should not pay

    return float(2 * stats.t.sf(abs(pairing.mean) / (pairing.std / math.sqrt(n)), n - 1))


def _paired_fields(pairing: Paired | None) -> dict[str, Any]:
    return {"paired": None if pairing is None else asdict(pairing), "p": paired_p(pairing)}


def _paired_columns(row: dict[str, Any]) -> list[str]:
    """Return mean difference, interval, number of seeds and p of a row as text."""
    p = "" if row["p"] is None else f"{row['p']:.2f}"
    pairing = row["paired"]
    if not pairing:
        return ["", "", "0", p]
    interval = "" if pairing["low"] is None else f"{signed(pairing['low'])} to {signed(pairing['high'])}"
    return [signed(pairing["mean"]), interval, str(len(pairing["seeds"])), p]
