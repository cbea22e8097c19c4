"""Claims: a file that names the one process that works on a run, submits jobs or builds a teacher cache.

A claim appears by a hard link to a complete file, which fails if there is one already; so no reader sees half
a claim. It is void once its holder is dead (see results/holders.py), and is then taken over.

Every change of a claim (taking it, taking it over, giving it up) is made under a lock on a file beside it,
`.NAME.lock`, which the kernel releases when the process ends. Otherwise two processes could find the same
dead claim, and the slower one would remove the new claim of the faster one. Not every file system shares
locks between machines. Therefore what is removed is also looked at once more, and put back if it is the claim
of somebody else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import holders
from results.plain_json import parse_json

PATIENCE = 5.0
"""Seconds to wait for a process that is just changing a claim. It may have been suspended meanwhile."""

AHEAD_SECONDS = 5.0
"""A claim that is dated this far in the future was touched before the clock was set back."""

LARGEST = 65536
"""The most bytes to read of a claim. A larger file is none."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)


class ClaimError(OSError):
    """A claim cannot be taken, because something else has its name or the file system cannot hold claims.

    It is an `OSError` with a path, which the command line prints as one line.
    """


class ClaimLost(OSError):
    """This process may not write to a folder any more: another one has taken over its claim."""


class _Contended(Exception):
    """Another process has been changing the claim for longer than `PATIENCE`."""


@dataclass(frozen=True)
class Claim:
    """The exclusive right to work on something, in the file `path`.

    Call `Claim.take`, then `beat` every few seconds (or use `heartbeat`), and `release` at the end.
    """

    path: Path
    token: str
    """What tells this claim from all others of the same path."""
    notice: str = ""
    """A line for the user: what was unusual when the claim was taken."""

    @staticmethod
    def take(path: Path, note: str = "") -> Claim | None:
        """Take the claim, or return None if a living holder has it.

        The claim of a dead holder is taken over, and so is a damaged one. note: is stored in the claim.
        Raises `ClaimError`.
        """
        token = uuid.uuid4().hex
        content = json.dumps(holders.identity(token, note)).encode()
        notice = ""
        try:
            with _changing(path) as locked:
                for _ in range(3):
                    current = _read(path)
                    if current is not None:
                        if current.is_alive():
                            return None
                        if current.who is None:
                            notice = f"{path}: a damaged claim, taken over"
                        if not _remove(current):
                            continue
                    if (linked := _create(path, content, locked)) is not None:
                        _sweep(path, locked)
                        if not linked:
                            notice = notice or (
                                f"{path.parent}: this file system has no hard links; claims are kept by file "
                                "locks, so train into this folder from one machine only"
                            )
                        return Claim(path, token, notice)
        except _Contended:
            pass
        return None

    @staticmethod
    def holder(path: Path) -> dict[str, Any] | None:
        """Return the living holder of a claim, None if there is none.

        That is what it wrote (see `holders.identity`), and `age`: the seconds since its last heartbeat.
        """
        try:
            current = _read(path)
        except OSError:  # not a claim
            return None
        if current is None or current.who is None or not current.is_alive():
            return None
        return {**current.who, "age": max(0.0, current.age())}

    def beat(self) -> None:
        """Touch the file, to show that the holder is alive. A claim of somebody else is left as it is."""
        with contextlib.suppress(OSError):
            handle = _open(self.path)
            try:
                if _token(os.read(handle, LARGEST)) == self.token:
                    os.utime(handle)
            finally:
                os.close(handle)

    def mine(self) -> bool:
        """Return whether this claim is still held.

        After a long time without a heartbeat another worker may have taken it over.
        """
        try:
            current = _read(self.path)
        except OSError:
            return False
        return current is not None and current.token == self.token

    def guard_folder(self) -> None:
        """Let `check_folder` raise `ClaimLost` once this claim, of everything in its folder, is lost."""
        _guarded[self.path.parent] = self

    def release(self) -> None:
        """Give the claim up."""
        _guarded.pop(self.path.parent, None)
        try:
            with _changing(self.path, make_folder=False):
                self._remove()
        except (_Contended, OSError):
            # The lock's holder is suspended, the disk is full, or the folder was removed. Without the lock,
            # it is still looked at what was removed.
            self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            current = _read(self.path)
            if current is not None and current.token == self.token:
                _remove(current)


_guarded: dict[Path, Claim] = {}
"""The claims of `Claim.guard_folder`, by their folders."""


def check_folder(folder: Path) -> None:
    """Raise `ClaimLost` if this process had the claim of a folder and has lost it.

    A process that was halted for long could otherwise replace the files of its successor by older ones.
    """
    claim = _guarded.get(folder)
    if claim is not None and not claim.mine():
        raise ClaimLost(
            errno.ESTALE, "another process has taken over the claim of this folder", str(claim.path)
        )


def describe(who: dict[str, Any] | None) -> str:
    """Return the holder of a claim in words: `process 12 on node1 (Slurm job 7)`."""
    if who is None:
        return "another process"
    job = f" (Slurm job {who['job']})" if who.get("job") else ""
    return f"process {who.get('pid')} on {who.get('host')}{job}"


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


def remove_drafts(folder: Path) -> None:
    """Remove the temporary files of `results.files.atomic` in a folder that this process has just claimed.

    Their writers are dead, or have lost the claim and must not write any more.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(".") and name.endswith(".tmp"):
                (folder / name).unlink(missing_ok=True)


# --- the file -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Content:
    """A claim as it was read."""

    path: Path
    raw: bytes
    touched: float
    """Its time of modification, in seconds since the epoch."""

    @property
    def who(self) -> dict[str, Any] | None:
        """What the holder wrote, None if the claim is damaged."""
        return _parse(self.raw)

    @property
    def token(self) -> str | None:
        return _token(self.raw)

    def is_alive(self) -> bool:
        """Return whether the holder is alive. A damaged claim has none."""
        who = self.who
        return who is not None and holders.is_alive(who, self.age)

    def age(self) -> float:
        """Return the seconds since the last heartbeat.

        A claim that is dated ahead would look fresh until then. It is given the present date, from which its
        age counts if its holder is dead.
        """
        age = holders.file_system_time(self.path.parent) - self.touched
        if age < -AHEAD_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(self.path)
        return age


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        who = parse_json(raw)
    except ValueError:
        return None
    return who if isinstance(who, dict) and isinstance(who.get("token"), str) else None


def _token(raw: bytes) -> str | None:
    who = _parse(raw)
    return None if who is None else str(who["token"])


def _open(path: Path) -> int:
    """Open a claim for reading. Raises `ClaimError` if something else has its name."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ClaimError(errno.ELOOP, "is a link, not a claim; remove it", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ClaimError(errno.EISDIR, "is not a file, so no claim; remove it", str(path))
    return handle


def _read(path: Path) -> _Content | None:
    """Read a claim, None if there is none."""
    try:
        handle = _open(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _Content(path, raw=os.read(handle, LARGEST), touched=os.fstat(handle).st_mtime)
    finally:
        os.close(handle)


def _create(path: Path, content: bytes, locked: bool) -> bool | None:
    """Create the claim. Returns None if there is one already, else whether a hard link has made it."""
    draft = _beside(path)
    try:
        _write(draft, content)
        try:
            os.link(draft, path)
            return True
        except FileExistsError:
            # a network file system may repeat a call whose answer was lost: then it is our claim
            current = _read(path)
            return True if current is not None and current.raw == content else None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        if not locked:
            raise ClaimError(
                errno.EOPNOTSUPP,
                "this file system has neither hard links nor file locks, so two processes could train the "
                "same run; give another folder (RESULTS=)",
                str(path.parent),
            )
        if os.path.lexists(path):
            return None
        os.replace(draft, path)
        return False
    finally:
        draft.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:  # that of a full disk does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _remove(judged: _Content) -> bool:
    """Remove a claim that has not changed since it was read. Returns whether it was removed.

    It is renamed first, because only one process can do that. If it turns out to be the claim of another
    process, it is put back.
    """
    path, aside = judged.path, _beside(judged.path)
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    removed = _read(aside)
    same = removed is None or removed.raw == judged.raw
    if not same:
        try:
            os.link(aside, path)
        except FileExistsError:
            pass  # a third process has claimed it; the holder notices that its claim is lost
        except OSError:
            if not os.path.lexists(path):
                os.rename(aside, path)
    aside.unlink(missing_ok=True)
    return same


def _beside(path: Path) -> Path:
    """Return a new name for a temporary file beside a claim."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _sweep(path: Path, locked: bool) -> None:
    """Remove temporary files of dead processes beside the claim.

    Under the lock, nobody else is changing the claim. Without it, and for the files that readers use to see
    the file system's clock, only old ones are removed.
    """
    with contextlib.suppress(OSError):
        now = None
        for name in os.listdir(path.parent):
            draft = name.startswith(f".{path.name}.") and name != _lock_file(path).name
            if not draft and not name.startswith(".clock-"):
                continue
            other = path.with_name(name)
            if not (draft and locked):
                now = holders.file_system_time(path.parent) if now is None else now
                if now - other.lstat().st_mtime < holders.STALE_SECONDS:
                    continue
            other.unlink(missing_ok=True)


# --- the lock -----------------------------------------------------------------------------------------------


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def _changing(path: Path, make_folder: bool = True) -> Iterator[bool]:
    """Hold the lock under which a claim is changed. Yields False if the file system has no locks.

    Raises `_Contended`. The lock's file is removed at the end.
    """
    handle = _lock(path, make_folder)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            _lock_file(path).unlink(missing_ok=True)
            os.close(handle)


def _lock(path: Path, make_folder: bool) -> int | None:
    """Lock the file beside a claim, and return its handle; None if the file system has no locks."""
    file, until = _lock_file(path), time.monotonic() + PATIENCE
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if not make_folder:
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, file):
                return handle
            os.close(handle)  # its last owner has removed it; the next one may have a new file
        except BlockingIOError:
            os.close(handle)
            if time.monotonic() > until:
                raise _Contended from None
            time.sleep(0.01)
        except OSError as error:
            os.close(handle)
            if error.errno not in _NO_LOCKS:
                raise
            file.unlink(missing_ok=True)
            return None


def _is_at(handle: int, path: Path) -> bool:
    """Return whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False
