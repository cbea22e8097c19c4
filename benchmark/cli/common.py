"""Helpers that the verbs share: messages, folders and training options."""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmark import data
from benchmark.cli.options import KEEP, variable
from benchmark.cli.output import print_note
from benchmark.errors import InputError, require_one_line
from benchmark.spec import plan, teacher_cache_rule
from benchmark.spec.runs import Run
from benchmark.text import plural
from benchmark.training.execution import Execution, ExecutionRequest, cores
from benchmark.user_files import expanded
from benchmark.work.order import WorkSettings
from results.store import Store, default_folder
from slurm import registry

MOST_THREADS = 1_024
"""The most threads to accept; far more would exceed the limits of the system.

A machine with many cores may use 4 per core."""


# --- folders ----------------------------------------------------------------------------------------------


def path_of(text: str) -> Path:
    """Return the path, with `~` expanded. Raises `InputError` for a home folder that does not exist."""
    return expanded(text)


def store_of(args: argparse.Namespace) -> Store:
    """Return the store of `--results`."""
    if named := args.results or variable("RESULTS"):
        return Store(folder_of(path_of(named), "RESULTS"))
    folder = folder_of(default_folder(), "RESULTS")
    _note_working_folder(folder)
    return Store(folder)


CODE = Path(__file__).resolve().parents[2]
"""The folder of the packages: a checkout, or `site-packages`."""


@functools.cache
def _note_working_folder(results: Path) -> None:
    """Print where results are if a checkout is used from another folder, until there are some.

    results: the folder of runs in the working folder.
    """
    if results.is_dir() or not (CODE / "pyproject.toml").is_file() or Path.cwd().resolve() == CODE:
        return
    print_note(f"records, tables and report are kept in the working folder: {Path.cwd()}")
    if (kept := CODE / "results" / "runs").is_dir():
        print_note(f"those in the checkout are not used (RESULTS={kept})")


def store_to_read(args: argparse.Namespace, may_be_missing: bool = False) -> Store:
    """Return the store of `--results` for a verb that only reads.

    Raises `InputError` if the user named a folder that does not exist, because the name is probably mistyped.
    may_be_missing: only print a note instead; for verbs that make sense before the first run.
    """
    store = store_of(args)
    if (args.results or variable("RESULTS")) and not store.folder.is_dir():
        if not may_be_missing:
            raise InputError(
                f"RESULTS: no folder {store.folder}; give a folder of runs, or leave out RESULTS= and "
                "--results for results/runs of the working folder"
            )
        print_note(f"RESULTS: no folder {store.folder} yet, so no run is done")
    return store


def note_unusable(store: Store, states: Mapping[str, str]) -> None:
    """Name the records of these runs that cannot be used. states: key of a run -> its state."""
    for key, state in states.items():
        if state not in ("done", "diverged") and (line := store.unusable(key)):
            print_note(f"skipped: {line}")


def was_submitted(store: Store) -> bool:
    """Return whether any run of this folder was ever submitted to Slurm."""
    return registry.registry_folder(store.folder).is_dir()


def folder_of(path: Path, option: str) -> Path:
    """Return the path if it is a folder or can become one. Raises `InputError` if a file is in its way."""
    require_one_line(str(path), f"{option}: {str(path)!r}", "rename the folder")
    existing = next((p for p in (path, *path.parents) if p.exists()), None)
    if existing is not None and not existing.is_dir():
        raise InputError(
            f"{option}: {existing} is not a folder; give a folder, or a path where one can be made"
        )
    return path


def writable(path: Path, option: str) -> Path:
    """Make the folder if it does not exist, and return it.

    Raises `InputError` if nothing can be written to it, before hours of training rather than after them.
    """
    folder_of(path, option)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Permission bits are not enough: root ignores them, and a file system can be read-only.
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"{option}: {path} cannot be written to ({error.strerror}); give another folder"
        ) from error
    return path


# --- how to train -----------------------------------------------------------------------------------------


def _check_training_options(args: argparse.Namespace) -> None:
    teacher_cache_rule.check_mode(args.teacher_cache)
    if args.keep not in KEEP:  # argparse does not check a default that comes from the environment
        raise InputError(f"--keep {args.keep}; allowed: {', '.join(KEEP)}")


def execution_of(args: argparse.Namespace) -> Execution:
    """Check all training options, and return device, precision and threads. Raises `InputError`."""
    _check_training_options(args)
    return arithmetic_of(args)


def arithmetic_of(args: argparse.Namespace) -> Execution:
    """Check the options of device, precision and threads, and return these. Raises `InputError`."""
    most = max(MOST_THREADS, 4 * cores())
    if not 0 <= args.threads <= most:
        raise InputError(
            f"--threads {args.threads}; allowed: 0 (torch's choice) to {most}; this process may use "
            f"{plural(cores(), 'core')}"
        )
    if args.student_threads < 1:
        raise InputError(f"--student-threads {args.student_threads}; allowed: 1 and more")
    return execution_request_of(args).resolve()


def execution_request_of(args: argparse.Namespace) -> ExecutionRequest:
    """Return device, precision and threads as the options ask for them."""
    return ExecutionRequest(
        device=args.device,
        precision=args.precision,
        threads=args.threads,
        student_threads=args.student_threads,
        sync_norms=getattr(args, "sync_norms", False),
    )


def work_settings_of(args: argparse.Namespace, runs: Iterable[Run] = ()) -> WorkSettings:
    """Return the settings of workers. Paths are absolute, because a worker may run in another folder.

    runs: those of the table. If some measure networks, all weights are kept, whatever the options say.
    """
    _check_training_options(args)
    keep = args.keep
    if keep == "none" and any(run.measure is not None for run in runs):
        keep = "all"
        print_note("all weights are kept, although KEEP is none: this table measures the trained networks")
    return WorkSettings(
        results=store_of(args).folder.resolve(),
        data=path_of(args.data).resolve(),
        teachers=path_of(args.teachers).resolve() if args.teachers else None,
        network=args.network,
        accept_weak_teacher=args.accept_weak_teacher,
        keep=keep,
        teacher_cache=args.teacher_cache,
        accept_edit=args.accept_edit,
        execution=execution_request_of(args),
    )


def require_targets(runs: Iterable[Run], folder: Path) -> None:
    """Load the data sets that runs measure on and do not train on, so that hours of training come after.

    Raises `InputError` for one that is not there.
    """
    for name in sorted({run.measured_on for run in runs if run.measured_on not in ("", run.dataset)}):
        data.load(name, folder)


def note_many_threads(execution: Execution) -> None:
    """Print a note if there are more threads than cores."""
    if execution.threads > cores():
        print_note(
            f"slower than necessary: {execution.threads} threads compete for {plural(cores(), 'core')} "
            "(THREADS= or --threads)"
        )


def max_pack(args: argparse.Namespace, execution: Execution) -> int:
    """Return the largest number of runs in a pack."""
    if args.pack < 0:
        raise InputError(f"--pack {args.pack}; allowed: 1 and more (0: the default)")
    return args.pack or plan.DEFAULT_PACK[execution.torch_device.type]
