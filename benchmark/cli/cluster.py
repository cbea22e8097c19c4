"""submit, cancel: a table's missing runs as job arrays on a Slurm cluster."""

from __future__ import annotations

import argparse
from typing import Any

from benchmark import data
from benchmark.cli import common
from benchmark.cli.common import plural, say
from benchmark.errors import InputError
from benchmark.spec import cost, imported
from benchmark.spec.runs import closure
from benchmark.training.execution import has_gpu


def register(verbs: Any) -> None:
    p = verbs.add_parser(
        "submit", help="submit what is missing to a Slurm cluster; returns at once and can be repeated"
    )
    common.add_selection(p, usual="paper if the cluster file says GPUs, quick if not")
    common.add_places(p)
    common.add_json(p)
    p.add_argument(
        "--cluster",
        required=True,
        metavar="NAME",
        help="a file of slurm/clusters, or the path of such a .toml file",
    )
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="print the batch scripts, arrays, dependencies, runs and hours; submit nothing",
    )
    p.add_argument(
        "--pack",
        type=int,
        default=0,
        metavar="N",
        help="most runs behind one teacher pass (default: the cluster file's)",
    )
    common.add_keep(p)
    common.add_teacher_cache(p)
    p.set_defaults(do=do_submit)

    p = verbs.add_parser(
        "cancel", help="cancel a table's jobs; what was trained is kept, and submit goes on from there"
    )
    common.add_selection(p)
    common.add_places(p)
    p.set_defaults(do=do_cancel)


def do_submit(args: argparse.Namespace) -> int:
    from slurm import commands
    from slurm.cluster import load_cluster
    from slurm.submit import format_report, submit_runs

    cluster = load_cluster(args.cluster)
    if not args.dry_run:
        commands.require_slurm()  # before anything is downloaded
    if args.pack < 0:
        raise InputError(f"--pack {args.pack}; allowed: 1 and more (0: the cluster file's)")
    if args.profile is None:
        args.profile = "paper" if cluster.torch_device == "cuda" else "quick"
        if args.profile != ("paper" if has_gpu() else "quick"):
            say(
                f"profile {args.profile}, as {cluster.name} has GPUs: give `--profile {args.profile}` to status and table too"
            )
    args.device, args.precision = cluster.torch_device, cluster.torch_precision
    args.threads, args.student_threads = cluster.cpus, cluster.student_threads
    settings = common.work_settings_of(args)
    chosen = common.select(args)
    store = common.store_of(args)
    if not args.dry_run:
        waiting = [r for r in closure(chosen.runs) if not store.is_done(r.key)]
        imported.require_weights(ref for r in waiting for ref in (r.teacher_ref, r.evaluates))
        for name in sorted({r.dataset for r in chosen.runs}):
            data.load(
                name, common.path_of(args.data)
            )  # nodes often have no way to the internet, and need not race for one file
    report = submit_runs(
        chosen.runs,
        chosen.expansion.table.name,
        store,
        settings,
        cluster,
        dry_run=args.dry_run,
        max_pack=args.pack,
        factor=cost.factor_of(store, cluster.torch_device),
        say=say,
    )
    if args.json:
        common.print_json(report.json())
    else:
        print(format_report(report))
    return 0


def do_cancel(args: argparse.Namespace) -> int:
    from slurm import commands
    from slurm.state import cancel

    chosen = common.select(args)
    store = common.store_to_read(args)
    commands.require_slurm()
    found = cancel(store, {r.key for r in closure(chosen.runs)})
    for job in found.ids:
        print(job)
    for job, why in found.kept:
        say(f"job {job} is kept: {why}")
    say(f"{plural(len(found.ids), 'job')} cancelled" if found.ids else "no jobs in the queue")
    return 0
