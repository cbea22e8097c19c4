"""Who holds a claim, and whether that process is still alive.

A process is looked up only where its number means something: on the same machine since the same boot, and in
the same PID namespace. Containers often share a host name, and each has a process 7. Everywhere else, and
where the kernel hides other users' processes (/proc mounted with hidepid), the heartbeat decides.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

STALE_SECONDS = 120.0
"""The holder of a claim whose file was not touched for this long counts as dead, if nothing better is known
about it. Its node may have gone down.
"""


def identity(token: str, note: str = "") -> dict[str, Any]:
    """Return what this process writes into its claims."""
    return {
        "token": token,
        **_machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "note": note,
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "time": time.time(),
    }


def is_alive(who: dict[str, Any], age: Callable[[], float]) -> bool:
    """Return whether the holder of a claim is alive.

    who: what the holder wrote (see `identity`). age: returns the seconds since its last heartbeat; it is
    called only if the heartbeat decides. A suspended process on this machine is alive without a heartbeat.
    """
    here = _machine()
    # without /proc, Linux does not tell the namespaces apart; other systems have none
    known = sys.platform != "linux" or None not in here.values()
    if known and all(who.get(name) == value for name, value in here.items()):
        alive = process_is_alive(who.get("pid"), who.get("started"))
        if alive is not None:
            return alive
    return age() <= STALE_SECONDS


def process_is_alive(pid: Any, started: Any) -> bool | None:
    """Return whether a process of this PID namespace is alive, None if nothing shows it.

    started: its start time, as `identity` gives it. It tells the process from a later one with the same
    number. A zombie is dead.
    """
    if not isinstance(pid, int) or pid <= 0:
        return None
    fields = _stat(pid)
    if fields is not None:
        if fields[0] in ("Z", "X"):
            return False
        return fields[19] == started if isinstance(started, str) else None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # not permitted: somebody's process has this number
        pass
    return None


def _machine() -> dict[str, str | None]:
    """Return what two processes must have in common to see each other by their process numbers."""
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _pid_namespace(),
    }


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _started(pid: int) -> str | None:
    """Return the start time of a process in ticks since the boot, None if /proc does not show it."""
    fields = _stat(pid)
    return None if fields is None else fields[19]


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat behind the process's name, None if they cannot be read."""
    try:
        # the name may contain any bytes, also spaces and brackets
        text = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode("ascii", "replace")
    except OSError:
        return None
    fields = text.split()
    return fields if len(fields) > 19 else None


def file_system_time(folder: Path) -> float:
    """Return the time by the file system's clock, which on a network file system is not this machine's.

    That is this machine's clock if nothing can be written to the folder.
    """
    probe = folder / f".clock-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
