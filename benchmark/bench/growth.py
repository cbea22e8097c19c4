"""`bench students`: how the time of a step grows with the students behind one teacher pass."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.bench import clock
from benchmark.bench.ours import Ours, build_teacher, pair_runs
from benchmark.data.datasets import Split
from benchmark.spec import cost
from benchmark.spec.runs import Run
from benchmark.training.execution import Execution
from tables.plots import figure_class


def model_ms(run: Run, n: int, device: str) -> float:
    """Return the cost model's milliseconds for a step of `n` students of this run behind one teacher pass.

    This includes their share of the evaluations.
    """
    return 1000 * cost.pack_seconds([run] * n, device) / cost.steps(run)


def measure(
    table: str,
    pair: str,
    *,
    counts: Sequence[int],
    split: Split,
    execution: Execution,
    repeats: int,
    budget: float,
) -> dict[str, Any]:
    """Measure a step of packs of KD students, and compare it with the cost model's prediction.

    counts: sizes of the packs; they take turns. Returns the rows, and the median ratio of the measured to the
    predicted time (`factor`); a row's `fitted_ms` is the prediction times this factor.
    """
    run = next(r for r in pair_runs(table, pair) if r.method == "kd")
    device = execution.device
    times: dict[int, list[float]] = {n: [] for n in counts}
    with tempfile.TemporaryDirectory() as folder:
        teacher = build_teacher(run, execution)
        packs = {
            n: Ours([run] * n, split, execution, folder=Path(folder) / str(n), teacher=teacher)
            for n in counts
        }
        steps = {}
        for n, pack in packs.items():
            for _ in range(clock.warm_up_steps(device)):
                pack.step()
            steps[n] = max(1, round(budget / repeats / clock.seconds(pack.step, device)))
        for _ in range(repeats):
            for n, pack in packs.items():
                times[n].append(1000 * clock.seconds(pack.step, device, steps[n]))
    measured = {n: statistics.median(t) for n, t in times.items()}
    model = {n: model_ms(run, n, execution.torch_device.type) for n in measured}
    factor = statistics.median(ms / model[n] for n, ms in measured.items())
    rows = [
        {
            "students": n,
            "step_ms": ms,
            "student_images_per_second": 1000 * n * run.recipe.batch_size / ms,
            "model_ms": model[n],
            "fitted_ms": factor * model[n],
            "turns_ms": [round(t, 2) for t in times[n]],
        }
        for n, ms in measured.items()
    ]
    return {"table": table, "pair": pair, "factor": factor, "rows": rows}


def plot(pairs: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot the measured points and the fitted lines of `measure`, one colour for each pair."""
    figure = figure_class()(figsize=(10, 4), layout="tight")
    left, right = figure.subplots(1, 2)
    for k, measured in enumerate(pairs):
        rows, colour = measured["rows"], f"C{k}"
        students = [r["students"] for r in rows]
        label = measured["pair"].replace(":", " → ")
        for kind, style in (("step_ms", "o"), ("fitted_ms", "-")):
            ms = [r[kind] for r in rows]
            relative = [t / n / ms[0] for t, n in zip(ms, students, strict=True)]
            left.plot(
                students, ms, style, color=colour, linewidth=1, label=label if kind == "step_ms" else None
            )
            right.plot(students, relative, style, color=colour, linewidth=1)
    left.set_ylabel("ms per step of the pack")
    right.set_ylabel("time per student, relative to one alone")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.set_xlabel("students behind one teacher pass")
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    figure.suptitle("points: measured; lines: the cost model times one factor for each pair", fontsize=9)
    figure.savefig(path, dpi=120)
