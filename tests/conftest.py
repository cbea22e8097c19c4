"""Common to all tests: few threads, nothing from the caller's environment."""

from __future__ import annotations

import os

# Read when PyTorch is loaded. Threads that wait actively take the core on which the others would work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

from benchmark import longwork

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

VARIABLES = (
    "RESULTS", "DATA", "TEACHERS", "PROFILE", "SEEDS", "PROTOCOL", "PRECISION", "THREADS", "DEVICE", "KEEP",
    "KD_METHODS", "KD_PLUGINS", "KD_PUBLISHED", "COLUMNS", "NOTIFY",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_lines_about_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine anything can take long, and tests compare what is printed."""
    for name in ("QUIET_SECONDS", "BAR_SECONDS"):
        monkeypatch.setattr(longwork, name, 1e6)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that steer the suite are the tests' own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
