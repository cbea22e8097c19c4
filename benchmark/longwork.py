"""Show work that takes long: what is being done, how much of it, how long it will take.

    with longwork.task("reading the checkpoints", total=len(paths), unit="files") as task:
        for path in paths:
            ...
            task.advance()

Work that is over soon shows nothing. Otherwise a terminal gets a bar if the total is known. Anything else (a
Slurm job's log) gets plain lines: first after `QUIET_SECONDS`, then at growing intervals, and one at the end.
Nothing is shown before `show(True)`, which the command line calls: a library prints nothing by itself.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

from benchmark.text import duration, shorten

T = TypeVar("T")

QUIET_SECONDS = 10.0
"""Work that takes less shows no line."""
BAR_SECONDS = 2.0
"""Work that takes less shows no bar. A bar leaves nothing behind, so it may come earlier than a line."""
LINE_SECONDS = 30.0
"""Time between two lines. Later it is a tenth of the time passed, so that a log stays short."""

_shown = False
_occupied = False
_outermost = threading.Lock()
"""Held by the task that is displayed. A task within another one is part of it, and displays nothing."""


def show(on: bool) -> None:
    """Choose whether tasks are displayed on standard error."""
    global _shown
    _shown = on


def note(line: str) -> None:
    """Display a line about the work, if tasks are displayed."""
    if _shown:
        _print(line)


def occupy(on: bool) -> None:
    """Take the display for a bar of the caller's until it is given back: a terminal can show only one."""
    global _occupied
    _occupied = on


class Task:
    """Work in progress. Use it through `task`."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.began = time.monotonic()

    def advance(self, n: int = 1) -> None:
        """Count `n` more units as done."""
        self.done += n

    def reach(self, done: int) -> None:
        """Set how many units are done."""
        self.done = done

    def line(self) -> str:
        """Return the state of the work as one line."""
        passed = time.monotonic() - self.began
        if self.total is None:
            return f"{self.what}: {duration(passed)} so far"
        left = ""
        if 0 < self.done <= self.total:
            left = f", about {duration(passed / self.done * (self.total - self.done))} left"
        return f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, {duration(passed)}{left}"


@contextlib.contextmanager
def task(what: str, total: int | None = None, unit: str = "", bar: bool = True) -> Iterator[Task]:
    """Display the work in the block if it takes long.

    total: how many units it has, None if unknown. bar: False for lines on a terminal too; they hardly disturb
    a measurement.
    """
    work, lock = Task(what, total, unit), _outermost
    if not _shown or _occupied or not lock.acquire(blocking=False):
        yield work
        return
    stop = threading.Event()
    display = _bar if bar and sys.stderr.isatty() and total is not None else _lines
    thread = threading.Thread(target=display, args=(work, stop), daemon=True)
    thread.start()
    try:
        yield work
    finally:
        stop.set()
        thread.join()
        lock.release()


def each(items: Collection[T], what: str, unit: str, bar: bool = True) -> Iterator[T]:
    """Yield the items, as a task that has one unit for each.

    For loops that an error ends together with the command: the task ends with the generator.
    """
    with task(what, len(items), unit, bar=bar) as work:
        for item in items:
            yield item
            work.advance()


def _lines(work: Task, stop: threading.Event) -> None:
    """Print lines until the work is over."""
    wait = QUIET_SECONDS
    spoke = False
    while not stop.wait(wait):
        _print(work.line())
        spoke = True
        wait = max(LINE_SECONDS, (time.monotonic() - work.began) / 10)
    if spoke:
        _print(f"{work.what}: ended after {duration(time.monotonic() - work.began)}")


def _print(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a closed pipe or stream must not end the work
        print(f"  {line}", file=sys.stderr, flush=True)


BAR_WIDTH = 24


def _title(work: Task, width: int) -> str:
    """Return what is done, as short as a bar on a terminal of this width needs it."""
    counts, left, gaps = 2 * len(str(work.total)) + 1, len("0:00:00"), 4
    return shorten(work.what, max(width - BAR_WIDTH - counts - len(work.unit) - left - gaps, 8))


def _progress(work: Task, console: Any) -> Any:
    """Return the bar of some work: title, bar, amount, time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=BAR_WIDTH),
        MofNCompleteColumn(),
        TextColumn(work.unit, markup=False),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, redirect_stdout=False)


def _bar(work: Task, stop: threading.Event) -> None:
    """Show a bar until the work is over, then remove it."""
    if stop.wait(BAR_SECONDS):
        return
    from rich.console import Console

    console = Console(stderr=True)
    with _progress(work, console) as progress:
        shown = progress.add_task(_title(work, console.width), total=work.total)
        while not stop.wait(0.2):
            progress.update(shown, completed=work.done)
