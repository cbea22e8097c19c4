"""The batch script of an array: submitit's script with the options of a cluster file."""

from __future__ import annotations

import contextlib
import io
import shlex
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from slurm.cluster import Cluster
from slurm.extra import MEMORY_OPTIONS
from slurm.snapshot import environment_variables

_ARRAY_ELEMENT = '"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"'


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """What Slurm needs to know about an array, apart from what its jobs compute."""

    cluster: Cluster
    folder: Path
    """submitit's folder: scripts, pickles, the jobs' output."""
    snapshot: Path
    """The code that the jobs run."""
    name: str
    """The job name."""
    depends: tuple[str, ...] = ()
    """Ids of the jobs that must end first."""


class _ScriptWriter(SlurmExecutor):
    """Writes scripts on a machine without Slurm (`--dry-run`)."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def _setup(cluster: Cluster, snapshot: Path) -> list[str]:
    return [
        *cluster.setup,
        f"cd {shlex.quote(str(snapshot))} || exit 1",
        f"export PYTHONPATH={shlex.quote(str(snapshot))}${{PYTHONPATH:+:$PYTHONPATH}}",
        *(f"export {name}={shlex.quote(value)}" for name, value in environment_variables(snapshot).items()),
        f"export OMP_NUM_THREADS={cluster.cpus} MKL_NUM_THREADS={cluster.cpus}",
        f"export SRUN_CPUS_PER_TASK={cluster.cpus}",  # since Slurm 22.05, srun does not take it from sbatch
    ]


def _teardown(cluster: Cluster) -> list[str]:
    """Restart a job whose process was killed by a signal, up to `max_kills` times.

    Such a process has exit code 128 + n. 255 is submitit's own exit code after it has requeued the job. The
    first element of an array may have the same id as the array, so an element is always addressed by both of
    its numbers.
    """
    return [
        "code=$?",
        f"this={_ARRAY_ELEMENT}; this=${{this:-$SLURM_JOB_ID}}",
        "if [ $code -gt 128 ] && [ $code -lt 255 ] "
        f'&& [ "${{SLURM_RESTART_COUNT:-0}}" -lt {cluster.max_kills} ] '
        '&& [ "$(squeue -h -j "$this" -o %T)" = RUNNING ]; then',
        '    echo "the process was killed (exit code $code): starting again" >&2',
        '    scontrol requeue "$this"',
        "fi",
        "exit $code",
    ]


def parameters(spec: ArraySpec) -> dict[str, Any]:
    """Return submitit's parameters of an array."""
    cluster = spec.cluster
    own_memory = any(option in cluster.extra for option in MEMORY_OPTIONS)
    optional: dict[str, Any] = {
        "job_name": spec.name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
        "mem": f"{cluster.memory_gb}GB" if cluster.memory_gb and not own_memory else "",
        "gpus_per_node": f"{cluster.gpu_type}:{cluster.gpus}".lstrip(":") if cluster.gpus else "",
        "dependency": f"afterany:{':'.join(spec.depends)}" if spec.depends else "",
    }
    return {
        **{k: v for k, v in optional.items() if v},
        "time": cluster.time_minutes,
        "cpus_per_task": cluster.cpus,
        "nodes": cluster.nodes,
        "ntasks_per_node": cluster.processes,
        "signal_delay_s": cluster.signal_delay_s,
        "array_parallelism": cluster.parallelism or 1_000_000,
        "wckey": cluster.wckey or None,
        "use_srun": cluster.srun,
        # a process that dies ends the others, which would wait for it
        "srun_args": [*cluster.srun_args, *(["--kill-on-bad-exit=1"] if cluster.all_processes > 1 else [])],
        "setup": _setup(cluster, spec.snapshot),
        "teardown": _teardown(cluster),
        # without kill-on-invalid-dep, a job whose dependency can no longer be met stays in the queue forever
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **cluster.extra},
    }


def _executor(spec: ArraySpec, kind: type[SlurmExecutor]) -> SlurmExecutor:
    executor = kind(
        spec.folder,
        max_num_timeout=spec.cluster.max_timeouts,
        python=shlex.quote(spec.cluster.python) if spec.cluster.python else None,
    )
    executor.update_parameters(**parameters(spec))
    return executor


def text(spec: ArraySpec, elements: int) -> str:
    """Return the batch script of an array of `elements` jobs as it would be submitted. Needs no Slurm."""
    executor = _executor(spec, _ScriptWriter)
    if elements > 1:
        executor.parameters["map_count"] = elements
    return executor._make_submission_file_text(executor._submitit_command_str, "dry-run")


def send(spec: ArraySpec, calls: Sequence[Callable[[], Any]]) -> str:
    """Submit the calls as one array, or a single call as a job, and return the job id.

    Raises what submitit raises when sbatch fails; the pickles of the calls are removed then.
    """
    spec.folder.mkdir(parents=True, exist_ok=True)
    before = set(spec.folder.iterdir())
    try:
        executor = _executor(spec, SlurmExecutor)
        # submitit prints what sbatch says, and raises it too
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), executor.batch():
            warnings.simplefilter("ignore")
            jobs = [executor.submit(call) for call in calls]
    except BaseException:
        for path in set(spec.folder.iterdir()) - before:
            path.unlink()
        raise
    return str(jobs[0].job_id).partition("_")[0]
