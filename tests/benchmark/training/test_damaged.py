"""A file of a run that cannot be read back fails that run with advice; other runs are trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from training_kit import FP32, small_run, train

from benchmark.errors import InputError
from benchmark.spec.plan import make_plan
from benchmark.spec.runs import Run
from benchmark.training import checkpoint
from benchmark.training.execution import ExecutionRequest
from benchmark.work.local import run_plan
from benchmark.work.order import WorkSettings
from results.store import Store, read_records


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with two teachers, and the teacher head of one."""
    folder = tmp_path_factory.mktemp("trained")
    train([small_run("kd", recipe__epochs=1)], folder)
    train([small_run("sskd", recipe__epochs=1)], folder)
    train([small_run("kd", "resnet8", "wrn_16_1", recipe__epochs=1)], folder)
    return folder


def outcomes(folder: Path, runs: list[Run], until: int | None = None) -> dict[str, tuple[str, str]]:
    """Train the runs; status and reason by key."""
    plan = make_plan(runs, Store(folder), skip_states=frozenset({"failed"}))
    fp32 = ExecutionRequest(device="cpu", precision="fp32", threads=1)
    settings = WorkSettings(results=folder, data=Path("data"), execution=fp32)
    return {o.run.key: (o.status, o.reason) for o in run_plan(plan, settings, until=until)}


def test_a_teacher_that_cannot_be_read_fails_its_own_students(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(trained, folder)
    store = Store(folder)
    bad, other = small_run("at", recipe__epochs=1), small_run("at", "resnet8", "wrn_16_1", recipe__epochs=1)
    teacher = bad.needs_runs[0]
    weights = store.path(teacher.key) / "last.pt"
    weights.write_bytes(weights.read_bytes()[:-200])
    results = outcomes(folder, [bad, other])
    status, reason = results[bad.key]
    assert (
        status == "failed"
        and "last.pt" in reason
        and f"remove {weights.parent}" in reason
        and "\n" not in reason
    )
    assert results[other.key] == ("done", "")
    shutil.rmtree(weights.parent)  # as the reason advises
    store.clear_failure(bad.key)
    assert outcomes(folder, [bad])[bad.key] == ("done", "")


def test_a_head_that_cannot_be_read_fails_its_own_students(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(trained, folder)
    store = Store(folder)
    bad, other = (
        small_run("sskd", "wrn_16_1", recipe__epochs=1),
        small_run("sp", "wrn_16_1", recipe__epochs=1),
    )
    state = store.path(bad.heads[0].key) / "state.pt"
    state.write_bytes(b"no archive")
    results = outcomes(folder, [bad, other])
    assert results[bad.key][0] == "failed" and f"remove {state.parent}" in results[bad.key][1]
    assert results[other.key] == ("done", "")


def test_a_checkpoint_that_cannot_be_read_is_set_aside(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(trained, folder)
    store = Store(folder)
    bad, other = small_run("pkt", recipe__epochs=2), small_run("rkd", recipe__epochs=2)
    assert outcomes(folder, [bad, other], until=1)[bad.key][0] == "stopped"
    path = store.path(bad.key) / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(checkpoint.Damaged, match="to train its run again"):
        checkpoint.load(path, FP32.torch_device)
    assert outcomes(folder, [bad, other]) == {bad.key: ("done", ""), other.key: ("done", "")}
    resumes = [(store.record(run.key) or {})["resumes"] for run in (bad, other)]
    assert resumes == [0, 1] and path.with_name("checkpoint.damaged.pt").stat().st_size == 1000


def test_a_run_that_was_blocked_by_its_teacher_is_planned_again(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(trained, folder)
    store = Store(folder)
    run = small_run("cc", recipe__epochs=1)
    teacher = run.needs_runs[0].key

    def planned_state() -> str:
        return make_plan([run], store, skip_states=frozenset({"failed"})).states[run.key]

    store.write_failure(run.key, f"needs {teacher}, which is absent", "", "now", blocked=True)
    assert planned_state() == "absent"
    store.write_failure(run.key, "ValueError: an error of the run itself", "", "now")
    assert planned_state() == "failed", "this failure is not due to the teacher"
    store.write_failure(run.key, f"needs {teacher}, which is failed", "", "now", blocked=True)
    assert outcomes(folder, [run])[run.key] == ("done", "")
    assert store.failure(run.key) is None


def test_an_unusable_record_is_kept_beside_the_new_one(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(trained, folder)
    store = Store(folder)
    run = small_run("kd", recipe__epochs=1)
    path = store.path(run.key) / "record.json"
    whole = path.read_text()
    assert store.is_done(run.key) and store.set_aside(run.key) is None
    for n, torn in enumerate((whole[:100], whole.replace('"schema": 1', '"schema": 0'))):
        path.write_text(torn)
        assert outcomes(folder, [run])[run.key] == ("done", "")
        assert store.is_done(run.key), "trained again"
        assert path.with_name(f"record.unusable{'-1' if n else ''}.json").read_text() == torn


def test_a_record_of_a_newer_version_is_neither_set_aside_nor_trained_over(
    trained: Path, tmp_path: Path
) -> None:
    """Its fields may be others, but its number says that it is a record."""
    folder = tmp_path / "runs"
    shutil.copytree(trained, folder)
    store, run = Store(folder), small_run("kd", recipe__epochs=1)
    path = store.path(run.key) / "record.json"
    path.write_text('{"schema": 2, "what": "unknown here"}')
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    message = f"{path}: a record of schema 2; this version of kd-tables knows up to 1: update kd-tables"
    for refuse in (lambda: make_plan([run], store), lambda: train([run], folder)):
        with pytest.raises(InputError) as refusal:
            refuse()
        assert str(refusal.value) == message
    assert store.record(run.key) is None and store.set_aside(run.key) is None
    _, (line,) = read_records(folder)
    assert line == message.replace(": a record", ": not a record of this folder's run (a record") + ")"
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
