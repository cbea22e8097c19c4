"""Which runs a command line selects."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import data
from benchmark.cli.common import path_of
from benchmark.cli.output import print_note
from benchmark.data.clips import NAME as CLIPS
from benchmark.data.clips import list_clips
from benchmark.errors import InputError, unknown
from benchmark.spec import imported, matrix, profiles, protocols
from benchmark.spec.matrix import MOST_SEEDS, Expansion
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run, TeacherRef
from benchmark.text import whole
from benchmark.training.execution import has_gpu

PAPER_TABLES = {
    "dlkd": ("dlkd-table1", "dlkd-table2"),
    "sskd": ("sskd-table3", "sskd-table4"),
    "crd": ("crd-table1", "crd-table2"),
}
"""Values of `PAPER=` -> the paper's tables of similar and of different architectures."""

LARGEST_SEED = 2**31 - 1
"""Larger seeds could be trained (`seeds.seed_of` hashes them), but records store 64-bit integers."""


class NotInTable(InputError):
    """No run of this table has what was asked for; another table may have it."""


@dataclass(frozen=True)
class Selection:
    """The runs of a table that a command line selects."""

    expansion: Expansion
    """The table under the profile."""
    runs: tuple[Run, ...]
    """The selected runs, without those that they need."""
    profile: str
    profile_is_default: bool
    """Whether it is the default profile, because the user named none."""


def default_profile(with_gpu: bool) -> str:
    """Return the profile of a machine or cluster with or without GPUs."""
    return "paper" if with_gpu else "quick"


def split_list(text: str) -> list[str]:
    """Split `a, b` into its parts. Empty parts are dropped."""
    return [w.strip() for w in text.split(",") if w.strip()]


def listed_names(option: str, text: str | None) -> list[str]:
    """Return the names in the value of an option that narrows the selection, [] if it is not given.

    An empty value is an `InputError`: `--pairs "$P"` would select everything where P is not set.
    """
    if text is None:
        return []
    names = split_list(text)
    if not names:
        raise InputError(f"{option} '{text}' is empty; give names, or leave {option} out")
    return names


def seeds_of(text: str | None) -> list[int] | None:
    """Parse `--seeds`: `3` means seeds 0, 1, 2; `0,3,7` these; `5,` only seed 5."""
    if text is None:
        return None
    try:
        numbers = [whole(w) for w in split_list(text)]
    except ValueError:
        numbers = []
    is_list = "," in text
    wrong = not numbers or len(set(numbers)) < len(numbers) or min(numbers) < (0 if is_list else 1)
    if wrong or max(numbers) > (LARGEST_SEED if is_list else MOST_SEEDS) or len(numbers) > MOST_SEEDS:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise InputError(
            f"--seeds {shown}; allowed: a number of seeds (1 to {MOST_SEEDS}), or different seeds such as "
            f"0,3,7 (at most {MOST_SEEDS}, each 0 to {LARGEST_SEED})"
        )
    return numbers if is_list else list(range(numbers[0]))


def key_matches(key: str, pattern: str) -> bool:
    """Return whether a key contains this text or matches this shell pattern. A pair may be written `T:S`."""
    pattern = pattern.replace(":", "-")
    return pattern in key or fnmatch.fnmatch(key, pattern)


def paper_table(paper: str, number: int) -> str:
    """Return the name of a paper's table. number: 1 for similar, 2 for different architectures."""
    if paper not in PAPER_TABLES:
        raise unknown("PAPER", paper, PAPER_TABLES)
    return PAPER_TABLES[paper][number - 1]


def imported_of(args: argparse.Namespace, quiet: bool = False) -> dict[tuple[str, str], TeacherRef]:
    """Return the checkpoints in the folder of `--teachers`, by data set and network.

    Files that look like weights and are left alone are named, unless `quiet`.
    """
    if not args.teachers:
        if args.network:
            raise InputError(f"--network {args.network} needs checkpoints: give TEACHERS= or --teachers")
        return {}
    content = imported.read_folder(path_of(args.teachers), args.network)
    for line in () if quiet else content.notes:
        print_note(f"TEACHERS: {line}")
    return imported.refs_of(content.teachers)


def resolver_of(args: argparse.Namespace, quiet: bool = False) -> Resolver:
    """Return a resolver that knows the imported teachers, and the data sets in the folder of `--data`.

    quiet: see `imported_of`.
    """
    data.use_folder(path_of(args.data))
    return Resolver(imported_of(args, quiet))


def select(args: argparse.Namespace, table_name: str = "", quiet: bool = False) -> Selection:
    """Return the runs that the options of `add_selection_options` and `add_folder_options` select.

    table_name: the table, if it is not `args.table`. quiet: print no notes; for verbs that look at several
    tables, or at one again. Raises `InputError` for a name that does not exist.
    """
    table = matrix.load_table(table_name or args.table)
    if args.protocol:
        protocols.get_protocol(args.protocol)
        if args.protocol != table.protocol or any(r.protocol != args.protocol for r in table.rows):
            table = dataclasses.replace(table, protocol_override=args.protocol)
    profile = args.profile or default_profile(has_gpu())
    profiles.get_profile(profile)
    overrides = matrix.parse_overrides(args.settings)
    resolver = resolver_of(args, quiet)
    try:
        expansion = matrix.expand(
            table,
            profile,
            resolver,
            seeds=seeds_of(args.seeds),
            pairs=listed_names("--pairs", args.pairs),
            only_methods=listed_names("--methods", args.methods),
            overrides=overrides,
        )
    except data.MissingData as error:
        raise NotInTable(str(error)) from error
    if not quiet:
        _note_added_rows(table, expansion)
    _check_overrides(overrides, expansion)
    _check_clips(expansion.dataset, path_of(args.data))
    runs = expansion.runs
    only: str | None = getattr(args, "only", None)
    if only is not None:
        listed_names("--only", only)
        runs = tuple(r for r in runs if key_matches(r.key, only))
        if not runs:
            raise NotInTable(
                f"--only {only} matches no run of {table.name}; `plan {table.name} --list` prints their keys"
            )
    if not quiet:
        _note_unused_teachers(args.teachers, resolver, expansion)
    return Selection(expansion, runs, profile, profile_is_default=args.profile is None)


def _note_added_rows(table: matrix.Table, expansion: Expansion) -> None:
    added = [row.label for row in expansion.table.rows if row not in table.rows]
    if added:
        print_note(f"{table.name} has no row {', '.join(added)}: added, without published values")


def _check_clips(dataset: str, folder: Path) -> None:
    """Raise `NotInTable` if the clips are missing.

    Their identity is part of their runs' keys, so without them no finished run would be recognised.
    """
    info = data.info(dataset)
    if dataset == CLIPS and not info.identity:
        try:
            list_clips(folder)
        except InputError as error:
            raise NotInTable(str(error)) from error


def _note_unused_teachers(folder: str, resolver: Resolver, expansion: Expansion) -> None:
    refs = (ref for r in expansion.runs for ref in (r.teacher_ref, r.evaluates))
    if not folder or any(ref is not None and ref.run is None for ref in refs):
        return
    datasets = sorted({dataset for dataset, _ in resolver.imported})
    if expansion.dataset in datasets:
        why = "it has none of this table's teachers"
    else:
        why = (
            f"its checkpoints are for {', '.join(datasets)}, and profile {expansion.profile} trains on "
            f"{expansion.dataset}"
        )
    print_note(f"TEACHERS: {folder} is not used: {why}")


def _check_overrides(overrides: tuple[tuple[str, Any], ...], expansion: Expansion) -> None:
    """Raise `NotInTable` for a `--set` that applies to no run of the table; it would be ignored silently."""
    method_names = {w for r in expansion.runs for w in r.method.split("+")}
    method_names |= {r.measure.name for r in expansion.runs if r.measure is not None}
    for key, _ in overrides:
        name = key.partition(".")[0]
        if name not in ("ce", "recipe") and name not in method_names:
            raise NotInTable(
                f"--set {key}: no run of {expansion.table.name} has method {name}; allowed: settings of "
                f"{', '.join(sorted(method_names))}"
            )
