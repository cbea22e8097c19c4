"""The packs that train nothing: they measure trained networks, or evaluate imported checkpoints.

Process 0 does this alone, if several processes train together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmark import data
from benchmark.spec import cost
from benchmark.spec.runs import Run
from benchmark.training import measuring
from benchmark.training.evaluate_imported import evaluate_imported
from benchmark.training.pack_data import PackData
from benchmark.training.pack_runs import PackRuns, ends_the_pack
from benchmark.training.reporter import Outcome, Status
from benchmark.training.run_files import PackInfo
from results.claims import ClaimLost


def measure_runs(pack: PackRuns, runs: Sequence[Run]) -> None:
    """Measure the networks of these runs, one after the other. A step of the report is a percent of one."""
    options = pack.options
    target = data.load(runs[0].measured_on, options.data_folder)  # that of all: see `plan.pack_key`
    pack.reporter.begin(runs, steps_total=100 * len(runs), steps_done=0)

    def load(name: str) -> data.Dataset:
        return target if name == target.name else data.load(name, options.data_folder)

    for run in runs:
        work = partial(
            measuring.measure,
            run,
            pack.files[run.key],
            pack.store,
            execution=pack.execution,
            size=len(runs),
            load=load,
            percent=_percent_of(pack, run),
        )
        _end_by(pack, run, work)


def evaluate_runs(pack: PackRuns, runs: Sequence[Run], images: PackData, info: PackInfo) -> None:
    """Evaluate the imported checkpoints of these runs."""
    for run in runs:
        _end_by(pack, run, partial(evaluate_imported, run, pack.files[run.key], images, info))


def _end_by(pack: PackRuns, run: Run, work: Callable[[], Any]) -> None:
    """Call the function that does all the work of a run, and end the run. Some errors are passed on."""
    try:
        work()
    except ClaimLost:
        pack.end_taken_over(run)
    except Exception as error:
        if ends_the_pack(error):
            raise
        pack.fail(run, error)
    else:
        pack.end(Outcome(run, Status.DONE))


def _percent_of(pack: PackRuns, run: Run) -> Callable[[int], None]:
    """Return the function that reports how much more of a measurement is done, in percent."""
    images = cost.measured_passes(run).images

    def percent(more: int) -> None:
        if more > 0:
            pack.reporter.step(run.doing, epoch=0, steps=more, images=round(images * more / 100))

    return percent
