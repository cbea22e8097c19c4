"""plan, run, reproduce, work: what is missing, and training it on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmark import methods
from benchmark.cli import common
from benchmark.cli.common import plural, say
from benchmark.errors import InputError
from benchmark.spec import cost, imported, plan
from benchmark.training.execution import has_gpu
from benchmark.training.reporter import Outcome, Status
from benchmark.work import local, order
from benchmark.work.progress import reporter
from models import kernels
from results.store import Store


def register(verbs: Any) -> None:
    p = verbs.add_parser("plan", help="what a table needs: runs, packs, hours, disk; trains nothing")
    common.add_selection(p)
    common.add_places(p)
    common.add_execution(p)
    common.add_json(p)
    p.add_argument("--list", action="store_true", help="every run's key and state")
    p.set_defaults(do=do_plan)

    p = verbs.add_parser("run", help="train on this machine what is missing; can be interrupted and repeated")
    common.add_selection(p)
    common.add_places(p)
    common.add_execution(p)
    p.add_argument(
        "--until",
        type=int,
        default=None,
        metavar="EPOCH",
        help="stop after this epoch; the same command without it goes on",
    )
    p.set_defaults(do=do_run)

    p = verbs.add_parser(
        "reproduce", help="run, table and diff in one go (what `make reproduce-table1` calls)"
    )
    p.add_argument(
        "table",
        nargs="?",
        default="",
        metavar="TABLE",
        help="a table's name (or choose by --paper and --number)",
    )
    common.add_selection(p, table=False)
    p.add_argument("--paper", default=None, help="dlkd, sskd or crd: whose table (default: dlkd)")
    p.add_argument(
        "--number",
        type=int,
        choices=(1, 2),
        default=None,
        help="1: similar architectures (default), 2: different architectures",
    )
    p.add_argument(
        "--out", default="tables/out", metavar="DIR", help="where the files go (default: tables/out)"
    )
    common.add_places(p)
    common.add_execution(p)
    p.set_defaults(do=do_reproduce)

    p = verbs.add_parser(
        "work", help="train one work order (JSON from a file or -): what worker processes and jobs call"
    )
    p.add_argument("order", metavar="FILE")
    p.set_defaults(do=do_work)


def _plan(args: argparse.Namespace, chosen: common.Selection) -> tuple[plan.Plan, dict[str, Any]]:
    execution = common.execution_of(args)
    store = common.store_to_read(args, first=True)
    found = plan.make_plan(chosen.runs, store, max_pack=common.max_pack(args, execution))
    device = "cuda" if chosen.profile == "paper" and args.device == "auto" else execution.torch_device.type
    return found, plan.summary(found, device, keep=args.keep, factor=cost.factor_of(store, device))


def _describe(numbers: dict[str, Any]) -> str:
    hours = float(numbers["gpu_hours"] if "gpu_hours" in numbers else numbers["hours"])
    unit = "GPU-hours" if "gpu_hours" in numbers else "hours on two CPU cores"
    amount = f"{hours:.1f}" if hours >= 1 else f"{hours:.3f}"
    return (
        f"{plural(numbers['missing'], 'run')} to do in {plural(numbers['packs'], 'pack')}: about {amount} {unit}, "
        f"{_size(numbers['disk_bytes'])} of disk ({_size(numbers['checkpoint_bytes'])} more while the largest pack trains)"
    )


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit in ("B", "kB") else f"{n:.1f} {unit}"
        n /= 1000
    return ""


def do_plan(args: argparse.Namespace) -> int:
    chosen = common.select(args)
    found, numbers = _plan(args, chosen)
    table = chosen.expansion.table
    if args.json:
        listed = [{"name": p.name, "level": p.level, "runs": [r.key for r in p.runs]} for p in found.packs]
        runs = [
            {"key": r.key, "state": found.states[r.key], "pair": r.pair, "method": r.method, "seed": r.seed}
            for r in found.runs
        ]
        extra = {"plan_runs": runs, "plan_packs": listed} if args.list else {}
        common.print_json(
            {
                "table": table.name,
                "profile": chosen.profile,
                "dataset": chosen.expansion.dataset,
                **numbers,
                **extra,
            }
        )
        return 0
    print(f"{table.name}: {table.title}")
    print(
        f"profile {chosen.profile} on {chosen.expansion.dataset}, {plural(len(chosen.expansion.seeds), 'seed')}: "
        f"{plural(len({c.pair for c in chosen.expansion.cells}), 'pair')}, "
        f"{plural(numbers['runs'], 'run')} with teachers ({', '.join(f'{n} {s}' for s, n in sorted(numbers['states'].items()))})"
    )
    print(_describe(numbers))
    print(f"({numbers['assumptions']})")
    for level in range(found.levels):
        packs = found.level(level)
        print(f"level {level}: {plural(len(packs), 'pack')}")
        for p in packs if args.list else packs[:8]:
            print(f"  {p.name}")
            for r in p.runs if args.list else ():
                print(f"    {r.key}  {found.states[r.key]}")
        if len(packs) > 8 and not args.list:
            print(f"  ... {len(packs) - 8} more (--list shows all)")
    if skipped := [c for c in chosen.expansion.cells if c.reason]:
        for reason in dict.fromkeys(f"{c.row.label}: {c.reason}" for c in skipped):
            print(f"not run: {reason}")
    return 0


def _announce(args: argparse.Namespace, chosen: common.Selection) -> None:
    """Says which profile it is and why, and what the published one would cost."""
    name = chosen.expansion.table.name
    if chosen.profile_was_chosen:
        why = "a GPU is here" if has_gpu() else "no GPU is here"
        say(f"{name}: profile {chosen.profile} ({why}; PROFILE= or --profile chooses another)")
    else:
        say(f"{name}: profile {chosen.profile}")
    if chosen.profile != "paper":
        again = argparse.Namespace(**{**vars(args), "profile": "paper", "settings": []})
        try:
            full = common.select(again, quiet=True)
        except (
            common.NotInTable
        ):  # --only means runs of this profile, or clips that this profile does without are not there
            return
        packs = plan.make_plan(full.runs, None, max_pack=plan.DEFAULT_PACK["cuda"])
        hours = cost.estimate([p.runs for p in packs.packs], "cuda").hours
        say(
            f"as published (PROFILE=paper): {plural(len(packs.runs), 'run')} in {plural(len(packs.packs), 'pack')}, about {hours:.1f} GPU-hours"
        )
        say(f"  ({cost.assumptions('cuda', None)})")


def _say_edited(found: plan.Plan, store: Store) -> None:
    """Names the methods of KD_METHODS whose files are others than those that made records which count: an edit, without a new revision."""
    edited: dict[str, int] = {}
    for run in found.runs:
        own = [c.method for c in run.spec.components if methods.is_user_method(c.method)]
        sources = (
            ((store.record(run.key) or {}).get("sources") or {})
            if own and found.states[run.key] == "done"
            else {}
        )
        for method in own:
            if sources.get(method.name, method.source) != method.source:
                edited[method.name] = edited.get(method.name, 0) + 1
    for name, count in edited.items():
        say(
            f"the file of method {name} has changed since {plural(count, 'run')} that {'counts' if count == 1 else 'count'} as done: "
            "where its loss has, raise its `revision`"
        )


def train_missing(args: argparse.Namespace, chosen: common.Selection) -> list[Outcome]:
    execution = common.execution_of(args)
    store = common.store_of(args)
    found = plan.make_plan(
        chosen.runs, store, max_pack=common.max_pack(args, execution), skip_states=frozenset({"failed"})
    )
    failed = [r for r in found.runs if found.states[r.key] == "failed"]
    if failed:
        say(
            f"{plural(len(failed), 'run')} failed before and {'is' if len(failed) == 1 else 'are'} left out "
            "(`python -m benchmark retry` tries again, `logs` says why)"
        )
    done = sum(found.states[r.key] in ("done", "diverged") for r in found.runs)
    _say_edited(found, store)
    if not found.packs:
        say(f"nothing to train: {plural(done, 'run')} done")
        return [Outcome(r, Status.FAILED, (store.failure(r.key) or {}).get("reason", "")) for r in failed]
    common.writable(store.folder, "RESULTS")
    imported.require_weights(
        ref for pack in found.packs for r in pack.runs for ref in (r.teacher_ref, r.evaluates)
    )
    say(
        f"{plural(len(found.missing), 'run')} to train in {plural(len(found.packs), 'pack')}, {done} done; {execution.describe()['device_name']}, "
        f"{execution.precision}, {plural(execution.describe()['threads'], 'thread')}; results in {store.folder}"
    )
    if execution.wants_kernels and not execution.kernels:
        say(f"slower than need be: batch norms by PyTorch's operators ({kernels.built().error})")
    common.say_many_threads(execution)
    outcomes = local.run_plan(
        found, common.work_settings_of(args), reporter(), until=getattr(args, "until", None)
    )
    return outcomes + [
        Outcome(r, Status.FAILED, (store.failure(r.key) or {}).get("reason", "")) for r in failed
    ]


def _verdict(outcomes: list[Outcome]) -> int:
    bad = [o for o in outcomes if o.status in (Status.FAILED, Status.BLOCKED)]
    for o in bad:
        say(f"{o.status}: {o.run.key}: {o.reason}")
    for o in outcomes:
        if o.status in (Status.DIVERGED, Status.BUSY, Status.STOPPED, Status.WAITING):
            say(f"{o.status}: {o.run.key}{': ' + o.reason if o.reason else ''}")
    return 1 if bad else 0


def do_run(args: argparse.Namespace) -> int:
    if args.until is not None and args.until < 1:
        raise InputError(f"--until {args.until}; allowed: an epoch, 1 and more")
    chosen = common.select(args)
    common.execution_of(args)
    _announce(args, chosen)
    return _verdict(train_missing(args, chosen))


def do_reproduce(args: argparse.Namespace) -> int:
    from benchmark.cli import tables as table_verbs

    if args.table and (args.paper is not None or args.number is not None):
        raise InputError(
            f"reproduce {args.table} with --paper or --number; allowed: a table's name, or these"
        )
    number = args.number or 1
    alias = None if args.table else f"table{number}"
    args.table = args.table or common.paper_table("dlkd" if args.paper is None else args.paper, number)
    chosen = common.select(args)
    common.execution_of(args)  # what is wrong with it is said before anything else
    out = common.writable(common.path_of(args.out), "--out")
    _announce(args, chosen)
    code = _verdict(train_missing(args, chosen))
    table_verbs.show(chosen, common.store_of(args), out, alias=alias)
    return code


def do_work(args: argparse.Namespace) -> int:
    try:
        text = sys.stdin.read() if args.order == "-" else Path(args.order).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"the work order {args.order} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the work order {args.order} is not a text file in UTF-8") from error
    return _verdict(order.work(text, reporter()))
