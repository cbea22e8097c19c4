"""A drill, not a test: disturb trainings for as long as you like, and compare what they leave.

    python tests/drill [--minutes 3] [--rounds N] [--seed N] [--only KIND,..] [--keep]
    make drill ARGS="--minutes 10"

Each round trains a small table (fp32, one thread) in a new folder. Its kind says how it is disturbed:

- calls, cache: SIGKILL, SIGTERM or SIGINT just before a call of the file system (open, rename, fsync, ...)
- times: the same at random times
- race: two workers on one folder, interrupted at calls
- suspend: a worker is suspended at a call, taken over by another one, and goes on
- flip, flip-cache: a bit is flipped in a checkpoint, in the teacher's weights or in the teacher cache

Then every record, curve and weight is compared bit for bit with an undisturbed training. The exit code is 1
if one differs, or if a worker ends with a traceback or with another exit code than it should; the command
that repeats the round is printed, and its folder is kept. It repeats the same choices, but the clock and the
order of two workers matter too. A flipped bit must be noticed, or have no effect on any other file; what
becomes of it is counted.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import compare  # noqa: E402
import sklearn.datasets  # noqa: E402, F401  (imported once here, not in each worker)
import torch  # noqa: E402
import workers  # noqa: E402
from rounds import KINDS, Fault, Reference, Round  # noqa: E402


def reference(folder: Path, options: tuple[str, ...]) -> Reference:
    """Train undisturbed, in a worker (to count its calls) and by the real command, which must agree."""
    folder.mkdir()
    by_worker, by_command, count = folder / "worker", folder / "command", folder / "calls"
    worker = workers.start(workers.Setting(by_worker, options, count_to=count), folder / "log.txt")
    began = time.monotonic()
    if worker.wait(600) != 0:
        raise Fault(f"the undisturbed training failed:\n{worker.text()}")
    seconds = time.monotonic() - began
    command = [sys.executable, "-m", "benchmark", *workers.RUN, *options, "--results", str(by_command)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    results = compare.results_of(by_worker)
    if lines := compare.differences(compare.results_of(by_command), results):
        raise Fault("two undisturbed trainings differ:\n" + "\n".join(lines))
    return Reference(options, results, int(count.read_text()), seconds)


def kinds_of(text: str) -> list[str]:
    """Return the kinds that `--only` names."""
    names = text.split(",")
    if unknown := [name for name in names if name not in KINDS]:
        raise argparse.ArgumentTypeError(f"unknown kind {unknown[0]}; allowed: {', '.join(KINDS)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python tests/drill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3, help="begin rounds for this long (default: 3)")
    parser.add_argument(
        "--rounds", type=int, default=None, help="at most so many rounds (default: any number)"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="begin with this round (default: 0)"
    )
    parser.add_argument(
        "--only", type=kinds_of, default=list(KINDS), metavar="KIND,..", help="(default: all)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folders of all rounds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder, counts = Path(tempfile.mkdtemp(prefix="drill-")), Counter[str]()
    number, end = args.first, time.monotonic() + 60 * args.minutes
    last = None if args.rounds is None else args.first + args.rounds
    try:
        references = {
            cached: reference(
                folder / f"undisturbed{cached:d}", ("--teacher-cache", "on" if cached else "off")
            )
            for cached in sorted({"cache" in kind for kind in args.only})
        }
        for r in references.values():
            size = f"{len(r.results)} runs, {r.calls} calls of the file system, {r.seconds:.1f} s"
            print(f"undisturbed with {' '.join(r.options)}: {size}", flush=True)
        while time.monotonic() < end and number != last:
            kind = args.only[number % len(args.only)]
            rng = random.Random(f"{args.seed} {number}")
            r = Round(folder / f"round{number}", rng, references["cache" in kind], counts)
            r.folder.mkdir()
            KINDS[kind](r)
            counts[f"rounds of {kind}"] += 1
            counts.update(f"file left: {name}" for name in compare.left_files(r.results))
            if not args.keep:
                shutil.rmtree(r.folder)
            number += 1
            print(f"round {number} ({kind}): as expected", flush=True)
    except Fault as fault:
        print(f"FAULT in round {number}: {fault}\nits files: {folder}/round{number}")
        only = f" --only {','.join(args.only)}" if args.only != list(KINDS) else ""
        print(f"repeat it: python tests/drill --seed {args.seed} --first {number} --rounds 1{only}")
        return 1
    else:
        if not args.keep:
            shutil.rmtree(folder)
        return 0
    finally:
        for worker in workers.started:
            worker.send(signal.SIGKILL)
        print(f"seed {args.seed}")
        for name, count in sorted(counts.items()):
            print(f"{count:6} {name}")


if __name__ == "__main__":
    sys.exit(main())
