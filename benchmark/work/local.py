"""The local runner: trains the packs of a plan on this machine, teachers before their students.

On a CPU or with one GPU, the packs are trained one after the other in this process. With several GPUs, each
has a worker process, which takes the next pack whose needs are met.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmark import plugins
from benchmark.spec import teacher_cache_rule
from benchmark.spec.plan import Pack, Plan
from benchmark.spec.runs import Run
from benchmark.training.pack import train_pack
from benchmark.training.reporter import Outcome, Reporter, Status
from benchmark.training.run_files import epochs_done
from benchmark.work.order import WorkSettings, work_order
from benchmark.work.waiting import Outcomes, train_all, trainable
from results.claims import describe
from results.store import Store


def run_plan(
    plan: Plan,
    settings: WorkSettings,
    reporter: Reporter | None = None,
    until: int | None = None,
    wait: bool = False,
) -> list[Outcome]:
    """Train all packs of a plan and return the outcomes of all their runs.

    A pack that fails does not stop the others. until: stop each run after this epoch. wait: wait for the runs
    that other processes train, and go on with those that need them (see `benchmark.work.waiting`).
    """
    settings = replace(settings, until=until)
    options = settings.training_options([pack.runs for pack in plan.packs], reporter)
    gpus = torch.cuda.device_count() if options.execution.device == "cuda" else 0
    store = Store(settings.results)

    def train(packs: Sequence[Pack], outcomes: Outcomes) -> None:
        for pack in packs:
            if (part := trainable(pack, outcomes, store)) is not None:
                outcomes |= {o.run.key: o for o in train_pack(part.runs, store, options)}

    def train_on_gpus(packs: Sequence[Pack], outcomes: Outcomes) -> None:
        _train_on_gpus(
            packs,
            outcomes,
            settings=settings,
            gpus=gpus,
            reporter=options.reporter,
            cached=options.cached_teachers,
        )

    several = gpus > 1 and len(plan.packs) > 1
    if not several:
        options.reporter.plan([pack.runs for pack in plan.packs], options.execution.torch_device.type)
    return train_all(plan.packs, store, train_on_gpus if several else train, options.reporter, wait)


def _train_on_gpus(
    packs: Sequence[Pack],
    outcomes: Outcomes,
    *,
    settings: WorkSettings,
    gpus: int,
    reporter: Reporter,
    cached: frozenset[str],
) -> None:
    """Train packs in one worker process per GPU, and add the outcomes of their runs.

    A level begins when the level before it has ended. cached: identities of the teachers whose outputs are
    read from the teacher cache.
    """
    store = Store(settings.results)
    for level in sorted({pack.level for pack in packs}):
        parts = [trainable(pack, outcomes, store) for pack in packs if pack.level == level]
        waiting = [part for part in parts if part is not None]
        working: dict[int, tuple[subprocess.Popen[bytes], Pack]] = {}
        try:
            while waiting or working:
                for gpu in range(gpus):
                    if gpu not in working and waiting:
                        pack = waiting.pop(0)
                        # decided for the whole plan: a worker knows one pack and could decide differently
                        mode = "on" if teacher_cache_rule.teacher_identity(pack.runs) in cached else "off"
                        working[gpu] = _start(pack, replace(settings, teacher_cache=mode), gpu), pack
                        reporter.note(f"GPU {gpu}: {pack.name}")
                for gpu, (process, pack) in list(working.items()):
                    if process.poll() is not None:
                        outcomes |= {run.key: _outcome(run, store, settings.until) for run in pack.runs}
                        del working[gpu]
                time.sleep(0.5)
        finally:
            for process, _ in working.values():
                process.terminate()
                process.wait()


def _start(pack: Pack, settings: WorkSettings, gpu: int) -> subprocess.Popen[bytes]:
    """Start a worker process that trains a pack on one GPU."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": _visible_name(gpu)}
    # absolute paths, because the worker runs in a different folder
    env |= plugins.environment_variables(lambda _number, folder: folder.resolve())
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", "work", "-"],
        stdin=subprocess.PIPE,
        env=env,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already, which `_outcome` reports
        process.stdin.write(work_order(pack.runs, settings).encode())
        process.stdin.close()
    return process


def _visible_name(gpu: int) -> str:
    """Return what names a GPU of this process to a worker process.

    gpu: its number here. Where CUDA_VISIBLE_DEVICES names the GPUs of this process, its number is only a
    position in that list.
    """
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return names[gpu] if gpu < len(names) and names[gpu] else str(gpu)


def _outcome(run: Run, store: Store, until: int | None) -> Outcome:
    """Return how a run ended in a worker process, according to its files. until: the last epoch to train."""
    state = store.state(run.key)
    if state in ("done", "diverged"):
        return Outcome(run, Status(state))
    if state == "running":  # not by the worker, which has ended
        return Outcome(run, Status.BUSY, f"{describe(store.holder(run.key))} trains it")
    failure = store.failure(run.key)
    if failure is not None:
        return Outcome(run, Status.FAILED, str(failure.get("reason", "")))
    if until is not None and state == "started" and (done := epochs_done(store, run)) >= until:
        return Outcome(run, Status.STOPPED, f"after epoch {done} of {run.recipe.epochs}, as requested")
    missing = next((needed for needed in run.needs_runs if not store.is_done(needed.key)), None)
    if missing is not None:
        reason = f"needs {missing.key}, which is {store.state(missing.key)}"
        return Outcome(run, Status.WAITING, reason)
    return Outcome(run, Status.FAILED, "its worker ended without a record")
