"""Show the progress of packs: bars on a terminal (`benchmark.work.bars`), plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark.spec import cost
from benchmark.spec.runs import NONE, Run
from benchmark.text import duration, plural, shorten
from benchmark.training.reporter import Outcome, Reporter, Status


def reporter() -> Reporter:
    """Return the reporter that suits standard error: bars on a terminal, else `Lines`."""
    if not sys.stderr.isatty():
        return Lines()
    from benchmark.work.bars import Live

    return Live()


def pack_title(runs: Sequence[Run], room: int = 110) -> str:
    """Return `teacher -> students: methods (seed n)` in at most `room` characters.

    Where they do not fit, methods are counted instead of named, then students, then the end is cut.
    """
    first = runs[0]
    students = sorted({r.student for r in runs})
    methods = list(dict.fromkeys(r.method for r in runs))
    teacher = "" if first.teacher == NONE else f"{first.teacher} -> "
    pair = teacher + ", ".join(students)
    named = [
        ", ".join(methods[:n]) + (f" and {len(methods) - n} more" if n < len(methods) else "")
        for n in range(min(6, len(methods)), 0, -1)
    ]
    seed = f" (seed {first.seed})"
    forms = [f"{pair}: {names}{seed}" for names in named] + [
        f"{pair}: {plural(len(runs), 'run')}{seed}",
        f"{teacher}{plural(len(students), 'student')}: {plural(len(runs), 'run')}{seed}",
        f"{pair}{seed}",
        pair,
    ]
    return next((form for form in forms if len(form) <= room), shorten(forms[-1], room))


class Total:
    """How much of all packs is done, weighed by what the cost model says of each, and the time left.

    The model only says how the packs compare; the time left comes from the speed measured so far.
    """

    def __init__(self) -> None:
        self.runs = self.runs_ended = self.packs = self.pack = 0
        self._cost: dict[str, float] = {}
        self._pack_of: dict[str, int] = {}
        self._ended: set[str] = set()
        self._pack: list[str] = []
        self._fraction = self._per_step = self._trained = self._seconds = 0.0
        self._last = time.monotonic()

    def plan(self, packs: Sequence[Sequence[Run]], device: str) -> None:
        """Take the packs that are to be trained."""
        self.packs, self.runs = len(packs), sum(len(runs) for runs in packs)
        for number, runs in enumerate(packs, 1):
            seconds = cost.pack_seconds(runs, device) or 1e-9
            self._cost.update((run.key, seconds / len(runs)) for run in runs)
            self._pack_of.update((run.key, number) for run in runs)

    def begin(self, runs: Sequence[Run], steps_total: int, steps_done: int) -> None:
        """Take the pack that begins, or a part of it."""
        self._pack = [run.key for run in runs]
        self.pack = self._pack_of.get(self._pack[0], self.pack)
        self._fraction = steps_done / max(steps_total, 1)
        self._per_step = 1 / max(steps_total, 1)
        self._last = time.monotonic()

    def step(self, steps: int) -> None:
        """Count steps of the pack."""
        now = time.monotonic()
        self._seconds += now - self._last
        self._last = now
        self._fraction += steps * self._per_step
        self._trained += steps * self._per_step * self._sum(self._pack)

    def outcome(self, run: Run) -> None:
        """Count a run that has ended."""
        if run.key in self._cost:
            self._ended.add(run.key)
        self.runs_ended = len(self._ended)

    @property
    def several(self) -> bool:
        """Whether there is more than the pack that is in training."""
        return self.packs > 1

    @property
    def fraction(self) -> float:
        """How much is done, between 0 and 1."""
        whole = self._sum(self._cost)
        return 1 - self._left() / whole if whole else 0.0

    def seconds_left(self) -> float | None:
        """Return the time left by the speed so far, None before the first step."""
        return self._seconds / self._trained * self._left() if self._trained else None

    def line(self) -> str:
        """Return how many runs and packs there are, and which is in training."""
        return (
            f"all: {self.runs_ended:,} of {plural(self.runs, 'run')} done, pack {self.pack} of {self.packs}"
        )

    def _sum(self, keys: Iterable[str]) -> float:
        return sum(self._cost.get(key, 0.0) for key in keys)

    def _left(self) -> float:
        current = self._sum(key for key in self._pack if key not in self._ended)
        return self._sum(self._cost.keys() - self._ended) - current * min(self._fraction, 1.0)


def epoch_line(run: Run, row: Mapping[str, Any]) -> str:
    """Return an epoch of a run as one line."""
    parts = [
        f"{run.pair} {run.method} seed {run.seed}",
        f"{row['stage']} epoch {row['epoch']}",
        f"loss {row.get('train_loss', float('nan')):.4f}",
    ]
    if row.get("test_acc") is not None:
        parts.append(f"top-1 {row['test_acc']:.2f}")
    return ", ".join(parts)


class Lines(Reporter):
    """Prints a line when a pack begins and ends, and in between lines with its progress.

    They come at most every `SECONDS`, and at most every twentieth of the time passed, so that the log of a
    long pack stays short.
    """

    SECONDS = 30.0

    def __init__(self) -> None:
        self._began = self._printed = time.monotonic()
        self._images = self._steps = self._total = self._first = 0
        self._runs = self._ended = 0
        self._all = Total()

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def plan(self, packs: Sequence[Sequence[Run]], device: str) -> None:
        self._all.plan(packs, device)

    def begin(self, pack: Sequence[Run], steps_total: int, steps_done: int) -> None:
        self._all.begin(pack, steps_total, steps_done)
        if self._all.several:
            left = self._all.seconds_left()
            self._print(self._all.line() + ("" if left is None else f", about {duration(left)} left"))
        self._began = self._printed = time.monotonic()
        self._images, self._steps, self._total = 0, steps_done, steps_total
        self._first = steps_done
        self._runs, self._ended = len(pack), 0
        resumed = f", resuming at step {steps_done} of {steps_total}" if steps_done else ""
        self._print(f"pack of {len(pack)}: {pack_title(pack)}{resumed}")

    def step(self, stage: str, epoch: int, steps: int, images: int) -> None:
        self._images += images
        self._steps += steps
        self._all.step(steps)
        self._progress(f"{stage} epoch {epoch}", factor=2)  # the line of an epoch says more, and goes first

    def epoch(self, run: Run, row: Mapping[str, Any]) -> None:
        self._progress(epoch_line(run, row))

    def _progress(self, what: str, factor: int = 1) -> None:
        """Print a line of progress, unless the last one is too recent. factor: waits so many times longer."""
        now = time.monotonic()
        passed = now - self._began
        if now - self._printed < factor * max(self.SECONDS, passed / 20):
            return
        self._printed = now
        left = passed / max(self._steps - self._first, 1) * (self._total - self._steps)
        self._print(
            f"  {self._steps}/{self._total} steps, {self._images / passed:.0f} student-images/s, "
            f"about {duration(left)} left; {what}"
        )

    def outcome(self, run: Run, outcome: Outcome) -> None:
        self._ended += 1
        self._all.outcome(run)
        if outcome.status != Status.DONE:
            self._print(f"  {outcome.status}: {run.key}{': ' + outcome.reason if outcome.reason else ''}")

    def note(self, text: str) -> None:
        self._print(f"  {text}")

    def end(self) -> None:
        if self._images:
            seconds = time.monotonic() - self._began
            # fewer runs have ended than began if the pack was interrupted or stopped after an epoch
            ended = "" if self._ended == self._runs else f"{self._ended} of "
            speed = f"{self._images / seconds:.0f} student-images/s"
            self._print(f"  {ended}{plural(self._runs, 'run')} in {seconds:.0f} s, {speed}")
        self._images = 0
