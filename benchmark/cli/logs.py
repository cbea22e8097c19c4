"""logs, retry: why runs failed, and trying them again."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmark.cli import common, options
from benchmark.cli.output import print_note, print_text
from benchmark.cli.parser import add_verb
from benchmark.cli.selection import key_matches, select
from benchmark.errors import InputError
from benchmark.spec.runs import closure
from benchmark.text import plural
from results.files import tail
from results.store import Store
from slurm import registry

LOG_FILES = ("log.txt", "failure.json")
"""Files of a run that `logs` can print."""

MOST_FIELDS = 4
"""Settings that are named to tell a run from others."""


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "logs",
        details="Prints the end of a run's log, the reason and traceback of its last failure, and the end "
        "of the output of the Slurm job that it was last submitted in.",
        example="logs resnet56:resnet20/kd/seed0",
    )
    p.add_argument("run", metavar="RUN", help="a run's key, or a part of it that matches only one run")
    p.add_argument(
        "--lines",
        type=options.whole_number,
        default=40,
        metavar="N",
        help="print the last N lines of each log (default: 40)",
    )
    options.add_folder_options(p)
    p.set_defaults(do=do_logs)

    p = add_verb(
        verbs,
        "retry",
        details="`run` and `submit` skip runs that failed before. `retry` deletes the stored failures of "
        "the chosen runs and prints their keys. It trains nothing itself. With --diverged, runs that "
        "diverged are trained again too; under the same conditions they diverge again, so it is for another "
        "device or precision, or after a mend that changed no `revision`.",
        example="retry crd-table1 --methods kd",
    )
    options.add_selection_options(p)
    p.add_argument(
        "--diverged",
        action="store_true",
        help="also the runs that diverged; their records are kept as record.diverged.json",
    )
    options.add_folder_options(p)
    p.set_defaults(do=do_retry)


def find_key(store: Store, text: str, files: Sequence[str] = LOG_FILES) -> str:
    """Return the key of the only run that `text` matches, among those that have one of `files`.

    Raises `InputError` if none or several match.
    """
    text = text.replace(":", "-").strip("/")
    with contextlib.suppress(OSError):  # for example a loop of links, or too long a name
        if any((store.folder / text / name).exists() for name in files):
            return text
    keys = sorted(
        {
            path.parent.relative_to(store.folder).as_posix()
            for name in files
            for path in store.folder.rglob(name)
        }
    )
    matching = [k for k in keys if key_matches(k, text)]
    if len(matching) > 1:
        apart = differences({key: _settings(store, key) for key in matching})
        candidates = "; ".join(f"{key} ({apart[key]})" for key in matching[:5])
        more = f"; and {len(matching) - 5} more" if len(matching) > 5 else ""
        raise InputError(
            f"'{text}' matches {len(matching)} runs; give a part of the key that matches one: "
            f"{candidates}{more}"
        )
    if not matching:
        examples = "; ".join(keys[:5]) or "none"
        raise InputError(
            f"'{text}' matches 0 runs; allowed: a key, or a part of it that matches one run, "
            f"such as {examples}"
        )
    return matching[0]


def _settings(store: Store, key: str) -> dict[str, Any] | None:
    """Return the settings of a run that has ended, as its record or its failure states them."""
    known = (store.record(key) or store.failure(key) or {}).get("settings")
    return known if isinstance(known, dict) else None


def differences(settings: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
    """Return by key what tells the settings of runs apart, as in `--set`: `kd.temperature=8`.

    Runs whose keys name different pairs, methods or seeds differ in those anyway.
    """
    flat = {key: dict(_flat(value)) for key, value in settings.items() if value is not None}
    fields = sorted({field for values in flat.values() for field in values})
    differing = [f for f in fields if len({repr(values.get(f)) for values in flat.values()}) > 1]
    texts = {}
    for key in settings:
        if key not in flat:
            texts[key] = "unfinished: its settings are not known"
        else:
            shown = [f"{f}={flat[key][f]}" for f in differing if f in flat[key]]
            more = f" and {len(shown) - MOST_FIELDS} more" if len(shown) > MOST_FIELDS else ""
            texts[key] = ", ".join(shown[:MOST_FIELDS]) + more or "the same settings"
    return texts


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the hyper-parameters in the notation of `--set`."""
    for name, value in _object(settings.get("recipe")).items():
        yield f"recipe.{name}", value
    method = _object(settings.get("method"))
    yield "ce", method.get("ce")
    for component, fields in _object(method.get("components")).items():
        for name, value in _object(fields).items():
            yield f"{component}.{name}", value


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def do_logs(args: argparse.Namespace) -> int:
    if args.lines < 1:
        raise InputError(f"--lines {args.lines}; allowed: 1 and more")
    store = common.store_to_read(args)
    key = find_key(store, args.run)
    print(f"{key}: {store.state(key)}")
    if line := store.unusable(key):
        print_note(f"skipped: {line}")
    for line in tail(store.path(key) / "log.txt", args.lines):
        print_text(line)
    if failure := store.failure(key):
        print_text(f"failed {failure.get('time', '')}: {failure.get('reason', '')}")
        print(failure.get("traceback", ""))
    if common.was_submitted(store) and (job := registry.last_job(store.folder, key)):
        job_id, log = job
        print_text(f"last submitted as job {job_id}; the end of {log}:")
        for line in tail(log, args.lines):
            print_text(line)
    return 0


def do_retry(args: argparse.Namespace) -> int:
    chosen = select(args)
    store = common.store_to_read(args)
    runs = closure(chosen.runs)
    cleared = [r.key for r in runs if store.clear_failure(r.key)]
    diverged = [r.key for r in runs if args.diverged and store.set_diverged_aside(r.key)]
    for key in cleared + diverged:
        print(key)
    if cleared:
        print_note(f"{plural(len(cleared), 'failure')} forgotten; `run` or `submit` will try again")
    if diverged:
        print_note(
            f"{plural(len(diverged), 'diverged run')} will be trained again by `run` or `submit`; the old "
            "records are kept as record.diverged.json"
        )
    if not cleared and not diverged:
        print_note("no failed or diverged runs" if args.diverged else "no failed runs")
    return 0
