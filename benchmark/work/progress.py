"""Show the progress of packs: bars on a terminal (`benchmark.work.bars`), plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.spec.runs import Run
from benchmark.text import duration, plural
from benchmark.training.reporter import Outcome, Reporter, Status
from benchmark.work.total import Total, pack_title


def reporter() -> Reporter:
    """Return the reporter that suits standard error: bars on a terminal, else `Lines`."""
    if not sys.stderr.isatty():
        return Lines()
    from benchmark.work.bars import Live

    return Live()


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
        what = f"{stage} epoch {epoch}" if epoch else stage
        self._progress(what, factor=2)  # the line of an epoch says more, and goes first

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
