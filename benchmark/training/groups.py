"""Split a pack by the conditions in which its runs were begun, and train the groups one after the other.

A plan forms packs by these conditions already. They are read again here, under the claims, because a run may
have been begun in the meantime, for example while its job was in the queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmark.spec.runs import Run
from benchmark.training import begun, processes
from benchmark.training.execution import Execution
from benchmark.training.options import TrainingOptions
from benchmark.training.pack_trainer import PackTrainer
from benchmark.training.reporter import Outcome, Status
from benchmark.training.run_files import RunFiles
from results.claims import Claim
from results.store import Store


class EditedError(Exception):
    """A begun run must not go on, because what it learns from has changed since."""


def train_in_groups(
    runs: Sequence[Run], store: Store, options: TrainingOptions, claims: Mapping[str, Claim]
) -> dict[str, Outcome]:
    """Train claimed runs of one pack, each as it was begun. Returns their outcomes by key.

    A damaged checkpoint is set aside, and its run begins again as the options ask for. A run that must not
    go on (see `begun.refusal`), or whose checkpoint cannot be read from the disk, fails alone.
    """
    outcomes: dict[str, Outcome] = {}
    groups: dict[Execution, list[Run]] = {}
    for run in runs:
        try:
            part = begun.usable_part(run, store, options.reporter.note)
            refusal = "" if options.accept_edit else begun.refusal(run, store, part)
            if refusal:
                raise EditedError(refusal)
        except (OSError, EditedError) as error:
            outcomes[run.key] = Outcome(run, Status.FAILED, RunFiles(run, store).fail(error))
            options.reporter.outcome(run, outcomes[run.key])
        else:
            groups.setdefault(begun.execution_for(part, options.execution), []).append(run)
    for execution, members in groups.items():
        if execution != options.execution:
            options.reporter.note(begun.describe(members, execution))
        processes.current().call({"runs": [run.order() for run in members], "execution": asdict(execution)})
        outcomes |= PackTrainer(members, store, options, claims, execution).train()
        options.reporter.end()
    return outcomes
