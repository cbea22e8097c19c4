"""The verdicts of comparisons. They are strings, so that CSV and JSON show their values."""

from __future__ import annotations

from enum import StrEnum

MARGIN = 0.5
"""Percentage points of top-1 that do not matter: two numbers that lie closer are the same for the purposes of
these tables. It was chosen before any comparison."""


class Verdict(StrEnum):
    """The result of comparing a cell with its published number."""

    SAME = f"same within {MARGIN}"
    """The difference is shown to be smaller than the margin."""
    DIFFERS = "differs"
    """The difference is shown not to be zero. It may be larger than the margin."""
    DIFFERS_LITTLE = f"differs, by less than {MARGIN}"
    """The difference is shown not to be zero, and to be smaller than the margin."""
    UNDECIDED = "undecided"
    """These runs show neither."""
    SAME_CHECKPOINT = "same checkpoint"
    """Both numbers are of the same weights: their equality checks the evaluation, not a training."""
    MISSING = "missing"
    """Our cell or the published one has no number."""
    NOT_COMPARABLE = "not comparable"
    """A difference would mean nothing, for example because the profile or the protocol differs."""

    @property
    def css(self) -> str:
        """The verdict's name in style classes of the report."""
        return self.name.lower().replace("_", "-")


FAILING = (Verdict.DIFFERS,)
"""The verdicts with which `diff` fails."""

MAY_FAIL = (Verdict.DIFFERS, Verdict.UNDECIDED)
"""The verdicts with which `diff --fail-on` can be asked to fail."""

JUDGED = (Verdict.SAME, Verdict.DIFFERS, Verdict.DIFFERS_LITTLE, Verdict.UNDECIDED)
"""The verdicts that rest on an interval."""

MARKS = {
    Verdict.SAME: "=",
    Verdict.DIFFERS: "!!",
    Verdict.DIFFERS_LITTLE: "!",
    Verdict.UNDECIDED: "?",
    Verdict.SAME_CHECKPOINT: "==",
    Verdict.MISSING: ".",
    Verdict.NOT_COMPARABLE: "~",
}
"""The marks of the verdicts in text and static figures."""


class CurveVerdict(StrEnum):
    """The result of comparing a run's curve with a published one."""

    AGREES = "agrees"
    DIFFERS = "differs"
    NOT_COMPARABLE = "not comparable"
    ANOTHER_TEACHER = "another teacher: not comparable"
