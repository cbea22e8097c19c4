"""run, reproduce, work: train runs on this machine."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark import longwork, methods
from benchmark.cli import common, options, summary
from benchmark.cli import plan as plan_verb
from benchmark.cli import tables as table_verbs
from benchmark.cli.output import print_command, print_note
from benchmark.cli.parser import PROGRAM, add_verb
from benchmark.cli.selection import Selection, paper_table, select
from benchmark.errors import InputError
from benchmark.spec import cost, imported, plan
from benchmark.spec.runs import closure
from benchmark.text import plural
from benchmark.training import begun, processes
from benchmark.training.execution import device_kind, has_gpu
from benchmark.training.reporter import Outcome, Status
from benchmark.work import local, notify, order
from benchmark.work.checks import require_trainable
from benchmark.work.progress import reporter
from results.store import Store


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "run",
        details="Trains the missing runs of a table, and the teachers that they need. It can be interrupted "
        "at any time: the same command continues from the last finished epoch. Runs that failed before are "
        "skipped (see `retry`). Runs that another process is training are waited for. Exits with 1 if a run "
        "fails.",
        example="run crd-table1 --profile quick --methods kd,crd",
    )
    options.add_selection_options(p)
    options.add_folder_options(p)
    options.add_training_options(p)
    _add_sync_norms(p)
    p.add_argument(
        "--until",
        type=options.whole_number,
        default=None,
        metavar="EPOCH",
        help="stop after this epoch; the same command without --until continues",
    )
    _add_no_wait(p)
    options.add_notify_option(p, default="")
    p.set_defaults(do=do_run)

    p = add_verb(
        verbs,
        "reproduce",
        details="Does what `run` and `table` do, one after the other, and prints one screen: how the runs "
        "ended, the table, and how many cells agree with the published ones; `diff` prints every cell. "
        "Exits with 1 if a run fails, but not if the table disagrees with the published one.",
        example="reproduce crd-table1 --profile quick",
    )
    p.add_argument(
        "table",
        nargs="?",
        default="",
        metavar="TABLE",
        help="a table's name or .toml file (default: the table of --paper and --number)",
    )
    options.add_selection_options(p, table=False)
    p.add_argument("--paper", default=None, help="take the table of dlkd, sskd or crd (default: dlkd)")
    p.add_argument(
        "--number",
        type=options.whole_number,
        choices=(1, 2),
        default=None,
        help="1: its table of similar architectures (default), 2: of different architectures",
    )
    options.add_out_option(p, "tables/out", "folder for the files")
    options.add_folder_options(p)
    options.add_training_options(p)
    _add_sync_norms(p)
    _add_no_wait(p)
    options.add_notify_option(p, default="")
    p.set_defaults(do=do_reproduce)

    p = add_verb(
        verbs,
        "work",
        details="Trains one pack as a work order describes it. `run` on several GPUs and `submit` write work "
        "orders for their workers; you rarely need this verb yourself.",
        example="work order.json",
    )
    p.add_argument("order", metavar="FILE", help="the work order, a JSON file; - reads standard input")
    p.set_defaults(do=do_work)


def _add_sync_norms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sync-norms",
        action="store_true",
        help="for several processes, started by torchrun, that share every batch: batch norms use the "
        "statistics of the whole batch, not those of their process's part",
    )


def _add_no_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-wait",
        action="store_true",
        help="do not wait for runs that another process is training, and skip the runs that need them "
        "(default: wait until they are done, or take them over if that process ends)",
    )


def _announce(args: argparse.Namespace, chosen: Selection) -> None:
    """Print the profile and why it was chosen, and what the published settings would cost."""
    name = chosen.expansion.table.name
    if chosen.profile_is_default:
        why = "this machine has a GPU" if has_gpu() else "this machine has no GPU"
        print_note(f"{name}: profile {chosen.profile} ({why}; choose with PROFILE= or --profile)")
    else:
        print_note(f"{name}: profile {chosen.profile}")
    if chosen.profile == "paper":
        return
    as_published = argparse.Namespace(**{**vars(args), "profile": "paper", "settings": []})
    try:
        full = select(as_published, quiet=True)
    except InputError:
        # --only may match runs of this profile only, and `paper` may need clips or a checkpoint that are not
        # here. This is only an estimate, so it stops no runs of another profile.
        return
    packs = plan.make_plan(full.runs, None, max_pack=plan.DEFAULT_PACK["cuda"])
    hours = cost.estimate([p.runs for p in packs.packs], "cuda").hours
    print_note(
        f"as published (PROFILE=paper): {plural(len(packs.runs), 'run')} in "
        f"{plural(len(packs.packs), 'pack')}, about {plan_verb.time_in_words(hours, on_gpu=True)}"
    )
    print_note(f"  ({cost.assumptions('cuda', None)})")


def _note_edited_methods(planned: plan.Plan, store: Store) -> None:
    """Print the user methods whose files changed after runs that count as done, without a new revision."""
    edited: Counter[str] = Counter()
    for run in planned.runs:
        user_methods = [c.method for c in run.spec.components if methods.is_user_method(c.method)]
        if not user_methods or planned.states[run.key] != "done":
            continue
        sources = (store.record(run.key) or {}).get("sources") or {}
        edited.update(m.name for m in user_methods if sources.get(m.name, m.source) != m.source)
    for name, count in edited.items():
        print_note(
            f"the file of method {name} has changed since {plural(count, 'finished run')}; "
            "if its loss has changed, raise its `revision` to train again"
        )


def train_missing(args: argparse.Namespace, chosen: Selection) -> list[Outcome]:
    """Train the missing runs of a selection. Returns the outcomes, also of runs that failed before."""
    execution = common.execution_of(args)
    store = common.store_of(args)
    planned = plan.make_plan(
        chosen.runs,
        store,
        max_pack=common.max_pack(args, execution),
        skip_states=frozenset({"failed"}),
        conditions_of=begun.conditions_of(store, execution),
    )
    failed = [
        Outcome(r, Status.FAILED, (store.failure(r.key) or {}).get("reason", ""))
        for r in planned.runs
        if planned.states[r.key] == "failed"
    ]
    if failed:
        print_note(
            f"{plural(len(failed), 'run')} failed before and {'is' if len(failed) == 1 else 'are'} skipped; "
            f"see `{PROGRAM} logs` for the reason, and use `retry` to try again"
        )
    done = sum(planned.states[r.key] in ("done", "diverged") for r in planned.runs)
    _note_edited_methods(planned, store)
    if not planned.packs:
        print_note(f"nothing to train: {plural(done, 'run')} done")
        return failed
    common.writable(store.folder, "RESULTS")
    imported.require_weights(
        ref for pack in planned.packs for r in pack.runs for ref in (r.teacher_ref, r.evaluates)
    )
    require_trainable(planned.missing, store, accept_edit=args.accept_edit)
    common.require_targets(planned.missing, common.path_of(args.data))
    machine = execution.describe()
    packs = plural(len(planned.packs), "pack")
    print_note(
        f"{plural(len(planned.missing), 'run')} to train in {packs}, {done} done; "
        f"{machine['device_name']}, {execution.precision}, {plural(machine['threads'], 'thread')}; "
        f"results in {store.folder}"
    )
    if execution.wants_kernels and not execution.kernels:
        slower = "" if execution.torch_device.type == "cuda" else "slower than necessary: "
        print_note(
            f"{slower}batch norms use PyTorch's operators, not our kernels ({execution.kernels_error})"
        )
    common.note_many_threads(execution)
    with _notifying(args, chosen, store):
        outcomes = local.run_plan(
            planned,
            common.work_settings_of(args, planned.runs),
            reporter(),
            until=getattr(args, "until", None),
            wait=not args.no_wait,
        )
    return outcomes + failed


@contextlib.contextmanager
def _notifying(args: argparse.Namespace, chosen: Selection, store: Store) -> Iterator[None]:
    """Run the command of `--notify` if all runs of the table have ended, or an error ends the block."""
    table, keys = chosen.expansion.table.name, [run.key for run in closure(chosen.runs)]
    try:
        yield
    except Exception as error:
        if args.notify:
            reason = f"{type(error).__name__}: {error}"
            notify.send(args.notify, notify.event(table, store, keys, reason), print_note)
        raise
    if args.notify and notify.is_over(happened := notify.event(table, store, keys)):
        notify.send(args.notify, happened, print_note)


def _report_outcomes(outcomes: list[Outcome]) -> int:
    """Print the runs that are not done and return the exit code."""
    bad = [o for o in outcomes if o.status in (Status.FAILED, Status.BLOCKED)]
    unfinished = [o for o in outcomes if o not in bad and o.status != Status.DONE]
    for o in bad + unfinished:
        print_note(f"{o.status}: {o.run.key}{': ' + o.reason if o.reason else ''}")
    counts = Counter(o.status for o in unfinished)
    if counts[Status.BUSY]:
        print_note(
            f"{plural(counts[Status.BUSY] + counts[Status.WAITING], 'run')} not trained here: "
            f"{counts[Status.BUSY]} in another process, {counts[Status.WAITING]} that wait for unfinished "
            "runs; the same command goes on later"
        )
    return 1 if bad else 0


def do_run(args: argparse.Namespace) -> int:
    if args.until is not None and args.until < 1:
        raise InputError(f"--until {args.until}; allowed: an epoch, 1 and more")
    with _with_others(args) as follows:
        if follows:
            return 0
        chosen = select(args)
        common.execution_of(args)  # reports wrong options before anything else is done
        _announce(args, chosen)
        code = _report_outcomes(train_missing(args, chosen))
        _note_next(args, chosen)
    return code


def _note_next(args: argparse.Namespace, chosen: Selection) -> None:
    """Print how many runs are done, and the command that prints the table. Bars leave nothing behind."""
    store = common.store_of(args)
    states = [store.state(run.key) for run in closure(chosen.runs)]
    if done := sum(state in ("done", "diverged") for state in states):
        print_note(f"{done} of {plural(len(states), 'run')} done; the table, and its comparison:")
        for verb in ("table", "diff"):
            print_command(summary.command(verb, args, chosen))


def do_reproduce(args: argparse.Namespace) -> int:
    if args.table and (args.paper is not None or args.number is not None):
        raise InputError(
            f"reproduce {args.table} cannot be combined with --paper or --number; they name another table"
        )
    number = args.number or 1
    alias = None if args.table else f"table{number}"
    args.table = args.table or paper_table("dlkd" if args.paper is None else args.paper, number)
    with _with_others(args) as follows:
        if follows:
            return 0
        chosen = select(args)
        common.execution_of(args)  # reports wrong options before anything else is done
        out = common.writable(common.path_of(args.out), "--out")
        _announce(args, chosen)
        began = time.monotonic()
        code = _report_outcomes(train_missing(args, chosen))
    table_verbs.show(args, chosen, common.store_of(args), out, alias=alias, seconds=time.monotonic() - began)
    return code


@contextlib.contextmanager
def _with_others(args: argparse.Namespace) -> Iterator[bool]:
    """Join the other processes if torchrun has started several. The block gets whether this one has followed.

    A process that follows trains the packs of process 0 before the block, and prints nothing.
    """
    with processes.joined(device_kind(args.device)) as team:
        if not isinstance(team, processes.Joined) or team.leads:
            if team.count > 1:
                print_note(
                    f"{team.count} processes share every batch; CUDA graphs, the teacher cache and steps of "
                    "students side by side are off"
                )
            yield False
            return
        longwork.show(False)
        settings = replace(common.work_settings_of(args), until=getattr(args, "until", None))
        try:
            order.follow(settings, team)
        except InputError:  # process 0 says what is wrong
            sys.exit(2)
        yield True


def do_work(args: argparse.Namespace) -> int:
    try:
        text = sys.stdin.read() if args.order == "-" else Path(args.order).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"the work order {args.order} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the work order {args.order} is not a text file in UTF-8") from error
    return _report_outcomes(order.work(text, reporter()))
