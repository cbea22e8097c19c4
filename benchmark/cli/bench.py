"""bench: the measurements of speed, of precision and of the verdicts, each a sub-command."""

from __future__ import annotations

from typing import Any

from benchmark.cli import bench_gpu, bench_independent, bench_precision, bench_speed, bench_verdicts
from benchmark.cli.parser import Parser, add_verb

DEFAULT = "cells"


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "bench",
        details="Measures how fast training is against a naive training loop, whether bf16 changes results, "
        "and how often the diff's verdicts are wrong. Without the name of a "
        f"measurement it measures the {DEFAULT}: `bench --budget 3` means `bench {DEFAULT} --budget 3`. "
        "`bench MEASUREMENT --help` describes its options.",
        example="bench --pairs resnet56:resnet20 --budget 3",
    )
    p.default_command = DEFAULT
    measurements = p.add_subparsers(
        dest="measurement", metavar="MEASUREMENT", required=True, parser_class=Parser
    )
    bench_speed.register(measurements)
    bench_precision.register(measurements)
    bench_independent.register(measurements)
    bench_gpu.register(measurements)
    bench_verdicts.register(measurements)
