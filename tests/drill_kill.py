"""A drill, not a test: `kill -9` at truly random moments, run again, until done; then the weights against an undisturbed run's.

    python tests/drill_kill.py [--minutes 3] [--seed N]

Each round trains a small table (fp32, one thread) in a process that is killed after a random time, again and again, and compares every weight,
curve and top-1 with those of one training that nobody disturbed. Prints the seed, so that a failure can be looked at again (nearly: the
moments are of the clock). Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402
import torch  # noqa: E402

import models  # noqa: E402
from results.store import Store, record_files  # noqa: E402

RUN = [
    *(
        sys.executable,
        "-m",
        "benchmark",
        "run",
        "dlkd-table1",
        "--profile",
        "quick",
        "--pairs",
        "resnet56:resnet20",
    ),
    *(
        "--methods",
        "kd,at,ft,crd",
        "--protocol",
        "crd",
        "--precision",
        "fp32",
        "--threads",
        "1",
        "--set",
        "recipe.train_images=96",
    ),
    *("--set", "recipe.test_images=50", "--set", "recipe.epochs=3"),
]


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*RUN, "--results", str(folder)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def leavings(folder: Path) -> dict[str, tuple[object, ...]]:
    """What each run left: hash of the weights of its last epoch, its losses and accuracies, its top-1."""
    found = {}
    for path in record_files(folder):
        key = path.parent.relative_to(folder).as_posix()
        record, curve = Store(folder).record(key), Store(folder).curve(key)
        assert record is not None and isinstance(curve, pd.DataFrame)
        weights = path.parent / "last.pt"
        digest = (
            models.weights_hash(torch.load(weights, weights_only=True)["model"]) if weights.exists() else ""
        )
        found[key] = (
            digest,
            curve[["train_loss", "test_acc"]].to_csv(),
            record["top1_last"],
            record["top1_best"],
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    args = parser.parse_args()
    rng, end = random.Random(args.seed), time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        assert start(Path(place, "undisturbed")).wait() == 0, "the undisturbed training failed"
        whole = time.monotonic() - began
        wanted = leavings(Path(place, "undisturbed"))
        print(f"seed {args.seed}: {len(wanted)} runs, {whole:.0f} s undisturbed", flush=True)
        kills = rounds = 0
        while time.monotonic() < end or not rounds:
            folder = Path(place, f"round{rounds}")
            while True:
                process = start(folder)
                try:
                    code = process.wait(timeout=rng.uniform(0.25, 1.0) * whole)
                    assert code == 0, f"exit code {code}"
                    break
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    kills += 1
            found = leavings(folder)
            rounds += 1
            if found != wanted:
                print(f"DIFFERS after {kills} kills: {[k for k in wanted if found.get(k) != wanted[k]]}")
                return 1
            print(f"round {rounds}: the same, {kills} kills so far", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
