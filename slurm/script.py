"""The batch script of an array: submitit's, with what a cluster file asks for."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from slurm.cluster import Cluster
from slurm.snapshot import settings

_THIS = '"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"'


class _Unsubmitted(SlurmExecutor):
    """Writes scripts where there is no Slurm (`--dry-run`)."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def _setup(cluster: Cluster, snapshot: Path) -> list[str]:
    return [
        *cluster.setup,
        f"cd {shlex.quote(str(snapshot))} || exit 1",
        f"export PYTHONPATH={shlex.quote(str(snapshot))}${{PYTHONPATH:+:$PYTHONPATH}}",
        *(f"export {name}={shlex.quote(value)}" for name, value in settings(snapshot).items()),
        f"export OMP_NUM_THREADS={cluster.cpus} MKL_NUM_THREADS={cluster.cpus}",
        f"export SRUN_CPUS_PER_TASK={cluster.cpus}",  # since 22.05 srun does not take it from sbatch
    ]


def _teardown(cluster: Cluster) -> list[str]:
    """A process killed by a signal (128 + n; 255 is submitit's exit after it requeued the job itself) is started again, a few times.
    An array's first element may have the array's own id, so an element is always named by both its numbers."""
    return [
        "code=$?",
        f"this={_THIS}; this=${{this:-$SLURM_JOB_ID}}",
        f'if [ $code -gt 128 ] && [ $code -lt 255 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {cluster.max_kills} ] '
        '&& [ "$(squeue -h -j "$this" -o %T)" = RUNNING ]; then',
        '    echo "the process was killed (exit code $code): starting again" >&2',
        '    scontrol requeue "$this"',
        "fi",
        "exit $code",
    ]


def parameters(cluster: Cluster, snapshot: Path, name: str, depends: Sequence[str]) -> dict[str, Any]:
    """submitit's parameters for an array of jobs."""
    wanted: dict[str, Any] = {
        "job_name": name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
        "mem": f"{cluster.memory_gb}GB" if cluster.memory_gb else "",
        "gpus_per_node": f"{cluster.gpu_type}:{cluster.gpus}".lstrip(":") if cluster.gpus else "",
        "dependency": f"afterany:{':'.join(depends)}" if depends else "",
    }
    return {
        **{k: v for k, v in wanted.items() if v},
        "time": cluster.time_minutes,
        "cpus_per_task": cluster.cpus,
        "ntasks_per_node": 1,
        "signal_delay_s": cluster.signal_delay_s,
        "array_parallelism": cluster.parallelism or 1_000_000,
        "wckey": cluster.wckey or None,
        "use_srun": cluster.srun,
        "srun_args": list(cluster.srun_args),
        "setup": _setup(cluster, snapshot),
        "teardown": _teardown(cluster),
        # a dependency that can no longer be met would leave its job pending for ever
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **cluster.extra},
    }


def executor(
    cluster: Cluster, folder: Path, snapshot: Path, name: str, depends: Sequence[str], real: bool = True
) -> SlurmExecutor:
    kind = SlurmExecutor if real else _Unsubmitted
    found = kind(
        folder,
        max_num_timeout=cluster.max_timeouts,
        python=shlex.quote(cluster.python) if cluster.python else None,
    )
    found.update_parameters(**parameters(cluster, snapshot, name, depends))
    return found


def text(
    cluster: Cluster, folder: Path, snapshot: Path, name: str, depends: Sequence[str], elements: int
) -> str:
    """The script as it would be submitted."""
    ex = executor(cluster, folder, snapshot, name, depends, real=False)
    if elements > 1:
        ex.parameters["map_count"] = elements
    return ex._make_submission_file_text(ex._submitit_command_str, "dry-run")


def send(
    cluster: Cluster,
    folder: Path,
    snapshot: Path,
    name: str,
    depends: Sequence[str],
    calls: Sequence[Callable[[], Any]],
) -> str:
    """Submits the calls as one array (a lone one as a job); returns the job id. Raises what sbatch's failure raises in submitit, and
    leaves no pickles then."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    try:
        ex = executor(cluster, folder, snapshot, name, depends)
        with warnings.catch_warnings(), ex.batch():
            warnings.simplefilter("ignore")
            jobs = [ex.submit(call) for call in calls]
    except BaseException:
        for path in set(folder.iterdir()) - before:
            path.unlink()
        raise
    return str(jobs[0].job_id).partition("_")[0]
