"""A drill, not a test: kill a training at random moments, continue until it is done, and compare.

    python tests/drill_kill.py [--minutes 3] [--seed N]

Each round trains a small table (fp32, one thread) in a process that gets SIGKILL after a random time, again
and again. Then every weight, curve and top-1 is compared with those of a training that was not interrupted.
Exits with 1 if anything differs. The seed is printed, so that a failure can be repeated approximately: the
kills depend on the clock too.
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
    *(sys.executable, "-m", "benchmark", "run", "dlkd-table1", "--profile", "quick", "--protocol", "crd"),
    *("--pairs", "resnet56:resnet20", "--methods", "kd,at,ft,crd", "--precision", "fp32", "--threads", "1"),
    *("--set", "recipe.train_images=96", "--set", "recipe.test_images=50", "--set", "recipe.epochs=3"),
]


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*RUN, "--results", str(folder)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def results_of(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return for each run the hash of its last weights, its losses and accuracies, and its top-1."""
    results: dict[str, tuple[object, ...]] = {}
    for path in record_files(folder):
        key = path.parent.relative_to(folder).as_posix()
        record, curve = Store(folder).record(key), Store(folder).curve(key)
        assert record is not None and isinstance(curve, pd.DataFrame)
        weights = path.parent / "last.pt"
        digest = ""
        if weights.exists():
            digest = models.weights_hash(torch.load(weights, weights_only=True)["model"])
        losses = curve[["train_loss", "test_acc"]].to_csv()
        results[key] = (digest, losses, record["top1_last"], record["top1_best"])
    return results


def train_and_kill(folder: Path, rng: random.Random, seconds: float) -> int:
    """Train until done, and kill the process at random moments. Return the number of kills.

    seconds: duration of a training without interruption.
    """
    kills = 0
    while True:
        process = start(folder)
        try:
            code = process.wait(timeout=rng.uniform(0.25, 1.0) * seconds)
            assert code == 0, f"exit code {code}"
            return kills
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=3, help="start new rounds for this long (default: 3)"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    args = parser.parse_args()
    rng, end = random.Random(args.seed), time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        assert start(Path(folder, "undisturbed")).wait() == 0, "the undisturbed training failed"
        seconds = time.monotonic() - began
        expected = results_of(Path(folder, "undisturbed"))
        print(f"seed {args.seed}: {len(expected)} runs, {seconds:.0f} s undisturbed", flush=True)
        kills = rounds = 0
        while time.monotonic() < end or not rounds:
            round_folder = Path(folder, f"round{rounds}")
            kills += train_and_kill(round_folder, rng, seconds)
            results = results_of(round_folder)
            rounds += 1
            if results != expected:
                different = [key for key in expected if results.get(key) != expected[key]]
                print(f"DIFFERS after {kills} kills: {different}")
                return 1
            print(f"round {rounds}: the same, {kills} kills so far", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
