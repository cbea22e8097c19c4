"""What the verdicts rest on, as text: s0, tau, and best minus last epoch."""

from __future__ import annotations

from collections.abc import Mapping

from results.published.curves import best_minus_last
from results.published.schema import METRIC_WORDS
from results.published.spread import LEAST_STDS, origin_spreads, seed_stds
from results.published.yardsticks import COPY, RepeatedCells, Yardstick, repeated_cells, yardsticks


def format_spread() -> str:
    """Return the output of `published --spread`: s0, what tau rests on, and best minus last epoch."""
    from tabulate import tabulate

    def table(rows: list[list[str]], heads: list[str]) -> str:
        return tabulate(rows, heads, tablefmt="github", disable_numparse=True)

    stds = seed_stds()
    by_family = [
        [f.family, str(f.count), f"{f.s0:.2f}", f"{f.median:.2f}"]
        for f in (*stds.families.values(), stds.overall)
    ]
    origins = [
        [o.title, str(o.cells), f"{o.mean:+.2f}", f"{o.rms:.2f}", f"{o.seeds:.2f}", f"{o.tau:.2f}"]
        for o in origin_spreads()
    ]
    repeated = {r.metric: r for r in repeated_cells()}
    gaps = [
        [b.title, str(b.logs), f"{b.mean:+.2f}", f"{b.std:.2f}", f"{b.most:.2f}"] for b in best_minus_last()
    ]
    return "\n\n".join(
        [
            "Seeds: the standard deviations that papers publish of their own runs on CIFAR-100, by family of "
            "the student. s0 is their root mean square; families with fewer than "
            f"{LEAST_STDS} have that of all.",
            table(by_family, ["family", "published stds", "s0", "median"]),
            "Origins: two papers' values of the same cells. tau is the root of (root mean square)^2 - "
            "(seeds)^2. A std that is not printed is taken as s0, a number of runs that is not as 1.",
            table(origins, ["compared", "cells", "mean delta", "root mean square", "by seeds alone", "tau"]),
            "Other numbers, s0 for a student whose family has too few of the above. Few-shot: from published "
            "stds. ImageNet: scaled from CIFAR-100, and what several papers' values of the same cells leave "
            f"for tau (differences of {COPY} and less are copies). Numbers not listed here have no rule.",
            table(
                [_yardstick(*of, stick, repeated) for of, stick in yardsticks(stds).items()],
                ["data set", "metric", "s0", "cells repeated", "root mean square", "tau left", "tau used"],
            ),
            "Best minus last epoch in released logs. The best epoch is chosen on the test set.",
            table(gaps, ["logs", "number", "mean", "std", "most"]),
        ]
    )


def _yardstick(
    dataset: str, metric: str, stick: Yardstick, repeated: Mapping[str, RepeatedCells]
) -> list[str]:
    """Return a row of the table of yardsticks. repeated: the repeated cells of ImageNet by metric."""
    of = repeated.get(metric) if dataset == "imagenet" else None
    cells = [f"{len(of.differences)}", f"{of.rms:.2f}", f"{of.tau:.2f}"] if of else ["", "", ""]
    return [dataset, METRIC_WORDS[metric], f"{stick.s0(''):.2f}", *cells, f"{stick.tau:g}"]
