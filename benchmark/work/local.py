"""The local runner: missing runs as packs, teachers before students, one worker for a GPU or one on a CPU, never more.

On a CPU, or with one GPU, packs are trained in this process. With several GPUs each has a worker process of its own that takes the next
pack whose needs are met.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmark import methods
from benchmark.spec import teacher_cache_rule
from benchmark.spec.plan import Pack, Plan
from benchmark.spec.runs import Run
from benchmark.training.pack import Options, Outcome, Reporter, train_pack
from benchmark.work.order import Environment, work_order
from results.store import Store


def run_plan(plan: Plan, store: Store, options: Options, environment: Environment) -> list[Outcome]:
    """Trains all packs of a plan; returns the outcomes of all runs. A pack that fails does not stop the others."""
    cached = teacher_cache_rule.cached_teachers(
        environment.teacher_cache, [p.runs for p in plan.packs], options.execution.precision
    )
    gpus = torch.cuda.device_count() if options.execution.device == "cuda" else 0
    if gpus > 1 and len(plan.packs) > 1:
        return _many_gpus(plan, store, environment, gpus, options.reporter, cached)
    options = replace(options, cached_teachers=cached)
    outcomes: list[Outcome] = []
    for pack in plan.packs:
        outcomes += train_pack(pack.runs, store, options)
    return outcomes


def _many_gpus(
    plan: Plan, store: Store, environment: Environment, gpus: int, reporter: Reporter, cached: frozenset[str]
) -> list[Outcome]:
    """One worker process a GPU; a level is begun when the level before has ended."""
    outcomes: list[Outcome] = []
    for level in range(plan.levels):
        waiting = list(plan.level(level))
        working: dict[int, tuple[subprocess.Popen[bytes], Pack]] = {}
        try:
            while waiting or working:
                for gpu in range(gpus):
                    if gpu not in working and waiting:
                        pack = waiting.pop(0)
                        on = (
                            teacher_cache_rule.teacher_identity(pack.runs) in cached
                        )  # decided for the plan, not again for each pack
                        own = replace(environment, teacher_cache="on" if on else "off")
                        working[gpu] = (_start(pack, own, gpu), pack)
                        reporter.note(f"GPU {gpu}: {pack.name}")
                for gpu, (process, pack) in list(working.items()):
                    if process.poll() is not None:
                        outcomes += [_outcome(r, store) for r in pack.runs]
                        del working[gpu]
                time.sleep(0.5)
        finally:
            for process, _ in working.values():
                process.terminate()
                process.wait()
    return outcomes


def _start(pack: Pack, environment: Environment, gpu: int) -> subprocess.Popen[bytes]:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu)}
    if own := methods.user_method_folders():  # relative to this process's folder, which is not the worker's
        env["KD_METHODS"] = os.pathsep.join(str(p.resolve()) for p in own)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", "work", "-"],
        stdin=subprocess.PIPE,
        env=env,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdin is not None
    process.stdin.write(work_order(pack.runs, environment).encode())
    process.stdin.close()
    return process


def _outcome(run: Run, store: Store) -> Outcome:
    state = store.state(run.key)
    if state in ("done", "diverged"):
        return Outcome(run, state)
    lacking = next((n for n in run.needs_runs if not store.is_done(n.key)), None)
    if lacking is not None and store.failure(run.key) is None:
        return Outcome(run, "waiting", f"needs {lacking.key}, which is {store.state(lacking.key)}")
    return Outcome(
        run, "failed", str((store.failure(run.key) or {}).get("reason", "its worker ended without a record"))
    )
