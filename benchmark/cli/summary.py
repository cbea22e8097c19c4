"""What `reproduce` prints at its end: one screen."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmark.cli.selection import Selection
from benchmark.spec.runs import closure
from benchmark.text import command_name, duration
from results.store import Store
from tables import overview
from tables.diff import Diff
from tables.render import Layout
from tables.text import wrap

SELECTING = ("protocol", "seeds", "pairs", "methods", "results", "teachers", "network")
"""The options that another verb needs for the same cells."""


def command(verb: str, args: argparse.Namespace, chosen: Selection) -> str:
    """Return the command line of another verb for the same cells."""
    words = [verb, args.table, "--profile", chosen.profile]
    for name in SELECTING:
        if value := getattr(args, name):
            words += [f"--{name}", value]
    for setting in args.settings:
        words += ["--set", setting]
    return f"{command_name()} {shlex.join(words)}"


def lines(
    args: argparse.Namespace,
    chosen: Selection,
    store: Store,
    *,
    layout: Layout,
    diffs: Diff,
    paths: Sequence[Path],
    seconds: float,
) -> list[str]:
    """Return the lines: title, runs, the table, the comparison, the files, and what to do next.

    seconds: how long the command has trained.
    """
    states = Counter(store.state(run.key) for run in closure(chosen.runs))
    counts = [f"{states[state]} {state}" for state in ("done", "diverged", "failed")]
    if missing := sum(states.values()) - sum(states[s] for s in ("done", "diverged", "failed")):
        counts.append(f"{missing} not finished")
    if states["failed"]:
        after = "see why they failed (`retry` instead of `status`: try again)"
        line = command("status", args, chosen)
    elif missing:
        after, line = "the rest, by the same command", command("reproduce", args, chosen)
    else:
        published = "" if chosen.profile == "paper" else "; PROFILE=paper trains it as published"
        after, line = f"its curves, in one page{published}", command("report", args, chosen)
    markdown = next((str(path) for path in paths if path.suffix == ".md"), "")
    return [
        overview.title_line(chosen.expansion),
        *(piece for warning in layout.header.warnings for piece in wrap(warning)),
        f"runs: {', '.join(counts)}; {duration(seconds)}",
        "",
        *overview.table_lines(layout, chosen.expansion, markdown),
        "",
        *overview.diff_line(diffs, chosen.expansion, command("diff", args, chosen)),
        *overview.files_line([str(path) for path in paths]),
        *wrap(f"next: {after}:"),
        f"    {line}",
    ]
