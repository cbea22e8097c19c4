"""The store: one folder a run, one record a finished run, one tidy DataFrame of them all.

<folder>/<key>/record.json      what the finished run leaves (its presence is what "done" means)
               curve.csv        a line an epoch: stage, epoch, lr, train_loss, terms, train_acc, test_acc, test_acc_top5, ...
               last.pt best.pt  weights of the last and the best epoch, in the common checkpoint format
               state.pt         method modules of a run that others build on (a teacher's head)
               checkpoint.pt    where a running run goes on from; removed when it is done
               claim            who works on it now; progress.json: how far it is
               failure.json     why it failed last time; log.txt
"""

from __future__ import annotations

import itertools
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from results.files import Claim, read_json, write_json

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
    "epochs": "Int64",
    "top5_last": "float64",
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
}
"""Columns of `load()`. top1_* in percent of the test set (`top1_best` is chosen on it, as the papers do); `settings` is JSON;
`seconds` of wall time while the run was trained, `share_seconds` its share of them (runs of a pack share every second); status `done` or
`diverged`; origin `runs` or `reference`."""


def default_folder() -> Path:
    """Return the folder of runs: the environment variable RESULTS if it is set, else `results/runs`.

    In a checkout that is `results/runs` of the checkout. An installed package has no folder to write to; there it is
    `results/runs` of the working folder.
    """
    room = Path(__file__).resolve().parent
    base = room.parent if (room.parent / "pyproject.toml").is_file() else Path.cwd()
    return Path(os.environ.get("RESULTS") or base / "results" / "runs").expanduser()


@dataclass(frozen=True)
class Store:
    """The runs below one folder."""

    folder: Path

    def path(self, key: str) -> Path:
        return self.folder / key

    def record(self, key: str) -> dict[str, Any] | None:
        """The record of a finished run, None if it is not finished. A damaged record counts as none (it is named by `load`)."""
        try:
            found = read_json(f"{self.folder}/{key}/record.json")
        except (ValueError, OSError):
            return None
        return found if not problems(found, key) else None

    def is_done(self, key: str) -> bool:
        return self.record(key) is not None

    def write_record(self, key: str, record: dict[str, Any]) -> None:
        """Writes the record; from then on the run is done. Raises `ValueError` if it is not a record of `key`."""
        if found := problems(record, key):
            raise ValueError(f"not a record of {key}: {found}")
        write_json(self.path(key) / "record.json", record)
        (self.path(key) / "failure.json").unlink(missing_ok=True)

    def failure(self, key: str) -> dict[str, Any] | None:
        """Why the run failed last time (`reason`, `traceback`, `time`), or None."""
        try:
            found = read_json(self.path(key) / "failure.json")
        except (ValueError, OSError):
            return {"reason": "failure.json is damaged", "traceback": "", "time": ""}
        return found if isinstance(found, dict) else None

    def write_failure(self, key: str, reason: str, traceback: str, time: str, blocked: bool = False) -> None:
        """Keeps why a run failed. blocked: nothing of its own went wrong; a run that it needs has no result."""
        found = {"key": key, "reason": reason, "traceback": traceback, "time": time, "blocked": blocked}
        write_json(self.path(key) / "failure.json", found)

    def was_blocked(self, key: str) -> bool:
        """Whether the run failed only because a run that it needs had no result."""
        return bool((self.failure(key) or {}).get("blocked", False))

    def set_aside(self, key: str) -> Path | None:
        """Renames a record that cannot be used, before the run is trained again: it may be all that is left of one. Where it is now."""
        path = self.path(key) / "record.json"
        if not path.is_file() or self.record(key) is not None:
            return None
        numbers = (f"-{n}" if n else "" for n in itertools.count())
        aside = next(p for n in numbers if not (p := path.with_name(f"record.unusable{n}.json")).exists())
        path.rename(aside)
        return aside

    def clear_failure(self, key: str) -> bool:
        """Forgets a failure, so that the run is tried again. Returns whether there was one."""
        path = self.path(key) / "failure.json"
        there = path.exists()
        path.unlink(missing_ok=True)
        return there

    def progress(self, key: str) -> dict[str, Any] | None:
        """Where a running run is: stage, epoch, epochs, top1, eta, time; None if nothing was said."""
        try:
            found = read_json(self.path(key) / "progress.json")
        except (ValueError, OSError):
            return None
        return found if isinstance(found, dict) else None

    def claim(self, key: str, note: str = "") -> Claim | None:
        return Claim.take(self.path(key) / "claim", note)

    def holder(self, key: str) -> dict[str, Any] | None:
        """The living worker of a run, or None."""
        return Claim.holder(self.path(key) / "claim")

    def curve(self, key: str, reference: bool = False) -> pd.DataFrame | None:
        """The run's curve, a row an epoch, or None (a damaged one counts as none). reference: where it is not here, the reference results'."""
        for folder in (self.folder, REFERENCE) if reference else (self.folder,):
            path = folder / key / "curve.csv"
            try:
                curve = pd.read_csv(path)
            except (ValueError, OSError):  # pandas' own errors of an empty or torn file are ValueErrors
                continue
            if "epoch" in curve:  # not whatever bytes happened to parse
                return curve
        return None

    def state(self, key: str) -> str:
        """`done`, `diverged`, `running`, `failed`, `started` (has a checkpoint, nobody works on it) or `absent`."""
        if not os.path.isdir(
            f"{self.folder}/{key}"
        ):  # strings are faster than paths, and `status` asks for very many
            return "absent"
        record = self.record(key)
        if record is not None:
            return str(record["status"])
        if self.holder(key) is not None:
            return "running"
        if self.failure(key) is not None:
            return "failed"
        return "started" if (self.path(key) / "checkpoint.pt").exists() else "absent"


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
    """What is wrong with a record ("" if nothing). key: the key that it must have."""
    if not isinstance(record, dict):
        return "no record"
    for name, kind in _REQUIRED.items():
        if not isinstance(record.get(name), kind):
            return f"{name} is not of type {kind.__name__ if isinstance(kind, type) else kind}"
    if record["schema"] != SCHEMA:
        return f"schema {record['schema']}, not {SCHEMA}"
    if record["status"] not in ("done", "diverged"):
        return f"status {record['status']}"
    for name in ("top1_last", "top1_best"):
        value = record.get(name)
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 100):
            return f"{name} = {value!r} is not a percentage"
    if key is not None and record["key"] != key:
        return f"its key is {record['key']}"
    for name in ("teacher_info", "git", "versions"):
        if not isinstance(record.get(name), dict | None):
            return f"{name} is no object"
    for name, value in _columns(record).items():
        if not _fits(value, COLUMNS[name]):
            return f"{name} = {str(value)[:40]!r} is not of type {COLUMNS[name]}"
    return ""


def _fits(value: Any, kind: str) -> bool:
    """Whether a value may stand in a column of `COLUMNS`: a damaged record must not break the frame of all others."""
    if value is None or kind == "string":
        return value is None or isinstance(value, str)
    if isinstance(value, float):
        return kind == "float64" or value.is_integer() or math.isnan(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _columns(record: dict[str, Any]) -> dict[str, Any]:
    """What a record has to say in the columns of `load()` (without `settings` and `origin`)."""
    teacher, git, versions = (record.get(k) or {} for k in ("teacher_info", "git", "versions"))
    return {
        **{c: record.get(c) for c in COLUMNS if c not in ("settings", "origin")},
        "teacher_key": teacher.get("identity"),
        "teacher_hash": teacher.get("weights"),
        "teacher_top1": teacher.get("top1"),
        "commit": git.get("commit"),
        "torch": versions.get("torch"),
    }


def record_files(folder: Path) -> Iterator[Path]:
    """All `record.json` below a folder, sorted by path."""
    stack = [str(folder)]
    found = []
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    if entry.name == "record.json":  # even a folder of that name: it is named as damaged
                        found.append(entry.path)
                    elif entry.is_dir(follow_symlinks=True) and not entry.name.startswith(
                        "."
                    ):  # `.slurm`: the cluster's files, no runs
                        stack.append(entry.path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
    yield from map(Path, sorted(found))


def read_records(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """All records below a folder, and a line for each file that is damaged or foreign (skipped, never deleted)."""
    records, skipped = [], []
    for path in record_files(folder):
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            skipped.append(f"{path}: damaged ({error})")
            continue
        key = path.parent.relative_to(folder).as_posix()
        if problem := problems(record, key):
            skipped.append(f"{path}: not a record of this place ({problem})")
        else:
            records.append(record)
    return records, skipped


def frame(records: Iterable[dict[str, Any]], origin: str = "runs") -> pd.DataFrame:
    """Records as a tidy DataFrame with the columns of `COLUMNS`, one row a run, sorted by key."""
    rows = []
    for r in records:
        rows.append({**_columns(r), "settings": json.dumps(r["settings"], sort_keys=True), "origin": origin})
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return table.sort_values("key", ignore_index=True)


def load(folder: Path | str | None = None, reference: bool = False) -> pd.DataFrame:
    """Every record as a row. `reference` adds our committed reference records (origin `reference`; they are never counted as done).

    Files that are not records are skipped with a warning that names them; `.attrs["skipped"]` holds the lines.
    """
    folder = Path(folder) if folder is not None else default_folder()
    records, skipped = read_records(folder)
    table = frame(records)
    if reference:
        more, also = read_records(REFERENCE)
        skipped += also
        table = pd.concat([table, frame(more, "reference")], ignore_index=True)
    for line in skipped:
        warnings.warn(line, stacklevel=2)
    table.attrs["skipped"] = skipped
    return table
