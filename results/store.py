"""The store: one folder for each run, one record for each finished run, one DataFrame of all records.

<folder>/<key>/record.json      the results of a finished run; if the file exists, the run is done
               curve.csv        one line an epoch: stage, epoch, lr, train_loss, terms, train_acc, test_acc,
               ... last.pt best.pt  weights of the last and the best epoch, in the common checkpoint format
               state.pt         modules of the method that other runs need (a teacher's head)
               checkpoint.pt    state of an unfinished run, to continue from; removed when the run is done
               checkpoint.damaged.pt   a checkpoint that was damaged, so that the run began again
               began.json       when the run began, and its device, precision and threads
               claim            the worker of the run
               progress.json    the run's current stage and epoch
               failure.json     why the last attempt failed
               log.txt

The fields of a record are those that `load` returns (`COLUMNS`) and more that benchmark/training/run_files.py
writes. Two of them are described elsewhere: `parts` (benchmark/training/parts.py) and `weights`
(benchmark/training/kept_weights.py). Both are absent in records of older versions.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from results.claims import Claim, remove_drafts
from results.files import read_json, write_json
from results.plain_json import parse_json
from results.record_check import FAILURE, PROGRESS, usable, usable_curve, wrong_field
from results.tree import walk

SCHEMA = 1
REFERENCE = Path(__file__).resolve().parent / "reference"

COLUMNS = {
    "key": "string",
    "dataset": "string",
    "protocol": "string",
    "profile": "string",
    "teacher": "string",
    "student": "string",
    "method": "string",
    "seed": "Int64",
    "status": "string",
    "top1_last": "float64",
    "top1_best": "float64",
    "best_epoch": "Int64",
    "top1_held_out": "float64",
    "epochs": "Int64",
    "top5_last": "float64",
    "top5_best": "float64",
    "seconds": "float64",
    "share_seconds": "float64",
    "images_per_second": "float64",
    "device": "string",
    "precision": "string",
    "threads": "Int64",
    "teacher_key": "string",
    "teacher_hash": "string",
    "teacher_top1": "float64",
    "commit": "string",
    "torch": "string",
    "host": "string",
    "finished": "string",
    "reason": "string",
    "settings": "string",
    "origin": "string",
    "measure": "string",
    "target": "string",
    "value": "float64",
    "numbers": "string",
}
"""Columns of `load()`.

- `top1_*`: percent of the test set. The epoch of `top1_best` is chosen on the test set, as the papers do.
- `top1_held_out`: percent of the test set of the epoch that was best on held-out training images
  (`recipe.held_out`); empty for runs without them.
- `top5_*`: of the same epochs. Records of older versions have no `top5_best`.
- `seconds`: wall time while the run was trained. `share_seconds`: the run's share of it, if its pack has
  several runs.
- `status`: `done` or `diverged`.
- `settings`, `numbers`: JSON.
- `measure`, `target`, `value`, `numbers`: what was measured on a trained network, on which data set, the
  headline number and all numbers by name (benchmark/training/measuring.py); empty for a training. Such a
  record has the pair and method of the network that it measured, and no top-1.
- `origin`: `runs` or `reference`; `imported log` in the frame of `results.imported_logs`.
"""


def default_folder() -> Path:
    """Return the folder of runs: RESULTS if it is set, else `results/runs` in the working folder.

    Tables and the report are written into the working folder too, wherever the code is.
    """
    return Path(os.environ.get("RESULTS") or Path.cwd() / "results" / "runs").expanduser()


@dataclass(frozen=True)
class Store:
    """The runs in one folder."""

    folder: Path

    def path(self, key: str) -> Path:
        """Return the folder of a run."""
        return self.folder / key

    def record(self, key: str) -> dict[str, Any] | None:
        """Return the record of a finished run, None if it is not finished.

        A damaged record counts as none; `load` names it.
        """
        try:
            record = read_json(f"{self.folder}/{key}/record.json")
        except (ValueError, OSError):
            return None
        return record if not problems(record, key) else None

    def newer_record(self, key: str) -> str:
        """Return one line about a record that a newer version of kd-tables wrote, "" if there is none.

        Such a record counts as none for `record`, but its run must not be trained again.
        """
        path = f"{self.folder}/{key}/record.json"
        try:
            problem = newer_schema(read_json(path))
        except (ValueError, OSError):
            return ""
        return f"{path}: {problem}" if problem else ""

    def unusable(self, key: str) -> str:
        """Return the path of a record that cannot be used and why, "" if it can be or there is none."""
        path = f"{self.folder}/{key}/record.json"
        if not os.path.lexists(path):
            return ""
        try:
            problem = problems(read_json(path), key)
        except (ValueError, OSError) as error:
            return f"{path}: damaged ({error})"
        return f"{path}: not a record of this folder's run ({problem})" if problem else ""

    def is_done(self, key: str) -> bool:
        """Return whether a run is finished; it may have diverged."""
        return self.record(key) is not None

    def write_record(self, key: str, record: dict[str, Any]) -> None:
        """Write the record, which makes the run done. Raises `ValueError` if it is not a record of `key`."""
        if problem := problems(record, key):
            raise ValueError(f"not a record of {key}: {problem}")
        write_json(self.path(key) / "record.json", record)
        (self.path(key) / "failure.json").unlink(missing_ok=True)

    def failure(self, key: str) -> dict[str, Any] | None:
        """Return why the last attempt failed, None if it did not.

        The keys are `reason`, `traceback`, `time` and `blocked`.
        """
        try:
            failure = read_json(self.path(key) / "failure.json")
        except (ValueError, OSError):
            return {"reason": "failure.json is damaged", "traceback": "", "time": ""}
        return usable(failure, FAILURE)

    def write_failure(
        self,
        key: str,
        reason: str,
        traceback: str,
        time: str,
        blocked: bool = False,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Record why a run failed.

        blocked: it could not start, because a run that it needs has no result. settings: those of the run,
        which tell it from others of the same name.
        """
        failure = {"key": key, "reason": reason, "traceback": traceback, "time": time, "blocked": blocked}
        if settings is not None:
            failure["settings"] = settings
        write_json(self.path(key) / "failure.json", failure)

    def was_blocked(self, key: str) -> bool:
        """Return whether the run failed only because a run that it needs had no result."""
        return bool((self.failure(key) or {}).get("blocked", False))

    def set_aside(self, key: str) -> Path | None:
        """Rename a damaged record, and return its new path; None if there is none.

        It is not deleted, because it may be all that is left of the run. A record of a newer version is not
        damaged, and stays.
        """
        path = self.path(key) / "record.json"
        if not path.is_file() or self.record(key) is not None or self.newer_record(key):
            return None
        return _aside(path, "unusable")

    def set_diverged_aside(self, key: str) -> Path | None:
        """Rename the record of a diverged run, so that it is trained again, and return its new path.

        None if the run has no record, or has not diverged.
        """
        record = self.record(key)
        if record is None or record["status"] != "diverged":
            return None
        return _aside(self.path(key) / "record.json", "diverged")

    def clear_failure(self, key: str) -> bool:
        """Delete the failure, so that the run is tried again. Returns whether there was one."""
        path = self.path(key) / "failure.json"
        existed = path.exists()
        path.unlink(missing_ok=True)
        return existed

    def progress(self, key: str) -> dict[str, Any] | None:
        """Return the progress of a run: stage, epoch, epochs, top1, eta, time; None if there is none."""
        try:
            progress = read_json(self.path(key) / "progress.json")
        except (ValueError, OSError):
            return None
        return usable(progress, PROGRESS)

    def began(self, key: str) -> dict[str, Any] | None:
        """Return `began` (a time), device, precision and threads of an unfinished run; None if unknown."""
        try:
            conditions = read_json(self.path(key) / "began.json")
        except (ValueError, OSError):
            return None
        return conditions if isinstance(conditions, dict) else None

    def claim(self, key: str, note: str = "") -> Claim | None:
        """Claim a run, or return None if a living worker has it. Raises `ClaimError`.

        Temporary files that its last worker has left are removed.
        """
        claim = Claim.take(self.path(key) / "claim", note)
        if claim is not None:
            claim.guard_folder()
            remove_drafts(claim.path.parent)
        return claim

    def holder(self, key: str) -> dict[str, Any] | None:
        """Return the living worker of a run, None if there is none."""
        return Claim.holder(self.path(key) / "claim")

    def curve(self, key: str, reference: bool = False) -> pd.DataFrame | None:
        """Return the run's curve, one row an epoch, None if there is none; a damaged one counts as none.

        reference: fall back on the curve of the reference results.
        """
        for folder in (self.folder, REFERENCE) if reference else (self.folder,):
            path = folder / key / "curve.csv"
            try:
                curve = usable_curve(pd.read_csv(path))
            except (ValueError, OSError):  # pandas raises ValueErrors for empty and damaged files
                continue
            if curve is not None:  # some damaged files can be parsed
                return curve
        return None

    def state(self, key: str) -> str:
        """Return `done`, `diverged`, `running`, `failed`, `started` or `absent`.

        `started`: the run has a checkpoint but no worker.
        """
        # strings are faster than paths, and `status` asks for the state of very many runs
        if not os.path.isdir(f"{self.folder}/{key}"):
            return "absent"
        record = self.record(key)
        if record is not None:
            return str(record["status"])
        if self.holder(key) is not None:
            return "running"
        if self.failure(key) is not None:
            return "failed"
        return "started" if (self.path(key) / "checkpoint.pt").exists() else "absent"


def _aside(path: Path, why: str) -> Path:
    """Rename a record to `record.WHY.json`, with a number if there is one, and return its new path."""
    numbers = (f"-{n}" if n else "" for n in itertools.count())
    aside = next(p for n in numbers if not (p := path.with_name(f"record.{why}{n}.json")).exists())
    path.rename(aside)
    return aside


_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "key": str,
    "dataset": str,
    "protocol": str,
    "profile": str,
    "teacher": str,
    "student": str,
    "method": str,
    "seed": int,
    "status": str,
    "settings": dict,
}


def problems(record: Any, key: str | None = None) -> str:
    """Return what is wrong with a record, "" if nothing is. key: the key that it must have."""
    if not isinstance(record, dict):
        return "not a JSON object"
    if problem := newer_schema(record):
        return problem
    for name, kind in _REQUIRED.items():
        if not isinstance(record.get(name), kind):
            return f"{name} is not of type {kind.__name__ if isinstance(kind, type) else kind}"
    if record["schema"] != SCHEMA:
        return f"schema {record['schema']}, not {SCHEMA}"
    if record["status"] not in ("done", "diverged"):
        return f"status {record['status']} is neither done nor diverged"
    for name in ("top1_last", "top1_best"):
        value = record.get(name)
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 100):
            return f"{name} = {value!r} is not a percentage"
    if key is not None and record["key"] != key:
        return f"its key is {record['key']}"
    for name in ("teacher_info", "git", "versions"):
        if not isinstance(record.get(name), dict | None):
            return f"{name} is not a JSON object"
    for name, value in _columns(record).items():
        if not _fits(value, COLUMNS[name]):
            return f"{name} = {str(value)[:40]!r} is not of type {COLUMNS[name]}"
    return wrong_field(record)


def newer_schema(record: Any) -> str:
    """Return that a record was written by a newer version and what to do, "" if it was not."""
    schema = record.get("schema") if isinstance(record, dict) else None
    if type(schema) is not int or schema <= SCHEMA:
        return ""
    return f"a record of schema {schema}; this version of kd-tables knows up to {SCHEMA}: update kd-tables"


def _fits(value: Any, kind: str) -> bool:
    """Return whether a value fits a column of `COLUMNS`.

    One damaged record must not break the whole frame.
    """
    if value is None or kind == "string":
        return value is None or isinstance(value, str)
    if isinstance(value, float):
        return kind == "float64" or (value.is_integer() and abs(value) < 2**53)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _columns(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record's values for the columns of `load()`, except `settings`, `numbers` and `origin`."""
    teacher, git, versions = (record.get(k) or {} for k in ("teacher_info", "git", "versions"))
    return {
        **{c: record.get(c) for c in COLUMNS if c not in ("settings", "origin", "numbers")},
        "teacher_key": teacher.get("identity"),
        "teacher_hash": teacher.get("weights"),
        "teacher_top1": teacher.get("top1"),
        "commit": git.get("commit"),
        "torch": versions.get("torch"),
    }


def record_files(folder: Path, skipped: list[str] | None = None) -> Iterator[Path]:
    """Yield every `record.json` below a folder, sorted by path.

    skipped: gets a line for each folder that cannot be read.
    """
    yield from (Path(entry.path) for entry in _record_entries(folder, skipped))


def record_keys(folder: Path) -> set[str]:
    """Return the keys of all folders below `folder` that have a record. No record is read."""
    start, end = len(f"{folder}{os.sep}"), len(f"{os.sep}record.json")
    return {entry.path[start:-end].replace(os.sep, "/") for entry in _record_entries(folder)}


def keys_with(folder: Path, files: Iterable[str]) -> list[str]:
    """Return the keys of all folders below `folder` that have one of these files, sorted."""
    wanted, start = set(files), len(f"{folder}{os.sep}")
    return sorted(
        path[start:].replace(os.sep, "/")
        for path, entries in walk(folder, [])
        if len(path) > start and any(entry.name in wanted for entry in entries)
    )


def recent_record_files(folder: Path, most: int) -> list[Path]:
    """Return the `most` newest records below a folder, sorted by path."""
    times = []
    for entry in _record_entries(folder):
        with contextlib.suppress(OSError):
            times.append((entry.stat().st_mtime, entry.path))
    return sorted(Path(path) for _, path in heapq.nlargest(most, times))


def _record_entries(folder: Path, skipped: list[str] | None = None) -> list[os.DirEntry[str]]:
    """Return every `record.json` below a folder, sorted by path. Paths as strings are ten times as fast."""
    below = walk(folder, [] if skipped is None else skipped)
    # even a folder of this name, to be reported as damaged
    entries = [entry for _, inside in below for entry in inside if entry.name == "record.json"]
    return sorted(entries, key=lambda entry: entry.path)


def read_records(folder: Path, paths: Iterable[Path] | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the records below a folder, and a line for each file that is not a record.

    Such a file is skipped, not deleted. paths: the files to read; a missing one is no record (default: all).
    """
    records, skipped = list[dict[str, Any]](), list[str]()
    for path in record_files(folder, skipped) if paths is None else paths:
        try:
            record = parse_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            skipped.append(f"{path}: damaged ({error})")
            continue
        key = path.parent.relative_to(folder).as_posix()
        if problem := problems(record, key):
            skipped.append(f"{path}: not a record of this folder's run ({problem})")
        else:
            records.append(record)
    return records, skipped


def frame(records: Iterable[dict[str, Any]], origin: str = "runs") -> pd.DataFrame:
    """Return records as a tidy DataFrame with the columns `COLUMNS`, one row a run, sorted by key."""
    rows = []
    for r in records:
        numbers = json.dumps(r["numbers"]) if r.get("numbers") else None
        settings = json.dumps(r["settings"], sort_keys=True)
        rows.append({**_columns(r), "settings": settings, "numbers": numbers, "origin": origin})
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return table.sort_values("key", ignore_index=True)


def load(
    folder: Path | str | None = None, reference: bool = False, keys: Iterable[str] | None = None
) -> pd.DataFrame:
    """Return the records below `folder` as rows. The default is `default_folder()`.

    reference: add the reference records that come with the project. Their origin is `reference`, and they
    never count as done. keys: the runs whose records are read (default: all). A folder may have 100,000
    records, and a table needs only those of its runs. A file that is not a record is skipped with a warning;
    `.attrs["skipped"]` lists the warnings.
    """
    folder = Path(folder) if folder is not None else default_folder()
    wanted = None if keys is None else sorted(set(keys))

    def paths_in(below: Path) -> list[Path] | None:
        return None if wanted is None else [below / key / "record.json" for key in wanted]

    records, skipped = read_records(folder, paths_in(folder))
    table = frame(records)
    if reference:
        more, more_skipped = read_records(REFERENCE, paths_in(REFERENCE))
        skipped += more_skipped
        table = pd.concat([table, frame(more, "reference")], ignore_index=True)
    for line in skipped:
        warnings.warn(line, stacklevel=2)
    table.attrs["skipped"] = skipped
    return table
