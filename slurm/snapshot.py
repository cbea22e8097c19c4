"""A snapshot of the code: what queued jobs run, whatever is edited after they were submitted.

It holds the rooms that a job imports, the method files of the folders in KD_METHODS (in `own-methods/0`, `1`, ...) and the file `SNAPSHOT`
(`<commit> dirty|clean`, read by `benchmark.provenance.git_state`). It is named by the hash of its content, so that submissions of the same
code share one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from benchmark import methods
from benchmark.provenance import git_state

ROOMS = ("benchmark", "models", "results", "slurm", "tables")
SUFFIXES = (".py", ".c", ".toml", ".json", ".csv")
LEFT_OUT = ("__pycache__", "runs", "reference", "out")
OWN = "own-methods"
ROOT = Path(__file__).resolve().parent.parent


def files(root: Path = ROOT) -> list[Path]:
    """What is copied, relative to the checkout, sorted."""
    found = []
    for room in ROOMS:
        for folder, inner, names in os.walk(root / room):
            inner[:] = [d for d in inner if d not in LEFT_OUT and not d.startswith(".")]
            found += [
                (Path(folder) / n).relative_to(root)
                for n in names
                if n.endswith(SUFFIXES) and not n.startswith(".")
            ]
    return sorted(found)


def own_methods() -> list[Path]:
    """The folders of KD_METHODS, absolute."""
    return [p.resolve() for p in methods.user_method_folders()]


def settings(place: Path) -> dict[str, str]:
    """Environment variables of the jobs that run the snapshot `place`: there the methods are the copies."""
    own = [str(place / OWN / str(i)) for i in range(len(own_methods()))]
    return {"KD_METHODS": os.pathsep.join(own)} if own else {}


def take(folder: Path, root: Path = ROOT) -> Path:
    """Copies the code below `folder` and returns the copy (an older one of the same content, if there is one)."""
    state = git_state()
    label = f"{state['commit']} {'dirty' if state['dirty'] else 'clean'}\n"
    content = {p: (root / p).read_bytes() for p in files(root)}
    for i, own in enumerate(own_methods()):
        content |= {Path(OWN, str(i), p.name): p.read_bytes() for p in sorted(own.glob("*.py"))}
    digest = hashlib.sha256(label.encode())
    for path, data in content.items():
        digest.update(f"{path}\0{len(data)}\0".encode() + data)
    place = folder / digest.hexdigest()[:12]
    if place.is_dir():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder))
    try:
        for path, data in content.items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).write_bytes(data)
        (draft / "SNAPSHOT").write_text(label, encoding="utf-8")
        draft.chmod(0o755)  # mkdtemp's 0700 would hide it from the other members of a group
        os.rename(draft, place)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if not place.is_dir():  # else someone else was faster with the same content
            raise
    return place
