"""Runs that measure a trained network (benchmark/measures): load it, measure, write the record.

What is particular to such a record:

    measure, target        name of the measure, and the data set that it was made on
    value                  the headline number
    numbers                all numbers by name
    artifacts              names of further files of the run
    network_info           network, identity, epoch and weights' hash of what was measured, and its top-1

It has no top-1, which would be taken for that of a training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmark import data, longwork
from benchmark.measures import MeasureContext
from benchmark.seeds import seed_global_generators, seed_of
from benchmark.spec.runs import Run
from benchmark.training import checkpoint, kept_weights
from benchmark.training.execution import Execution
from benchmark.training.reporter import Status
from benchmark.training.run_files import PackInfo, RunFiles, now
from benchmark.user_code import code_of_one_run
from results.claims import check_folder
from results.files import write_json
from results.store import Store

PROGRESS_SECONDS = 5.0
"""Seconds between two updates of the progress file."""


class NoWeights(Exception):
    """The run that is to be measured has kept no weights."""


def measure(
    run: Run,
    files: RunFiles,
    store: Store,
    *,
    execution: Execution,
    size: int,
    load: Callable[[str], data.Dataset],
    percent: Callable[[int], None] = lambda more: None,
) -> dict[str, float]:
    """Measure the network of a run and write the record. Returns the numbers.

    The caller has claimed the run. execution: where to compute; the precision is fp32 in any case, since the
    numbers shall depend on the network alone. size: number of runs in the pack. load: loads a data set by
    name. percent: is told how much more of the work is done, in whole percent.

    Raises `Damaged` or `NoWeights` if the weights of a run of this suite cannot be used, `InputError` for
    those of an imported checkpoint, `ClaimLost` if another process has taken over, and whatever the measure
    raises (its `InputError` and `OSError` as a `RunCodeError`).
    """
    assert run.evaluates is not None and run.measure is not None
    began = time.perf_counter()
    exact = replace(execution, precision="fp32")
    device = exact.torch_device
    _require_weights(run, store)
    with exact.applied():
        net, weights = kept_weights.load_teacher(run.evaluates, run.dataset, store)
        exact.to_device(net)
        files.folder.mkdir(parents=True, exist_ok=True)
        check_folder(files.folder)
        saved, seconds = _saved(files.folder, device, weights)
        store.clear_failure(run.key)
        write_json(files.folder / "began.json", {"began": now(), **exact.describe()})
        files.log(f"{'resumed' if saved else 'began'}: {run.measure.name} of {run.evaluates.identity}")
        context = MeasureContext(
            net=net,
            dataset=run.dataset,
            mean=tuple(run.settings["normalise"]["mean"]),
            std=tuple(run.settings["normalise"]["std"]),
            target=run.measured_on,
            load=load,
            seed=run.seed,
            device=device,
            folder=files.folder,
            saved=saved,
            save=_saver(files.folder, exact, weights, seconds_before=seconds, began=began),
        )
        seed_global_generators(seed_of(run.seed, "measure", run.measure.name), device)
        with longwork.task(f"{run.measure.name} of {run.pair} {run.method}", 100, "percent") as task:
            with code_of_one_run(f"measure '{run.measure.name}'") as passing:
                context = replace(
                    context,
                    load=passing(context.load),
                    save=passing(context.save),
                    progress=passing(_progress(run, files.folder, task, percent)),
                )
                numbers = run.measure.measure.run(run.measure.config, context)
            percent(100 - task.done)
    if wrong := [name for name, value in numbers.items() if not math.isfinite(value)]:
        raise ArithmeticError(f"{run.measure.name}: {', '.join(wrong)} is not a finite number")
    seconds += time.perf_counter() - began
    target, train = data.info(run.measured_on), load(run.measured_on).train
    info = PackInfo(
        exact,
        size,
        train_images=target.train_images,
        test_images=target.test_images,
        images="" if train.is_held else train.to(device).source,
    )
    _write_record(run, files, store, info, weights, numbers, seconds, tuple(context.artifacts))
    return numbers


def _require_weights(run: Run, store: Store) -> None:
    """Raise `NoWeights` if the measured run was trained with `--keep none`."""
    assert run.evaluates is not None
    if run.evaluates.run is None:
        return
    key, path = run.evaluates.run.key, kept_weights.path_of(run.evaluates, store)
    if not path.exists() and kept_weights.expected(store, key, run.evaluates.epoch) is None:
        raise NoWeights(
            f"{path} was not kept (--keep none), so nothing can be measured on it; remove {path.parent} to "
            "train its run again"
        )


def _saved(folder: Path, device: torch.device, weights: str) -> tuple[dict[str, Any] | None, float]:
    """Return what the measure has stored for a network of these weights, and the seconds spent so far."""
    state = checkpoint.load(folder / checkpoint.FILE, device)
    if state is None or state.get("weights") != weights:  # the network was trained again since
        return None, 0.0
    return state["state"], float(state["seconds"])


def _saver(
    folder: Path, execution: Execution, weights: str, *, seconds_before: float, began: float
) -> Callable[[Mapping[str, Any]], None]:
    conditions = {**execution.describe(), "measures": True}

    def save(state: Mapping[str, Any]) -> None:
        check_folder(folder)
        seconds = seconds_before + time.perf_counter() - began
        content = {"state": dict(state), "weights": weights, "seconds": seconds}
        checkpoint.save(folder / checkpoint.FILE, content, about=conditions)

    return save


def _progress(
    run: Run, folder: Path, task: longwork.Task, percent: Callable[[int], None]
) -> Callable[[int, int], None]:
    """Return the function that a measure tells its progress."""
    written = began = time.monotonic()
    first: int | None = None  # what was done before; of a resumed measure, that took no time here

    def progress(done: int, total: int) -> None:
        nonlocal written, first
        first = done if first is None else first
        reached = 100 * done // max(total, 1)
        percent(reached - task.done)
        task.reach(reached)
        if time.monotonic() - written < PROGRESS_SECONDS:
            return
        written = time.monotonic()
        assert run.measure is not None
        write_json(
            folder / "progress.json",
            {
                "key": run.key,
                "stage": run.measure.name,
                "epoch": done,
                "epochs": total,
                "done": round(done / max(total, 1), 4),
                "eta_seconds": round((written - began) / (done - first) * (total - done))
                if done > first
                else None,
                "time": time.time(),
            },
        )

    return progress


def _write_record(
    run: Run,
    files: RunFiles,
    store: Store,
    info: PackInfo,
    weights: str,
    numbers: Mapping[str, float],
    seconds: float,
    artifacts: tuple[str, ...],
) -> None:
    assert run.evaluates is not None and run.measure is not None
    spec, ref = run.measure, run.evaluates
    head = files.record_head(info)
    measured = {} if ref.run is None else store.record(ref.run.key) or {}
    check_folder(files.folder)
    store.write_record(
        run.key,
        {
            **head,
            "sources": {**head["sources"], spec.name: spec.measure.source},
            "status": str(Status.DONE),
            "settings": run.settings,
            "order": run.order(),
            "measure": spec.name,
            "target": run.measured_on,
            "value": numbers[spec.headline],
            "numbers": dict(numbers),
            "artifacts": list(artifacts),
            "network_info": {
                "network": ref.network,
                "identity": ref.identity,
                "epoch": ref.epoch,
                "weights": weights,
                "top1": measured.get(f"top1_{ref.epoch}"),
            },
            "teacher_info": measured.get("teacher_info"),
            "seconds": round(seconds, 3),
            "share_seconds": round(seconds, 3),
        },
    )
    for name in (checkpoint.FILE, "progress.json", "began.json"):
        (files.folder / name).unlink(missing_ok=True)
    files.log(f"done: {', '.join(f'{name} {value:.6g}' for name, value in numbers.items())}")
