"""What the tests of the command line share: a small table, options that make it quick, and `refused`."""

from __future__ import annotations

import pytest

from benchmark.__main__ import main

TABLE = """
title = "Miniature"
paper = "crd"
table = "table1"
dataset = "cifar100"
protocol = "crd"
seeds = 1
columns = ["none:resnet8"]
[[rows]]
label = "Student"
method = "student"
"""
SMALL = [
    *("--profile", "quick", "--set", "recipe.train_images=32"),
    *("--set", "recipe.test_images=20", "--set", "recipe.epochs=1"),
]
FAST = [*SMALL, "--threads", "1"]


class Trained(Exception):
    """Training or measuring has started."""


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with exit code 2, and return its only error line."""
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1, (code, errors)
    return errors[0]
