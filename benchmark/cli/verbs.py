"""The verbs of the command line: the module of each, and its line in `--help`.

A call imports the module of its verb alone. Most of them need PyTorch, whose import takes a second or two;
`--help` and a mistyped verb do not wait for it.
"""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """A verb of the command line."""

    name: str
    module: str
    """The module in `benchmark.cli` that defines it, by `register(verbs)`."""
    summary: str
    """One line for the list of verbs."""
    reads_all: bool = False
    """Whether it reads the options of all verbs, so that all modules are imported."""
    trains: bool = False
    """Whether it trains runs: the same command goes on after an interruption."""


VERBS = (
    Verb("plan", "plan", "show which runs are missing and what they would cost; trains nothing"),
    Verb("run", "running", "train a table's missing runs on this machine", trains=True),
    Verb(
        "reproduce",
        "running",
        "train what is missing, then print the table (`make reproduce-table1`)",
        trains=True,
    ),
    Verb(
        "work",
        "running",
        "train the runs of one work order (for worker processes and Slurm jobs)",
        trains=True,
    ),
    Verb("submit", "cluster", "submit a table's missing runs to a Slurm cluster"),
    Verb("cancel", "cluster", "cancel a table's Slurm jobs"),
    Verb("status", "status", "count a table's runs: done, running, queued, failed ..."),
    Verb("logs", "logs", "print a run's log, and why it failed"),
    Verb("retry", "logs", "forget the failures of a table, so that `run` or `submit` tries again"),
    Verb("clean", "clean", "remove stale runs; without --yes they are only listed"),
    Verb("table", "tables", "print the regenerated table, and write it as md, tex, csv, png, pdf and svg"),
    Verb("diff", "tables", "compare the regenerated table with the published one"),
    Verb("report", "report", "write one HTML page with all tables, curves and verdicts"),
    Verb("published", "published", "print every published value of a cell, and how the papers disagree"),
    Verb("judge", "judge", "say whether your result of a cell is a reproduction of the published one"),
    Verb("methods", "methods", "list the methods with formula, citation and hyper-parameters"),
    Verb("plugins", "plugins", "list and check the methods, networks, data sets ... of KD_PLUGINS"),
    Verb("teachers", "teachers", "list the teachers, and their accuracy beside the published ones"),
    Verb("evaluate", "evaluate", "measure any checkpoint, or a finished run's weights, on the test set"),
    Verb("export", "export", "write a run's weights or curve in the formats of other programs"),
    Verb("merge", "merge", "copy the runs of other results folders into yours"),
    Verb(
        "contribute",
        "contribute",
        "prepare records for a pull request that makes them reference records",
    ),
    Verb("bench", "bench", "measure speed, the effect of bf16, and the error rates of the verdicts"),
    Verb(
        "completion",
        "completion",
        "print a script that completes verbs, options and names in bash or zsh",
        reads_all=True,
    ),
)
"""In the order of `--help`."""


def summary_of(name: str) -> str:
    """Return the line of a verb in `--help`."""
    return next(verb.summary for verb in VERBS if verb.name == name)
