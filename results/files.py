"""Atomic files and claims: what "state is files" rests on.

A file is written beside its place, flushed to the disk and renamed over it, so that a reader sees the old or the new content and never
a part. A claim is a file that says who works on a run; it outlives neither its holder's process nor its heartbeat.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

STALE_SECONDS = 120.0
"""A claim whose file was not touched for so long has a dead holder (a node that went down cannot say so)."""


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path`; on success it is synced and renamed to `path`, on an error removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would hide results from the other members of a group
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if (
            isinstance(error, OSError) and error.filename is None and error.strerror is not None
        ):  # a full disk does not say where
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    with contextlib.suppress(
        OSError
    ):  # some network file systems refuse to sync a folder; the rename is done all the same
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; NaN and infinities are refused (they are not JSON)."""
    text = json.dumps(value, indent=1, allow_nan=False)
    with atomic(path) as f:
        f.write(text + "\n")


def read_json(path: Path | str) -> Any:
    """The content of a JSON file, or None if there is no file. Raises `ValueError` for a damaged one."""
    try:
        with open(path, "rb") as f:
            return json.loads(f.read())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _started(pid: int) -> str | None:
    """The start time of a living process of this machine (None: it is dead or a zombie). Tells a reused process id from the holder."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return "unknown"
        return "unknown"
    return None if fields[0] in "ZX" else fields[19]


def _now(folder: Path) -> float:
    """The file system's own clock: on a network file system it is not this machine's."""
    probe = folder / f".clock-{uuid.uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


class Claim:
    """Exclusive right to work on what `path` stands for. Use `Claim.take`, `beat` every few seconds, and `release`."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token

    @staticmethod
    def take(path: Path, note: str = "") -> Claim | None:
        """Takes the claim, or returns None if a living holder has it. A dead holder's claim is taken over."""
        path.parent.mkdir(parents=True, exist_ok=True)
        token = uuid.uuid4().hex
        me = {
            "token": token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "note": note,
            "job": os.environ.get("SLURM_JOB_ID", ""),
            "time": time.time(),
        }
        for _ in range(3):
            # written in full under another name, then linked: a reader never sees an empty claim
            draft = path.with_name(f".{path.name}.{token}")
            draft.write_text(json.dumps(me), encoding="utf-8")
            try:
                os.link(draft, path)
                return Claim(path, token)
            except FileExistsError:
                if Claim.holder(path) is not None:
                    return None
                # only one of several that find the same dead claim can rename it away
                with contextlib.suppress(FileNotFoundError):
                    os.replace(path, path.with_name(f".{path.name}.dead-{token}"))
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(f".{path.name}.dead-{token}").unlink()
            finally:
                draft.unlink(missing_ok=True)
        return None

    @staticmethod
    def holder(path: Path) -> dict[str, Any] | None:
        """Who holds the claim, if he lives: on this machine his process is looked at, elsewhere the heartbeat's age."""
        try:
            beat = (
                path.stat().st_mtime
            )  # first: most runs have no claim, and their folders need no probe of the clock
            age = _now(path.parent) - beat
            who: Any = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(who, dict):
                return None
            if (
                who.get("host") == socket.gethostname()
            ):  # a process that stands still, suspended or as the machine slept, does not beat but lives
                if _started(int(who.get("pid", -1))) != who.get("started"):
                    return None
            elif age > STALE_SECONDS:
                return None
        except (OSError, ValueError, TypeError):  # no claim, or a damaged one: nobody can be said to hold it
            return None
        return {**who, "age": age}

    def beat(self) -> None:
        """Says that the holder lives."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def mine(self) -> bool:
        """Whether the claim is still this one (it is not if it was taken over after a long silence)."""
        try:
            return bool(json.loads(self.path.read_text(encoding="utf-8"))["token"] == self.token)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def release(self) -> None:
        if self.mine():
            self.path.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Appends a line to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as f:
        f.write(line + "\n")


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a text file ([] if there is none)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
