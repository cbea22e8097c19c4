"""What a pack is, in one line, and how much of all packs is done."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from benchmark.spec import cost
from benchmark.spec.runs import NONE, Run
from benchmark.text import plural, shorten


def pack_title(runs: Sequence[Run], room: int = 110) -> str:
    """Return `teacher -> students: methods (seed n)` in at most `room` characters.

    Where they do not fit, methods are counted instead of named, then students, then the end is cut.
    """
    first = runs[0]
    students = sorted({r.student for r in runs})
    methods = list(dict.fromkeys(r.doing for r in runs))
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
