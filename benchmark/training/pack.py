"""Train a pack: claim its runs, train those that no other process trains, and return how each ended."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.errors import InputError
from benchmark.spec.runs import Run
from benchmark.training.groups import train_in_groups
from benchmark.training.options import TrainingOptions
from benchmark.training.reporter import Outcome, Status
from benchmark.training.run_files import is_of_one_path
from results.claims import Claim, ClaimError, describe, heartbeat
from results.store import Store


def train_pack(runs: Sequence[Run], store: Store, options: TrainingOptions) -> list[Outcome]:
    """Train the runs of one pack (all of the same `pack_key`) and write their records.

    Returns one outcome per run, in the given order. An error in one run (in its method, network or measure,
    or of a path in its folder) ends that run alone and is stored as its failure. `KeyboardInterrupt` is
    passed on, and so is an `OSError` that concerns the files of all runs, such as that of a full disk;
    everything up to the last finished epoch is on disk then. Raises `InputError` if a newer version of
    kd-tables wrote the record of one of the runs.
    """
    if newer := next(filter(None, (store.newer_record(run.key) for run in runs)), ""):
        raise InputError(newer)
    outcomes: dict[str, Outcome] = {}
    claims: dict[str, Claim] = {}
    try:
        for run in runs:
            if (outcome := _finished(run, store)) is not None:
                outcomes[run.key] = outcome
                continue
            try:
                claim = store.claim(run.key)
            except OSError as error:
                if not isinstance(error, ClaimError) and not is_of_one_path(error):
                    raise
                reason = f"it cannot be claimed: {error.filename}: {error.strerror}"
                outcomes[run.key] = Outcome(run, Status.FAILED, reason)
                continue
            if claim is None:
                reason = f"{describe(store.holder(run.key))} trains it"
                outcomes[run.key] = Outcome(run, Status.BUSY, reason)
            elif (
                outcome := _finished(run, store)
            ) is not None:  # finished between the first check and the claim
                claim.release()
                outcomes[run.key] = outcome
            else:
                claims[run.key] = claim
                if unusable := store.set_aside(run.key):
                    options.reporter.note(f"{unusable}: this record cannot be used; its run is trained again")
        for notice in dict.fromkeys(claim.notice for claim in claims.values() if claim.notice):
            options.reporter.note(notice)
        if claims:
            claimed = [run for run in runs if run.key in claims]
            with heartbeat(list(claims.values())):
                outcomes |= train_in_groups(claimed, store, options, claims)
    finally:
        for claim in claims.values():
            claim.release()
        options.reporter.end()
    return [outcomes[run.key] for run in runs]


def _finished(run: Run, store: Store) -> Outcome | None:
    record = store.record(run.key)
    return None if record is None else Outcome(run, Status(record["status"]))
