"""Show the progress of packs: one live bar per pack on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.spec.runs import NONE, Run
from benchmark.text import plural
from benchmark.training.reporter import Outcome, Reporter, Status


def reporter() -> Reporter:
    """Return the reporter that suits standard error: `Live` on a terminal, else `Lines`."""
    return Live() if sys.stderr.isatty() else Lines()


def pack_title(runs: Sequence[Run]) -> str:
    """Return `teacher -> students: methods (seed n)`, short enough for a line."""
    first = runs[0]
    students = ", ".join(sorted({r.student for r in runs}))
    methods = list(dict.fromkeys(r.method for r in runs))
    shown = ", ".join(methods[:6]) + (f" and {len(methods) - 6} more" if len(methods) > 6 else "")
    pair = students if first.teacher == NONE else f"{first.teacher} -> {students}"
    return f"{pair}: {shown} (seed {first.seed})"


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
    """Prints a line when a pack begins and ends, and in between at most one every 30 seconds."""

    SECONDS = 30.0
    """Least time between two lines about epochs."""

    def __init__(self) -> None:
        self._began = self._printed = time.monotonic()
        self._images = self._steps = self._total = 0
        self._runs = self._ended = 0

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def begin(self, pack: Sequence[Run], steps_total: int, steps_done: int) -> None:
        self._began = self._printed = time.monotonic()
        self._images, self._steps, self._total = 0, steps_done, steps_total
        self._runs, self._ended = len(pack), 0
        resumed = f", resuming at step {steps_done} of {steps_total}" if steps_done else ""
        self._print(f"pack of {len(pack)}: {pack_title(pack)}{resumed}")

    def step(self, stage: str, epoch: int, steps: int, images: int) -> None:
        self._images += images
        self._steps += steps

    def epoch(self, run: Run, row: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - self._printed >= self.SECONDS:
            self._printed = now
            rate = self._images / (now - self._began)
            self._print(
                f"  {self._steps}/{self._total} steps, {rate:.0f} student-images/s; {epoch_line(run, row)}"
            )

    def outcome(self, run: Run, outcome: Outcome) -> None:
        self._ended += 1
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


class Live(Reporter):
    """Shows one bar per pack, with the speed, the time left and the last epoch."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]:.0f} img/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}"),
            console=Console(stderr=True),
            transient=False,
        )
        self._task: Any = None
        self._images = 0
        self._began = 0.0

    def begin(self, pack: Sequence[Run], steps_total: int, steps_done: int) -> None:
        self._images, self._began = 0, time.monotonic()
        self._progress.start()
        self._task = self._progress.add_task(
            pack_title(pack), total=steps_total, completed=steps_done, rate=0.0, last=""
        )

    def step(self, stage: str, epoch: int, steps: int, images: int) -> None:
        self._images += images
        self._progress.update(
            self._task, advance=steps, rate=self._images / max(time.monotonic() - self._began, 1e-6)
        )

    def epoch(self, run: Run, row: Mapping[str, Any]) -> None:
        self._progress.update(self._task, last=epoch_line(run, row))

    def outcome(self, run: Run, outcome: Outcome) -> None:
        if outcome.status != Status.DONE:
            self._progress.console.print(f"{outcome.status}: {run.key} {outcome.reason}", markup=False)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def end(self) -> None:
        self._progress.stop()
