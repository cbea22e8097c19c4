"""The registry, the snapshot and the states of runs. These tests need no Slurm."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_kit import ROOT, drill_runs

import models
from benchmark import methods
from benchmark.cli import status
from benchmark.errors import InputError
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request
from benchmark.training.execution import ExecutionRequest
from benchmark.work.order import WorkSettings, work_order
from results.store import Store, record_files
from slurm import commands, registry, script, snapshot
from slurm.cluster import load_cluster
from slurm.commands import QueuedJob
from slurm.registry import JobArray
from slurm.state import cancel
from slurm.submit import run_states


def array(name: str, job: str = "7", depends: tuple[str, ...] = ()) -> JobArray:
    return JobArray(
        name=name,
        table="t",
        cluster="lab",
        folder="/nowhere",
        packs=(("a", "b"), ("c",)),
        depends=depends,
        job=job,
        time=float(len(name)),
    )


def test_arrays_are_written_and_read(tmp_path: Path) -> None:
    registry.write_array(tmp_path, array("one", depends=("3_1",)))
    (tmp_path / ".slurm/arrays/damaged.json").write_text("{")
    (tmp_path / ".slurm/arrays/foreign.json").write_text('{"packs": []}')
    assert registry.read_arrays(tmp_path) == [array("one", depends=("3_1",))]
    assert registry.last_job(tmp_path, "c") == ("7_1", Path("/nowhere/7_1_0_log.err"))
    registry.remove_array(tmp_path, array("one"))
    assert registry.read_arrays(tmp_path) == []


@pytest.mark.parametrize("job", ["7", ""], ids=["with its id", "its submitter died before it wrote the id"])
def test_runs_in_the_queue(job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = [
        QueuedJob("7_0", "one", "RUNNING", "node1", "None", "me"),
        QueuedJob("8_1", "else", "PENDING", "", "Priority", "me"),
    ]
    monkeypatch.setattr(commands, "squeue", lambda names: [q for q in queue if q.name in names])
    registry.write_array(tmp_path, array("one", job))
    assert registry.queue_lines(tmp_path) == {"a": "7_0 RUNNING on node1", "b": "7_0 RUNNING on node1"}


def test_only_one_process_submits_at_a_time(tmp_path: Path) -> None:
    notices: list[str] = []
    with registry.submission_lock(tmp_path):
        waiting = threading.Thread(
            target=lambda: registry.submission_lock(tmp_path, notices.append).__enter__()
        )
        waiting.start()
        with (
            pytest.raises(InputError, match="has been submitting into"),
            registry.submission_lock(tmp_path, patience=0.1),
        ):
            pass
        while not notices:
            time.sleep(0.01)
        assert waiting.is_alive() and "is submitting into" in notices[0]
    waiting.join(timeout=20)
    assert not waiting.is_alive()


def test_the_registry_contains_no_records(tmp_path: Path) -> None:
    for folder in ("a/b", ".slurm/snapshots/x"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "record.json").write_text("{}")
    assert list(record_files(tmp_path)) == [tmp_path / "a/b/record.json"]


def test_snapshots(tmp_path: Path) -> None:
    one, same = snapshot.take(tmp_path), snapshot.take(tmp_path)
    assert (
        one == same
        and (one / "benchmark/training/pack.py").read_bytes()
        == (ROOT / "benchmark/training/pack.py").read_bytes()
    )
    assert (one / "slurm/job.py").exists() and not list(one.rglob("__pycache__"))
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    assert (one / "benchmark/COMMIT").read_text().split()[0] == (git or "unknown")
    other = tmp_path / "root"
    for path in snapshot.code_files():
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        (other / path).write_bytes((ROOT / path).read_bytes())
    assert snapshot.take(tmp_path, other) == one
    (other / "benchmark/training/pack.py").write_text("edited")
    assert snapshot.take(tmp_path, other) != one


@pytest.mark.parametrize("change", ["edited", "removed", "added", "another commit"])
def test_a_changed_snapshot_is_not_used_again(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one with an additional module, which jobs would import: the snapshot is first in their path."""
    monkeypatch.setattr(snapshot, "PACKAGES", ("slurm",))
    notes: list[str] = []
    one = snapshot.take(tmp_path / "s", note=notes.append)
    cache = one / "slurm" / "__pycache__" / "job.cpython-311.pyc"
    cache.parent.mkdir()
    cache.touch()  # left by a job
    assert snapshot.take(tmp_path / "s", note=notes.append) == one and not notes
    name = {"added": "torch.py", "another commit": "benchmark/COMMIT"}.get(change, "slurm/job.py")
    if change == "removed":
        (one / name).unlink()
    else:
        with (one / name).open("a") as file:
            file.write("#")
    other = snapshot.take(tmp_path / "s", note=notes.append)
    assert other == one.with_name(f"{one.name}-1") and len(notes) == 1
    assert notes[0].startswith(f"{one / name} is not as it was made; ")
    assert (other / "slurm/job.py").read_bytes() == (ROOT / "slurm/job.py").read_bytes()
    assert snapshot.take(tmp_path / "s") == other


def test_user_methods_are_in_the_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a relative KD_METHODS; later edits do not reach the snapshot."""
    mine = tmp_path / "mine" / "toy.py"
    mine.parent.mkdir()
    mine.write_text(
        "from benchmark.methods import Method\n"
        "class Toy(Method):\n    name = 'toy'\n    title = 'as submitted'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_METHODS", "mine")
    copy = snapshot.take(tmp_path / "snapshots")
    spec = script.ArraySpec(
        cluster=load_cluster("lab"), folder=tmp_path / "jobs", snapshot=copy, name="t", depends=()
    )
    text = script.text(spec, 1)
    line = next(x for x in text.splitlines() if x.startswith("export KD_METHODS="))
    mine.write_text("raise RuntimeError('edited after the submission')")
    code = 'from benchmark import methods; print(methods.get("toy").title)'
    show = f"{line}; cd {copy} && {sys.executable} -c '{code}'"
    assert subprocess.run(["bash", "-c", show], capture_output=True, text=True).stdout == "as submitted\n"
    assert snapshot.take(tmp_path / "snapshots") != copy
    monkeypatch.delenv("KD_METHODS")
    assert "KD_METHODS" not in script.text(spec, 1)


def test_every_kind_of_plug_in_is_in_the_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in (("KD_METHODS", "old"), ("KD_PLUGINS", "new")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    for name in ("net.py", "long.toml", "notes.txt"):
        (tmp_path / "new" / name).write_text(f"# {name}\n")
    copy = snapshot.take(tmp_path / "snapshots")
    variables = snapshot.environment_variables(copy)
    assert variables.keys() == {"KD_METHODS", "KD_PLUGINS"}
    assert sorted(p.name for p in Path(variables["KD_PLUGINS"]).iterdir()) == ["long.toml", "net.py"]
    (tmp_path / "new" / "long.toml").write_text("# edited\n")
    assert snapshot.take(tmp_path / "snapshots") != copy


def test_a_job_trains_with_the_plug_ins_of_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's process: a network by hooks, a data set, a protocol and a teacher, after the folder is gone."""
    page = (ROOT / "docs" / "add-your-own.md").read_text(encoding="utf-8")
    folder = tmp_path / "plugins"
    folder.mkdir()
    for name, text in re.findall(r"```\w+\n# plugins/(\S+)\n(.*?)```", page, re.DOTALL):
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "teachers.toml").write_text(
        '[[teachers]]\nnetwork = "TinyNet"\ndataset = "parity"\nfile = "../tiny.pth"\n', encoding="utf-8"
    )
    monkeypatch.setenv("KD_PLUGINS", str(folder))
    methods.clear_cache()
    try:
        models.save_weights(models.build("TinyNet", 2), tmp_path / "tiny.pth")
        small = {"train_images": 16, "test_images": 8, "epochs": 1, "batch_size": 8}
        overrides = tuple(sorted((f"recipe.{k}", v) for k, v in small.items()))
        run = Resolver().run(
            Request("parity", "long", "short", "TinyNet", "shufflenet_tv", "mse", overrides), 0
        )
        settings = WorkSettings(
            results=tmp_path / "r",
            data=tmp_path,
            accept_weak_teacher=True,
            execution=ExecutionRequest(device="cpu", threads=1),
        )
        order = work_order([run], settings)
        copy = snapshot.take(tmp_path / "snapshots")
        variables = snapshot.environment_variables(copy)
    finally:
        methods.clear_cache()
    shutil.rmtree(folder)
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", "work", "-"],
        input=order,
        cwd=copy,
        env={**os.environ, **variables, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Store(tmp_path / "r").is_done(run.key)


def test_run_states(tmp_path: Path) -> None:
    """Students of a failed teacher are blocked; a run that only lacked its teacher counts as absent."""
    runs, store = drill_runs(tmp_path), Store(tmp_path / "results")
    teachers = {r.student: r for r in runs if r.teacher == "none"}
    students = {(r.student, r.method): r for r in runs if r.teacher != "none"}
    store.write_failure(teachers["resnet14"].key, "ValueError: no", "", "now")
    store.write_failure(students["resnet8", "at"].key, "needs x, which is failed", "", "now", blocked=True)
    store.write_failure(students["wrn_16_1", "at"].key, "needs x, which is absent", "", "now", blocked=True)
    store.write_failure(students["wrn_16_1", "sp"].key, "ValueError: no", "", "now")
    states = run_states(runs, store, {teachers["wrn_16_2"].key: "queued"})
    assert states[teachers["resnet14"].key] == "failed" and states[teachers["wrn_16_2"].key] == "queued"
    assert {states[students["resnet8", m].key] for m in ("kd", "at", "sp")} == {"blocked"}
    assert [states[students["wrn_16_1", m].key] for m in ("kd", "at", "sp")] == ["absent", "absent", "failed"]


def test_status_tells_starting_and_cancelled_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = drill_runs(tmp_path)[:3]
    first, second, third = (run.key for run in runs)
    pack = replace(array("one"), packs=((first,), (second,), (third,)))
    registry.write_array(tmp_path, pack)
    queue = [QueuedJob(f"7_{i}", "one", "RUNNING", "node1", "None", "me") for i in range(2)]
    queue.append(QueuedJob("7_2", "one", "PENDING", "", "Priority", "me"))
    monkeypatch.setattr(commands, "squeue", lambda names: queue)
    ended: list[str] = []
    monkeypatch.setattr(commands, "scancel", ended.extend)
    store = Store(tmp_path)
    store.write_failure(second, "out of memory", "", "2026-01-01")

    def states() -> list[str]:
        return list(status.status_rows(runs, store)[1].values())

    assert states() == ["starting", "failed", "queued"]
    rows = status.status_rows(runs, store)[0]
    assert sum(row["starting"] for row in rows) == 1 and "7_0 RUNNING on node1" in status.format_status(rows)
    assert cancel(store, {first}).ids == ("7_0",) == tuple(ended)
    del queue[0]
    assert states() == ["cancelled", "failed", "queued"]
    assert not status.lost_jobs(dict(zip((first, second, third), states(), strict=True)), store)
    registry.write_array(tmp_path, replace(array("later", job="9"), packs=((first,),), time=99.0))
    assert states()[0] == "absent", "it was submitted again, and that job was not cancelled"
