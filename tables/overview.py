"""A table in one screen: its title, its cells, what they are, and one line on the comparison."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.spec.matrix import Expansion
from benchmark.text import plural, shorten
from tables.cells import IMPORTED_MARK, REFERENCE_MARK, RULES, rank_rule, what_is_shown
from tables.diff import Diff
from tables.render import Layout, plain_lines
from tables.text import printable, terminal_width, wrap
from tables.verdicts import Verdict

REASONS = 4
"""Reasons of cells without a number that are shown."""


def title_line(expansion: Expansion) -> str:
    """Return the table's title, shortened to leave room for the profile."""
    profile = f"; profile {expansion.profile}{', settings changed' if expansion.suffix else ''}"
    return shorten(expansion.table.title, max(terminal_width() - len(profile), 20)) + profile


def table_lines(layout: Layout, expansion: Expansion, file: str) -> list[str]:
    """Return the table and what its cells are. file: where everything that was left out can be read."""
    width, entries = terminal_width(), [e for line in layout.entries for e in line]
    seeds = max((r.n for r in layout.results), default=0)
    spread = f"mean ± std of {seeds} seeds" if seeds > 1 else "one seed"
    rule = rank_rule(expansion.table)
    meaning = [f"{what_is_shown(expansion.table)}, {spread}"]
    meaning += [] if expansion.table.measured else [RULES[rule]]
    if any(len(e.parts) == 2 for e in entries):
        meaning.append("x / y: last / best")
    if any(e.rank for e in entries):
        meaning.append("**x**: best method of its column, _x_: second")
    flags = "".join(e.flag for e in entries)
    meaning += [f"{sign}: {what}" for sign, what in FLAGS.items() if sign in flags]
    reasons = [
        shorten(printable(f"[{i}] {reason}"), width) for i, reason in enumerate(layout.reasons[:REASONS], 1)
    ]
    if len(layout.reasons) > REASONS:
        reasons.append(f"{plural(len(layout.reasons) - REASONS, 'more reason')}: {file}")
    return [*plain_lines(layout), "", *wrap("; ".join(meaning)), *reasons]


FLAGS = {REFERENCE_MARK: "a reference record", IMPORTED_MARK: "an imported checkpoint"}


def diff_line(diffs: Diff, expansion: Expansion, command: str) -> list[str]:
    """Return one line on the comparison with the published table, and the command that prints all of it.

    A command is not wrapped, so that it can be copied.
    """
    counts = {v: n for v, n in diffs.counts().items() if n}
    if set(counts) <= {Verdict.NOT_COMPARABLE, Verdict.MISSING} and Verdict.NOT_COMPARABLE in counts:
        changed = expansion.suffix and " with changed settings"
        what = f"not comparable in profile {expansion.profile}{changed}"
    else:
        what = ", ".join(f"{verdict} {n}" for verdict, n in counts.items()) or "no cells"
    return [*wrap(f"vs. published: {what}; every cell:"), f"    {command}"]


def files_line(paths: Sequence[str]) -> list[str]:
    """Return the files that were written, those that differ in their ending as one: `x.{md,tex}`."""
    stems: dict[str, list[str]] = {}
    for path in paths:
        stem, _, suffix = path.rpartition(".")
        stems.setdefault(stem, []).append(suffix)
    files = (f"{stem}.{{{','.join(suffixes)}}}" for stem, suffixes in stems.items())
    return [f"wrote {f}" if len(f) + 6 <= terminal_width() else f"wrote\n    {f}" for f in files]
