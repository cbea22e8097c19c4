"""A command of the user that is run when a table is done or has failed.

What happened is in environment variables and never part of the command's text, so that no name of a table or
folder can be taken for a command. A command that fails is one warning: the results are not its business.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from results.store import Store

PATIENCE = 60.0
"""Seconds after which the command is stopped."""

ENDED = ("done", "diverged", "failed")
"""States of a run that has ended."""


@dataclass(frozen=True)
class Event:
    """What happened to a table."""

    table: str
    state: str
    """`done`, or `failed` if a run has failed."""
    counts: Counter[str]
    """Number of runs by state."""
    results: Path
    reason: str = ""
    """What ended the command or the job, if an error did."""

    def variables(self) -> dict[str, str]:
        """Return the environment variables that tell the user's command what happened."""
        return {
            "KD_TABLE": self.table,
            "KD_STATE": self.state,
            "KD_RUNS": str(self.counts.total()),
            **{f"KD_{state.upper()}": str(self.counts[state]) for state in ENDED},
            "KD_RESULTS": str(self.results),
            "KD_REASON": self.reason,
        }


def event(table: str, store: Store, keys: Iterable[str], reason: str = "") -> Event:
    """Return what has happened to the runs of a table. reason: the error that ended it, if one did."""
    counts = Counter(store.state(key) for key in keys)
    failed = bool(reason) or bool(counts["failed"])
    return Event(table, "failed" if failed else "done", counts, store.folder.resolve(), reason)


def is_over(happened: Event) -> bool:
    """Return whether every run of the table has ended."""
    return sum(happened.counts[state] for state in ENDED) == happened.counts.total()


def send(command: str, happened: Event, note: Callable[[str], None]) -> bool:
    """Run the user's command by the shell, and return whether it succeeded. note: receives a warning."""
    variables = {name: value.replace("\0", "") for name, value in happened.variables().items()}
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"it took longer than {PATIENCE:.0f} s"
    except (OSError, ValueError) as error:
        why = str(error)
    else:
        if done.returncode == 0:
            return True
        lines = done.stderr.decode(errors="replace").split("\n")
        why = f"exit code {done.returncode}" + (f": {lines[0][:200]}" if lines[0] else "")
    note(f"warning: the command of NOTIFY= or on_done did not succeed ({why})")
    return False
