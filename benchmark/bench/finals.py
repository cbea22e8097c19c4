"""`bench finals`: whether bf16 changes a result.

Every method is trained under profile quick over many seeds, in fp32 and in bf16, and the last top-1 is paired
by seed. Both precisions have the same teachers (trained in fp32), the same initial weights and the same
batches. Single runs differ by chaos (of 256 test images, one is 0.39 points), so only the mean over seeds is
informative; its interval shows how precisely it is known.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmark import longwork
from benchmark.bench.ours import small_run
from benchmark.errors import InputError
from benchmark.spec.plan import pack_key
from benchmark.spec.runs import Run
from benchmark.training.execution import Execution
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from benchmark.training.reporter import Status
from results.store import Store

Finals = dict[str, dict[str, dict[int, float]]]
"""Method -> precision -> seed -> last top-1 in percent."""


def measure(
    methods: Sequence[tuple[str, str]],
    seeds: int,
    *,
    precisions: Sequence[str],
    on_seed: Callable[[str], None],
) -> Finals:
    """Train each `(method, student)` with the seeds 0, 1, ... in each precision.

    A run that diverged has no value. Raises `InputError` if a run fails. on_seed: called with a line of text
    after each seed.
    """
    top1: Finals = {m: {p: {} for p in precisions} for m, _ in methods}
    with tempfile.TemporaryDirectory() as folder:
        base = Store(Path(folder) / "base")
        for seed in longwork.each(range(seeds), "training", "seeds", bar=False):
            runs = [small_run(method, seed, student) for method, student in methods]
            _train([n for r in runs for n in r.needs_runs], base, "fp32")
            for precision in precisions:
                store = Store(Path(folder) / f"{precision}-{seed}")
                shutil.copytree(base.folder, store.folder)
                _train(runs, store, precision)
                for run in runs:
                    record = store.record(run.key) or {}
                    if record["status"] == "done":
                        top1[run.method][precision][seed] = record["top1_last"]
                shutil.rmtree(store.folder)
            on_seed(f"seed {seed}")
    return top1


def _train(runs: Sequence[Run], store: Store, precision: str) -> None:
    """Train runs and the runs that they need, in the packs that `run` would make."""
    needed = {n.key: n for r in runs for n in r.needs_runs}
    if missing := [n for n in needed.values() if not store.is_done(n.key)]:
        _train(missing, store, precision)
    packs: dict[tuple[object, ...], list[Run]] = {}
    for run in {r.key: r for r in runs if not store.is_done(r.key)}.values():
        packs.setdefault(pack_key(run), []).append(run)
    execution = Execution("cpu", precision, torch.get_num_threads())
    for pack in packs.values():
        for outcome in train_pack(pack, store, TrainingOptions(execution)):
            if outcome.status not in (Status.DONE, Status.DIVERGED):
                raise InputError(f"{outcome.run.key} {outcome.status}: {outcome.reason}")
