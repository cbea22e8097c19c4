"""What a difference of two numbers is measured with: s0 and tau of each data set and metric.

`spread` computes both for top-1 on CIFAR-100, where hundreds of standard deviations are published. Numbers of
another kind vary by other amounts, so each has a yardstick of its own, or none: then no verdict is given.

- CIFAR-100 with part of the training images: s0 from the standard deviations published for it. tau is
  CIFAR-100's: networks, recipe and test images are the same, and a single paper printed such numbers.
- ImageNet, top-1 and top-5: nobody prints a standard deviation. s0 is that of CIFAR-100's top-1, scaled as
  the std of a share p of N test images is, sqrt(p (1 - p) / N) (`binomial_std`). tau is checked
  on the cells that several papers trained (`repeated_cells`): their differences, less the part of the seeds,
  leave `RepeatedCells.tau`. There are few, so the tau of the rule is rounded up.
- All other numbers (a linear probe on STL-10 or TinyImageNet, say): no standard deviation is printed, and no
  two papers trained the same cell (or two did, once), so there is nothing to compute either from.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from results.published.reader import numbers
from results.published.schema import METRIC_WORDS, OriginKind, PublishedNumber
from results.published.spread import DATASET, SeedStds, may_be_the_same_epoch, seed_stds

TAU = 0.4
"""Standard deviation of a difference between two origins (other teachers of the same accuracy, other code)
that no number of seeds removes, in top-1. `python -m benchmark published --spread` shows its grounds."""

WIDE_TAU = 0.6
"""The sensitivity of every verdict on top-1 is shown with this larger value."""

TOP5_TAU, WIDE_TOP5_TAU = 0.3, 0.45
"""The same of top-5 on ImageNet."""

TEST_IMAGES = {DATASET: 10_000, "imagenet": 50_000}

COPY = 0.05
"""Two papers' values that are no further apart are taken for a copy that was rounded, or misprinted."""

FEW_SHOT = tuple(f"{DATASET}-{percent}" for percent in (25, 50, 75))


@dataclass(frozen=True)
class Yardstick:
    """What the verdict on numbers of one metric on one data set rests on."""

    stds: SeedStds
    """s0 of top-1 on CIFAR-100, by family of students."""
    tau: float
    wide_tau: float
    scale: float = 1.0
    """s0 of these numbers is so many times that of `stds`."""

    def s0(self, network: str) -> float:
        """Return the standard deviation that is usual for a network's seeds."""
        return self.scale * self.stds.of(network)


@dataclass(frozen=True)
class RepeatedCells:
    """How far several papers' values of the same cells of ImageNet lie apart."""

    metric: str
    differences: tuple[float, ...]
    """Of every two papers, the later name minus the earlier one."""
    s0: float

    @property
    def rms(self) -> float:
        """Root mean square of the differences."""
        return math.sqrt(statistics.fmean(d * d for d in self.differences))

    @property
    def tau(self) -> float:
        """What is left of `rms` when the part of the seeds, one run each, is taken away."""
        return math.sqrt(max(self.rms**2 - 2 * self.s0**2, 0.0))


def yardsticks(
    stds: SeedStds | None = None, every: Iterable[PublishedNumber] | None = None
) -> dict[tuple[str, str], Yardstick]:
    """Return the yardsticks by data set and metric; numbers without one cannot be judged.

    stds: s0 of top-1 on CIFAR-100. every: the published numbers (default of both: those of the registry).
    """
    every = numbers() if every is None else tuple(every)
    stds = seed_stds(every) if stds is None else stds
    few = seed_stds([x for x in every if x.dataset in FEW_SHOT], FEW_SHOT)
    return {
        (DATASET, "top1"): Yardstick(stds, TAU, WIDE_TAU),
        **{(name, "top1"): Yardstick(few, TAU, WIDE_TAU) for name in FEW_SHOT},
        ("imagenet", "top1"): Yardstick(stds, TAU, WIDE_TAU, imagenet_scale("top1", every)),
        ("imagenet", "top5"): Yardstick(stds, TOP5_TAU, WIDE_TOP5_TAU, imagenet_scale("top5", every)),
    }


def no_yardstick(dataset: str, metric: str) -> str:
    """Say why numbers without a yardstick get no verdict."""
    return (
        f"no rule for {METRIC_WORDS[metric].rstrip(',')} on {dataset}: the published numbers do not say how "
        "far two trainings of the same cell lie apart"
    )


def binomial_std(percent: float, images: int) -> float:
    """Return the standard deviation of a share of `images` independent ones, in percentage points.

    Seeds vary less than that, as most images are easy or hard for all of them.
    """
    p = percent / 100
    return 100 * math.sqrt(p * (1 - p) / images)


def imagenet_scale(metric: str, every: Iterable[PublishedNumber]) -> float:
    """Return by how much s0 of a metric on ImageNet is smaller than that of top-1 on CIFAR-100."""

    def usual(dataset: str, of: str) -> float:
        values = [
            x.value
            for x in every
            if x.dataset == dataset and x.metric == of and x.value is not None and x.method != "teacher"
        ]
        return binomial_std(statistics.median(values), TEST_IMAGES[dataset])

    every = tuple(every)
    return usual("imagenet", metric) / usual(DATASET, "top1")


def repeated_cells(every: Iterable[PublishedNumber] | None = None) -> list[RepeatedCells]:
    """Return how far papers lie apart that trained the same cells of ImageNet, by metric.

    Left out: teachers (other checkpoints), copies, what was read second-hand, and trainings by a recipe that
    is known to differ. every: as in `yardsticks`.
    """
    every = numbers() if every is None else tuple(every)
    stds, sticks = seed_stds(every), yardsticks(None, every)
    kinds = (OriginKind.RUN, OriginKind.DERIVED, OriginKind.UNKNOWN)
    compared = []
    for metric in ("top1", "top5"):
        by_cell: dict[tuple[str, ...], dict[str, PublishedNumber]] = {}
        for x in every:
            counts = x.dataset == "imagenet" and x.metric == metric and x.method != "teacher"
            if counts and x.value is not None and x.origin_kind in kinds and not x.recipe:
                by_cell.setdefault(x.cell, {}).setdefault(x.paper, x)
        differences = [
            delta
            for papers in by_cell.values()
            for a, b in itertools.combinations(sorted(papers), 2)
            if abs(delta := _difference(papers, a, b)) > COPY + 1e-9
            and may_be_the_same_epoch(papers[a], papers[b])
        ]
        if differences:
            s0 = sticks["imagenet", metric].scale * stds.overall.s0
            compared.append(RepeatedCells(metric=metric, differences=tuple(differences), s0=s0))
    return compared


def _difference(papers: Mapping[str, PublishedNumber], a: str, b: str) -> float:
    return (papers[b].value or 0.0) - (papers[a].value or 0.0)
