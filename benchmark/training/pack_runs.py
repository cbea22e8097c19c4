"""The runs of a pack that this process has claimed: which of them can begin, and how each of them ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmark.errors import InputError
from benchmark.spec.runs import Run
from benchmark.training import processes
from benchmark.training.execution import Execution
from benchmark.training.follower_files import FollowerFiles
from benchmark.training.options import TrainingOptions
from benchmark.training.reporter import Outcome, Status
from benchmark.training.run_files import RunFiles, is_of_one_path
from results.claims import Claim, ClaimLost, describe
from results.store import Store


@dataclass(eq=False)
class PackRuns:
    """What training and measuring the runs of a pack have in common."""

    runs: Sequence[Run]
    store: Store
    options: TrainingOptions
    claims: Mapping[str, Claim]
    execution: Execution
    """In which all these runs are computed: that of the options, unless they were begun in another one."""

    def __post_init__(self) -> None:
        self.reporter = self.options.reporter
        self.team = processes.current()
        files = RunFiles if self.team.leads else FollowerFiles
        self.files = {run.key: files(run, self.store) for run in self.runs}
        self.outcomes: dict[str, Outcome] = {}

    def ready(self) -> list[Run]:
        """Return the runs whose needs are met, the same in all processes. The others have an outcome."""
        ready = [run for run in self.runs if self.team.leads and not self._is_blocked(run)]
        keys = self.team.agree([run.key for run in ready])
        return [run for run in self.runs if run.key in keys]

    def _is_blocked(self, run: Run) -> bool:
        """Return whether a run that this one needs has no result. The outcome is set in that case."""
        for needed in run.needs_runs:
            state = self.store.state(needed.key)
            if state == "done":
                continue
            why = (self.store.failure(needed.key) or {}).get("reason", "")
            reason = f"needs {needed.key}, which is {state}{': ' + why if why else ''}"
            if state in ("failed", "diverged", "absent"):
                self.files[run.key].block(reason)
                self.end(Outcome(run, Status.BLOCKED, reason))
            else:  # it may still finish: a stored failure would exclude this run from later plans
                self.outcomes[run.key] = Outcome(run, Status.WAITING, reason)
            return True
        return False

    def end(self, outcome: Outcome) -> None:
        """Set the outcome of a run, and report it."""
        self.outcomes[outcome.run.key] = outcome
        self.reporter.outcome(outcome.run, outcome)

    def fail(self, run: Run, error: BaseException) -> None:
        """End a run that an error has stopped, and store the failure."""
        try:
            self.end(Outcome(run, Status.FAILED, self.files[run.key].fail(error)))
        except ClaimLost:  # its new holder decides whether it fails
            self.end(Outcome(run, Status.BUSY, f"{describe(self.store.holder(run.key))} has taken it over"))

    def end_taken_over(self, run: Run) -> Outcome:
        """End a run that another process has taken over; nothing more may be written to its folder.

        That happens when this process was halted for so long that its claim counted as abandoned:
        suspended, or waiting for a network file system.
        """
        holder = describe(self.store.holder(run.key))
        outcome = Outcome(run, Status.BUSY, f"taken over by {holder} while this process was halted")
        self.end(outcome)
        return outcome


def ends_the_pack(error: Exception) -> bool:
    """Return whether an error ends the whole pack: wrong input, or files that no run could write.

    Those that are raised in the code of one run do not come here as such: `MethodError` and `RunCodeError`
    stand for them. Nor do those that only a path in the folder of one run causes. `ClaimLost` is of one run
    too, but no failure of it, so it is handled before.
    """
    if isinstance(error, OSError):
        return not is_of_one_path(error)
    return isinstance(error, InputError)
