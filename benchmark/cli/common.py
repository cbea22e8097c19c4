"""What the verbs share: the options that choose runs, and where things lie."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import data
from benchmark.data.clips import list_clips
from benchmark.errors import InputError
from benchmark.spec import imported, matrix, plan, protocols, teacher_cache_rule
from benchmark.spec.matrix import MOST_SEEDS, Expansion
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run, TeacherRef
from benchmark.text import plural as plural
from benchmark.training.execution import Execution, ExecutionRequest, cores, has_gpu
from benchmark.work.order import WorkSettings
from results.store import Store, default_folder

PAPER_TABLES = {
    "dlkd": ("dlkd-table1", "dlkd-table2"),
    "sskd": ("sskd-table3", "sskd-table4"),
    "crd": ("crd-table1", "crd-table2"),
}
"""`PAPER=`: the paper's tables of similar and of different architectures."""


KEEP = ("all", "none")

MOST_THREADS = 1_024
"""With many more, processes run out of what the system grants. More are allowed where there are cores for them."""

LARGEST_SEED = 2**31 - 1
"""Any seed trains (`seeds.seed_of` hashes it), but records are read as 64-bit numbers."""


class NotInTable(InputError):
    """What was asked for, or needed, is there for no run of this table; another table may have it."""


def variable(name: str, default: str = "") -> str:
    """An environment variable; set and empty is not set."""
    return os.environ.get(name) or default


def path_of(text: str) -> Path:
    """The path that a person means: `~` is a home, also where no shell has looked at it (`make RESULTS='~/x'`)."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{text}: no such home; allowed: ~/..., or a path without ~") from None


def add_places(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("places")
    group.add_argument(
        "--results", default=None, metavar="DIR", help="where runs lie (default: $RESULTS, else results/runs)"
    )
    group.add_argument(
        "--data",
        default=variable("DATA", "data"),
        metavar="DIR",
        help="folder of data sets (default: $DATA, else data; missing sets are downloaded)",
    )
    group.add_argument(
        "--teachers",
        default=variable("TEACHERS"),
        metavar="DIR",
        help="folder of checkpoints that teach instead of teachers trained here (default: $TEACHERS)",
    )


def add_selection(
    parser: argparse.ArgumentParser,
    table: bool = True,
    only: bool = True,
    usual: str = "paper with a GPU, quick without",
) -> None:
    """only: whether single runs can be chosen (not where whole cells are shown). usual: the profile where none is named, in words."""
    if table:
        parser.add_argument(
            "table", metavar="TABLE", help=f"one of {', '.join(matrix.table_names())}, or a .toml file"
        )
    group = parser.add_argument_group("which runs")
    group.add_argument(
        "--profile",
        default=variable("PROFILE") or None,
        help=f"{', '.join(protocols.PROFILES)} (default: $PROFILE, else {usual})",
    )
    group.add_argument(
        "--protocol",
        default=variable("PROTOCOL") or None,
        help="overrides the table's protocol; makes it not comparable with the printed numbers",
    )
    group.add_argument(
        "--seeds",
        default=variable("SEEDS") or None,
        metavar="N|A,B,..",
        help="number of seeds (0..N-1), or a list such as 0,3,7 or 5, (only seed 5)",
    )
    group.add_argument("--pairs", default=None, metavar="T:S,..", help="only these columns")
    group.add_argument(
        "--methods", default=None, metavar="M,..", help="only these rows (Teacher and Student stay)"
    )
    if only:
        group.add_argument(
            "--only",
            default=None,
            metavar="PATTERN",
            help="only runs whose key matches (shell pattern, or a part of the key)",
        )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="settings",
        help="another hyper-parameter, e.g. kd.temperature=8, ce=0.5, recipe.epochs=10: another run with another key",
    )


def add_arithmetic(group: Any, precision: str = "auto, fp32, tf32, bf16 (recorded; in no key)") -> None:
    """The options of `arithmetic_of`. precision: its help."""
    group.add_argument(
        "--device", default=variable("DEVICE", "auto"), help="auto, cpu, cuda (default: $DEVICE, else auto)"
    )
    group.add_argument(
        "--precision",
        default=variable("PRECISION", "auto"),
        help=f"{precision} (default: $PRECISION, else auto)",
    )
    group.add_argument(
        "--threads",
        type=int,
        default=variable("THREADS", "0"),
        help="CPU threads (0: torch's choice; recorded; default: $THREADS, else 0)",
    )
    group.add_argument(
        "--student-threads",
        type=int,
        default=variable("STUDENT_THREADS", "1"),
        metavar="N",
        help="of these, threads of one student's step: so many fewer students are stepped side by side (recorded; default: $STUDENT_THREADS, else 1)",
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how")
    add_arithmetic(group)
    group.add_argument(
        "--pack",
        type=int,
        default=0,
        metavar="N",
        help="most runs behind one teacher pass (default: 16 on a CPU, 32 on a GPU)",
    )
    add_keep(group)
    add_teacher_cache(group)


def add_keep(group: Any) -> None:
    group.add_argument(
        "--keep",
        default=variable("KEEP", "all"),
        choices=KEEP,
        help="weights of finished runs: all, or none, which keeps those that other runs learn from all the same: of plain trainings "
        "(teachers, students) and teachers' heads (default: $KEEP, else all)",
    )


def add_teacher_cache(group: Any) -> None:
    group.add_argument(
        "--teacher-cache",
        default=variable("TEACHER_CACHE", "auto"),
        metavar="auto|on|off",
        help="read teachers' logits and embeddings from a table of all 162 crops and flips (recorded; auto: in bf16, where it saves passes)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def store_of(args: argparse.Namespace) -> Store:
    named = args.results or variable("RESULTS")
    return Store(folder_of(path_of(named) if named else default_folder(), "RESULTS"))


def store_to_read(args: argparse.Namespace, first: bool = False) -> Store:
    """`store_of` for verbs that only look at what is there: a folder that was named and is not there is a mistyped one (`InputError`).

    first: the verb makes sense before the first run too, so that there is only a notice.
    """
    store = store_of(args)
    if (args.results or variable("RESULTS")) and not store.folder.is_dir():
        if not first:
            raise InputError(
                f"RESULTS: no folder {store.folder}; allowed: a folder of runs, or no RESULTS= and --results (results/runs)"
            )
        say(f"RESULTS: no folder {store.folder} yet: nothing is done there")
    return store


def folder_of(path: Path, who: str) -> Path:
    """The path, if it is a folder or can become one. `InputError` where a file is in its way."""
    there = next((p for p in (path, *path.parents) if p.exists()), None)
    if there is not None and not there.is_dir():
        raise InputError(f"{who}: {there} is no folder; allowed: a folder, or a path where one can be made")
    return path


def writable(path: Path, who: str) -> Path:
    """The folder, made if it is not there. `InputError` where nothing can be written to it: said before hours of training, not after."""
    folder_of(path, who)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(
            dir=path
        ):  # permission bits say nothing of root, and of read-only file systems
            pass
    except OSError as error:
        raise InputError(
            f"{who}: {path} cannot be written to ({error.strerror}); allowed: a folder that can"
        ) from error
    return path


def words(text: str) -> list[str]:
    return [w.strip() for w in text.split(",") if w.strip()]


def narrowed(option: str, text: str | None) -> list[str]:
    """The words of an option that narrows, [] where it is not given. Given and empty (`--pairs "$P"`, P not set) it would choose everything."""
    if text is None:
        return []
    if not words(text):
        raise InputError(f"{option} '{text}' is empty; allowed: names, or no {option} at all")
    return words(text)


def seeds_of(text: str | None) -> list[int] | None:
    """`3` means seeds 0, 1, 2; `0,3,7` these; `5,` only seed 5."""
    if text is None:
        return None
    try:
        numbers = [int(w) for w in words(text)]
    except ValueError:
        numbers = []
    listed = "," in text
    wrong = not numbers or len(set(numbers)) < len(numbers) or min(numbers) < (0 if listed else 1)
    if wrong or max(numbers) > (LARGEST_SEED if listed else MOST_SEEDS) or len(numbers) > MOST_SEEDS:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise InputError(
            f"seeds '{shown}'; allowed: a number of seeds (1 to {MOST_SEEDS}), or different seeds such as 0,3,7 "
            f"(at most {MOST_SEEDS}, each 0 to {LARGEST_SEED})"
        )
    return numbers if listed else list(range(numbers[0]))


@dataclass(frozen=True)
class Selection:
    """What a command line chose: a table under a profile, and the runs of it that are meant."""

    expansion: Expansion
    runs: tuple[Run, ...]
    profile: str
    profile_was_chosen: bool


def imported_of(args: argparse.Namespace) -> dict[tuple[str, str], TeacherRef]:
    """The checkpoints of TEACHERS=, as `imported.teachers_in` returns them."""
    return imported.teachers_in(path_of(args.teachers) if args.teachers else None)


def resolver_of(args: argparse.Namespace) -> Resolver:
    """What resolves runs here: it knows the imported teachers, and the data sets that are a folder's own."""
    data.register_clips(path_of(args.data))
    return Resolver(imported_of(args))


def select(args: argparse.Namespace, name: str | None = None, quiet: bool = False) -> Selection:
    """Resolves the options of `add_selection` (and `add_places`). `InputError` for whatever does not exist.

    quiet: without notices, where several tables are looked at, or one again.
    """
    table = matrix.load_table(name or args.table)
    if args.protocol:
        protocols.get_protocol(args.protocol)
        if args.protocol != table.protocol or any(r.protocol != args.protocol for r in table.rows):
            table = dataclasses.replace(table, protocol_override=args.protocol)
    profile = args.profile or ("paper" if has_gpu() else "quick")
    protocols.get_profile(profile)
    overrides = matrix.parse_overrides(args.settings)
    resolver = resolver_of(args)
    expansion = matrix.expand(
        table,
        profile,
        resolver,
        seeds=seeds_of(args.seeds),
        pairs=narrowed("--pairs", args.pairs),
        only_methods=narrowed("--methods", args.methods),
        overrides=overrides,
    )
    _used(overrides, expansion)
    _clips_are_there(expansion.dataset, path_of(args.data))
    runs = expansion.runs
    only: str | None = getattr(args, "only", None)
    if only is not None:
        narrowed("--only", only)
        runs = tuple(r for r in runs if matches(r.key, only))
        if not runs:
            raise NotInTable(
                f"--only {only}: no run of {table.name} matches; allowed: a part of a key, as `plan {table.name} --list` shows them"
            )
    if not quiet:
        _say_unused_teachers(args.teachers, resolver, expansion)
    return Selection(expansion, runs, profile, args.profile is None)


def _clips_are_there(dataset: str, folder: Path) -> None:
    """Clips are part of their runs' keys: without them every finished run would look as if it had not been made."""
    known = data.info(dataset)
    if known.user_files and not known.identity:
        try:
            list_clips(folder)
        except InputError as error:
            raise NotInTable(str(error)) from error


def _say_unused_teachers(folder: str, resolver: Resolver, expansion: Expansion) -> None:
    refs = (ref for r in expansion.runs for ref in (r.teacher_ref, r.evaluates))
    if not folder or any(ref is not None and ref.run is None for ref in refs):
        return
    counts_for = sorted({dataset for dataset, _ in resolver.imported})
    why = (
        "it has none of this table's teachers"
        if expansion.dataset in counts_for
        else f"its checkpoints count for {', '.join(counts_for)}, and the runs of profile {expansion.profile} are of {expansion.dataset}"
    )
    say(f"TEACHERS: {folder} is not used here: {why}")


def _used(overrides: tuple[tuple[str, Any], ...], expansion: Expansion) -> None:
    """A setting that no run of the table has would be silently lost; say so instead."""
    methods = {w for r in expansion.runs for w in r.method.split("+")}
    for key, _ in overrides:
        name = key.partition(".")[0]
        if name not in ("ce", "recipe") and name not in methods:
            raise NotInTable(
                f"--set {key}: no run of {expansion.table.name} has method {name}; allowed: {', '.join(sorted(methods))}"
            )


def matches(key: str, pattern: str) -> bool:
    pattern = pattern.replace(":", "-")
    return pattern in key or fnmatch.fnmatch(key, pattern)


def _check_how(args: argparse.Namespace) -> None:
    teacher_cache_rule.check_mode(args.teacher_cache)
    if args.keep not in KEEP:  # argparse does not look at what comes from the environment
        raise InputError(f"--keep {args.keep}; allowed: {', '.join(KEEP)}")


def execution_of(args: argparse.Namespace) -> Execution:
    _check_how(args)
    return arithmetic_of(args)


def arithmetic_of(args: argparse.Namespace) -> Execution:
    most = max(MOST_THREADS, 4 * cores())
    if not 0 <= args.threads <= most:
        raise InputError(
            f"--threads {args.threads}; allowed: 0 (torch's choice) to {most}; this process may use {plural(cores(), 'core')}"
        )
    if args.student_threads < 1:
        raise InputError(f"--student-threads {args.student_threads}; allowed: 1 and more")
    return execution_request_of(args).resolve()


def execution_request_of(args: argparse.Namespace) -> ExecutionRequest:
    return ExecutionRequest(
        device=args.device,
        precision=args.precision,
        threads=args.threads,
        student_threads=args.student_threads,
    )


def work_settings_of(args: argparse.Namespace) -> WorkSettings:
    """What a worker is given; its folders are absolute, since it may run in another one."""
    _check_how(args)
    return WorkSettings(
        results=store_of(args).folder.resolve(),
        data=path_of(args.data).resolve(),
        teachers=path_of(args.teachers).resolve() if args.teachers else None,
        keep=args.keep,
        teacher_cache=args.teacher_cache,
        execution=execution_request_of(args),
    )


def say_many_threads(execution: Execution) -> None:
    if execution.threads > cores():
        say(
            f"slower than need be: {execution.threads} threads wait for each other on {plural(cores(), 'core')} (THREADS=, --threads)"
        )


def max_pack(args: argparse.Namespace, execution: Execution) -> int:
    if args.pack < 0:
        raise InputError(f"--pack {args.pack}; allowed: 1 and more (0: the default)")
    return args.pack or plan.DEFAULT_PACK[execution.torch_device.type]


def say(text: str = "") -> None:
    """A line for the person, on standard error: standard output is the result's."""
    print(text, file=sys.stderr, flush=True)


def paper_table(paper: str, number: int) -> str:
    if paper not in PAPER_TABLES:
        from benchmark.errors import unknown

        raise unknown("PAPER", paper, PAPER_TABLES)
    return PAPER_TABLES[paper][number - 1]


Verb = Sequence[str]
