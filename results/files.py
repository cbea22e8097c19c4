"""Atomic files and claims. The state of all runs is kept in them.

A file is written under a temporary name in the same folder, flushed to disk and renamed. So a reader sees the
old or the new content, never a part. A claim is a file that names the worker of a run. It is void once its
holder's process is dead or its heartbeat has stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from results.plain_json import parse_json

STALE_SECONDS = 120.0
"""A claim whose file was not touched for this long has a dead holder, for example because its node went
down.
"""


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` for writing.

    On success it is synced and renamed to `path`, on an error removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would hide results from other members of a group
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        # the error of a full disk does not name the file
        if isinstance(error, OSError) and error.filename is None and error.strerror is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    # some network file systems refuse to sync a folder; the file is renamed nevertheless
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. Raises `ValueError` for NaN and infinities, which are not JSON."""
    text = json.dumps(value, indent=1, allow_nan=False)
    with atomic(path) as f:
        f.write(text + "\n")


def read_json(path: Path | str) -> Any:
    """Return the content of a JSON file, None if there is no file.

    Raises `ValueError` for a damaged file.
    """
    try:
        with open(path, "rb") as f:
            return parse_json(f.read())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _started(pid: int) -> str | None:
    """Return the start time of a process of this machine, None if it is dead or a zombie.

    The start time tells the holder of a claim from a later process with the same id.
    """
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
    """Return the time by the file system's clock, which on a network file system is not this machine's."""
    probe = folder / f".clock-{uuid.uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


class Claim:
    """The exclusive right to work on a run, in the file `path`.

    Call `Claim.take`, then `beat` every few seconds, and `release` at the end.
    """

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token

    @staticmethod
    def take(path: Path, note: str = "") -> Claim | None:
        """Take the claim, or return None if a living holder has it.

        The claim of a dead holder is taken over.
        """
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
            # written under another name and then linked, so that a reader never sees an empty claim
            draft = path.with_name(f".{path.name}.{token}")
            draft.write_text(json.dumps(me), encoding="utf-8")
            try:
                os.link(draft, path)
                return Claim(path, token)
            except FileExistsError:
                if Claim.holder(path) is not None:
                    return None
                # if several workers see the same dead claim, only one can rename it
                with contextlib.suppress(FileNotFoundError):
                    os.replace(path, path.with_name(f".{path.name}.dead-{token}"))
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(f".{path.name}.dead-{token}").unlink()
            finally:
                draft.unlink(missing_ok=True)
        return None

    @staticmethod
    def holder(path: Path) -> dict[str, Any] | None:
        """Return the living holder of a claim, None if there is none.

        A holder on this machine is alive if its process is. A holder elsewhere is alive if its heartbeat is
        recent.
        """
        try:
            # before the clock: most runs have no claim, and then the clock's probe file is not needed
            beat = path.stat().st_mtime
            age = _now(path.parent) - beat
            who: Any = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(who, dict):
                return None
            # a suspended process has no heartbeat but is alive, so on this machine only the process counts
            if who.get("host") == socket.gethostname():
                if _started(int(who.get("pid", -1))) != who.get("started"):
                    return None
            elif age > STALE_SECONDS:
                return None
        except (OSError, ValueError, TypeError):  # no claim, or a damaged one
            return None
        return {**who, "age": age}

    def beat(self) -> None:
        """Touch the file, to show that the holder is alive."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def mine(self) -> bool:
        """Return whether this claim is still held.

        After a long time without a heartbeat another worker may have taken it over.
        """
        try:
            return bool(json.loads(self.path.read_text(encoding="utf-8"))["token"] == self.token)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def release(self) -> None:
        """Give the claim up."""
        if self.mine():
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def heartbeat(claims: Sequence[Claim], every: float = 10.0) -> Iterator[None]:
    """Renew the claims every few seconds until the block ends.

    A thread does this, because the work in the block may take longer than the age at which a claim counts as
    abandoned.
    """
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(every):
            for claim in claims:
                claim.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def append_line(path: Path, line: str) -> None:
    """Append a line to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as f:
        f.write(line + "\n")


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a text file, [] if it does not exist. One line says that it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror})"]
