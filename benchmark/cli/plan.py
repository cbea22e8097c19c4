"""plan: which runs are missing, and what they would cost."""

from __future__ import annotations

import argparse
from typing import Any

from benchmark.cli import common, options
from benchmark.cli.output import print_json, print_text
from benchmark.cli.parser import add_json_option, add_verb
from benchmark.cli.selection import Selection, select
from benchmark.spec import measured_speed, plan
from benchmark.text import duration, plural, size
from benchmark.training import begun

SHOWN_PACKS = 8
"""Packs of a level that are printed without `--list`."""


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "plan",
        details="Prints the missing runs of a table as packs, and estimates the hours and disk space that "
        "they need. Packs of one level can be trained at the same time; a level needs the levels before it.",
        example="plan crd-table1 --profile paper --list",
    )
    options.add_selection_options(p)
    options.add_folder_options(p)
    options.add_training_options(p)
    add_json_option(p)
    p.add_argument("--list", action="store_true", help="print all packs, and the key and state of every run")
    p.set_defaults(do=do_plan)


def _plan(args: argparse.Namespace, chosen: Selection) -> tuple[plan.Plan, dict[str, Any]]:
    """Return the plan, and its summary in numbers."""
    execution = common.execution_of(args)
    store = common.store_to_read(args, may_be_missing=True)
    planned = plan.make_plan(
        chosen.runs,
        store,
        max_pack=common.max_pack(args, execution),
        conditions_of=begun.conditions_of(store, execution),
    )
    device = estimated_device(chosen.profile, args.device, execution.torch_device.type)
    return planned, plan.summary(
        planned, device, keep=args.keep, factor=measured_speed.factor_of(store, device, chosen.profile)
    )


def estimated_device(profile: str, device: str, here: str) -> str:
    """Return the kind of device whose time is estimated. device: as asked for; here: what this machine has.

    The published schedule is meant for a GPU, so it is estimated for one unless a device is named.
    """
    return "cuda" if profile == "paper" and device == "auto" else here


def time_of(numbers: dict[str, Any]) -> str:
    """Return the time in a `plan.summary` in words."""
    on_gpu = "gpu_hours" in numbers
    return time_in_words(float(numbers["gpu_hours" if on_gpu else "hours"]), on_gpu=on_gpu)


def time_in_words(hours: float, *, on_gpu: bool) -> str:
    """Return hours of a device in words: `12 min on two CPU cores`, `24.6 GPU-hours`."""
    if hours < 1:
        return f"{duration(3600 * hours)} on {'one GPU' if on_gpu else 'two CPU cores'}"
    return f"{hours:.1f} {'GPU-hours' if on_gpu else 'hours on two CPU cores'}"


def _describe(numbers: dict[str, Any]) -> str:
    return (
        f"{plural(numbers['missing'], 'run')} to do in {plural(numbers['packs'], 'pack')}: "
        f"about {time_of(numbers)}, {size(numbers['disk_bytes'])} of disk "
        f"({size(numbers['checkpoint_bytes'])} more while the largest pack trains)"
    )


def do_plan(args: argparse.Namespace) -> int:
    chosen = select(args)
    planned, numbers = _plan(args, chosen)
    common.note_unusable(common.store_of(args), planned.states)
    if args.json:
        _print_plan_json(chosen, planned, numbers, listed=args.list)
    else:
        _print_plan(chosen, planned, numbers, listed=args.list)
    return 0


def _print_plan_json(chosen: Selection, planned: plan.Plan, numbers: dict[str, Any], listed: bool) -> None:
    packs = [{"name": p.name, "level": p.level, "runs": [r.key for r in p.runs]} for p in planned.packs]
    runs = [
        {"key": r.key, "state": planned.states[r.key], "pair": r.pair, "method": r.method, "seed": r.seed}
        for r in planned.runs
    ]
    print_json(
        {
            "table": chosen.expansion.table.name,
            "profile": chosen.profile,
            "dataset": chosen.expansion.dataset,
            **numbers,
            **({"plan_runs": runs, "plan_packs": packs} if listed else {}),
        }
    )


def _print_plan(chosen: Selection, planned: plan.Plan, numbers: dict[str, Any], listed: bool) -> None:
    expansion = chosen.expansion
    print_text(f"{expansion.table.name}: {expansion.table.title}")
    print_text(
        f"profile {chosen.profile} on {expansion.dataset}, {plural(len(expansion.seeds), 'seed')}: "
        f"{plural(len({c.pair for c in expansion.cells}), 'pair')}, "
        f"{plural(numbers['runs'], 'run')} with teachers "
        f"({', '.join(f'{n} {s}' for s, n in sorted(numbers['states'].items()))})"
    )
    print_text(_describe(numbers))
    print_text(f"({numbers['assumptions']})")
    for line in numbers.get("large_images", ()):
        print_text(f"({line})")
    for level in range(planned.levels):
        packs = planned.level(level)
        print_text(f"level {level}: {plural(len(packs), 'pack')}")
        for p in packs if listed else packs[:SHOWN_PACKS]:
            print_text(f"  {p.name}")
            for r in p.runs if listed else ():
                print_text(f"    {r.key}  {planned.states[r.key]}")
        if len(packs) > SHOWN_PACKS and not listed:
            print_text(f"  ... {len(packs) - SHOWN_PACKS} more (--list shows all)")
    for reason in dict.fromkeys(f"{c.row.label}: {c.reason}" for c in expansion.cells if c.reason):
        print_text(f"not run: {reason}")
