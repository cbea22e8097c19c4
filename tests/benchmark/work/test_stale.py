"""The rules of `clean`: the reason of each verdict.

The verb itself, and the removal of folders, are tested in cli/test_cli_clean.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_kit import small_run

from benchmark import methods
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, TeacherRef
from benchmark.work.stale import Reason, StaleRuns, find_stale, remove, unknown_name
from results.store import Store

RUN = Resolver().run(Request("cifar100", "crd", "quick", "resnet14", "resnet8", "kd"), 0)
OLD_KEY = RUN.key[:-10] + "0123456789"


def finished(store: Store, key: str, order: Any, **more: Any) -> None:
    record = {"schema": 1, "key": key, "dataset": "cifar100", "protocol": "crd", "profile": "quick"}
    record |= {"teacher": "resnet14", "student": "resnet8", "method": "kd", "seed": 0, "status": "done"}
    store.write_record(key, {**record, "settings": {}, "order": order, **more})


def reasons(stale: StaleRuns) -> dict[str, Reason]:
    return {v.key: v.reason for v in (*stale.to_remove, *stale.kept)}


def test_a_current_run_is_not_listed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finished(store, RUN.key, RUN.order())
    assert find_stale(store, Resolver()) == StaleRuns()


def test_an_empty_or_missing_folder_has_no_stale_runs(tmp_path: Path) -> None:
    assert (
        find_stale(Store(tmp_path), Resolver())
        == find_stale(Store(tmp_path / "none"), Resolver())
        == StaleRuns()
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, Reason.OLD_KEY),
        ({"method": "mine"}, Reason.UNKNOWN_NAME),
        ({"protocol": "mine"}, Reason.UNKNOWN_NAME),
        ({"overrides": 3}, Reason.DAMAGED_ORDER),
    ],
)
def test_the_work_order_decides(changes: dict[str, Any], reason: Reason, tmp_path: Path) -> None:
    store = Store(tmp_path)
    finished(store, OLD_KEY, {**RUN.order(), "key": OLD_KEY, **changes})
    stale = find_stale(store, Resolver())
    assert reasons(stale) == {OLD_KEY: reason}
    assert bool(stale.to_remove) == (reason is Reason.OLD_KEY)


def test_a_record_without_an_order_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finished(store, OLD_KEY, None)
    assert [v.reason for v in find_stale(store, Resolver()).kept] == [Reason.NO_ORDER]


def test_a_run_of_an_imported_teacher_is_not_stale_while_its_checkpoint_is_away(tmp_path: Path) -> None:
    """Without TEACHERS= its order resolves to a run with a teacher of ours, which has another key."""
    store, weights = Store(tmp_path), "0123456789abcdef"
    imported = TeacherRef("resnet14", weights=weights, path="resnet14.pth")
    taught = Resolver({("cifar100", "resnet14"): imported}).run(RUN.request, 0)
    info = {"network": "resnet14", "epoch": "last", "weights": weights, "top1": 60.0}
    finished(store, taught.key, taught.order(), teacher_info={**info, "identity": imported.identity})
    assert find_stale(store, Resolver()) == StaleRuns()
    finished(store, OLD_KEY, {**RUN.order(), "key": OLD_KEY}, teacher_info={**info, "identity": "a/key@last"})
    assert reasons(find_stale(store, Resolver())) == {OLD_KEY: Reason.OLD_KEY}


@pytest.mark.parametrize("imported", [None, TeacherRef("resnet14", weights="0123456789abcdef", path="x.pth")])
def test_a_record_of_an_older_revision_is_stale_and_does_not_count(
    imported: TeacherRef | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its teacher may be an imported checkpoint, which is available now or not."""
    store, known = Store(tmp_path), {("cifar100", "resnet14"): imported} if imported else None
    request = Request("cifar100", "crd", "quick", "resnet14", "resnet8", "ofd")
    with monkeypatch.context() as before:
        before.setattr(methods.get("ofd"), "revision", methods.get("ofd").revision - 1)
        old = Resolver(known).run(request, 0)
        info = imported and {
            "network": "resnet14",
            "weights": imported.weights,
            "identity": imported.identity,
        }
        finished(store, old.key, old.order(), method="ofd", teacher_info=info)
        assert find_stale(store, Resolver(known)) == find_stale(store, Resolver()) == StaleRuns()
    for resolver in (Resolver(known), Resolver()):
        assert reasons(find_stale(store, resolver)) == {old.key: Reason.OLD_KEY}
        assert not store.is_done(resolver.run(request, 0).key), "the run has to be trained again"


def test_unfinished_runs_are_removed_on_request_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.path(OLD_KEY)).mkdir(parents=True)
    (store.path(OLD_KEY) / "checkpoint.pt").write_bytes(b"x")
    assert find_stale(store, Resolver()) == StaleRuns()
    (verdict,) = find_stale(store, Resolver(), include_unfinished=True).to_remove
    assert verdict.reason is Reason.UNFINISHED and verdict.why == "unfinished"
    claim = store.claim(OLD_KEY)
    assert claim is not None
    assert remove(store, verdict) is Reason.BUSY
    claim.release()
    assert remove(store, verdict) is None and not store.path(OLD_KEY).exists()


@pytest.mark.parametrize(
    ("target", "unknown"),
    [("folder:mine", ""), ("cifar10", ""), ("", ""), ("nonsense", "data set 'nonsense'")],
)
def test_a_target_of_a_measure_is_known_by_the_rule_of_data_sets(target: str, unknown: str) -> None:
    order = {**small_run("kd").order(), "measure": {"name": "knn", "settings": {}, "target": target}}
    assert unknown_name(order) == unknown
