"""Made-up test data: a small table, published numbers, records that equal them, curves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmark.spec import matrix
from benchmark.spec.matrix import Cell, Expansion, Table
from benchmark.spec.runs import Run
from results.published.schema import PublishedNumber
from results.published.spread import FamilyStd, SeedStds
from results.store import SCHEMA, Store, frame
from tables import between_methods, diff
from tables.published_cells import PublishedCells

SMALL = """
title = "A small table"
paper = "crd"
table = "table1"
dataset = "cifar100"
protocol = "crd"
seeds = 3
columns = ["resnet56:resnet20", "wrn_40_2:wrn_16_2"]
note = "made for tests"
[[rows]]
label = "Teacher"
method = "teacher"
[[rows]]
label = "Student"
method = "student"
[[rows]]
label = "KD"
method = "kd"
[[rows]]
label = "AT"
method = "at"
[[rows]]
label = "SP"
method = "sp"
"""


GOLDEN = Path(__file__).parent / "golden"

S0 = 0.25


def fix_s0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every family the same s0, so that a test does not depend on what is published."""
    stds = SeedStds(FamilyStd(family="all", count=1, s0=S0, median=S0), {})
    for module in (between_methods, diff):
        monkeypatch.setattr(module, "seed_stds", lambda: stds)


def check_golden(name: str, text: str) -> None:
    """Compare a text with a golden file. With `GOLDEN=write` in the environment, write the file first."""
    path = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def small_table(folder: Path, text: str = SMALL) -> Table:
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return matrix.load_table(str(path))


def small(folder: Path, profile: str = "paper", text: str = SMALL, **options: Any) -> Expansion:
    return matrix.expand(small_table(folder, text), profile, **options)


def published_numbers(
    expansion: Expansion, value: Callable[[Cell], float | None], **fields: Any
) -> list[PublishedNumber]:
    """Return a published number for every cell. fields: values of other columns, the same for all of them."""
    table = expansion.table
    common: dict[str, Any] = {
        **dict.fromkeys(("year", "std", "n", "epochs")),
        **dict.fromkeys(("recipe", "note"), ""),
        "paper": table.paper,
        "table": table.table,
        "dataset": table.dataset,
        "metric": "top1",
        "rule": "last",
        "origin": "run by this paper",
        "source": "test",
        **fields,
    }
    return [
        PublishedNumber(
            teacher=c.teacher, student=c.student, method=c.row.published, value=value(c), **common
        )
        for c in expansion.cells
    ]


def published_cells(
    expansion: Expansion, value: Callable[[Cell], float | None], **fields: Any
) -> PublishedCells:
    """Return the same numbers, found by cell."""
    return PublishedCells(published_numbers(expansion, value, **fields), expansion.table.dataset)


def simple_value(cell: Cell) -> float:
    """Return a value that differs from cell to cell: 70.00, 70.10, ... by the letters of its names."""
    return round(70 + sum(map(ord, cell.row.label + cell.pair)) % 90 / 10, 2)


def record(run: Run, last: float | None, best: float | None = None, **fields: Any) -> dict[str, Any]:
    """Return a record as the trainer writes it. best: `last` unless given. fields: other values."""
    ref = run.teacher_ref
    info = (
        None
        if ref is None
        else {
            "network": ref.network,
            "identity": ref.identity,
            "weights": ref.weights or "0" * 16,
            "top1": 73.4,
        }
    )
    return {
        "schema": SCHEMA,
        "key": run.key,
        "dataset": run.dataset,
        "protocol": run.protocol,
        "profile": run.profile,
        "teacher": run.teacher,
        "student": run.student,
        "method": run.method,
        "seed": run.seed,
        "status": "done",
        "settings": run.settings,
        "top1_last": last,
        "top1_best": last if best is None else best,
        "best_epoch": 200,
        "epochs": run.recipe.epochs,
        "top5_last": None,
        "top5_best": None,
        "seconds": 120.5,
        "share_seconds": 60.25,
        "images_per_second": 1000.0,
        "device": "cpu",
        "device_name": "a processor",
        "precision": "fp32",
        "threads": 1,
        "teacher_info": info,
        "git": {"commit": "c0ffee", "dirty": False},
        "versions": {"torch": "2.13.0", "python": "3.11"},
        "host": "here",
        "finished": "2026-01-01T00:00:00",
        "reason": None,
        **({} if run.measure is None else measured(run, last)),
        **fields,
    }


def measured(run: Run, value: float | None) -> dict[str, Any]:
    """Return the fields of a record of a run that measures: its headline number, and no top-1."""
    assert run.measure is not None
    numbers = {run.measure.headline: value}
    top1 = dict.fromkeys(("top1_last", "top1_best", "best_epoch", "epochs"))
    return {
        **top1,
        "measure": run.measure.name,
        "target": run.measured_on,
        "value": value,
        "numbers": numbers,
    }


def golden(expansion: Expansion, numbers: PublishedCells) -> list[dict[str, Any]]:
    """Return records of every cell's runs that equal the published numbers in both epochs."""
    records: dict[str, dict[str, Any]] = {}
    for cell in expansion.cells:
        number = numbers.of(expansion.table, cell)
        if number is not None and number.value is not None:
            metric = {f"{cell.row.metric}_{epoch}": number.value for epoch in ("last", "best")}
            for run in cell.runs:
                made = {**records.get(run.key, record(run, number.value)), **metric}
                if cell.row.measured is not None:
                    made["numbers"] = {**made["numbers"], cell.row.measured.shown: number.value}
                records[run.key] = made
    return list(records.values())


def as_frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return records as `results.load()` would."""
    return frame([dict(r) for r in records])


def move(records: list[dict[str, Any]], runs: Iterable[Run], by: float) -> list[dict[str, Any]]:
    """Return the records, with `by` added to the numbers of those of `runs`."""
    keys = {r.key for r in runs}

    def moved(r: dict[str, Any]) -> dict[str, Any]:
        if "numbers" in r:
            numbers = {name: value + by for name, value in r["numbers"].items()}
            return {**r, "value": r["value"] + by, "numbers": numbers}
        return {**r, "top1_last": r["top1_last"] + by, "top1_best": r["top1_best"] + by}

    return [moved(r) if r["key"] in keys else r for r in records]


def curve(run: Run, epochs: int | None = None, scale: float = 1.0) -> pd.DataFrame:
    """Return a plausible curve: falling loss, rising accuracy."""
    steps = range(1, (epochs or run.recipe.epochs) + 1)
    return pd.DataFrame(
        [
            {
                "stage": "main",
                "epoch": e,
                "lr": run.recipe.lr_at(e),
                "train_loss": scale * (1 + 9 / e),
                "train_acc": 90 - 60 / e,
                "test_acc": 72 - 50 / e,
                "test_acc_top5": 92 - 40 / e,
                "test_loss": 1 + 3 / e,
                "seconds": 0.5,
            }
            for e in steps
        ]
    )


def write(
    store: Store, records: Iterable[Mapping[str, Any]], curves: Mapping[str, pd.DataFrame] | None = None
) -> None:
    """Write records, and curves by key, into a store."""
    for r in records:
        store.write_record(str(r["key"]), dict(r))
    for key, c in (curves or {}).items():
        store.path(key).mkdir(parents=True, exist_ok=True)
        c.to_csv(store.path(key) / "curve.csv", index=False)
