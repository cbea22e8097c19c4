"""How a step's cost grows with the students behind one teacher pass, beside the cost model's line."""

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


def model_ms(run: Run, n: int, device: str) -> float:
    """The cost model's milliseconds of one step of `n` students of this run behind one teacher pass (the evaluations' share included)."""
    return 1000 * cost.pack_seconds([run] * n, device) / cost.steps(run)


def measure(
    table: str,
    pair: str,
    counts: Sequence[int],
    split: Split,
    execution: Execution,
    repeats: int,
    budget: float,
) -> dict[str, Any]:
    """Milliseconds of a step of 1, 2, 4 ... KD students, in turns; beside the cost model's, and the model's times one factor."""
    run = next(r for r in pair_runs(table, pair) if r.method == "kd")
    device = execution.device
    kind = execution.torch_device.type
    times: dict[int, list[float]] = {n: [] for n in counts}
    with tempfile.TemporaryDirectory() as folder:
        teacher = build_teacher(run, execution)
        packs = {n: Ours([run] * n, split, execution, Path(folder) / str(n), teacher) for n in counts}
        steps = {}
        for n, pack in packs.items():
            for _ in range(clock.warm_up(device)):
                pack.step()
            steps[n] = max(1, round(budget / repeats / clock.seconds(pack.step, device)))
        for _ in range(repeats):
            for n, pack in packs.items():
                times[n].append(1000 * clock.seconds(pack.step, device, steps[n]))
    measured = {n: statistics.median(t) for n, t in times.items()}
    model = {n: model_ms(run, n, kind) for n in measured}
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
    return {
        "table": table,
        "pair": pair,
        "factor": factor,
        "rows": rows,
    }


def plot(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Measured points and the fitted model's lines, one colour a pair."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for k, one in enumerate(found):
        n = [r["students"] for r in one["rows"]]
        colour = f"C{k}"
        left.plot(
            n, [r["step_ms"] for r in one["rows"]], "o", color=colour, label=one["pair"].replace(":", " → ")
        )
        left.plot(n, [r["fitted_ms"] for r in one["rows"]], "-", color=colour, linewidth=1)
        first = one["rows"][0]
        right.plot(
            n, [r["step_ms"] / r["students"] / first["step_ms"] for r in one["rows"]], "o", color=colour
        )
        right.plot(
            n,
            [r["fitted_ms"] / r["students"] / first["fitted_ms"] for r in one["rows"]],
            "-",
            color=colour,
            linewidth=1,
        )
    left.set_ylabel("ms a step of the pack")
    right.set_ylabel("cost a student, of that alone")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.set_xlabel("students behind one teacher pass")
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    figure.suptitle("points: measured; lines: the cost model times one factor a pair", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
