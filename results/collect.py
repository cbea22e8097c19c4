"""Brings finished (and begun) runs into `results/reference/`: records and curves, no weights.

    python -m results.collect RESULTS [PATTERN ...]        # patterns as in the shell, of the runs' keys;
    default: all runs

A finished run gives its `record.json` and `curve.csv`. A run that was stopped (`--until`) gives its curve and
`partial.json`: the conditions that its log states, and how many epochs there are; it is no record and counts
nowhere as done, but `diff --curves` can lay it over a published curve.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.files import write_json
from results.store import REFERENCE, Store


def conditions(log: str) -> dict[str, Any]:
    """Device, precision and threads that the first line of a run's log states, and when it began."""
    found = re.match(r"(\S+) begin .*?(\{.*\})$", log.partition("\n")[0])
    return {"began": found[1], **ast.literal_eval(found[2])} if found else {}


def collect(source: Path, patterns: Sequence[str] = ("*",), target: Path = REFERENCE) -> list[str]:
    """Copies the runs below `source` whose key fits a pattern; returns their keys. What is finished in
    `target` stays.
    """
    store, kept = Store(source), []
    for curve in sorted(source.rglob("curve.csv")) + sorted(
        p for p in source.rglob("record.json") if not (p.parent / "curve.csv").exists()
    ):
        key = curve.parent.relative_to(source).as_posix()
        into = target / key
        if not any(fnmatch.fnmatch(key, f"*{p}*") for p in patterns) or (into / "record.json").exists():
            continue
        into.mkdir(parents=True, exist_ok=True)
        record = store.record(key)
        if record is not None:
            write_json(into / "record.json", {**record, "host": ""})
            (into / "partial.json").unlink(missing_ok=True)
        else:
            epochs = store.curve(key)
            log = curve.parent / "log.txt"
            write_json(
                into / "partial.json",
                {
                    "key": key,
                    "epochs": 0 if epochs is None else len(epochs),
                    **(conditions(log.read_text(encoding="utf-8")) if log.exists() else {}),
                    "note": "stopped after these epochs: no finished run",
                },
            )
        if (curve.parent / "curve.csv").exists():
            shutil.copyfile(curve.parent / "curve.csv", into / "curve.csv")
        kept.append(key)
    return kept


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m results.collect", description="runs into results/reference: records and curves"
    )
    parser.add_argument("source", type=Path, metavar="RESULTS")
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN")
    args = parser.parse_args(argv)
    if not args.source.is_dir():
        print(f"error: no folder {args.source}; allowed: a folder of results", file=sys.stderr)
        return 2
    for key in collect(args.source, args.patterns):
        print(key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
