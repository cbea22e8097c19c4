"""submit, cancel: a table's missing runs as job arrays on a Slurm cluster."""

from __future__ import annotations

import argparse
from typing import Any

from benchmark import data
from benchmark.cli import common, options
from benchmark.cli.output import print_json, print_note, print_text
from benchmark.cli.parser import add_json_option, add_verb
from benchmark.cli.selection import default_profile, select
from benchmark.errors import InputError
from benchmark.spec import imported, measured_speed
from benchmark.spec.runs import closure
from benchmark.text import plural
from benchmark.training.execution import has_gpu
from benchmark.work import notify
from benchmark.work.checks import require_trainable
from slurm import commands, notices
from slurm.cluster import load_cluster
from slurm.state import cancel
from slurm.submit import format_report, submit_runs


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "submit",
        details="Submits the missing runs as job arrays and returns at once. Students start when their "
        "teachers are done. It can be repeated: runs that are done, queued or running are not submitted "
        "again. Device, precision and threads come from the cluster file.",
        example="submit crd-table1 --cluster lab --dry-run",
    )
    options.add_selection_options(p, default_profile="paper on a cluster with GPUs, quick on one without")
    options.add_folder_options(p)
    add_json_option(p)
    p.add_argument(
        "--cluster",
        required=True,
        metavar="NAME",
        help="NAME of a built-in file of slurm/clusters or of clusters/NAME.toml in the working folder, "
        "or the path of a cluster file (.toml)",
    )
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="submit nothing; print the batch scripts, arrays, dependencies, runs and hours",
    )
    options.add_pack_option(p, default="the cluster file's")
    options.add_keep_option(p)
    options.add_teacher_cache_option(p)
    options.add_accept_edit_option(p)
    options.add_weak_teacher_option(p)
    options.add_notify_option(p, default=", else on_done of the cluster file")
    p.set_defaults(do=do_submit)

    p = add_verb(
        verbs,
        "cancel",
        details="Cancels the queued and running jobs of the chosen runs. Their checkpoints are kept, and "
        "`submit` continues from there. A job that also trains other runs is not cancelled.",
        example="cancel crd-table1",
    )
    options.add_selection_options(p)
    options.add_folder_options(p)
    p.set_defaults(do=do_cancel)


def do_submit(args: argparse.Namespace) -> int:
    cluster = load_cluster(args.cluster)
    if not args.dry_run:
        commands.require_slurm()  # before anything is downloaded
    if args.pack < 0:
        raise InputError(f"--pack {args.pack}; allowed: 1 and more (0: the cluster file's)")
    if args.profile is None:
        args.profile = default_profile(cluster.torch_device == "cuda")
        if args.profile != default_profile(has_gpu()):
            print_note(
                f"profile {args.profile}, because of the device of {cluster.name}; this machine has "
                f"another default, so give `--profile {args.profile}` to `status` and `table` too"
            )
    args.device, args.precision = cluster.torch_device, cluster.torch_precision
    args.threads, args.student_threads = cluster.cpus, cluster.student_threads
    chosen = select(args)
    settings = common.work_settings_of(args, chosen.runs)
    store = common.store_of(args)
    needed = closure(chosen.runs)
    if not args.dry_run:
        missing = [r for r in needed if not store.is_done(r.key)]
        imported.require_weights(ref for r in missing for ref in (r.teacher_ref, r.evaluates))
        to_train = [r for r in missing if store.state(r.key) != "failed"]
        require_trainable(to_train, store, accept_edit=args.accept_edit)
        # Nodes often have no internet access, and jobs that start together would race for the same file.
        for name in sorted({r.measured_on or r.dataset for r in needed}):
            data.load(name, common.path_of(args.data))
    common.note_unusable(store, {r.key: "" for r in needed if not store.is_done(r.key)})
    if not args.dry_run and (command := args.notify or cluster.on_done):
        keys = [run.key for run in needed]
        if not notify.is_over(notify.event("", store, keys)):
            # before the jobs, which could have ended otherwise
            notices.leave(store.folder, chosen.expansion.table.name, keys, command)
    report = submit_runs(
        chosen.runs,
        chosen.expansion.table.name,
        store,
        settings,
        cluster,
        dry_run=args.dry_run,
        max_pack=args.pack,
        factor=measured_speed.factor_of(store, cluster.torch_device),
        note=print_note,
    )
    if args.json:
        print_json(report.json())
    else:
        print_text(format_report(report))
    return 0


def do_cancel(args: argparse.Namespace) -> int:
    chosen = select(args)
    store = common.store_to_read(args)
    commands.require_slurm()
    cancelled = cancel(store, {r.key for r in closure(chosen.runs)})
    for job in cancelled.ids:
        print(job)
    for job, why in cancelled.kept:
        print_note(f"job {job} is kept: {why}")
    if cancelled.ids:
        print_note(f"{plural(len(cancelled.ids), 'job')} cancelled")
    else:
        print_note("no job to cancel in the queue")
    return 0
