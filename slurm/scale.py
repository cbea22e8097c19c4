"""Measure how kd-tables copes with a large number of runs: `python -m slurm.scale plan|status|submit`.

plan     resolve and plan all tables under all protocols and profiles with --seeds seeds (8 seeds: 10^5 runs)
status   write a record for each run to a temporary folder, get the states of all runs, load all records
submit   submit, list and cancel many jobs that sleep, on the cluster of SLURM_CONF (slurm/lab.sh)
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmark.spec import matrix, profiles, protocols
from benchmark.spec.plan import make_plan
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run, closure
from benchmark.text import whole
from results.store import SCHEMA, Store, load, record_keys
from slurm import commands, registry, script, snapshot
from slurm.cluster import load_cluster
from slurm.registry import JobArray
from slurm.script import ArraySpec
from slurm.sleep import Sleep


@contextmanager
def clock(what: str) -> Iterator[None]:
    """Print the wall time of the block, and the CPU time of this process, which other load hardly affects."""
    began, cpu_began = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    print(f"{what}: {wall:.2f} s ({cpu:.2f} s of CPU time)", flush=True)


def conditions() -> str:
    """Return the machine's number of CPUs and its load."""
    return f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"


def all_runs(seeds: int) -> list[Run]:
    """Return the runs of all tables under all protocols and profiles, each once."""
    resolver, runs = Resolver(), dict[str, Run]()
    for name in matrix.table_names():
        table = matrix.load_table(name)
        for protocol in protocols.PROTOCOLS:
            for profile in profiles.PROFILES:
                expansion = matrix.expand(
                    replace(table, protocol_override=protocol), profile, resolver, seeds=range(seeds)
                )
                runs.update((r.key, r) for r in expansion.runs)
    return list(runs.values())


def measure_plan(seeds: int) -> None:
    """Resolve and plan the runs of all tables."""
    variants = f"{len(protocols.PROTOCOLS)} protocols, {len(profiles.PROFILES)} profiles, {seeds} seeds"
    with clock(f"resolving all tables, {variants}"):
        runs = all_runs(seeds)
    with clock(f"plan of {len(runs):,} runs, none of them done"):
        packs = len(make_plan(runs, None, max_pack=32).packs)
    print(f"{packs:,} packs")


def measure_status(number: int, seeds: int) -> None:
    """Ask for the states of `number` runs with a record, and of as many without."""
    runs = closure(all_runs(seeds))
    rounds = -(-number // len(runs))
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        began = time.perf_counter()
        keys = [(f"{r.key}{'x' * n}", r) for n in range(rounds) for r in runs][:number]
        for key, r in keys:
            path = folder / key
            path.mkdir(parents=True)
            (path / "record.json").write_text(_record(key, r), encoding="utf-8")
            (path / "curve.csv").write_text("stage,epoch,lr\n" + "main,1,0.05\n" * 240, encoding="utf-8")
        print(f"({len(keys):,} records written in {time.perf_counter() - began:.0f} s)")
        store = Store(folder)
        with clock(f"states of {len(keys):,} runs with a record, including the registry"):
            registry.queue_lines(folder)
            for key, _ in keys:
                store.state(key)
        with clock(f"states of {len(keys):,} runs without one"):
            for key, _ in keys:
                store.state(f"{key}-absent")
        with clock(f"one table of {len(keys):,} records (results.load)"):
            table = load(folder)
        assert len(table) == len(keys)
        of_table = {r.key for r in matrix.expand(matrix.load_table("crd-table1"), "paper", Resolver()).runs}
        with clock(f"records of the {len(of_table):,} runs of crd-table1 (results.load with keys)"):
            load(folder, keys=of_table)
        with clock(f"names of {len(keys):,} records"):
            record_keys(folder)
    finally:
        shutil.rmtree(folder)


def _record(key: str, run: Run) -> str:
    return json.dumps(
        {
            "schema": SCHEMA,
            "key": key,
            "dataset": run.dataset,
            "protocol": run.protocol,
            "profile": run.profile,
            "teacher": run.teacher,
            "student": run.student,
            "method": run.method,
            "seed": run.seed,
            "status": "done",
            "settings": run.settings,
            "order": run.order(),
            "top1_last": 70.0,
            "top1_best": 71.0,
            "best_epoch": 200,
            "epochs": 240,
            "test_images": run.recipe.test_images,
            "seconds": 100.0,
            "share_seconds": 10.0,
            "device": "cuda",
            "precision": "bf16",
        },
        indent=1,
    )


def measure_submit(number: int, seconds: float, watch: bool) -> None:
    """Submit `number` jobs that sleep, list them, wait for them if `watch`, and cancel the rest."""
    commands.require_slurm()
    limits, cluster = commands.cluster_limits(), replace(load_cluster("lab"), memory_gb=1, gpus=0)
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        snapshot_folder = snapshot.take(registry.registry_folder(folder) / "snapshots")
        began, sent = time.perf_counter(), 0
        with clock(f"submission of {number:,} jobs of {seconds:g} s, arrays of at most {limits.max_array:,}"):
            while sent < number:
                n = min(limits.max_array, number - sent)
                spec = ArraySpec(
                    cluster=cluster,
                    folder=folder / "jobs",
                    snapshot=snapshot_folder,
                    name=f"scale-{os.getpid()}-{sent}",
                )
                job = script.send(spec, [Sleep(seconds)] * n)
                array = JobArray(
                    name=spec.name,
                    table="scale",
                    cluster="lab",
                    folder=str(spec.folder),
                    packs=tuple((f"run{sent + i}",) for i in range(n)),
                    job=job,
                    time=time.time(),
                )
                registry.write_array(folder, array)
                sent += n
        with clock(f"finding {number:,} runs in the queue"):
            print(f"{len(registry.queued_runs(folder)):,} in the queue")
        if watch:
            while left := len(registry.queued_runs(folder)):
                print(f"{time.perf_counter() - began:6.0f} s: {left:,} left", flush=True)
                time.sleep(20)
        with clock("cancelling the rest"):
            commands.scancel([array.job for array in registry.read_arrays(folder)])
            while registry.queued_runs(folder):
                time.sleep(0.5)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run one measurement and print the conditions it was made under."""
    p = argparse.ArgumentParser(
        prog="python -m slurm.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("what", choices=("plan", "status", "submit"))
    p.add_argument("--seeds", type=whole, default=8, help="seeds of each cell (default: 8)")
    p.add_argument(
        "--number",
        type=whole,
        default=0,
        help="number of records (default: 100,000) or jobs (default: 5,000)",
    )
    p.add_argument("--seconds", type=float, default=1.0, help="how long a job sleeps (default: 1)")
    p.add_argument("--watch", action="store_true", help="wait until all jobs have ended")
    args = p.parse_args()
    print(conditions())
    if args.what == "plan":
        measure_plan(args.seeds)
    elif args.what == "status":
        measure_status(args.number or 100_000, args.seeds)
    else:
        measure_submit(args.number or 5_000, args.seconds, args.watch)
        version = subprocess.run(["sbatch", "--version"], capture_output=True, text=True).stdout.strip()
        print(version)


if __name__ == "__main__":
    main()
