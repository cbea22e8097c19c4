"""bench --drift, --biases, --finals: that speed changes no result."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark import methods
from benchmark.bench import drift, finals
from benchmark.bench.ours import small_run
from benchmark.cli.common import plural, print_note
from benchmark.cli.selection import listed_names
from benchmark.errors import unknown
from benchmark.training.execution import Execution
from tables import statistics

Table = Callable[[list[list[Any]], list[str]], None]

LAYERED = ("vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2")
"""Networks with layers of our own in bf16 on a CPU (models/layers.py)."""


def _wanted(args: argparse.Namespace) -> list[tuple[str, str]]:
    """`(method, student)` of the methods that are asked for; a student of the teacher's stage depth where the method needs one."""
    every = [
        "plain",
        *(n for n in methods.names() if methods.get(n).trains_student and not methods.get(n).is_wrapper()),
    ]
    wanted = listed_names("--methods", args.methods) or every
    for name in wanted:
        if name not in every:
            raise unknown("method", name, every)
    return [(name, "resnet14" if name in ("ab", "fsp") else "resnet8") for name in wanted]


def show_drift(args: argparse.Namespace, execution: Execution, report: dict[str, Any], table: Table) -> int:
    rows = report["drift"] = []
    reference = (
        drift.Reference.load(Path(args.reference), args.steps)
        if args.reference
        else drift.Reference(args.steps)
    )
    networks = [] if args.methods else [("plain", name) for name in LAYERED]
    for name, student in [*_wanted(args), *networks]:
        run = small_run(name, student=student)
        for init in (True, False) if run.spec.init_stages else (False,):
            if args.save:
                reference.add(run, init)
                reference.save(Path(args.save))
                print_note(f"{drift.row_name(run, init)}: reference saved")
                continue
            for other in drift.variants(execution):
                rows.append(drift.measure(run, reference, other, init))
                r = rows[-1]
                print_note(
                    f"{r['method']} {r['precision']}: first {100 * r['first']:.4f}%, gap {100 * r['gap']:.2f}%, "
                    f"bias {statistics.signed(100 * r['bias'])}%, floor {100 * r['floor']:.2f}%"
                )
    if args.save:
        return 0
    table(
        [
            [
                r["method"],
                f"{r['device']} {r['precision']}",
                f"{r['loss_first']:.4g}",
                f"{r['loss_last']:.4g}",
                f"{100 * r['first']:.3f}%",
                f"{100 * r['gap']:.2f}%",
                f"{statistics.signed(100 * r['bias'])}%",
                f"{100 * r['floor']:.2f}%",
                "yes" if r["within"] else "NO",
            ]
            for r in rows
        ],
        ["method", "in", "first loss", "last loss", "first step", "gap", "bias", "floor", "within"],
    )
    print(
        f"{args.steps} steps; bounds: first step {100 * drift.FIRST:g}%, gap {100 * drift.GAP:g}% + {drift.FLOORS:g} x floor, of the mean fp32 loss; "
        "floor: gap of fp32 to fp32 from weights moved by 2^-9"
    )
    return 0 if all(r["within"] for r in rows) else 1


def show_biases(args: argparse.Namespace, report: dict[str, Any], table: Table) -> int:
    rows = report["biases"] = []
    for name, student in _wanted(args):
        found = [drift.biases(small_run(name, seed, student), args.steps) for seed in range(args.seeds)]
        for what in found[0]:
            values = {seed: 100 * b[what] for seed, b in enumerate(found)}
            p = statistics.paired(values, dict.fromkeys(values, 0.0))
            rows.append(
                {
                    "method": name,
                    "of": what,
                    "percent": values,
                    "paired": None if p is None else asdict(p),
                    "p": paired_p(p),
                }
            )
            print_note(f"{name}, {what}: {', '.join(statistics.signed(v) for v in values.values())} %")
    table(
        [
            [
                r["method"],
                r["of"],
                *(_difference(r["paired"]) if r["paired"] else ("", "", "0")),
                "" if r["p"] is None else f"{r['p']:.2f}",
            ]
            for r in rows
        ],
        ["method", "of", "mean bias %", "95% interval", "seeds", "p"],
    )
    print(
        f"bias: the mean loss of the first {args.steps} steps against fp32's, in percent of it; moved: fp32 from weights moved by 2^-9"
    )
    return 0


def show_finals(args: argparse.Namespace, report: dict[str, Any], table: Table) -> int:
    found = finals.measure(_wanted(args), args.seeds, ("fp32", "bf16"), print_note)
    rows = report["finals"] = []
    for name, tops in found.items():
        p = statistics.paired(tops["bf16"], tops["fp32"])
        rows.append(
            {"method": name, "top1": tops, "paired": None if p is None else asdict(p), "p": paired_p(p)}
        )
    least = min((r["p"] for r in rows if r["p"] is not None), default=1.0)
    same = least * len(rows) > 0.05
    table(
        [
            [
                r["method"],
                *(
                    f"{statistics.mean(list(r['top1'][k].values())):.2f}" if r["top1"][k] else ""
                    for k in ("fp32", "bf16")
                ),
                *(_difference(r["paired"]) if r["paired"] else ("", "", "0")),
                "" if r["p"] is None else f"{r['p']:.2f}",
            ]
            for r in rows
        ],
        ["method", "fp32", "bf16", "bf16 - fp32", "95% interval", "seeds", "p"],
    )
    print(
        "last top-1 of quick (digits, 256 test images) in percent, paired by seed; p of a paired t test. "
        f"{plural(len(rows), 'test')}: the least p, {least:.3f}, "
        f"{'is not below' if same else 'IS BELOW'} 0.05 / {len(rows)} (Bonferroni)"
    )
    return 0 if same else 1


def paired_p(p: statistics.Paired | None) -> float | None:
    """Two-sided p of a paired t test; None where there is no spread to hold the difference against."""
    from scipy import stats

    if p is None or not p.std:
        return None
    n = len(p.seeds)
    return float(2 * stats.t.sf(abs(p.mean) / (p.std / math.sqrt(n)), n - 1))


def _difference(p: dict[str, Any]) -> tuple[str, str, str]:
    around = "" if p["low"] is None else f"{statistics.signed(p['low'])} to {statistics.signed(p['high'])}"
    return statistics.signed(p["mean"]), around, str(len(p["seeds"]))
