"""The user's folder of compiled kernels.

Code is loaded from it, so it is used only if nobody else can write to it. A file's name ends in a hash of its
content, which is checked before the library is loaded: loading a truncated one would kill the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

FOLDER_MODE = 0o700


class UnsafeFolder(Exception):
    """The folder cannot be used, because another user could write to it, or because there is none."""


def folder() -> Path:
    """Return the cache folder, `kd-tables` in XDG_CACHE_HOME or `~/.cache`; made if it does not exist.

    Raises `UnsafeFolder` if it is a link, belongs to another user, or others may write to it.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # a relative XDG_CACHE_HOME is invalid by its specification
        base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
        path = base / "kd-tables"
        base.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=FOLDER_MODE)
        status = os.lstat(path)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: the user has no home folder
        raise UnsafeFolder(f"there is no cache folder: {error}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeFolder(f"{path} is not a folder")
    if status.st_uid != os.geteuid():
        raise UnsafeFolder(f"{path} belongs to another user")
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise UnsafeFolder(f"others may write to {path}; `chmod 700` it")
    return path


def usable(cache: Path, name: str) -> Path | None:
    """Return the library `name` in the cache if it is ours and undamaged, None if there is none.

    A damaged one is removed.
    """
    for path in sorted(cache.glob(f"{name}-*.so")):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                status, content = os.fstat(descriptor), file.read()
            ours = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o022
            if ours and path.name == _file_name(name, content):
                return path
            path.unlink()
    return None


def keep(cache: Path, name: str, library: Path) -> None:
    """Copy a library into the cache under `name`. Raises `OSError` if it cannot be written."""
    content = library.read_bytes()
    handle, temporary = tempfile.mkstemp(dir=cache, prefix=".", suffix=".tmp")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, cache / _file_name(name, content))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _file_name(name: str, content: bytes) -> str:
    return f"{name}-{hashlib.sha256(content).hexdigest()[:16]}.so"
