"""Cluster files, and the messages without Slurm. Only two of these tests need Slurm."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from slurm_kit import ROOT, drill_runs

from benchmark.__main__ import main
from benchmark.errors import InputError
from benchmark.work.order import WorkSettings
from results.store import Store
from slurm import script
from slurm.cluster import Cluster, cluster_names, load_cluster
from slurm.commands import ClusterLimits
from slurm.script import ArraySpec
from slurm.submit import format_report, submit_runs

BROKEN = {
    'partition = "gpu"\npartitions = "x"': (
        "unknown field in broken.toml: 'partitions' (did you mean partition?)"
    ),
    'partition = "gpu"\nname = "x"': "unknown field in broken.toml: 'name'",
    'partition = "gpu"\ngpus = "two"': "gpus = 'two' has the wrong type; allowed: a whole number",
    'partition = "gpu"\ngpus = true': "gpus = True has the wrong type",
    'partition = "gpu"\nsetup = "module load"': "has the wrong type; allowed: a list of strings",
    'partition = "gpu"\nextra = 5': "extra = 5 has the wrong type; allowed: a TOML table",
    'partition = "gpu"\nextra = { nice = 5.5 }': "nice = 5.5 has the wrong type; allowed: a string, a whole",
    'partition = "gpu"\nextra = { requeue = false }': "extra contains requeue, but kd-tables sets it",
    'partition = "gpu"\nextra = { exclusive = false }': "exclusive = False has the wrong type; allowed: a",
    'partition = "gpu"\ntime_minutes = 0': "time_minutes = 0 is too small; allowed: 1 and more",
    'partition = "gpu"\ndevice = "tpu"': "unknown device = 'tpu'; allowed: auto, cuda, cpu",
    'partition = "gpu"\nstudent_threads = 0': "student_threads = 0 is too small; allowed: 1 and more",
    'partition = "gpu"\ncpus = 2\nstudent_threads = 3': "3 is too large; allowed: 1 to 2, the job's cpus",
    'partition = "gpu"\ntime_minutes = 4\nsignal_delay_s = 300': (
        "too large; allowed: less than time_minutes, which is 240 seconds"
    ),
    'partition = "gpu"\nextra = { time = "1" }': "extra contains time; use the field time_minutes instead",
    'partition = "gpu"\nextra = { "cpus-per-task" = "1" }': (
        "extra contains cpus-per-task; use the field cpus instead"
    ),
    'partition = "gpu"\nextra = { array = "0-3" }': (
        "extra contains array, but kd-tables sets it for every job, to follow the job; remove it"
    ),
    'partition = "gpu"\nextra = { "--time" = "1" }': "use the field time_minutes instead",
    'partition = "gpu"\nextra = { partit = "x" }': "extra contains partit; use the field partition instead",
    'partition = "gpu"\nextra = { t = "1" }': "extra contains t; write the long name of the option",
    'partition = "gpu"\nextra = { "-N" = "2" }': "extra contains -N; write the long name of the option",
    'partition = "gpu"\nextra = { "--" = "2" }': "extra contains '--', which is not the name of an option",
    'partition = "gpu"\nextra = { "nice=5 --x" = "" }': "which is not the name of an option of sbatch",
    'partition = "gpu"\nextra = { nodes = "2" }': ("extra contains nodes; use the field nodes instead"),
    'partition = "gpu"\nextra = { "cpus-per-gpu" = "2" }': "extra contains cpus-per-gpu; use the field cpus",
    'partition = "gpu"\nextra = { gpus = "2" }': "use the fields gpus and gpu_type instead",
    'partition = "gpu"\nextra = { gres = "lustre:1,gpu:h100:2" }': "the fields gpus and gpu_type for GPUs",
    'partition = "gpu"\nextra = { "mem-per-cpu" = "1G", mem_per_gpu = "1G" }': (
        "extra contains mem-per-cpu and mem-per-gpu; sbatch accepts only one of them"
    ),
    'partition = "gpu"\nextra = { comment = "a", "--comment" = "b" }': "extra contains comment twice",
    'partition = "gpu"\nextra = { comment = "a\\nrm -r x" }': "comment contains a line break or control char",
    'partition = "gpu"\naccount = "a\\u0007"': "account contains a line break or control character",
    'partition = "gpu"\nsetup = ["module load\\ncuda"]': "setup contains a line break or control character",
    'partition = "gpu"\nprocesses = 2': "processes = 2 is too large; allowed: 1 to 1, the GPUs of a node",
    'partition = "gpu"\nnodes = 2\nsrun = false': "srun = false starts one process; remove it",
    'partition = "gpu"\nsync_norms = true': "sync_norms is for several processes, and this job has one",
    "gpus = 1": "partition is missing; set it to",
    "partition = gpu": "not valid TOML",
}


def submit(folder: Path, cluster: str, *more: str) -> int:
    drill_runs(folder)
    return main(
        [
            "submit",
            str(folder / "drill.toml"),
            "--profile",
            "quick",
            "--results",
            str(folder / "results"),
            "--cluster",
            cluster,
            *more,
        ]
    )


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_gives_a_one_line_error(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text, encoding="utf-8")
    assert submit(tmp_path, str(path)) == 2
    output = capsys.readouterr()
    assert output.out == "" and len(output.err.splitlines()) == 1 and BROKEN[text] in output.err, output.err


def test_an_unknown_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(tmp_path, "labb") == 2
    assert (
        "unknown cluster 'labb' (did you mean lab?); allowed: gpu-example, lab, " in capsys.readouterr().err
    )


def test_an_unknown_partition(cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('partition = "gpus"', encoding="utf-8")
    assert submit(tmp_path, str(path)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert errors == [
        "error: unknown partition in mine.toml: 'gpus' (did you mean gpu?); allowed: gpu, spare"
    ]
    assert not (tmp_path / "results/.slurm/arrays").exists()


def test_a_refusal_of_sbatch_is_shown(
    cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('partition = "gpu"\ngpu_type = "h100"\ndevice = "cpu"', encoding="utf-8")
    assert submit(tmp_path, str(path)) == 2
    assert "error: Slurm refuses the jobs; correct mine.toml: " in capsys.readouterr().err
    assert list((tmp_path / "results/.slurm/arrays").iterdir()) == [] and not list(
        (tmp_path / "results/.slurm/jobs").rglob("*.pkl")
    )


def test_without_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit(tmp_path, "lab") == 2
    message = capsys.readouterr().err
    assert "no Slurm here: sbatch, " in message and "`run TABLE` trains on this machine" in message
    assert submit(tmp_path, "gpu-example", "--dry-run") == 0
    out = capsys.readouterr().out
    options = (
        "gpus-per-node=h100:1 account=my-group time=480 signal=USR2@120 cpus-per-task=8 mem=32GB array=0-1%2 "
        "mail-type=FAIL"
    )
    for option in options.split():
        assert f"#SBATCH --{option}" in out
    for line in (
        "10 runs in 3 jobs would be submitted to gpu-example",
        "module load cuda",
        "OMP_NUM_THREADS=8 MKL_NUM_THREADS=8",
        "--cpu-bind=none",
        "--dependency='afterany:<drill-",
    ):
        assert line in out
    assert "wckey" not in out and "GPU-hours" in out
    assert not (tmp_path / "results").exists(), "a dry run writes nothing"


def test_extra_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand in the script by their long names; memory of one's own replaces the default."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "mine.toml"
    path.write_text(
        'partition = "gpu"\nmemory_gb = 7\n'
        'extra = { "--mem-per-cpu" = "2G", exclusive = true, requ_eue = "x", nice = 5, gres = "lustre:1", '
        '"mail_type" = "FAIL", comment = "two words", hint = "true" }',
        encoding="utf-8",
    )
    cluster = load_cluster(str(path))
    spec = ArraySpec(cluster=cluster, folder=tmp_path, snapshot=tmp_path, name="x")
    options = [line for line in script.text(spec, 2).splitlines() if line.startswith("#SBATCH")]
    for option in ("mem-per-cpu=2G", "exclusive", "requ-eue=x", "nice=5", "gres=lustre:1", "mail-type=FAIL"):
        assert f"#SBATCH --{option}" in options
    assert "#SBATCH --comment='two words'" in options and "#SBATCH --hint" in options
    assert not any(option.startswith("#SBATCH --mem=") for option in options)
    plain = dataclasses.replace(cluster, extra={})
    assert "#SBATCH --mem=7GB" in script.text(dataclasses.replace(spec, cluster=plain), 2)


SBATCH_ERRORS = {
    "sbatch: error: Batch job submission failed: Requested node configuration is not available": (
        "Requested node configuration is not available"
    ),
    "sbatch: unrecognized option '--foo'\nTry \"sbatch --help\" for more information": (
        "unrecognized option '--foo'"
    ),
    "sbatch: error: Invalid --begin: soon\nsbatch: error: Invalid --begin: soon": "Invalid --begin: soon",
    "/usr/bin/sbatch: line 1: boom": "/usr/bin/sbatch: line 1: boom",
}


@pytest.mark.parametrize("stderr", SBATCH_ERRORS, ids=range(len(SBATCH_ERRORS)))
def test_the_cause_that_sbatch_gives_is_in_the_error_line(
    stderr: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a dry run too, which lets sbatch check the scripts."""
    (tmp_path / "message").write_text(stderr)
    for name, code in {
        "sbatch": f'#!/bin/sh\n/bin/cat >/dev/null; /bin/cat "{tmp_path}/message" >&2; exit 1\n',
        **dict.fromkeys(("srun", "squeue", "scontrol", "sinfo"), "#!/bin/sh\nexit 0\n"),
    }.items():
        (tmp_path / name).write_text(code)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(
        "slurm.commands.cluster_limits",
        lambda: ClusterLimits(max_array=100, max_jobs=100, accounting=False, partitions=("gpu",)),
    )
    cause = f"error: Slurm refuses the jobs; correct lab.toml: {SBATCH_ERRORS[stderr]}"
    for more in (("--dry-run",), ()):
        assert submit(tmp_path, "lab", *more) == 2
        errors = capfd.readouterr().err.splitlines()
        assert errors[-1] == cause and not any("sbatch: " in line for line in errors[:-1]), errors


def test_packs_fit_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower earlier packs were, the smaller packs are."""
    monkeypatch.setenv("PATH", str(tmp_path))
    runs, settings = drill_runs(tmp_path), WorkSettings(results=tmp_path / "results", data=tmp_path)
    jobs = [
        submit_runs(
            runs,
            "drill",
            Store(tmp_path / "results"),
            settings,
            load_cluster("lab"),
            dry_run=True,
            factor=factor,
        ).jobs
        for factor in (0.1, 1500.0, 1e8)
    ]
    assert jobs[0] == 3 < jobs[1] < jobs[2] == len(runs)


def test_array_parallelism(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = WorkSettings(results=tmp_path / "results", data=tmp_path)
    cluster = dataclasses.replace(load_cluster("lab"), parallelism=2)
    text = format_report(
        submit_runs(
            drill_runs(tmp_path),
            "drill",
            Store(tmp_path / "results"),
            settings,
            cluster,
            dry_run=True,
            max_pack=1,
        )
    )
    assert "#SBATCH --array=0-3%2" in text


def test_the_readme_describes_every_field() -> None:
    readme = (ROOT / "slurm/README.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(Cluster):
        assert field.name == "name" or f"`{field.name}`" in readme, field.name
    for name in cluster_names():
        load_cluster(name)


def test_a_path_without_toml_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_cluster("../lab")
