"""Tables whose owner is told when they are done or have failed: `on_done`, NOTIFY= and `submit --notify`.

A submission leaves a notice in the registry's folder. Each job looks at the notices of its runs when it ends.
The one that ends last finds that every run of the table has ended; it removes the notice, and runs the
command. Only one job can remove it, so the command is run once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from benchmark.work import notify
from results.files import read_json, write_json
from results.store import Store
from slurm.registry import registry_folder


def _folder(results: Path) -> Path:
    return registry_folder(results) / "notices"


def leave(results: Path, table: str, keys: Collection[str], command: str) -> None:
    """Leave a notice for a table, in place of an earlier one for the same runs."""
    name = hashlib.sha256("\n".join([table, *sorted(keys)]).encode()).hexdigest()[:16]
    write_json(_folder(results) / f"{name}.json", {"table": table, "keys": sorted(keys), "command": command})


def after_job(results: Path, keys: Collection[str], reason: str, note: Callable[[str], None]) -> None:
    """Run the commands of the notices that a job has made due.

    keys: the job's runs. reason: the error that ended the job; a notice is then due although other runs have
    not ended. Raises nothing: the job's result is not at stake.
    """
    with contextlib.suppress(OSError):
        for path, notice in _notices(results):
            if set(keys).isdisjoint(notice["keys"]):
                continue
            happened = notify.event(notice["table"], Store(results), notice["keys"], reason)
            if (reason or notify.is_over(happened)) and _take(path):
                notify.send(notice["command"], happened, note)


def _notices(results: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(_folder(results).glob("*.json")):
        with contextlib.suppress(ValueError, OSError):
            notice = read_json(path)
            if isinstance(notice, dict) and _is_notice(notice):
                yield path, notice


def _is_notice(notice: dict[str, Any]) -> bool:
    texts = all(isinstance(notice.get(name), str) for name in ("table", "command"))
    keys = notice.get("keys")
    return texts and isinstance(keys, list) and all(isinstance(key, str) for key in keys)


def _take(path: Path) -> bool:
    """Remove a notice. Returns whether this process has removed it: only one can rename a file."""
    mine = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        os.rename(path, mine)
    except FileNotFoundError:
        return False
    mine.unlink(missing_ok=True)
    return True
