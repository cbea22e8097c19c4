"""A begun run goes on as it was begun, whatever is asked and whatever it is packed with; or it is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_kit import refused
from training_kit import FP32, SMALL_OPTIONS, small_run, train, weights

from benchmark import methods
from benchmark.errors import InputError
from benchmark.spec.plan import make_plan
from benchmark.spec.runs import Run
from benchmark.training import begun, checkpoint, kept_weights, parts
from benchmark.training.execution import Execution, ExecutionRequest
from benchmark.training.reporter import Reporter
from benchmark.work.checks import require_trainable
from benchmark.work.order import WorkSettings, work, work_order
from results.store import Store
from slurm.cluster import load_cluster
from slurm.submit import submit_runs

BF16, TWO_THREADS = replace(FP32, precision="bf16"), replace(FP32, threads=2)
BEGUN = {"kd": FP32, "at": BF16}
"""The executions in which the runs of `interrupted` were begun. The run of pkt is not begun."""


class Notes(Reporter):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a teacher, and its students after one of two epochs."""
    folder = tmp_path_factory.mktemp("begun")
    for method, execution in BEGUN.items():
        assert [o.status for o in train([small_run(method)], folder, execution, until=1)] == ["stopped"]
    return folder


@pytest.fixture(scope="module")
def whole(interrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs, each trained alone and without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    teacher = small_run("kd").needs_runs[0].key
    shutil.copytree(interrupted / teacher, folder / teacher)
    for method, execution in BEGUN.items():
        assert [o.status for o in train([small_run(method)], folder, execution)] == ["done"]
    return folder


@pytest.fixture
def folder(interrupted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(interrupted, tmp_path / "runs"))


def record(folder: Path, run: Run) -> dict[str, Any]:
    found = Store(folder).record(run.key)
    assert found is not None
    return found


# --- precision and threads --------------------------------------------------------------------------------


def check_conditions(runs: list[Run], asked: Execution, folder: Path, whole: Path) -> None:
    """Check that each run was trained as it was begun, a new one as it was asked for."""
    executions = [BEGUN.get(run.method, asked) for run in runs]
    for run, execution in zip(runs, executions, strict=True):
        conditions = execution.precision, execution.threads, executions.count(execution)
        assert tuple(record(folder, run)[f] for f in ("precision", "threads", "pack")) == conditions
        if run.method in BEGUN:
            assert weights(run, folder) == weights(run, whole), run.method


@pytest.mark.parametrize(("asked", "order"), [(FP32, "kd at pkt"), (TWO_THREADS, "at kd")])
def test_each_run_of_a_pack_goes_on_as_it_was_begun(
    folder: Path, whole: Path, asked: Execution, order: str
) -> None:
    runs, notes = [small_run(method) for method in order.split()], Notes()
    assert {o.status for o in train(runs, folder, asked, reporter=notes)} == {"done"}
    check_conditions(runs, asked, folder, whole)
    others = [run for run in runs if BEGUN.get(run.method, asked) != asked]
    assert len(notes.lines) == len(others)
    for line, run in zip(notes.lines, others, strict=True):
        assert line == f"going on in {BEGUN[run.method].precision}, 1 thread, as begun: {run.key}"


def test_a_worker_trains_each_run_of_its_order_as_it_was_begun(folder: Path, whole: Path) -> None:
    """Also those that were begun after the order was written."""
    runs = [small_run("at"), small_run("kd")]
    request = ExecutionRequest(device="cpu", precision="fp32", threads=1)
    order = work_order(runs, WorkSettings(results=folder, data=Path("data"), execution=request))
    assert [o.status for o in work(order)] == ["done", "done"]
    check_conditions(runs, FP32, folder, whole)


def packs_of(planned: list[list[str]]) -> set[frozenset[str]]:
    """Return the packs as sets of methods."""
    return {frozenset(key.split("/")[-2] for key in pack) for pack in planned}


def test_a_plan_packs_begun_runs_with_those_that_are_trained_alike(folder: Path) -> None:
    runs, store = [small_run(m) for m in (*BEGUN, "pkt")], Store(folder)

    def packs(asked: Execution) -> set[frozenset[str]]:
        planned = make_plan(runs, store, conditions_of=begun.conditions_of(store, asked))
        return packs_of([[r.key for r in pack.runs] for pack in planned.packs])

    assert packs(FP32) == {frozenset({"kd", "pkt"}), frozenset({"at"})}
    assert packs(BF16) == {frozenset({"kd"}), frozenset({"at", "pkt"})}
    assert packs(TWO_THREADS) == {frozenset({"kd"}), frozenset({"at"}), frozenset({"pkt"})}
    cluster = replace(load_cluster("lab"), cpus=1, precision="fp32")
    settings = WorkSettings(results=folder, data=Path("data"))
    report = submit_runs(runs, "t", store, settings, cluster, dry_run=True)
    submitted = [[r.key for r in pack.runs] for a in report.arrays for pack in a.packs]
    assert packs_of(submitted) == packs(FP32)


def test_another_device_is_taken_as_asked_and_recorded(interrupted: Path) -> None:
    part = {"device": "cuda", "precision": "bf16", "threads": 8, "student_threads": None}
    assert begun.execution_for(part, FP32) == replace(FP32, precision="bf16"), "threads are those of a CPU"
    assert begun.execution_for(None, FP32) == FP32
    unset = replace(FP32, threads=0)
    same = {"device": "cpu", "precision": "fp32", "threads": torch.get_num_threads(), "student_threads": 1}
    assert begun.execution_for(same, unset) == unset, "packed with runs that are not begun"


# --- parts ------------------------------------------------------------------------------------------------


def test_a_record_lists_its_parts(folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One part for all that was trained alike. The file of a built-in method may change."""
    run = small_run("kd")
    monkeypatch.setattr(methods.get("kd"), "source", "edited")
    train([run], folder)
    (one,) = record(whole, run)["parts"]
    assert (one["from"], one["to"]) == (1, 2)
    assert one["torch"] == torch.__version__ and (one["precision"], one["threads"]) == ("fp32", 1)
    assert one["learns_from"] == {"teacher": record(folder, run.needs_runs[0])["weights"]["last"]}
    first, second = record(folder, run)["parts"]
    assert first == {**one, "to": 1} and second == {**one, "from": 2, "sources": {"kd": "edited"}}


def test_parts_are_extended_and_begun_anew() -> None:
    one, two = {"torch": "1"}, {"torch": "2"}
    listed = parts.extended([], one, 1)
    assert listed == [{"from": 1, "to": 1, **one}]
    assert parts.extended(listed, two, 1) == listed, "nothing was trained yet"
    listed = parts.extended(parts.extended(listed, one, 3), two, 4)
    assert listed == [{"from": 1, "to": 3, **one}, {"from": 4, "to": 4, **two}]


MINE = """
from benchmark.methods.base import Method, MethodConfig, Needs
class Mine(Method):
    name = "mine"
    weights = classmethod(lambda cls, config: {"mine": 1.0})
    def loss(self, step):
        return {"mine": step.student.logits.square().mean()}
"""
TABLE = """
title = "T"
paper = "p"
table = "t"
dataset = "digits"
protocol = "crd"
seeds = 1
columns = ["none:resnet8"]
[[rows]]
label = "Mine"
method = "mine"
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """`write(text)` makes a user method of it, in methods/mine.py, and returns the hash of its file."""
    file = tmp_path / "methods" / "mine.py"
    file.parent.mkdir()
    monkeypatch.setenv("KD_METHODS", str(file.parent))

    def write_method(text: str) -> str:
        file.write_text(text)
        methods.clear_cache()
        return methods.get("mine").source

    yield write_method
    monkeypatch.undo()
    methods.clear_cache()


def test_a_run_does_not_go_on_with_an_edited_method(
    tmp_path: Path, write: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    table, results, edited = tmp_path / "t.toml", tmp_path / "runs", MINE.replace("square", "abs")
    table.write_text(TABLE)

    def runs() -> list[Run]:
        return [small_run(method, recipe__epochs=3) for method in ("mine", "label_smoothing")]

    first = write(MINE)
    mine, other = runs()
    assert {o.status for o in train([mine, other], results, until=1)} == {"stopped"}
    path = results / mine.key / "checkpoint.pt"
    saved, second = path.read_bytes(), write(edited)
    few = [*SMALL_OPTIONS, "--set=recipe.epochs=3"]
    line = refused(["run", str(table), "--profile=quick", f"--results={results}", *few], capsys)
    file = tmp_path / "methods" / "mine.py"
    for part in (mine.key, "method mine", f"put {file} back", f"remove {path.parent}", "--accept-edit"):
        assert part in line
    # a worker whose runs were edited after its start fails those alone
    assert [o.status for o in train(runs(), results, until=2)] == ["failed", "stopped"]
    assert path.read_bytes() == saved and "method mine" in Store(results).failure(mine.key)["reason"]  # type: ignore[index]
    write(MINE)
    assert [o.status for o in train(runs()[:1], results, until=2)] == ["stopped"], "put back as it was"
    write(edited)
    settings = WorkSettings(results=results, data=Path("data"), accept_edit=True)
    assert [o.status for o in work(work_order(runs(), settings))] == ["done", "done"]
    listed = record(results, mine)["parts"]
    assert [(p["from"], p["to"], p["sources"]["mine"]) for p in listed] == [(1, 2, first), (3, 3, second)]


def test_files_that_a_user_method_imports_are_among_its_sources(
    tmp_path: Path, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = tmp_path / "methods"
    monkeypatch.syspath_prepend(str(helpers))
    (helpers / "_kd_test_first.py").write_text("import _kd_test_second\ndef f(): pass\n")
    (helpers / "_kd_test_second.py").write_text("x = 1\n")
    write("import json\nfrom _kd_test_first import f\n" + MINE)
    run = small_run("mine")
    sources = parts.sources(run)
    assert set(sources) == {"mine", "mine/_kd_test_first.py", "mine/_kd_test_second.py"}
    assert parts.edited_method(run, {"sources": sources}) is None
    assert parts.edited_method(run, {"precision": "fp32"}) is None, "unknown in checkpoints of older versions"
    earlier = {**sources, "mine/_kd_test_second.py": "0123456789"}
    assert parts.edited_method(run, {"sources": earlier}) == ("mine", "_kd_test_second.py")
    for name in ("_kd_test_first", "_kd_test_second"):
        del sys.modules[name]


def test_a_run_does_not_go_on_with_another_teacher(folder: Path) -> None:
    """The teacher was removed and trained again, and its weights differ, as they may on a GPU."""
    run, store = small_run("kd"), Store(folder)
    (teacher,) = run.needs_runs
    other = store.record(teacher.key)
    assert other is not None
    store.write_record(teacher.key, {**other, "weights": {"last": "0123456789abcdef"}})
    with pytest.raises(InputError, match=f"{run.key}: its teacher was trained again .* --accept-edit"):
        require_trainable([run], store, accept_edit=False)
    assert not begun.is_damaged(run, store)
    claim = store.claim(run.key)
    assert claim is not None
    with pytest.raises(InputError, match=r"last\.pt is damaged"):  # in the test it was not really trained
        require_trainable([run], store, accept_edit=False)
    claim.release()


def test_a_refusal_needs_a_checkpoint_that_is_whole(folder: Path) -> None:
    """A flipped bit in the hash of the teacher does not mean that the teacher has changed."""
    run, store = small_run("kd"), Store(folder)
    part, path = begun.last_part(run, store), folder / run.key / "checkpoint.pt"
    assert part is not None
    weights_hash = part["learns_from"]["teacher"].encode()
    path.write_bytes(path.read_bytes().replace(weights_hash, b"0" * len(weights_hash)))
    assert begun.refusal(run, store, begun.last_part(run, store)) and begun.is_damaged(run, store)
    require_trainable([run], store, accept_edit=False)


# --- checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["a bit", "the conditions", "the half", "the end"])
def test_a_damaged_checkpoint_is_set_aside(folder: Path, damage: str) -> None:
    run, store, notes = small_run("kd"), Store(folder), Notes()
    path = folder / run.key / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        content[len(content) // 2] ^= 1
    elif damage == "the conditions":
        content = content.replace(b'"precision": "fp32"', b'"precision": "bf16"')
    else:
        del content[len(content) // 2 if damage == "the half" else -200 :]
    assert begun.usable_part(run, store, notes.note) == begun.last_part(run, store) and not notes.lines
    path.write_bytes(content)
    assert begun.usable_part(run, store, notes.note) is None
    aside = path.with_name("checkpoint.damaged.pt")
    assert aside.read_bytes() == content and not path.exists() and len(notes.lines) == 1
    assert f"{aside}: this checkpoint is damaged" in notes.lines[0] and "begins again" in notes.lines[0]
    path.write_bytes(content)
    begun.usable_part(run, store, notes.note)
    assert aside.read_bytes() == path.with_name("checkpoint.damaged-1.pt").read_bytes()


def test_a_run_whose_checkpoint_is_damaged_begins_again_as_asked(folder: Path, whole: Path) -> None:
    run = small_run("kd")
    path = folder / run.key / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert [o.status for o in train([run], folder)] == ["done"]
    assert weights(run, folder) == weights(run, whole) and record(folder, run)["resumes"] == 0


def test_a_checkpoint_of_an_older_version_goes_on(folder: Path, whole: Path) -> None:
    """It has neither a checksum nor parts. began.json knows the threads."""
    run, notes = small_run("at"), Notes()
    path = folder / run.key / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["parts"], state["best"][2]
    torch.save(state, path)
    assert [o.status for o in train([run], folder, TWO_THREADS, reporter=notes)] == ["done"]
    assert notes.lines[0].startswith(f"{path}: written by an older version, without a checksum")
    assert weights(run, folder) == weights(run, whole)
    first, second = record(folder, run)["parts"]
    assert (first["from"], first["to"], first["precision"], first["threads"]) == (1, 1, "bf16", 1)
    assert "sources" not in first and second["sources"]
    kept_weights.check_file(Store(folder), run.key, "best")


def test_a_checkpoint_that_is_whole_and_cannot_be_loaded_is_not_set_aside(folder: Path) -> None:
    """For example with a value of a method that `torch.load` refuses: its progress is not lost."""
    run = small_run("kd")
    path = folder / run.key / "checkpoint.pt"
    checkpoint.save(path, {"value": Path("x")})
    (outcome,) = train([run], folder)
    assert outcome.status == "failed" and "neither a tensor nor plain data" in outcome.reason
    assert path.exists() and not path.with_name("checkpoint.damaged.pt").exists()


def test_the_lines_after_a_checkpoint_can_be_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    assert checkpoint.about(path) is None and checkpoint.load(path, torch.device("cpu")) is None
    checksum = checkpoint.save(path, {"a": torch.arange(3)}, about={"precision": "bf16"})
    assert checkpoint.about(path) == {"precision": "bf16"} and checkpoint.check(path)
    content = path.read_bytes()
    *_, line, end = content.splitlines(keepends=True)
    assert json.loads(line) == {"precision": "bf16"}
    assert end.split()[0].decode() == checksum == hashlib.sha256(content[: -len(end)]).hexdigest()
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 1, 2]
    with pytest.raises(checkpoint.Damaged, match="not the one in the record"):
        checkpoint.load(path, torch.device("cpu"), checksum="0" * 64)
    path.write_bytes(content.replace(b"00000021", b"99999999"))
    assert checkpoint.about(path) is None


def test_a_checkpoint_that_cannot_be_read_stops_no_plan(tmp_path: Path) -> None:
    """It counts as none for a plan; its run fails alone when it is trained."""
    run, store = small_run("plain"), Store(tmp_path)
    (store.path(run.key) / "checkpoint.pt").mkdir(parents=True)
    assert begun.last_part(run, store) is None
    (outcome,) = train([run], tmp_path)
    assert outcome.status == "failed" and "checkpoint.pt" in outcome.reason
