"""Checks before anything is trained, so that a command is refused in one line and not after hours.

A worker checks the same again when it has claimed its runs, and fails those alone that changed in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.errors import InputError
from benchmark.spec.runs import Run
from benchmark.training import begun, kept_weights
from results.store import Store


def require_trainable(runs: Sequence[Run], store: Store, *, accept_edit: bool) -> None:
    """Raise `InputError` if one of the runs must not be trained as things are.

    That is a run that goes on with an edited user method or another teacher (unless `accept_edit`), or one
    whose teacher's file is damaged.
    """
    if not accept_edit:
        for run in runs:
            refusal = begun.refusal(run, store, begun.last_part(run, store))
            # a living worker has loaded what it began with, and a damaged checkpoint is not gone on with
            if refusal and store.holder(run.key) is None and not begun.is_damaged(run, store):
                raise InputError(refusal)
    kept_weights.require_intact(runs, store)
