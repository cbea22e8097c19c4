"""bench gpu: everything about a kind of GPU, in parts that can be spread over several calls."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmark.bench import cells, drift, gpu
from benchmark.bench.session import Part, Session
from benchmark.cli import common, options
from benchmark.cli.bench_options import (
    add_budget_option,
    add_images_option,
    add_repeats_option,
    add_steps_option,
    check,
    measurement,
    print_table,
    random_images,
)
from benchmark.cli.bench_precision import print_drift
from benchmark.cli.output import print_note
from benchmark.cli.parser import add_verb
from benchmark.errors import InputError
from benchmark.text import plural


def register(measurements: Any) -> None:
    p = add_verb(
        measurements,
        "gpu",
        summary="everything about a kind of GPU, in parts: kernels, precision, packs, hours of the tables",
        details="Measures the trials of the batch-norm kernels, the first losses of methods against fp32 on "
        "a CPU, full packs of five pairs with and without the kernels, and the kernels that a step starts. "
        "From the packs it estimates the hours of both tables. Each part is stored in FOLDER, and no part is "
        "started that would outlast --minutes; repeat the command to go on. It runs on a CPU too, with the "
        "CPU's kernels. Exits with 1 if a loss is out of bounds.",
        example="bench gpu gpu-h200 --device cuda --reference losses.pt --minutes 9",
    )
    p.add_argument("folder", metavar="FOLDER", help="folder of the parts; a new session needs an empty one")
    p.add_argument(
        "--minutes",
        type=options.decimal_number,
        default=25.0,
        metavar="N",
        help="start no part that would probably end later than this (default: 25)",
    )
    p.add_argument(
        "--reference",
        default="",
        metavar="FILE",
        help="fp32 losses from `bench drift --save FILE`, made on any machine; without it they are computed "
        "here on the CPU, which takes minutes",
    )
    add_steps_option(p)
    add_repeats_option(p)
    add_budget_option(p, "a pack, without its warm-up", default=20.0)
    add_images_option(p)
    p.add_argument("--only", default="", metavar="TEXT", help="only parts whose name contains this text")
    options.add_arithmetic_options(p)
    p.set_defaults(do=do_gpu, json="")


def do_gpu(args: argparse.Namespace) -> int:
    check(args)
    began = time.monotonic()
    if not args.minutes > 0:
        raise InputError(f"--minutes {args.minutes}; allowed: above 0")
    folder = common.writable(common.path_of(args.folder), "FOLDER")
    reference = drift.Reference(args.steps)
    if args.reference:
        reference = drift.Reference.load(Path(args.reference), args.steps)
    with measurement(args, with_precision=True) as (execution, report):
        parts = gpu.parts(
            random_images(args, execution),
            execution,
            reference=reference,
            effort=cells.Effort(args.repeats, args.budget),
        )
        parts = [part for part in parts if args.only in part.name]
        if not parts:
            raise InputError(f"--only {args.only}: no part has this in its name")
        session = Session(folder, report["conditions"])
        left = session.run(
            parts,
            seconds=60 * args.minutes - (time.monotonic() - began),
            on_part=lambda part, took: print_note(f"{part.name}: {took:.0f} s"),
        )
        within = _print_session(session, parts, device=execution.torch_device.type, steps=args.steps)
    if left:
        print_note(f"{plural(len(left), 'part')} left ({left[0].name} ...); the same call goes on with them")
    return 0 if within else 1


def _print_session(session: Session, parts: list[Part], *, device: str, steps: int) -> bool:
    """Print all parts measured so far. Returns whether every loss is within its bounds."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        if (result := session.result(part)) is not None:
            by_kind.setdefault(part.kind, []).append(result)
    for result in by_kind.get("norms", []):
        used = sum(trial["used"] for trial in result["trials"])
        right = sum(bool(trial["right"]) for trial in result["trials"])
        reason = f"; {result['error']}" if result["error"] else ""
        print(f"batch-norm kernels: {right} of {len(result['trials'])} shapes right, {used} used{reason}")
    drifts = [row for result in by_kind.get("drift", []) for row in result["rows"]]
    if drifts:
        print()
        print_drift(drifts, steps)
    packs = by_kind.get("pack", [])
    if packs:
        print()
        print_table([_pack_columns(p) for p in packs], [*("pair", "students"), *PACK_HEAD])
        for variant, hours in gpu.table_hours(packs, device).items():
            tables = ", ".join(f"{table} {hours[table]:.1f}" for table in gpu.TABLES)
            print(f"hours of one seed {variant} our kernels: {tables} (model x {hours['factor']:.2f})")
    if launches := by_kind.get("launches", []):
        print()
        print_table(
            [
                [
                    r["pair"],
                    r["students"],
                    r["launches"],
                    f"{r['microseconds'] / 1000:.1f}",
                    r["by_name"][0]["name"],
                ]
                for r in launches
            ],
            ["pair", "students", "kernels a step", "their ms", "longest together"],
        )
    return all(r["within"] for r in drifts)


PACK_HEAD = ("images/s with our kernels", "images/s without", "ratio", "cost model ms", "measured ms")


def _pack_columns(p: dict[str, Any]) -> list[Any]:
    kernels, plain = p.get("with"), p["without"]
    best = kernels or plain
    return [
        p["pair"],
        len(p["methods"]),
        f"{kernels['images_per_second']:.0f}" if kernels else "not used",
        f"{plain['images_per_second']:.0f}",
        f"{kernels['images_per_second'] / plain['images_per_second']:.2f}" if kernels else "",
        f"{p['modelled_ms']:.1f}",
        f"{best['step_ms']:.1f}",
    ]
