"""How the suite behaves with very many runs: `python -m slurm.scale plan|status|submit` prints what was measured, and its conditions.

plan     every table under every protocol and profile with --seeds seeds (8 make 10^5 runs): seconds to resolve them all and to cut them into packs
status   a record for each of them in a temporary folder: seconds for the states of all (what `status` does), and to load all records
submit   N jobs that sleep, on the cluster that SLURM_CONF points to (slurm/lab.sh): seconds to submit them, to list them, to cancel them
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmark.spec import matrix, protocols
from benchmark.spec.plan import make_plan
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run, closure
from results.store import SCHEMA, Store, load
from slurm import commands, registry, script, snapshot
from slurm.cluster import load_cluster
from slurm.registry import Array
from slurm.sleep import Sleep


@contextmanager
def clock(what: str) -> Iterator[None]:
    """Prints the seconds that passed, and those of them that this process was at work: on a busy machine the first are not its doing."""
    began, worked = time.perf_counter(), time.process_time()
    yield
    print(
        f"{what}: {time.perf_counter() - began:.2f} s ({time.process_time() - worked:.2f} s of work)",
        flush=True,
    )


def conditions() -> str:
    load_1 = os.getloadavg()[0]
    return f"{os.cpu_count()} CPUs, load {load_1:.1f}"


def all_runs(seeds: int) -> list[Run]:
    """The runs of every table under every protocol and profile, each once."""
    resolver, found = Resolver(), dict[str, Run]()
    for name in matrix.table_names():
        table = matrix.load_table(name)
        for protocol in protocols.PROTOCOLS:
            for profile in protocols.PROFILES:
                expansion = matrix.expand(
                    replace(table, protocol_override=protocol), profile, resolver, seeds=range(seeds)
                )
                found.update((r.key, r) for r in expansion.runs)
    return list(found.values())


def measure_plan(seeds: int) -> None:
    with clock(
        f"resolving all tables, {len(protocols.PROTOCOLS)} protocols, {len(protocols.PROFILES)} profiles, {seeds} seeds"
    ):
        runs = all_runs(seeds)
    with clock(f"plan of {len(runs):,} runs, none of them done"):
        packs = len(make_plan(runs, None, max_pack=32).packs)
    print(f"{packs:,} packs")


def measure_status(number: int, seeds: int) -> None:
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
        with clock(f"states of {len(keys):,} runs with a record, the queue's registry included"):
            registry.queued(folder)
            for key, _ in keys:
                store.state(key)
        with clock(f"states of {len(keys):,} runs without one"):
            for key, _ in keys:
                store.state(f"{key}-absent")
        with clock(f"one table of {len(keys):,} records (results.load)"):
            table = load(folder)
        assert len(table) == len(keys)
    finally:
        shutil.rmtree(folder)


def _record(key: str, run: Run) -> str:
    import json

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
            "seconds": 100.0,
            "device": "cuda",
            "precision": "bf16",
        },
        indent=1,
    )


def measure_submit(number: int, seconds: float, watch: bool) -> None:
    commands.require()
    site, cluster = commands.site(), replace(load_cluster("lab"), memory_gb=1, gpus=0)
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        code = snapshot.take(registry.home(folder) / "snapshots")
        began, sent = time.perf_counter(), 0
        with clock(f"submission of {number:,} jobs of {seconds:g} s, arrays of at most {site.max_array:,}"):
            while sent < number:
                n = min(site.max_array, number - sent)
                keys = tuple((f"run{sent + i}",) for i in range(n))
                array = Array(
                    f"scale-{os.getpid()}-{sent}",
                    "scale",
                    "lab",
                    str(folder / "jobs"),
                    keys,
                    time=time.time(),
                )
                job = script.send(cluster, folder / "jobs", code, array.name, (), [Sleep(seconds)] * n)
                registry.write(folder, replace(array, job=job))
                sent += n
        with clock(f"asking the queue where {number:,} runs are"):
            print(f"{len(registry.places(folder)):,} in the queue")
        if watch:
            while left := len(registry.places(folder)):
                print(f"{time.perf_counter() - began:6.0f} s: {left:,} left", flush=True)
                time.sleep(20)
        with clock("cancelling what is left"):
            commands.scancel([a.job for a in registry.arrays(folder)])
            while registry.places(folder):
                time.sleep(0.5)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    p = argparse.ArgumentParser(
        prog="python -m slurm.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("what", choices=("plan", "status", "submit"))
    p.add_argument("--seeds", type=int, default=8, help="seeds of every cell")
    p.add_argument("--number", type=int, default=0, help="records or jobs (default: 100,000; 5,000)")
    p.add_argument("--seconds", type=float, default=1.0, help="how long a job sleeps")
    p.add_argument("--watch", action="store_true", help="let the jobs run to their end")
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
