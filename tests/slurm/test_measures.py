"""Measurements as jobs: what tables of measures show is the same wherever they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from slurm_kit import Drill, local_settings, outcome

from benchmark.spec import matrix
from benchmark.spec.plan import make_plan
from benchmark.spec.runs import Run, closure
from benchmark.work.order import WorkSettings, work, work_order
from results.store import Store

TABLES = {
    "crd-transfer": ("probe.epochs=2", "probe.train_images=24", "probe.test_images=16"),
    "dlkd-entropy": ("entropy.images=2", "entropy.iterations=3", "entropy.reference=10"),
}
SETTINGS = ("recipe.epochs=1", "recipe.train_images=32", "recipe.test_images=20")


def student_runs() -> list[Run]:
    """Return the trainings and the measurements of the tables' rows of plain students, in miniature."""
    runs = []
    for name, settings in TABLES.items():
        overrides = matrix.parse_overrides((*SETTINGS, *settings))
        cells = matrix.expand(matrix.load_table(name), "quick", overrides=overrides).cells
        runs += [run for cell in cells if cell.row.method == "student" for run in cell.runs]
    return closure(runs)


def measured(store: Store, run: Run) -> dict[str, Any]:
    """Return what must not depend on where a network was measured: its numbers, and the bits of its maps."""
    record = store.record(run.key)
    assert record is not None and record["status"] == "done", store.failure(run.key)
    maps: dict[str, bytes] = {}
    for name in record["artifacts"]:
        with np.load(store.path(run.key) / name) as file:
            maps |= {array: file[array].tobytes() for array in file.files}
    kept = ("numbers", "value", "target", "network_info", "threads", "precision")
    return {**{k: record[k] for k in kept}, "maps": maps}


def test_submitted_measurements_equal_local_ones(cluster: Path, tmp_path: Path) -> None:
    runs = student_runs()
    local = Store(tmp_path / "local")
    settings = local_settings(WorkSettings(results=local.folder, data=tmp_path / "data"))
    for pack in make_plan(runs, local).packs:
        assert {o.status for o in work(work_order(pack.runs, settings))} == {"done"}
    drill = Drill(tmp_path, runs, {})
    report = drill.submit(table="measures")
    assert (report.runs, report.jobs) == (len(runs), len(make_plan(runs, None).packs))
    drill.wait()
    of = [run for run in runs if run.measure is not None]
    assert {(run.measure.name, run.measured_on) for run in of if run.measure} == {
        ("probe", "digits"), ("probe", "pictures"), ("entropy", "digits"),
    }  # fmt: skip
    for run in runs:
        made = outcome if run.measure is None else measured
        assert made(drill.store, run) == made(local, run), run.key
    assert all(measured(local, run)["maps"] for run in of if run.measure and run.measure.name == "entropy")
    assert drill.submit(table="measures").jobs == 0, "what is measured is not submitted again"
