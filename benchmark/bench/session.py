"""A session of measurements in parts, each kept in a file, so that it can be spread over several calls.

A machine with a GPU is often lent for minutes. `bench gpu` measures one part after the other, writes each
to `FOLDER/NAME.json` when it is done, and starts none that would probably outlast the time of this call.
The same call later measures the parts that are left.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import InputError
from results.files import read_json, write_json

SAME = ("device_name", "precision", "versions", "git")
"""The conditions that all parts of a session have in common."""


@dataclass(frozen=True)
class Part:
    """A measurement of a session."""

    name: str
    """Unique in the session. Parts of one kind are called `KIND: WHAT`; they take about as long as each
    other."""

    measure: Callable[[], dict[str, Any]]
    """Return the results, as JSON data."""

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def file_name(self) -> str:
        return re.sub(r"[^\w+.-]+", "-", self.name) + ".json"


@dataclass
class Session:
    """The parts measured so far, in a folder."""

    folder: Path

    conditions: dict[str, Any]
    """`clock.conditions` of this call."""

    now: Callable[[], float] = time.monotonic
    """A clock in seconds."""

    def result(self, part: Part) -> dict[str, Any] | None:
        """Return the results of a part, None if it is not measured yet. Raises what `_stored` raises."""
        stored = self._stored(part)
        return None if stored is None else stored["result"]

    def _stored(self, part: Part) -> dict[str, Any] | None:
        """Return the content of a part's file, None if it is not measured yet.

        Raises `InputError` if they were measured on another machine or by other code.
        """
        path = self.folder / part.file_name
        if not path.exists():
            return None
        stored = read_json(path)
        if not isinstance(stored, dict) or not {"conditions", "seconds", "result"} <= stored.keys():
            raise InputError(f"{path} is not a part of a session; remove it, or give another folder")
        for field in SAME:
            if stored["conditions"].get(field) != self.conditions.get(field):
                raise InputError(
                    f"{path} was measured under another {field.removesuffix('_name')}; "
                    "give an empty folder for a new session"
                )
        return stored

    def run(
        self,
        parts: Sequence[Part],
        *,
        seconds: float,
        on_part: Callable[[Part, float], None] = lambda part, took: None,
    ) -> list[Part]:
        """Measure the parts that are left, and return those that are still left when the time is over.

        seconds: the time of this call. A part is started if the slowest one of its kind so far would fit in
        what is left of it; the first of a kind is started if there is any time left. on_part: called after
        each part with the seconds that it took.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        left: list[Part] = []
        slowest: dict[str, float] = {}
        """Seconds of the slowest measured part of each kind."""
        for part in parts:
            if (stored := self._stored(part)) is None:
                left.append(part)
            else:
                slowest[part.kind] = max(slowest.get(part.kind, 0.0), stored["seconds"])
        end = self.now() + seconds
        while left and self.now() + slowest.get(left[0].kind, 0.0) < end:
            part = left.pop(0)
            began = self.now()
            result = part.measure()
            took = self.now() - began
            slowest[part.kind] = max(slowest.get(part.kind, 0.0), took)
            write_json(
                self.folder / part.file_name,
                {
                    "part": part.name,
                    "conditions": self.conditions,
                    "seconds": round(took, 2),
                    "result": result,
                },
            )
            on_part(part, took)
        return left
