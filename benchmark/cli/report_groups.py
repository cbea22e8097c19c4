"""Tables for the records that the report's tables lack: other profiles, other settings, other teachers."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmark.cli.selection import Selection, select
from benchmark.errors import InputError
from benchmark.spec import profiles
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Overrides, Run, TeacherRef
from results.store import REFERENCE, Store

REFERENCE_TEACHERS = REFERENCE / "teachers"
"""Describes the teachers of the reference records."""

MOST_READ = 2_000
"""The most records whose settings are read; a folder may have 100,000."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A table that may be shown."""

    arguments: argparse.Namespace
    selection: Selection

    @property
    def keys(self) -> set[str]:
        """The keys of its runs, without those that they need."""
        return {r.key for c in self.selection.expansion.cells for r in c.runs}

    @property
    def is_of_its_protocol(self) -> bool:
        """Whether the table is of the paper that its protocol is from."""
        table = self.selection.expansion.table
        return table.paper == table.protocol


def more_tables(
    args_by_table: Mapping[str, argparse.Namespace], shown: Iterable[Selection], keys: set[str], store: Store
) -> list[Selection]:
    """Return tables for the records that no table of `shown` has, as few as show all that any table can show.

    Profiles, teachers and settings that the arguments name are kept, and no others are tried. args_by_table:
    the arguments of every table that may be shown. keys: of all records.
    """
    left = keys - {r.key for s in shown for r in s.expansion.runs}
    candidates = [
        c for name, args in args_by_table.items() for c in _variants(args, name, left) if c is not None
    ]
    chosen, left = _cover(candidates, left)
    changed = []
    for i, texts in _changed_settings(candidates, left, store):
        args = _replace(candidates[i].arguments, settings=texts)
        changed.append(_candidate(args, candidates[i].selection.expansion.table.name))
    more, _ = _cover([c for c in changed if c is not None], left)
    everything = sorted(chosen + more, key=lambda c: c.arguments.teachers == str(REFERENCE_TEACHERS))
    return [c.selection for c in everything]


def _variants(args: argparse.Namespace, name: str, keys: set[str]) -> Iterator[Candidate | None]:
    """Yield a table under every profile that has records, with our teachers and the reference records'."""
    for profile in [args.profile] if args.profile else profiles.PROFILES:
        if not any(f"/{profile}/" in key for key in keys):
            continue
        yield _candidate(_replace(args, profile=profile), name)
        if not args.teachers and REFERENCE_TEACHERS.is_dir():
            yield _candidate(_replace(args, profile=profile, teachers=str(REFERENCE_TEACHERS)), name)


def _candidate(args: argparse.Namespace, name: str) -> Candidate | None:
    try:
        return Candidate(args, select(args, table_name=name, quiet=True))
    except InputError:  # this table has none of these pairs, methods or settings
        return None


def _cover(candidates: Iterable[Candidate], keys: set[str]) -> tuple[list[Candidate], set[str]]:
    """Choose candidates, those with most records first, until no other has a further record.

    Return them, and the keys that none has.
    """
    rest, chosen = [(c, c.keys) for c in candidates], []
    while rest:
        # of tables that share their records, the one of the paper whose protocol they have
        best, its_keys = max(rest, key=lambda pair: (len(pair[1] & keys), pair[0].is_of_its_protocol))
        if not its_keys & keys:
            break
        chosen.append(best)
        keys = keys - {r.key for r in best.selection.expansion.runs}
    return chosen, keys


def _changed_settings(
    candidates: list[Candidate], keys: set[str], store: Store
) -> list[tuple[int, list[str]]]:
    """Return the changed settings that explain records: index of the candidate, arguments of `--set`."""
    by_name: dict[str, list[tuple[int, Run]]] = {}
    for i, c in enumerate(candidates):
        if not c.arguments.settings:
            for run in {r.key: r for cell in c.selection.expansion.cells for r in cell.runs}.values():
                by_name.setdefault(_without_hash(run.key), []).append((i, run))
    groups: dict[int, set[Overrides]] = {}
    for key in sorted(k for k in keys if _without_hash(k) in by_name)[:MOST_READ]:
        record = store.record(key) or Store(REFERENCE).record(key)
        if record is None:
            continue
        for i, run in by_name[_without_hash(key)]:
            if changed := settings_behind(key, record["settings"], run):
                groups.setdefault(i, set()).add(changed)
    return [
        (i, [f"{k}={v}" for k, v in changed])
        for i, found in groups.items()
        for changed in sorted(found, key=str)
    ]


def _without_hash(key: str) -> str:
    return key.rpartition("-")[0]


def settings_behind(key: str, recorded: Mapping[str, Any], run: Run) -> Overrides:
    """Return the changed settings with which `run` would have this key, () if they are not to be found.

    recorded: the settings of the key's record.
    """
    plain, other = _flat(run.settings), _flat(recorded)
    changed = {k: v for k, v in other.items() if k in plain and plain[k] != v}
    if _key(run, changed) != key:
        changed.pop("recipe.milestones", None)  # they follow from the epochs
    if not changed or _key(run, changed) != key:
        return ()
    for name in list(changed):
        fewer = {k: v for k, v in changed.items() if k != name}
        if fewer and _key(run, fewer) == key:
            changed = fewer
    return tuple(sorted(changed.items()))


def _key(run: Run, changed: Mapping[str, Any]) -> str:
    """Return the key that a run has with changed settings, "" if they are not allowed."""
    request = run.request
    overrides = tuple(sorted({**dict(request.overrides), **changed}.items()))
    imported: dict[tuple[str, str], TeacherRef] = {}
    if run.teacher_ref is not None and run.teacher_ref.run is None:
        imported = {(run.dataset, run.teacher_ref.network): run.teacher_ref}
    try:
        return Resolver(imported).run(dataclasses.replace(request, overrides=overrides), run.seed).key
    except InputError:
        return ""


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that `--set` can change, by the names that it gives them."""
    method = settings.get("method", {})
    flat = {f"recipe.{k}": v for k, v in settings.get("recipe", {}).items()}
    flat["ce"] = method.get("ce")
    for component, fields in method.get("components", {}).items():
        flat |= {f"{component}.{k}": v for k, v in fields.items()}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in flat.items()}


def _replace(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **changes})
