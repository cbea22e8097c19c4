"""The verdicts of comparisons. They are strings, so that CSV and JSON show their values."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """The result of comparing a cell with its published number."""

    AGREES = "agrees"
    ABOVE = "above"
    BELOW = "below"
    MISSING = "missing"
    """Our cell or the published one has no number."""
    NOT_COMPARABLE = "not comparable"
    """A difference would mean nothing, for example because the profile or the protocol differs."""

    @property
    def css(self) -> str:
        """The verdict's name in style classes of the report."""
        return self.value.replace(" ", "-")


FAILING = (Verdict.ABOVE, Verdict.BELOW)
"""The verdicts that can make `diff` fail."""

JUDGED = (Verdict.AGREES, *FAILING)
"""The verdicts that rest on a band."""


class CurveVerdict(StrEnum):
    """The result of comparing a run's curve with a published one."""

    AGREES = "agrees"
    DIFFERS = "differs"
    NOT_COMPARABLE = "not comparable"
