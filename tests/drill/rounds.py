"""The kinds of rounds. Each trains the drill's table in a new folder, disturbs it, and lets it end."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import compare
import workers
from workers import Setting, Worker

from benchmark.training import teacher_cache

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDS = {
    0: (0,),
    signal.SIGKILL: (0, -signal.SIGKILL),
    signal.SIGTERM: (0, -signal.SIGTERM),
    signal.SIGINT: (0, 130, -signal.SIGINT),
}
"""The exit codes that a worker may have after each signal; 0 if it was done before."""
LIMIT = 300.0
"""Seconds after which a worker that does not end has a deadlock."""
NOTICED = ("damaged", "cannot be read", "checksum", "does not match", "do not match", "differs", "rebuilt")
"""Words by which a worker's output or a stored failure tells that it noticed a flipped bit."""


class Fault(Exception):
    """A worker ended as it must not, or the results differ. One line for each thing that is wrong."""


@dataclass
class Reference:
    """The undisturbed training with some options."""

    options: tuple[str, ...]
    results: dict[str, dict[str, str]]
    calls: int
    """How many calls of the file system it takes."""
    seconds: float


@dataclass
class Round:
    """One round: a folder, its random numbers, and what it counts."""

    folder: Path
    rng: random.Random
    reference: Reference
    counts: Counter[str]

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def start(self, number: int = 0, stop_at: int = 0, host: str = "") -> Worker:
        setting = Setting(self.results, self.reference.options, signal=number, stop_at=stop_at, host=host)
        return workers.start(setting, self.folder / "log.txt")

    def any_call(self) -> int:
        """Return the number of a call of the file system at which to interrupt."""
        return self.rng.randint(1, self.reference.calls)

    def end(self, worker: Worker, number: int = 0) -> int:
        """Wait until a worker ends, and return its exit code. number: the signal that it may have got."""
        code = worker.wait(LIMIT)
        if code is None:
            raise Fault(f"a worker did not end within {LIMIT:g} seconds")
        if code not in ENDS[number]:
            raise Fault(f"exit code {code} after {_name(number)}")
        if "Traceback" in worker.text():
            raise Fault(f"a traceback after {_name(number)}")
        return code

    def finish(self) -> None:
        """Let a worker end undisturbed, and compare."""
        self.end(self.start())
        if lines := compare.differences(self.reference.results, compare.results_of(self.results)):
            raise Fault("\n".join(lines))


def _name(number: int) -> str:
    return signal.Signals(number).name if number else "no signal"


def at_calls(r: Round) -> None:
    """Interrupt a worker at some calls of the file system."""
    for _ in range(r.rng.randint(1, 5)):
        number = r.rng.choice(SIGNALS)
        if r.end(r.start(number, r.any_call()), number) == 0:
            break
        r.counts[f"{_name(number)} at a call"] += 1
    r.finish()


def at_times(r: Round) -> None:
    """Interrupt a worker at random times."""
    for _ in range(r.rng.randint(1, 5)):
        number, worker = r.rng.choice(SIGNALS), r.start()
        worker.wait(r.rng.uniform(0, r.reference.seconds))
        worker.send(number)
        if r.end(worker, number) == 0:
            break
        r.counts[f"{_name(number)} at a random time"] += 1
    r.finish()


def race(r: Round) -> None:
    """Let two workers train the same table, and interrupt them at calls; as if on one machine or on two."""
    hosts = r.rng.choice((("", ""), ("one", "two")))
    interruptions = r.rng.randint(0, 4)

    def another(host: str) -> Iterator[tuple[Worker, int]]:
        nonlocal interruptions
        while True:
            number = r.rng.choice(SIGNALS) if interruptions > 0 else 0
            interruptions -= 1
            yield r.start(number, r.any_call() if number else 0, host), number

    streams = [another(host) for host in hosts]
    running = [next(stream) for stream in streams]
    while running:
        for i in reversed(range(len(running))):
            worker, number = running[i]
            if worker.wait(LIMIT if len(running) == 1 else 0.01) is None and len(running) > 1:
                continue
            if r.end(worker, number) == 0:
                del running[i], streams[i]
            else:
                r.counts[f"{_name(number)} beside another worker"] += 1
                running[i] = next(streams[i])
    r.counts["tables trained by two workers"] += 1
    r.finish()


def suspend(r: Round) -> None:
    """Suspend a worker at a call; one on another machine takes its runs over; then the first goes on."""
    first = r.start(signal.SIGSTOP, r.any_call(), host="one")
    if first.wait_until_stopped(LIMIT):
        second = r.start(host="two")
        done_before = r.rng.random() < 0.5
        # not for ever: a process that is suspended while it changes a claim holds that claim's lock
        second.wait(20 if done_before else workers.STALE_SECONDS + r.rng.uniform(0, r.reference.seconds))
        first.send(signal.SIGCONT)
        r.end(second)
        r.end(first)
        taken_over = "taken over" in first.text() or "left unfinished" in first.text()
        r.counts["suspended and taken over" if taken_over else "suspended"] += 1
    else:
        r.end(first)
    r.finish()


def flip(r: Round) -> None:
    """Flip a bit of a file that a later worker reads. It must be noticed, or have no effect on any result."""
    r.end(r.start(signal.SIGKILL, r.rng.randint(r.reference.calls // 4, r.reference.calls)), signal.SIGKILL)
    files = [
        path
        for path in sorted(r.results.rglob("*"))
        if path.is_file()
        and (
            path.name == "checkpoint.pt"
            or (path.name == "last.pt" and "none-resnet14" in str(path))
            or (teacher_cache.FOLDER in path.parts and not path.name.startswith("."))
        )
    ]
    if not files:
        return
    path = r.rng.choice(files)
    content = bytearray(path.read_bytes())
    content[r.rng.randrange(len(content))] ^= 1 << r.rng.randrange(8)
    path.write_bytes(content)
    kind = "teacher cache" if teacher_cache.FOLDER in path.parts else path.name
    worker = r.start()
    code = worker.wait(LIMIT)
    if code not in (0, 1, 2) or "Traceback" in worker.text():
        raise Fault(f"exit code {code} after a bit was flipped in {path}")
    output = worker.text() + "".join(p.read_text() for p in r.results.rglob("failure.json"))
    flipped = f"{path.parent.relative_to(r.results).as_posix()}: {path.name}"
    different = compare.differences(r.reference.results, compare.results_of(r.results))
    if code != 0 or any(word in output for word in NOTICED):
        fate = "detected"
    else:
        if wrong := [line for line in different if line != flipped]:
            raise Fault("\n".join([f"trained on a flipped bit in {path} without notice:", *wrong]))
        fate = "without effect"
    r.counts[f"bit flipped in {kind}: {fate}"] += 1


KINDS: dict[str, Callable[[Round], None]] = {
    "calls": at_calls,
    "times": at_times,
    "race": race,
    "suspend": suspend,
    "flip": flip,
    "cache": at_calls,
    "flip-cache": flip,
}
"""By name. Those with `cache` train with a teacher cache."""
