"""The parts of a training: which epochs were trained under which conditions.

A run that is interrupted may go on later with another version of its code, on another machine or after its
teacher was trained again. Its checkpoint and its record therefore list its parts. A part is a JSON object:

    from, to          its first and last epoch, counted from 1 over all stages, like the lines of curve.csv
    device, device_name, precision, threads, student_threads, kernels, graphs, channels_last
    processes, sync_norms
                      only if several processes shared the batches: how many, and whether batch norms used the
                      statistics of the whole batch
    torch             version of PyTorch
    commit, dirty     of kd-tables
    sources           hash of each method's file, by the method's name; for a user method also that of each
                      file of KD_PLUGINS that it imports, as `METHOD/FILE`
    learns_from       hash of the teacher's weights as `teacher`, and checksum of the state.pt of each head by
                      its method's name; empty without a teacher

A run that is resumed under the same conditions stays in one part. A field that is absent is unknown: the part
was trained by an older version.

What may differ between two parts: a run keeps its precision and threads (`begun.execution_for`). It is
refused if the file of a user method, or what it learns from, differs from that of its last part, because its
result would then belong to neither; `--accept-edit` lets it go on. Everything else is only recorded: another
device or version changes the last bits of a result and not its meaning. For the files of built-in methods,
`revision` is the contract: it is part of the run's key, and an edited comment must not stop a table.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from benchmark import methods
from benchmark.methods import Method
from benchmark.provenance import git_state, versions
from benchmark.spec.runs import Run
from benchmark.training.execution import Execution

Part = dict[str, Any]


def conditions(run: Run, execution: Execution, learns_from: Mapping[str, str]) -> Part:
    """Return the conditions under which this process trains the run: a part without its epochs."""
    return {
        **execution.describe(),
        "torch": str(versions()["torch"]),  # a class of its own, which cannot be read back from a checkpoint
        **git_state(),
        "sources": sources(run),
        "learns_from": dict(learns_from),
    }


def sources(run: Run) -> dict[str, str]:
    """Return the hashes of the files of a run's methods (`sources` of a part)."""
    hashes: dict[str, str] = {}
    for method in (component.method for component in run.spec.components):
        hashes[method.name] = method.source
        if methods.is_user_method(method):
            hashes |= _imported_files(method)  # type: ignore[arg-type]
    return hashes


def extended(parts: list[Part], now: Part, epochs: int) -> list[Part]:
    """Return the parts of a run that has trained up to epoch `epochs` under the conditions `now`."""
    trained = max((part["to"] for part in parts), default=0)
    if parts and _without_epochs(parts[-1]) == now:
        return [*parts[:-1], {**parts[-1], "to": max(epochs, trained)}]
    return [*parts, {"from": trained + 1, "to": epochs, **now}] if epochs > trained else parts


def _without_epochs(part: Part) -> Part:
    return {name: value for name, value in part.items() if name not in ("from", "to")}


def edited_method(run: Run, last: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return `(method, file)` of a user method of the run whose sources differ from those of a part.

    last: the part; one of unknown sources differs from nothing. None if all are the same.
    """
    before, after = last.get("sources"), sources(run)
    if before is None:
        return None
    for method in (c.method for c in run.spec.components if methods.is_user_method(c.method)):
        for name in {**after, **before}:
            if name.partition("/")[0] == method.name and before.get(name) != after.get(name):
                method_file = str(sys.modules[method.__module__].__file__)
                return method.name, name.partition("/")[2] or method_file
    return None


@functools.cache
def _imported_files(method: type[Method]) -> dict[str, str]:
    """Return the hashes of the files in KD_PLUGINS that a user method's file imports, by `METHOD/FILE`.

    They are read once, when the method is first trained. Files elsewhere are not looked at.
    """
    folders = [folder.resolve() for folder in methods.user_method_folders()]
    start = sys.modules[method.__module__]
    seen, waiting = {start.__name__}, [start]
    files: dict[str, str] = {}
    while waiting:
        for name in sorted(_modules_used_by(waiting.pop()) - seen):
            seen.add(name)
            module = sys.modules.get(name)
            path = Path(getattr(module, "__file__", None) or "/")
            if module is not None and any(folder in path.resolve().parents for folder in folders):
                files[f"{method.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()[:10]
                waiting.append(module)
    return files


def _modules_used_by(module: ModuleType) -> set[str]:
    """Return the names of the modules that a module has imported, or has imported something from."""
    values = vars(module).values()
    imported = {value.__name__ for value in values if isinstance(value, ModuleType)}
    return imported | {value.__module__ for value in values if isinstance(value, (type, FunctionType))}
