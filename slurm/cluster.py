"""Cluster files: TOML files with what a job asks of one cluster.

`Cluster` lists every field with its type and default; any other field is refused.
`slurm/clusters/gpu-example.toml` is an example. slurm/README.md explains the fields for users.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from benchmark.errors import InputError, require_one_line, unknown
from benchmark.training.execution import PRECISIONS, ExecutionRequest
from benchmark.user_files import find_toml, read_toml, toml_files
from benchmark.work.order import WorkSettings
from slurm import extra

FOLDER = Path(__file__).resolve().parent / "clusters"
"""The built-in cluster files."""
USER_FOLDER = Path("clusters")
"""Cluster files of the user, in the working folder."""


@dataclass(frozen=True)
class Cluster:
    """What a job asks for. A job trains one pack."""

    name: str
    """Name of the file without `.toml` (not a field of the file)."""
    partition: str
    """Partition (queue), or several separated by commas. The only required field."""
    account: str = ""
    """Account that is charged. As for every string below, an empty one leaves the choice to Slurm."""
    qos: str = ""
    """Quality of service."""
    gpus: int = 1
    """GPUs of a job on each node. A process uses one; 0 makes a CPU job."""
    nodes: int = 1
    """Nodes of a job. With several, their processes share every batch of the pack."""
    processes: int = 1
    """Processes of a job on each node; all of them share every batch of the pack. On GPUs at most `gpus`."""
    sync_norms: bool = False
    """Whether batch norms use the statistics of the whole batch, and not of the rows of their process."""
    gpu_type: str = ""
    """Type of GPU as the cluster names it (`sinfo -o %G`), for example "h100"."""
    cpus: int = 4
    """CPUs of a process and its number of threads (OMP_NUM_THREADS). Recorded with each result."""
    student_threads: int = 1
    """Threads of one student's step in a CPU job: `cpus // student_threads` students step in parallel."""
    memory_gb: int = 16
    """Memory of a job on each node in GB. 0 takes the partition's default."""
    time_minutes: int = 240
    """Time limit of a job. Packs are sized to 80% of it; a job that reaches the limit is requeued and
    continues. Ask for more than 10 minutes: submitit counts every preemption of a shorter job as a
    timeout."""
    parallelism: int = 0
    """Most jobs of one array that run at once (`--array=..%N`). 0: no limit."""
    constraint: str = ""
    """Required node features, for example "h100|a100"."""
    exclude: str = ""
    """Nodes to avoid."""
    srun: bool = True
    """Whether the batch script starts Python with `srun`. Set it to false where srun's binding fails."""
    srun_args: tuple[str, ...] = ()
    """Further arguments of `srun`, for example ["--cpu-bind=none"]."""
    setup: tuple[str, ...] = ()
    """Lines of the batch script before Python starts, for example ["module load cuda"]."""
    wckey: str = ""
    """Workload characterisation key. Empty: none is sent, because some clusters refuse any."""
    signal_delay_s: int = 90
    """Seconds before the time limit at which the job is signalled to requeue itself. It must be longer than
    one training step."""
    max_timeouts: int = 1000
    """Timeouts after which a job still continues. At least one epoch must fit between two timeouts."""
    max_kills: int = 5
    """A job whose process was killed by a signal is restarted unless it has been requeued this often."""
    max_submit: int = 0
    """Most jobs of the user in the queue. 0: the cluster's own limits (MaxJobCount; with accounting,
    MaxSubmitJobs)."""
    max_pack: int = 0
    """Most runs that share a teacher pass. 0: 32 on a GPU, 16 on CPUs."""
    device: str = "auto"
    """`cuda`, `cpu`, or `auto`: `cuda` unless `gpus` is 0. A job that asks for cuda and sees no GPU fails; it
    never trains on the CPU instead."""
    precision: str = "auto"
    """`fp32`, `tf32`, `bf16`, or `auto`: bf16 on a GPU, fp32 on CPUs. Unlike `run`, a job does not measure
    what is fastest on its CPU: nodes may differ, so one table could be trained in two precisions."""
    python: str = ""
    """Python of the jobs, a path that all nodes see. Empty: the Python that submits."""
    on_done: str = ""
    """A command that is run by the shell when a submitted table is done or has failed, on the node of the job
    that ended last. Environment variables tell what happened (docs/running.md)."""
    extra: dict[str, str | bool] = dataclasses.field(default_factory=dict)
    """Any other option of sbatch: `extra = { reservation = "kd", "mail-type" = "END", exclusive = true }`;
    true is an option without a value. `mem-per-cpu` and `mem-per-gpu` replace `memory_gb`."""

    @property
    def torch_device(self) -> str:
        """`cuda` or `cpu`."""
        return self.device if self.device != "auto" else "cuda" if self.gpus else "cpu"

    @property
    def all_processes(self) -> int:
        """Number of processes of a job."""
        return self.nodes * self.processes

    @property
    def torch_precision(self) -> str:
        """`fp32`, `tf32` or `bf16`."""
        return (
            self.precision if self.precision != "auto" else "bf16" if self.torch_device == "cuda" else "fp32"
        )

    def work_settings(self, settings: WorkSettings) -> WorkSettings:
        """Return the settings with the execution of this cluster's jobs."""
        execution = ExecutionRequest(
            device=self.torch_device,
            precision=self.torch_precision,
            threads=self.cpus,
            student_threads=self.student_threads,
            sync_norms=self.sync_norms,
        )
        return dataclasses.replace(settings, execution=execution)


_SMALLEST = dict.fromkeys(
    ("cpus", "student_threads", "time_minutes", "signal_delay_s", "nodes", "processes"), 1
)
"""Smallest values; 0 for every other whole number."""
_CHOICES = {"device": ("auto", "cuda", "cpu"), "precision": ("auto", *PRECISIONS)}
_TYPE_NAMES = {str: "a string", int: "a whole number", bool: "true or false"}


def cluster_names() -> tuple[str, ...]:
    """Return the names of the built-in cluster files and of those in the working folder."""
    return tuple(toml_files(FOLDER, USER_FOLDER))


def load_cluster(name: str) -> Cluster:
    """Read a cluster file.

    name: of a built-in file or of `clusters/NAME.toml` in the working folder, or a path that ends in .toml.
    Raises `InputError` with what is wrong.
    """
    path = find_toml("cluster", name, built_in=FOLDER, user=USER_FOLDER)
    raw = read_toml(path)
    hints = {k: v for k, v in get_type_hints(Cluster).items() if k != "name"}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in hints:
            raise unknown(f"field in {path.name}:", key, hints)
        values[key] = _checked(path.name, key, value, hints[key])
    if not values.get("partition"):
        raise InputError(
            f"{path.name}: partition is missing; set it to the name of a partition (`sinfo -o %R` lists them)"
        )
    cluster = Cluster(name=path.stem, **values)
    _check_combinations(cluster, path.name)
    return cluster


def _checked(file: str, key: str, value: Any, hint: Any) -> Any:
    """Return the value of one field with its type. Raises `InputError`."""
    if hint in _TYPE_NAMES:
        fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
        type_name = _TYPE_NAMES[hint]
    elif hint == tuple[str, ...]:
        fits = isinstance(value, list) and all(isinstance(v, str) for v in value)
        type_name = "a list of strings"
    else:
        fits = isinstance(value, dict)
        type_name = "a TOML table"
    if not fits:
        raise InputError(f"{file}: {key} = {value!r} has the wrong type; allowed: {type_name}")
    if hint is int and value < _SMALLEST.get(key, 0):
        raise InputError(f"{file}: {key} = {value} is too small; allowed: {_SMALLEST.get(key, 0)} and more")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise InputError(f"{file}: unknown {key} = {value!r}; allowed: {', '.join(_CHOICES[key])}")
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            require_one_line(text.replace("\t", " "), f"{file}: {key}")
    if isinstance(value, dict):
        return extra.checked(file, value)
    return tuple(value) if isinstance(value, list) else value


def _check_combinations(cluster: Cluster, file: str) -> None:
    """Raise `InputError` for fields that contradict each other."""
    if cluster.student_threads > cluster.cpus:
        raise InputError(
            f"{file}: student_threads = {cluster.student_threads} is too large; "
            f"allowed: 1 to {cluster.cpus}, the job's cpus"
        )
    if cluster.torch_device == "cuda" and cluster.processes > cluster.gpus:
        raise InputError(
            f"{file}: processes = {cluster.processes} is too large; allowed: 1 to {cluster.gpus}, "
            "the GPUs of a node (gpus)"
        )
    if cluster.all_processes > 1 and not cluster.srun:
        raise InputError(f"{file}: srun = false starts one process; remove it, or nodes and processes")
    if cluster.all_processes == 1 and cluster.sync_norms:
        raise InputError(
            f"{file}: sync_norms is for several processes, and this job has one; remove it, or set processes"
        )
    if cluster.signal_delay_s >= 60 * cluster.time_minutes:
        raise InputError(
            f"{file}: signal_delay_s = {cluster.signal_delay_s} is too large; "
            f"allowed: less than time_minutes, which is {60 * cluster.time_minutes} seconds"
        )
