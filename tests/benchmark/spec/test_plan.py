"""The plan: packs and their order."""

from __future__ import annotations

from pathlib import Path

from training_kit import small_run

from benchmark.spec import plan
from results.store import Store


def test_a_plan_has_a_pack_for_each_seed_after_the_teacher_and_its_head(tmp_path: Path) -> None:
    runs = [small_run(m, seed=s) for m in ("kd", "at", "sskd") for s in (0, 1)]
    planned = plan.make_plan(runs, Store(tmp_path))
    assert [len(p.runs) for p in planned.packs] == [1, 1, 3, 3], "teacher; its head; a pack for each seed"
    assert [p.level for p in planned.packs] == [0, 1, 2, 2] and planned.levels == 3
    numbers = plan.summary(planned, "cpu")
    assert (numbers["runs"], numbers["missing"], numbers["packs"]) == (8, 8, 4) and numbers["hours"] >= 0
    assert numbers["states"] == {"absent": 8}


def test_packs_are_split_by_number_and_by_time() -> None:
    runs = [small_run(m) for m in ("kd", "at", "sp", "pkt")]

    def sizes(**limits: object) -> list[int]:
        return [len(p.runs) for p in plan.make_plan(runs, None, **limits).packs]  # type: ignore[arg-type]

    assert sizes() == [1, 4], "the teacher; its students"
    assert sizes(max_pack=3) == [1, 2, 2], "even parts"
    assert sizes(max_seconds=1, seconds_of=len) == [1, 1, 1, 1, 1]


def test_a_blocked_run_is_planned_again_once_nothing_it_needs_has_failed(tmp_path: Path) -> None:
    store, run = Store(tmp_path), small_run("kd")
    (teacher,) = run.needs_runs
    store.write_failure(run.key, "its teacher failed", "", "now", blocked=True)
    store.write_failure(teacher.key, "out of memory", "", "now")
    skip = frozenset({"failed"})
    assert plan.make_plan([run], store, skip_states=skip).missing == ()
    store.clear_failure(teacher.key)
    assert plan.make_plan([run], store, skip_states=skip).missing == (teacher, run)
