"""Train packs of which another process has some runs: wait for those, and go on.

Two `run` commands share a results folder, on two GPUs for example. Each trains what the other has not
claimed. What the other has is waited for, because later runs need it, and is taken over if the other process
dies. No claim is held while waiting, so two commands never wait for each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmark.spec.plan import Pack
from benchmark.spec.runs import Run
from benchmark.text import plural
from benchmark.training.reporter import Outcome, Reporter, Status
from results.claims import describe
from results.store import Store

POLL_SECONDS = 2.0
"""Seconds between two looks at the runs of other processes."""

Outcomes = dict[str, Outcome]
"""How runs ended, by key."""

Train = Callable[[Sequence[Pack], Outcomes], None]
"""Trains packs that are sorted by level, and adds the outcomes of all their runs."""


def train_all(
    packs: Sequence[Pack], store: Store, train: Train, reporter: Reporter, wait: bool
) -> list[Outcome]:
    """Train packs, and return the outcomes of all their runs.

    wait: wait for the runs that other processes train, and then train those that need them. Otherwise these
    runs end as `BUSY` and `WAITING`.
    """
    outcomes: Outcomes = {}
    announced: set[tuple[str, str]] = set()
    train(packs, outcomes)
    while wait and (pending := _pending(packs, outcomes)):
        began = time.monotonic()
        ended = {run.key for run in _ended(pending, outcomes, store)}
        if not ended:
            _announce(pending, outcomes, store, announced, reporter)
            # many runs on a slow file system: look less often
            time.sleep(max(POLL_SECONDS, 10 * (time.monotonic() - began)))
            continue
        outcomes |= _failed_elsewhere(pending, ended, outcomes, store)
        todo = {key for key in ended if outcomes[key].status != Status.FAILED}
        if abandoned := sum(outcomes[k].status == Status.BUSY and not store.is_done(k) for k in todo):
            reporter.note(
                f"going on with {plural(abandoned, 'run')} that another process has left unfinished"
            )
        train([part for pack in packs if (part := _part(pack, todo)) is not None], outcomes)
        if todo and all(outcomes[key].status == Status.BUSY for key in todo):
            time.sleep(POLL_SECONDS)  # a third process was faster
    return [outcomes[run.key] for pack in packs for run in pack.runs]


def trainable(pack: Pack, outcomes: Outcomes, store: Store) -> Pack | None:
    """Return the part of a pack whose needs other processes do not train. None if nothing is left.

    The outcome of the other runs is `WAITING`. They must not be tried: if the other process died just now
    and left nothing, a run that they need would seem to be missing, and that would be stored as a failure.
    """
    later: dict[str, str] = {}
    for run in pack.runs:
        for needed in run.needs_runs:
            outcome = outcomes.get(needed.key)
            unfinished = outcome is not None and outcome.status in (Status.BUSY, Status.WAITING)
            if unfinished and not store.is_done(needed.key):
                reason = f"needs {needed.key}, which is {store.state(needed.key)}"
                outcomes[run.key] = Outcome(run, Status.WAITING, reason)
                later[run.key] = reason
                break
    return _part(pack, {run.key for run in pack.runs} - later.keys())


def _part(pack: Pack, keys: set[str]) -> Pack | None:
    runs = tuple(run for run in pack.runs if run.key in keys)
    return replace(pack, runs=runs) if runs else None


def _pending(packs: Sequence[Pack], outcomes: Outcomes) -> list[Run]:
    """Return the runs of other processes and those that need one of them, in the order of the packs."""
    pending: dict[str, Run] = {}
    for pack in packs:
        for run in pack.runs:
            status = outcomes[run.key].status
            needs_one = any(needed.key in pending for needed in run.needs_runs)
            if status == Status.BUSY or (status == Status.WAITING and needs_one):
                pending[run.key] = run
    return list(pending.values())


def _ended(pending: Sequence[Run], outcomes: Outcomes, store: Store) -> list[Run]:
    """Return the pending runs that no other process trains any more, and those that need only such runs."""
    waited_for = {run.key for run in pending}
    ended: list[Run] = []
    for run in pending:
        if outcomes[run.key].status == Status.BUSY:
            free = store.is_done(run.key) or store.holder(run.key) is None
        else:
            free = not any(n.key in waited_for for n in run.needs_runs)
        if free:
            ended.append(run)
            waited_for.discard(run.key)
    return ended


def _failed_elsewhere(pending: Sequence[Run], ended: set[str], outcomes: Outcomes, store: Store) -> Outcomes:
    """Return the outcomes of the runs that failed in the other process. They wait for `retry`."""
    failed: Outcomes = {}
    for run in pending:
        if run.key in ended and outcomes[run.key].status == Status.BUSY and not store.is_done(run.key):
            failure = store.failure(run.key)
            if failure is not None and not failure.get("blocked"):
                failed[run.key] = Outcome(run, Status.FAILED, str(failure.get("reason", "")))
    return failed


def _announce(
    pending: Sequence[Run],
    outcomes: Outcomes,
    store: Store,
    announced: set[tuple[str, str]],
    reporter: Reporter,
) -> None:
    """Print what is waited for and who has it, once for each run and holder.

    announced: those that were printed.
    """
    new: dict[tuple[str, str], list[Run]] = {}
    for run in pending:
        if outcomes[run.key].status == Status.BUSY and (holder := store.holder(run.key)) is not None:
            who = describe(holder)
            if (run.key, who) not in announced:
                announced.add((run.key, who))
                new.setdefault((who, _clock(holder.get("time"))), []).append(run)
    others = sum(outcomes[run.key].status == Status.WAITING for run in pending)
    for (who, since), runs in new.items():
        more = f" and {plural(len(runs) - 1, 'more run')}" if len(runs) > 1 else ""
        need = f"; {plural(others, 'run')} here need{'' if others > 1 else 's'} them" if others else ""
        reporter.note(
            f"waiting for {runs[0].key}{more}: {who} trains {'them' if more else 'it'} since {since}{need} "
            "(--no-wait ends instead)"
        )


def _clock(seconds: object) -> str:
    """Return a time in words, to the minute."""
    if not isinstance(seconds, int | float):
        return "an unknown time"
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "an unknown time"
