"""Copy the code for jobs, so that an edit after the submission does not change what queued jobs run.

A snapshot contains the packages that a job imports, the files of the folders in KD_METHODS and KD_PLUGINS (as
`user-methods/0`, `user-methods/1`, ...) and the file `benchmark/COMMIT`, from which records take the commit.
Its name is the hash of its content: submissions of the same code share one snapshot. Before it is shared, its
files are compared with the code again. One that was changed on disk is left to the jobs that were submitted
with it, and a new one is made beside it (`HASH-1`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmark import plugins
from benchmark.package_names import PACKAGES
from benchmark.provenance import COMMIT_FILE, git_state
from benchmark.spec import teacher_table

SUFFIXES = (".py", ".c", ".toml", ".json", ".csv")
IMPORTED = (*SUFFIXES, ".pyc", ".so")
"""What jobs could import or read from a snapshot."""
EXCLUDED_FOLDERS = ("__pycache__", "runs", "reference", "out")
USER_METHODS = "user-methods"
ROOT = Path(__file__).resolve().parent.parent
"""The folder of the packages: the checkout, or `site-packages`."""


def code_files(root: Path = ROOT) -> list[Path]:
    """Return the files to copy, relative to `root`, sorted."""
    files: list[Path] = []
    for package in PACKAGES:
        for folder, subfolders, names in os.walk(root / package):
            subfolders[:] = [d for d in subfolders if d not in EXCLUDED_FOLDERS and not d.startswith(".")]
            files += [
                (Path(folder) / name).relative_to(root)
                for name in names
                if name.endswith(SUFFIXES) and not name.startswith(".")
            ]
    return sorted(files)


def environment_variables(snapshot: Path) -> dict[str, str]:
    """Return the environment variables of jobs that run `snapshot`: the copied folders of plug-ins."""
    return plugins.environment_variables(lambda number, _folder: snapshot / USER_METHODS / str(number))


def take(folder: Path, root: Path = ROOT, note: Callable[[str], None] = lambda text: None) -> Path:
    """Return a snapshot of the code below `folder`. It is made unless one with the same content exists.

    note: receives a line for the user about a snapshot that has changed since it was made.
    """
    state = git_state()
    label = f"{state['commit']} {'dirty' if state['dirty'] else 'clean'}\n"
    content = {path: (root / path).read_bytes() for path in code_files(root)}
    for i, user_folder in enumerate(plugins.folders()):
        content |= {
            Path(USER_METHODS, str(i), p.name): _content(p)
            for p in sorted([*user_folder.glob("*.py"), *user_folder.glob("*.toml")])
        }
    digest = hashlib.sha256(label.encode())
    for path, data in content.items():
        digest.update(f"{path}\0{len(data)}\0".encode() + data)
    content[Path("benchmark", COMMIT_FILE)] = label.encode()
    name = digest.hexdigest()[:12]
    snapshot, number = folder / name, 0
    while os.path.lexists(snapshot):
        if (changed := _changed(snapshot, content)) is None:
            return snapshot
        note(f"{snapshot / changed} is not as it was made; these jobs run a new snapshot of the code")
        number += 1
        snapshot = folder / f"{name}-{number}"
    return _make(snapshot, content)


def _content(path: Path) -> bytes:
    """Return a plug-in's content. A copy of teachers.toml names its files by absolute paths."""
    return teacher_table.with_absolute_paths(path) if path.name == teacher_table.FILE else path.read_bytes()


def _changed(snapshot: Path, content: Mapping[Path, bytes]) -> Path | None:
    """Return the first file of a snapshot that differs from the code, is missing or is new; None if none is.

    New files count if a job could import or read them. Python's caches are not compared: a cache is used only
    if it fits the date and the size of its source.
    """
    present = set()
    for folder, subfolders, names in os.walk(snapshot):
        subfolders[:] = [d for d in subfolders if d != "__pycache__"]
        for path in (Path(folder, name) for name in subfolders + names):
            if path.is_symlink() or (path.suffix in IMPORTED and not path.is_dir()):
                present.add(path.relative_to(snapshot))
    for path in sorted(present | content.keys()):
        try:
            if path not in content or (snapshot / path).read_bytes() != content[path]:
                return path
        except OSError:  # missing, a folder, or not readable
            return path
    return None


def _make(snapshot: Path, content: Mapping[Path, bytes]) -> Path:
    """Write a snapshot, and return its folder."""
    folder = snapshot.parent
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder))
    try:
        for path, data in content.items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).write_bytes(data)
        draft.chmod(0o755)  # mkdtemp makes it 0700, which would hide it from the other members of a group
        os.rename(draft, snapshot)
    except BaseException as error:  # also an interruption, which would leave the draft behind
        shutil.rmtree(draft, ignore_errors=True)
        # a folder there: another process has just made the same snapshot
        if not (isinstance(error, OSError) and snapshot.is_dir()):
            raise
    return snapshot
