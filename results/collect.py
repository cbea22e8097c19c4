"""Copy finished and unfinished runs into `results/reference/`: records and curves, without weights.

    python -m results.collect RESULTS [PATTERN ...]

A pattern is a shell pattern of runs' keys; without one, all runs are copied. A finished run gives its
`record.json` and `curve.csv`. A run that was stopped (`--until`) gives its curve and `partial.json`, which
holds the number of epochs so far and the conditions under which the run began. It is not a record and never
counts as done, but `diff --curves` can draw it over a published curve.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from results.files import write_json
from results.store import REFERENCE, Store


def collect(source: Path, patterns: Sequence[str] = ("*",), target: Path = REFERENCE) -> list[str]:
    """Copy the runs below `source` whose key matches a pattern, and return their keys.

    Runs that are finished in `target` are not replaced. A record that cannot be used is named on standard
    error, and its run is left out.
    """
    store, copied = Store(source), []
    folders = {p.parent for name in ("curve.csv", "record.json") for p in source.rglob(name)}
    for folder in sorted(folders):
        key = folder.relative_to(source).as_posix()
        into = target / key
        if not any(fnmatch.fnmatch(key, f"*{p}*") for p in patterns) or (into / "record.json").exists():
            continue
        if problem := store.unusable(key):
            print(f"skipped: {problem}", file=sys.stderr)
            continue
        into.mkdir(parents=True, exist_ok=True)
        record = store.record(key)
        if record is not None:
            write_json(into / "record.json", {**record, "host": ""})
            (into / "partial.json").unlink(missing_ok=True)
        else:
            epochs = store.curve(key)
            write_json(
                into / "partial.json",
                {
                    "key": key,
                    "epochs": 0 if epochs is None else len(epochs),
                    **(store.began(key) or {}),
                    "note": "stopped after these epochs; the run is not finished",
                },
            )
        if (folder / "curve.csv").is_file():
            shutil.copyfile(folder / "curve.csv", into / "curve.csv")
        copied.append(key)
    return copied


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m results.collect",
        description="Copy records and curves of runs into results/reference.",
    )
    parser.add_argument("source", type=Path, metavar="RESULTS")
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN")
    args = parser.parse_args(argv)
    if not args.source.is_dir():
        print(f"error: there is no folder {args.source}; give a folder of results", file=sys.stderr)
        return 2
    for key in collect(args.source, args.patterns):
        print(key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
