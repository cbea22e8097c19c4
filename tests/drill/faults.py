"""In a worker: count its calls of the file system, and interrupt it just before the n-th."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

CALLS = (
    *("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.utime"),
    *("os.listdir", "os.scandir", "fcntl.flock"),
)
"""Python's audit events that count, if they name a file below the results folder. `os.fsync` has no event and
is wrapped."""
WITHOUT_PATH = ("fcntl.flock",)


class Counter:
    """Counts this process's calls that concern a folder. At number `stop_at` it sends itself a signal."""

    def __init__(self, folder: Path, signal: int = 0, stop_at: int = 0) -> None:
        self.calls = 0
        self._folder, self._signal, self._stop_at = str(folder), signal, stop_at
        fsync = os.fsync

        def counted(handle: int) -> None:
            self._count()
            fsync(handle)

        os.fsync = counted
        sys.addaudithook(self._hook)  # for ever, but this process is only one worker

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event in CALLS and (event in WITHOUT_PATH or any(self._concerns(a) for a in args[:2])):
            self._count()

    def _concerns(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and str(path).startswith(self._folder)

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self._stop_at:
            os.kill(os.getpid(), self._signal)
