"""Runs for the tests of `benchmark.spec`."""

from __future__ import annotations

from benchmark.methods import PLAIN
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import NONE, Overrides, Request, Run


def make_run(
    method: str = "kd",
    pair: str = "resnet56:resnet20",
    *,
    dataset: str = "cifar100",
    protocol: str = "crd",
    profile: str = "paper",
    overrides: Overrides = (),
    seed: int = 0,
    resolver: Resolver | None = None,
) -> Run:
    """Return a run. A plain training has no teacher, whatever the pair says."""
    teacher, _, student = pair.partition(":")
    request = Request(
        dataset=dataset,
        protocol=protocol,
        profile=profile,
        teacher=NONE if method == PLAIN else teacher,
        student=student,
        method=method,
        overrides=overrides,
    )
    return (resolver or Resolver()).run(request, seed)
