"""Curves of finished and unfinished runs for tensorboard, wandb and trackio, or as one CSV file.

Everything is written after the fact and without a network, because the nodes of a cluster have none. Where a
program knows a run already, it is replaced.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import InputError
from benchmark.export.packages import need
from results.files import atomic
from results.store import Store

FORMATS = ("csv", "tensorboard", "wandb", "trackio")
MAIN = "main"
PROJECT = "kd-tables"

EVENTS = "events.out.tfevents.0.kd-tables"
"""The name of a run's event file. It has no time in it, so that the next export replaces it."""


@dataclass(frozen=True)
class Curve:
    """The curve of a run, and what is known of the run."""

    key: str
    rows: pd.DataFrame
    """One row an epoch; see results/store.py."""
    ended: float
    """Time of the last row, in seconds since 1970."""
    config: Mapping[str, Any]
    """Identity, conditions and settings of the run."""
    summary: Mapping[str, Any]
    """State and results."""

    def points(self) -> Iterator[tuple[int, float, dict[str, float]]]:
        """Yield step, time and values of every epoch. The step counts over all stages, from 1.

        The values have the names of the curve's columns. Those of stages before the main one have the
        stage's name before them.
        """
        seconds = (
            self.rows["seconds"].fillna(0.0) if "seconds" in self.rows else pd.Series(0.0, self.rows.index)
        )
        after = seconds[::-1].cumsum()[::-1] - seconds
        for position, (_, row) in enumerate(self.rows.iterrows()):
            stage = str(row.get("stage", MAIN))
            prefix = "" if stage == MAIN else f"{stage}/"
            numbers = {
                f"{prefix}{name}": float(value)
                for name, value in row.items()
                if name not in ("stage", "epoch") and isinstance(value, int | float) and pd.notna(value)
            }
            step = int(row["epoch"]) if stage == MAIN and self._only_main else position + 1
            yield step, self.ended - float(after.iloc[position]), numbers

    @property
    def _only_main(self) -> bool:
        return "stage" not in self.rows or bool((self.rows["stage"] == MAIN).all())


def read(store: Store, key: str) -> Curve:
    """Return the curve of a run. Raises `InputError` if it has none yet."""
    rows = store.curve(key)
    if rows is None or rows.empty:
        raise InputError(f"{key}: has no curve that can be read; give a run that has trained an epoch")
    record = store.record(key) or {}
    ended = (store.path(key) / "curve.csv").stat().st_mtime
    if record.get("finished"):
        with contextlib.suppress(ValueError):
            ended = datetime.datetime.fromisoformat(record["finished"]).timestamp()
    names = ("dataset", "protocol", "profile", "teacher", "student", "method", "seed", "device", "precision")
    config = {name: record[name] for name in names if name in record} | dict(record.get("settings") or {})
    results = ("top1_last", "top1_best", "best_epoch", "top5_last", "seconds")
    summary = {name: record[name] for name in results if record.get(name) is not None}
    return Curve(key, rows, ended, {"key": key, **config}, {"state": store.state(key), **summary})


def write(curves: Sequence[Curve], to: str, folder: Path) -> list[Path]:
    """Write curves in one of `FORMATS` below a folder, and return what was written.

    Raises `InputError` if the package is missing.
    """
    if to == "csv":
        return [_write_csv(curves, folder / "curves.csv")]
    writer = {"tensorboard": _write_tensorboard, "wandb": _write_wandb, "trackio": _write_trackio}[to]
    return list(dict.fromkeys(writer(curve, folder / to) for curve in curves))


def _write_csv(curves: Sequence[Curve], path: Path) -> Path:
    """Write all curves into one file. Its first column is the key; columns that a run lacks are empty."""
    frames = [curve.rows.assign(key=curve.key) for curve in curves]
    table = pd.concat(frames, ignore_index=True)
    columns = ["key", *(name for name in table.columns if name != "key")]
    with atomic(path) as file:
        table[columns].to_csv(file, index=False)
    return path


def flat(key: str) -> str:
    """Return a key as the name of a file or folder."""
    return key.replace("/", "_")


def _write_tensorboard(curve: Curve, folder: Path) -> Path:
    """Write an event file. The tags are the names of the curve's columns, as `judge --log` reads them."""
    event = need("tensorboard.compat.proto.event_pb2", "tensorboard", "logs").Event
    summary = need("tensorboard.compat.proto.summary_pb2", "tensorboard", "logs").Summary
    record_writer = need("tensorboard.summary.writer.record_writer", "tensorboard", "logs").RecordWriter
    path = folder / flat(curve.key) / EVENTS
    with atomic(path, "wb") as file:
        writer = record_writer(file)
        points = list(curve.points())
        writer.write(event(wall_time=points[0][1], file_version="brain.Event:2").SerializeToString())
        for step, time, values in points:
            scalars = [summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            entry = event(wall_time=time, step=step, summary=summary(value=scalars))
            writer.write(entry.SerializeToString())
        writer.flush()
    return path


def _write_wandb(curve: Curve, folder: Path) -> Path:
    """Write an offline run of wandb, which `wandb sync` uploads. Its id is a hash of the key."""
    wandb = need("wandb", "wandb")
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        mode="offline",
        project=PROJECT,
        id=hashlib.sha256(curve.key.encode()).hexdigest()[:16],
        name=curve.key,
        dir=str(folder),
        config=_plain(curve.config),
        settings=wandb.Settings(silent=True, disable_git=True, save_code=False),
    )
    for step, _, values in curve.points():
        run.log(values, step=step)
    run.summary.update(_plain(curve.summary))
    run.finish()
    return folder


def _write_trackio(curve: Curve, folder: Path) -> Path:
    """Write a run of trackio into its local database below the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TRACKIO_DIR"] = str(folder.resolve())  # trackio reads it when it is imported
    trackio = need("trackio", "trackio")
    trackio.init(project=PROJECT, name=curve.key, config=_plain({**curve.config, **curve.summary}))
    for step, _, values in curve.points():
        trackio.log(values, step=step)
    trackio.finish()
    return folder


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that belongs to nobody else."""
    return json.loads(json.dumps(dict(values)))
