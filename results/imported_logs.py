"""Records of trainings elsewhere, made from their logs: shown beside ours, never counted as ours.

    <results>/.imported-logs/<key>/record.json   last and best epoch, and what the log states
                                   curve.csv     one line an epoch, the columns of `LoggedEpoch`

A key is DATASET/PROTOCOL/TEACHER-STUDENT/METHOD/ and a hash of the log's epochs, so a log that is imported
twice is one record. No run of this suite has such a key: status, plan, means and ranks do not know them. A
folder whose name begins with a dot is none of runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from pathlib import Path

import pandas as pd

from results.files import atomic, write_json
from results.logs import Log
from results.store import SCHEMA, frame, read_records

FOLDER = ".imported-logs"
ORIGIN = "imported log"
"""Their value in the column `origin` of `results.load()`."""


def write(
    results: Path, log: Log, *, dataset: str, protocol: str, teacher: str, student: str, method: str
) -> str:
    """Write the record and the curve of a log, and return its key.

    results: the folder of runs.
    """
    curve = pd.DataFrame([dataclasses.asdict(e) for e in log.epochs]).dropna(axis=1, how="all")
    text = curve.to_csv(index=False, lineterminator="\n")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    key = f"{dataset}/{protocol}/{teacher}-{student}/{method}/{digest}"
    folder = results / FOLDER / key
    record = {
        "schema": SCHEMA,
        "key": key,
        "dataset": dataset,
        "protocol": protocol,
        "profile": "paper",
        "teacher": teacher,
        "student": student,
        "method": method,
        "seed": int(digest, 16) % 10**6,  # a number to tell them apart; logs do not state their seed
        "status": "done",
        "top1_last": log.last,
        "top1_best": log.best,
        "best_epoch": log.best_epoch,
        "epochs": log.last_epoch,
        "top5_last": log.epochs[-1].test_acc_top5,
        "teacher_info": None if log.teacher_top1 is None else {"top1": log.teacher_top1},
        "settings": {"log": log.path.name, "format": str(log.format)},
    }
    with atomic(folder / "curve.csv") as f:
        f.write(text)
    write_json(folder / "record.json", record)
    return key


def load(results: Path) -> pd.DataFrame:
    """Return the imported records below a folder of runs, with the columns of `results.load()`.

    A file that is not a record is skipped with a warning.
    """
    records, skipped = read_records(results / FOLDER)
    for line in skipped:
        warnings.warn(line, stacklevel=2)
    return frame(records, ORIGIN)
