"""Common to all tests: few threads, nothing from the caller's environment."""

from __future__ import annotations

import os

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

VARIABLES = (
    "RESULTS", "DATA", "TEACHERS", "PROFILE", "SEEDS", "PROTOCOL", "PRECISION", "THREADS", "DEVICE", "KEEP",
    "KD_METHODS", "KD_PUBLISHED",
)  # fmt: skip


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that steer the suite are the tests' own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
