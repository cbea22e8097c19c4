"""The command line: wrong input is one line and exit code 2, and the verbs work on a small table."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from pathlib import Path

import pytest

import models
from benchmark.__main__ import main, parser
from benchmark.spec import matrix
from benchmark.training.reporter import Outcome, Status
from benchmark.work import progress
from benchmark.work.progress import Lines
from results.store import Store

TABLE = """
title = "Miniature"
paper = "crd"
table = "table1"
dataset = "cifar100"
protocol = "crd"
seeds = 2
columns = ["resnet14:resnet8"]
[[rows]]
label = "Teacher"
method = "teacher"
[[rows]]
label = "Student"
method = "student"
[[rows]]
label = "KD"
method = "kd"
"""
FAST = [
    "--set",
    "recipe.train_images=32",
    "--set",
    "recipe.test_images=20",
    "--profile",
    "quick",
    "--threads",
    "1",
]


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "mini.toml"
    path.write_text(TABLE)
    return str(path)


WRONG = [
    ["run", "nope"],
    ["run", "crd-table1", "--methods", "nope"],
    ["run", "crd-table1", "--pairs", "resnet56:resnet8"],
    ["run", "crd-table1", "--pairs", "resnet56"],
    ["run", "crd-table1", "--profile", "nope"],
    ["run", "crd-table1", "--pairs", "nope:resnet20"],
    ["run", "crd-table1", "--set", "kd.nope=1"],
    ["run", "crd-table1", "--set", "kd.temperature=hot"],
    ["run", "crd-table1", "--seeds", "0"],
    ["run", "crd-table1", "--seeds", "x"],
    ["run", "crd-table1", "--only", "no-such-run"],
    ["run", "crd-table1", "--protocol", "nope"],
    ["run", "crd-table1", "--teachers", "no-such-folder"],
    ["run", "crd-table1", "--precision", "fp7"],
    ["run", "crd-table1", "--threads", "-1"],
    ["reproduce", "--paper", "nope"],
    ["methods", "nope"],
    ["diff", "crd-table1", "--fail-on", "never"],
    ["logs", "no-such-run"],
    ["nope"],
    [],
]


@pytest.mark.parametrize("argv", WRONG, ids=" ".join)
def test_wrong_input_is_one_line_and_exit_code_2(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESULTS", str(tmp_path / "runs"))
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    errors = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and len(errors) == 1 and errors[0].startswith("error: "), errors
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "name", ["THREADS", "STUDENT_THREADS", "SEEDS", "PROFILE", "PRECISION", "DEVICE", "KEEP", "TEACHER_CACHE"]
)
def test_a_wrong_variable_is_one_line_and_exit_code_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "nope")
    test_wrong_input_is_one_line_and_exit_code_2(
        ["run", "crd-table1", "--methods", "kd"], tmp_path, capsys, monkeypatch
    )


def bad_checkpoint(folder: Path, kind: str) -> None:
    folder.mkdir()
    path = folder / "resnet14.pth"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a checkpoint")
    else:
        models.save_weights(models.build("resnet20", 100), path)


@pytest.mark.parametrize("kind", ["empty", "text", "another network"])
def test_a_wrong_checkpoint_is_one_line_and_exit_code_2(
    kind: str, tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_checkpoint(tmp_path / "teachers", kind)
    assert (
        main(
            [
                "run",
                table,
                *FAST,
                "--results",
                str(tmp_path / "runs"),
                "--teachers",
                str(tmp_path / "teachers"),
            ]
        )
        == 2
    )
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and "resnet14.pth" in errors[0]


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    verbs = [
        "plan",
        "run",
        "status",
        "logs",
        "retry",
        "clean",
        "table",
        "diff",
        "report",
        "methods",
        "teachers",
        "published",
    ]
    for verb in verbs:
        with pytest.raises(SystemExit) as stop:
            parser().parse_args([verb, "--help"])
        assert stop.value.code == 0 and "usage" in capsys.readouterr().out


def test_help_names_output_folders_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    def text(verb: str) -> str:
        with pytest.raises(SystemExit):
            parser().parse_args([verb, "--help"])
        return " ".join(capsys.readouterr().out.split())

    assert (
        "default: tables/out" in text("table")
        and "default: tables/out" in text("reproduce")
        and "default: report" in text("report")
    )
    assert "else paper on a cluster with GPUs" in text("submit")
    assert "else paper with a GPU" in text("run")
    assert "the last N lines of each log (default: 40)" in text("logs")


def test_runs_that_an_interruption_left_unfinished_are_not_counted(
    table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = matrix.expand(matrix.load_table(table), "quick").runs[:2]
    lines = Lines()
    for ended, said in ((0, "  0 of 2 runs in "), (1, "  1 of 2 runs in "), (2, "  2 runs in ")):
        lines.begin(runs, 10, 0)
        lines.step("main", 1, 1, 64)
        for run in runs[:ended]:
            lines.outcome(run, Outcome(run, Status.DONE))
        capsys.readouterr()
        lines.end()
        assert capsys.readouterr().err.startswith(said)


def test_a_log_shows_progress_within_a_long_epoch(
    table: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch of the published schedule takes minutes on a CPU. Lines come less often as time passes."""
    clock = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    lines = Lines()
    lines.begin(matrix.expand(matrix.load_table(table), "quick").runs[:2], 10_100, steps_done=100)
    capsys.readouterr()
    times = []
    for second in range(1, 4001):
        clock = 1000.0 + second
        lines.step("main", 1, steps=1, images=64)
        if err := capsys.readouterr().err:
            times.append(second)
            last = err
    assert times[:2] == [60, 120] and times[-1] - times[-2] in range(350, 400)
    done = 100 + times[-1]
    left = (10_100 - done) / 3600
    assert last == f"  {done}/10100 steps, 64 student-images/s, about {left:.1f} h left; main epoch 1\n"


def test_run_status_logs_retry_and_clean_work_together(
    tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    folders = ["--results", str(runs)]
    assert main(["run", table, *FAST, *folders]) == 0
    assert main(["run", table, *FAST, *folders]) == 0
    assert "nothing to train: 3 runs done" in capsys.readouterr().err
    assert main(["status", table, *FAST[:6], *folders, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert sum(r["done"] for r in rows) == 3
    key = next(p.parent.relative_to(runs).as_posix() for p in runs.rglob("record.json") if "/kd/" in str(p))
    assert main(["logs", "resnet14:resnet8/kd", *folders]) == 0
    out = capsys.readouterr().out
    assert key in out and "top-1 last" in out
    # A failure is stored, its run is skipped, and `retry` forgets it.
    store = Store(runs)
    record = (store.path(key) / "record.json").read_text()
    (store.path(key) / "record.json").unlink()
    store.write_failure(key, "planted", "Traceback", "now")
    assert main(["run", table, *FAST, *folders]) == 1
    assert main(["retry", table, *FAST[:6], *folders]) == 0
    assert key in capsys.readouterr().out
    assert main(["run", table, *FAST, *folders]) == 0 and store.is_done(key)
    # `clean` lists an old key and removes it only with --yes; it never removes a damaged record.
    old = runs / f"{key[:-10]}{'0' * 10}"
    shutil.copytree(store.path(key), old)
    (old / "record.json").write_text(record.replace(key, old.relative_to(runs).as_posix()))
    damaged = runs / "digits" / "damaged"
    damaged.mkdir()
    (damaged / "record.json").write_text("{")
    assert main(["clean", *folders]) == 0 and old.exists()
    assert main(["clean", *folders, "--yes"]) == 0 and not old.exists()
    assert damaged.exists() and store.is_done(key)


def test_another_setting_is_another_run(tmp_path: Path, table: str) -> None:
    folders = ["--results", str(tmp_path)]
    assert main(["run", table, *FAST, *folders]) == 0
    assert main(["run", table, *FAST, *folders, "--set", "kd.temperature=8"]) == 0
    assert len(list(tmp_path.rglob("kd/*/record.json"))) == 2


def test_a_file_that_cannot_grow_is_one_line(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on a file's size acts like a full disk: writing a checkpoint fails half-way."""
    argv = ["run", table, *FAST, "--results", str(tmp_path / "full"), "--device", "cpu"]
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # Python ignores it from its start
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code = main([*argv, "--precision", "fp32"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    errors = capsys.readouterr().err
    assert code == 2 and "Traceback" not in errors, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'full'}") and last.endswith("File too large"), last


def test_plan_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "crd-table1", "--profile", "paper", "--results", str(tmp_path), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert (
        numbers["missing"] == numbers["runs"] > 400
        and numbers["gpu_hours"] > 0
        and numbers["packs"] < numbers["runs"] / 5
    )


def test_a_dry_run_needs_no_slurm(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run needs no Slurm. It fails if `submit` does not know a setting of its jobs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (
        main(
            [
                "submit",
                table,
                "--profile",
                "quick",
                "--results",
                str(tmp_path / "runs"),
                "--cluster",
                "lab",
                "--dry-run",
            ]
        )
        == 0
    )
    assert "3 runs in 2 jobs would be submitted to lab" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_submit_reads_the_same_environment_variables_as_run(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEEP", "none")
    for argv in (["run", table], ["submit", table, "--cluster", "lab"]):
        assert parser().parse_args(argv).keep == "none"
        assert parser().parse_args([*argv, "--keep", "all"]).keep == "all"
    monkeypatch.setenv("KEEP", "nope")
    test_wrong_input_is_one_line_and_exit_code_2(
        ["submit", table, "--cluster", "lab"], tmp_path, capsys, monkeypatch
    )
