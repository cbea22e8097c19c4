"""Two bars on a terminal: the pack in training, and all packs of the command. Nothing is wider than it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live as LiveDisplay
from rich.table import Table
from rich.text import Text

from benchmark import longwork
from benchmark.spec.runs import Run
from benchmark.text import duration, shorten
from benchmark.training.reporter import Outcome, Reporter, Status
from benchmark.work.total import Total, pack_title

BAR, PERCENT, LEFT, RATE, LAST = 20, 4, 11, 12, 32
"""Widths of the columns beside the title."""

TITLE = 36
"""The speed, and then the last epoch, are shown if the title still has this room."""


@dataclass(frozen=True)
class Columns:
    """What fits into a line of a terminal."""

    title: int
    """Room for the title, in characters."""
    bar: int
    rate: bool
    last: bool


def columns(width: int) -> Columns:
    """Return what fits into a line: title, bar, percent, time left; then the speed; then the last epoch."""
    bar = BAR if width >= 60 else 8
    title = width - bar - PERCENT - LEFT - 3
    rate = title - RATE - 1 >= TITLE
    title -= (RATE + 1) * rate
    last = rate and title - LAST - 1 >= TITLE
    title -= (LAST + 1) * last
    return Columns(title=max(title, 1), bar=bar, rate=rate, last=last)


def _bar(fraction: float, width: int) -> Text:
    """Return a bar that also shows its end where there are no colours."""
    done = int(fraction * width)
    return Text.assemble(("━" * done, "green"), ("─" * (width - done), "dim"))


class Bars:
    """The state of the two bars; rich renders it."""

    def __init__(self) -> None:
        self.all = Total()
        self._pack: Sequence[Run] = ()
        self._total = self._first = self._steps = self._images = 0
        self._began = time.monotonic()
        self._last = ""

    def begin(self, pack: Sequence[Run], steps_total: int, steps_done: int) -> None:
        """Start the bar of a pack."""
        self.all.begin(pack, steps_total, steps_done)
        self._pack, self._total = pack, steps_total
        self._first = self._steps = steps_done
        self._images, self._began, self._last = 0, time.monotonic(), ""

    def step(self, steps: int, images: int) -> None:
        """Advance both bars."""
        self.all.step(steps)
        self._steps += steps
        self._images += images

    def epoch(self, run: Run, row: Mapping[str, Any]) -> None:
        """Keep the last epoch of a run."""
        top1 = "" if row.get("test_acc") is None else f", top-1 {row['test_acc']:.2f}"
        self._last = f"{run.method}: epoch {row['epoch']}{top1}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fits = columns(options.max_width)
        grid = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
        widths = [fits.title, fits.bar, PERCENT, LEFT, *[RATE] * fits.rate, *[LAST] * fits.last]
        for index, width in enumerate(widths):
            justify: Any = "right" if index in (2, 3, 4) else "left"
            grid.add_column(width=width, no_wrap=True, justify=justify)
        passed = time.monotonic() - self._began
        done = self._steps - self._first
        left = passed / done * (self._total - self._steps) if done else None
        fraction = self._steps / self._total if self._total else 0.0
        more = [f"{self._images / max(passed, 1e-6):,.0f} img/s", self._last]
        self._add(grid, pack_title(self._pack, fits.title) if self._pack else "", fraction, left, more)
        if self.all.several:
            title = shorten(self.all.line(), fits.title)
            self._add(grid, title, self.all.fraction, self.all.seconds_left(), ["", ""])
        yield grid

    @staticmethod
    def _add(grid: Table, title: str, fraction: float, left: float | None, more: Sequence[str]) -> None:
        fraction = min(max(fraction, 0.0), 1.0)
        width = grid.columns[1].width or 0
        cells: list[Any] = [
            Text(title),
            _bar(fraction, width),
            Text(f"{int(100 * fraction)}%"),
            Text("" if left is None else f"{duration(max(left, 0.0))} left"),
            *(Text(shorten(text, LAST)) for text in more),
        ]
        grid.add_row(*cells[: len(grid.columns)])


class Live(Reporter):
    """Shows `Bars` while a pack is trained, and removes them afterwards."""

    def __init__(self) -> None:
        self.bars = Bars()
        self._console = Console(stderr=True)
        self._display = LiveDisplay(self.bars, console=self._console, refresh_per_second=4, transient=True)

    def plan(self, packs: Sequence[Sequence[Run]], device: str) -> None:
        self.bars.all.plan(packs, device)

    def begin(self, pack: Sequence[Run], steps_total: int, steps_done: int) -> None:
        self.bars.begin(pack, steps_total, steps_done)
        longwork.occupy(True)
        self._display.start()

    def step(self, stage: str, epoch: int, steps: int, images: int) -> None:
        self.bars.step(steps, images)

    def epoch(self, run: Run, row: Mapping[str, Any]) -> None:
        self.bars.epoch(run, row)

    def outcome(self, run: Run, outcome: Outcome) -> None:
        self.bars.all.outcome(run)
        if outcome.status != Status.DONE:
            self.note(f"{outcome.status}: {run.key}{': ' + outcome.reason if outcome.reason else ''}")

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        self._display.stop()
        longwork.occupy(False)
