"""The verdicts of a comparison. They are strings, so that CSV and JSON show their values."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What a cell's comparison with its published number says."""

    AGREES = "agrees"
    ABOVE = "above"
    BELOW = "below"
    MISSING = "missing"
    """One of the sides has no number."""
    NOT_COMPARABLE = "not comparable"
    """A difference would mean nothing, for example because the profile or the protocol is another."""

    @property
    def css(self) -> str:
        """The verdict's name in style classes of the report."""
        return self.value.replace(" ", "-")


FAILING = (Verdict.ABOVE, Verdict.BELOW)
"""The verdicts that can make `diff` fail."""

JUDGED = (Verdict.AGREES, *FAILING)
"""The verdicts that rest on a band."""


class CurveVerdict(StrEnum):
    """What the comparison of a run's curve with a published one says."""

    AGREES = "agrees"
    DIFFERS = "differs"
    NOT_COMPARABLE = "not comparable"
