"""Two commands on one results folder: the second waits for what the first has, and then goes on."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_kit import small_run

from benchmark.__main__ import main
from benchmark.spec.plan import Pack, make_plan
from benchmark.spec.runs import Run
from benchmark.training.execution import ExecutionRequest
from benchmark.training.reporter import Outcome, Reporter, Status
from benchmark.work import local, waiting
from benchmark.work.order import WorkSettings
from results.holders import STALE_SECONDS
from results.store import Store

TINY = {"recipe__train_images": 16, "recipe__test_images": 10, "recipe__epochs": 1}
STUDENT = small_run("kd", teacher="resnet8", student="resnet8x4", **TINY)
(TEACHER,) = STUDENT.needs_runs
OTHER = small_run("plain", student="resnet8x4", **TINY)


class Notes(Reporter):
    """Keeps the lines for the user. then: called once, when the first one begins with `waiting for`."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.lines: list[str] = []
        self._then = then

    def note(self, text: str) -> None:
        self.lines.append(text)
        if text.startswith("waiting for") and sum(x.startswith("waiting for") for x in self.lines) == 1:
            self._then()


def run(folder: Path, notes: Reporter, wait: bool = True) -> dict[str, tuple[str, str]]:
    """Run all three, and return status and reason by key."""
    settings = WorkSettings(
        results=folder, data=folder, execution=ExecutionRequest(device="cpu", precision="fp32", threads=1)
    )
    plan = make_plan([STUDENT, OTHER], Store(folder))
    return {o.run.key: (o.status, o.reason) for o in local.run_plan(plan, settings, notes, wait=wait)}


def claim_elsewhere(folder: Path, run: Run) -> Path:
    """Claim a run for a living process on another machine."""
    path = folder / run.key / "claim"
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps({"token": "t", "host": "node7", "pid": 9, "started": "1", "time": time.time()})
    )
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the training of a pack by claiming it and writing records. Returns the keys as it goes."""
    trained: list[str] = []

    def train(run: Run, store: Store) -> Outcome:
        if store.is_done(run.key):
            return Outcome(run, Status.DONE)
        if not all(store.is_done(needed.key) for needed in run.needs_runs):
            return Outcome(run, Status.BLOCKED)
        claim = store.claim(run.key)
        if claim is None:
            return Outcome(run, Status.BUSY)
        if not store.is_done(run.key):
            time.sleep(0.03)
            trained.append(run.key)
            store.write_record(run.key, record(run))
        claim.release()
        return Outcome(run, Status.DONE)

    monkeypatch.setattr(local, "train_pack", lambda runs, store, options: [train(r, store) for r in runs])
    return trained


def record(run: Run) -> dict[str, Any]:
    names = ("dataset", "protocol", "profile", "teacher", "student", "method", "seed")
    return {
        **{name: getattr(run, name) for name in names},
        "schema": 1,
        "key": run.key,
        "status": "done",
        "settings": run.settings,
    }


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)


def test_the_second_command_waits_and_goes_on(quick: list[str], tmp_path: Path) -> None:
    claim = claim_elsewhere(tmp_path, TEACHER)

    def finish() -> None:
        assert quick == [OTHER.key], "first it trains what needs no waiting"
        Store(tmp_path).write_record(TEACHER.key, record(TEACHER))
        claim.unlink()

    notes = Notes(finish)
    assert run(tmp_path, notes) == {r.key: ("done", "") for r in (TEACHER, STUDENT, OTHER)}
    assert quick == [OTHER.key, STUDENT.key]
    (line,) = (x for x in notes.lines if x.startswith("waiting for"))
    assert line.startswith(f"waiting for {TEACHER.key}: process 9 on node7 trains it since 20")
    assert "; 1 run here needs them" in line


def test_it_takes_over_when_the_first_dies(quick: list[str], tmp_path: Path) -> None:
    claim = claim_elsewhere(tmp_path, TEACHER)
    old = time.time() - STALE_SECONDS - 5
    notes = Notes(lambda: os.utime(claim, (old, old)))
    assert run(tmp_path, notes) == {r.key: ("done", "") for r in (TEACHER, STUDENT, OTHER)}
    assert notes.lines[-1] == "going on with 1 run that another process has left unfinished"


def test_a_failure_of_the_first_is_not_tried_again(quick: list[str], tmp_path: Path) -> None:
    claim, store = claim_elsewhere(tmp_path, TEACHER), Store(tmp_path)

    def fail() -> None:
        store.write_failure(TEACHER.key, "no memory", "", "")
        claim.unlink()

    outcomes = run(tmp_path, Notes(fail))
    assert outcomes[TEACHER.key] == ("failed", "no memory")
    assert outcomes[STUDENT.key][0] == "blocked" and outcomes[OTHER.key][0] == "done"


def test_a_needed_run_of_a_process_that_dies_meanwhile_blocks_nothing(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher was busy when its pack was tried. It is absent when its student's pack is tried."""
    claim, store, train_pack = claim_elsewhere(tmp_path, TEACHER), Store(tmp_path), local.train_pack

    def train_and_die(runs: list[Run], *more: object) -> object:
        outcomes = train_pack(runs, *more)  # type: ignore[arg-type]
        claim.unlink(missing_ok=True)
        return outcomes

    monkeypatch.setattr(local, "train_pack", train_and_die)
    outcomes = run(tmp_path, Notes(), wait=False)
    assert outcomes[STUDENT.key] == ("waiting", f"needs {TEACHER.key}, which is absent")
    assert store.failure(STUDENT.key) is None


def test_an_interruption_while_waiting_leaves_no_claim(quick: list[str], tmp_path: Path) -> None:
    claim = claim_elsewhere(tmp_path, TEACHER)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Notes(interrupt))
    assert list(tmp_path.rglob("claim")) == [claim]


def test_two_commands_share_the_work(quick: list[str], tmp_path: Path) -> None:
    """Each waits for the other's runs where it needs them, and nothing is trained twice."""
    results: list[dict[str, tuple[str, str]]] = []
    threads = [threading.Thread(target=lambda: results.append(run(tmp_path, Notes()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == [{r.key: ("done", "") for r in (TEACHER, STUDENT, OTHER)}] * 2
    assert sorted(quick) == sorted(r.key for r in (TEACHER, STUDENT, OTHER))


def test_no_wait_leaves_what_another_process_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["crd-table1", "--profile", "quick", "--pairs", "resnet56:resnet20", "--methods", "kd"]
    arguments += [*("--only", "none-resnet20"), *("--set", "recipe.train_images=32")]
    arguments += [*("--results", str(tmp_path), "--device", "cpu", "--precision", "fp32")]
    assert main(["plan", *arguments, "--list", "--json"]) == 0
    (planned,) = json.loads(capsys.readouterr().out)["plan_runs"]
    key = planned["key"]
    path = tmp_path / key / "claim"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"token": "t", "host": "node7", "pid": 9, "started": "1"}))
    assert main(["run", *arguments, "--no-wait"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2] == f"busy: {key}: process 9 on node7 trains it"
    assert lines[-1].startswith("1 run not trained here: 1 in another process, 0 that wait")


def test_what_cannot_be_a_claim_fails_its_run_alone(tmp_path: Path) -> None:
    (tmp_path / OTHER.key / "claim").mkdir(parents=True)
    outcomes = run(tmp_path, Notes())
    status, reason = outcomes[OTHER.key]
    assert status == "failed" and reason == (
        f"it cannot be claimed: {tmp_path / OTHER.key / 'claim'}: is not a file, so no claim; remove it"
    )
    assert outcomes[STUDENT.key] == ("done", "")


def test_a_run_that_a_worker_left_to_another_process_is_busy(tmp_path: Path) -> None:
    claim_elsewhere(tmp_path, OTHER)
    outcome = local._outcome(OTHER, Store(tmp_path), until=None)
    assert (outcome.status, outcome.reason) == ("busy", "process 9 on node7 trains it")
    assert waiting.trainable(Pack((OTHER,), 0), {}, Store(tmp_path)) == Pack((OTHER,), 0)
