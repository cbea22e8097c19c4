"""bench verdicts: how often the diff's verdicts are wrong, by simulation."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark.cli import options
from benchmark.cli.bench_options import add_json_file_option, check, print_table
from benchmark.cli.parser import add_verb
from results.files import write_json
from results.published.spread import seed_stds
from tables import simulation
from tables.verdicts import MARGIN


def register(measurements: Any) -> None:
    p = add_verb(
        measurements,
        "verdicts",
        summary="error rates of the diff's verdicts, by simulation",
        details="Judges made-up tables whose true differences are known, and prints how often a cell is "
        "named without a reason, how often a true difference is named, and how often the interval of a mean "
        "rank contains the true one. Trains nothing.",
        example="bench verdicts",
    )
    p.add_argument(
        "--draws",
        type=options.whole_number,
        default=2000,
        metavar="N",
        help="made-up tables of each row (default: 2000)",
    )
    add_json_file_option(p)
    p.set_defaults(do=do_verdicts)


def do_verdicts(args: argparse.Namespace) -> int:
    check(args)
    s0 = seed_stds().overall.s0
    rates = simulation.error_rates(s0, args.draws)
    coverage = simulation.rank_coverage(args.draws)
    print(
        f"{args.draws} made-up tables of {simulation.CELLS} cells in each row; 5 published runs of each "
        f"cell with a printed std; seeds with\na std of {s0:.2f} on average. n: our runs of each cell. "
        "true tau: that of the made-up tables. false: `differs` where\nnothing differs but the origin. "
        f"named: `differs` where {simulation.MOVED} cells are off by so much. "
        f"same: `same within {MARGIN}`.\n"
    )
    print_table(
        [
            [
                str(r.n),
                f"{r.tau:g}",
                f"{r.true_tau:g}",
                f"{r.flagged_tables:.0%}",
                f"{r.false_flags:.2f}",
                f"{r.power_half:.0%}",
                f"{r.power_one:.0%}",
                f"{r.same:.0%}",
                f"{r.wrongly_same:.0%}",
            ]
            for r in rates
        ],
        [
            *("n", "tau", "true tau", "tables with a false one", "false ones a table"),
            *("0.5 off: named", "1.0 off: named", "0.0 off: same", "0.5 off: same"),
        ],
    )
    print("\nThe 95% intervals of mean ranks contain the true mean rank in:\n")
    pairs = sorted({c.pairs for c in coverage})
    by_methods: dict[int, list[str]] = {}
    for c in sorted(coverage, key=lambda c: (c.methods, c.pairs)):
        by_methods.setdefault(c.methods, []).append(f"{c.least:.0%} to {c.most:.0%}")
    print_table(
        [[f"{methods} methods", *shares] for methods, shares in by_methods.items()],
        ["", *(f"{n} pairs" for n in pairs)],
    )
    if args.json:
        report = {
            "draws": args.draws,
            "s0": s0,
            "rates": [asdict(r) for r in rates],
            "rank_coverage": [asdict(c) for c in coverage],
        }
        write_json(Path(args.json), report)
    return 0
