"""What must be the same after every interruption: records, curves and weights, bit for bit."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch

from results.store import Store, record_files

VARIES = {
    *("seconds", "share_seconds", "images_per_second", "finished", "host", "resumes", "pack"),
    *("teacher_cache", "parts", "git"),
}
"""Fields of a record that depend on when, where and in how many parts a run was trained."""


def results_of(folder: Path) -> dict[str, dict[str, str]]:
    """Return, for each finished run, a hash of everything that must not depend on interruptions."""
    store, results = Store(folder), {}
    for path in record_files(folder):
        key = path.parent.relative_to(folder).as_posix()
        record, curve = store.record(key), store.curve(key)
        assert record is not None, f"{path} is no record"
        parts = {f"record.{name}": str(value) for name, value in record.items() if name not in VARIES}
        if curve is not None:
            parts["curve"] = curve.drop(columns=["seconds"], errors="ignore").to_csv(index=False)
        for name in ("last.pt", "best.pt", "state.pt"):
            if (file := path.parent / name).exists():
                parts[name] = hash_of(torch.load(file, weights_only=True))
        results[key] = parts
    return results


def hash_of(value: Any) -> str:
    """Return a hash of nested dictionaries and lists of tensors and plain values."""
    digest = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, dict):
            for name in sorted(item, key=str):
                digest.update(f"{name!r}:".encode())
                add(item[name])
        elif isinstance(item, list | tuple):
            for part in item:
                add(part)
        elif isinstance(item, torch.Tensor):
            digest.update(f"{item.dtype}{tuple(item.shape)}".encode())
            digest.update(item.detach().numpy().tobytes())  # in C order, whatever its strides are
        else:
            digest.update(repr(item).encode())

    add(value)
    return digest.hexdigest()


def differences(expected: dict[str, dict[str, str]], actual: dict[str, dict[str, str]]) -> list[str]:
    """Return a line for each run and part that differs, is missing or is too much."""
    lines = []
    for key in sorted(expected.keys() | actual.keys()):
        a, b = expected.get(key), actual.get(key)
        if a is None or b is None:
            lines.append(f"{key}: {'not expected' if a is None else 'not finished'}")
        else:
            lines += [f"{key}: {name}" for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
    return lines


def left_files(folder: Path) -> list[str]:
    """Return the kinds of files that no run needs any more: claims, drafts, checkpoints of finished runs."""
    kinds = []
    for path in folder.rglob("*"):
        finished = (path.parent / "record.json").exists()
        if not path.is_file():
            continue
        if path.name.startswith("."):
            name = "draft" if path.suffix == ".tmp" else re.split("[.-]", path.name)[1]
            kinds.append(f"hidden {name}")
        elif path.name.endswith("claim") or (
            finished and path.name in ("checkpoint.pt", "progress.json", "began.json")
        ):
            kinds.append(path.name)
    return kinds
