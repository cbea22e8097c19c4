"""Cluster files: `slurm/clusters/*.toml`, what a job asks of one cluster.

Every field, its type and its default are those of `Cluster`; a field that is not there is refused. `gpu-example.toml` shows them in use.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from benchmark.errors import InputError, unknown
from benchmark.training.execution import PRECISIONS, ExecutionRequest
from benchmark.work.order import WorkSettings

FOLDER = Path(__file__).resolve().parent / "clusters"


@dataclass(frozen=True)
class Cluster:
    """What one job asks for. A job trains one pack on one node."""

    name: str
    """The file's name (not a field of the file)."""
    partition: str
    """Partition (queue); several separated by commas. The only field that must be there."""
    account: str = ""
    """Account that is charged. Empty: Slurm's default, as for every empty text below."""
    qos: str = ""
    """Quality of service."""
    gpus: int = 1
    """GPUs of a job. One is right: a pack uses one GPU. 0: a CPU job."""
    gpu_type: str = ""
    """Type of GPU as the cluster names it (`sinfo -o %G`), e.g. "h100"."""
    cpus: int = 4
    """CPUs of a job, and threads of its arithmetic (OMP_NUM_THREADS; recorded with each result)."""
    student_threads: int = 1
    """Of a CPU job's threads, those of one student's step: `cpus // student_threads` students of a pack are stepped side by side."""
    memory_gb: int = 16
    """Memory of a job in GB. 0: the partition's default."""
    time_minutes: int = 240
    """Time limit of a job. Packs are sized to 80% of it; a run that does not fit goes on in the same job after a requeue.
    Ask for more than 10 minutes: submitit counts every preemption of a shorter job as a time-out."""
    parallelism: int = 0
    """Most jobs of one array that run at once (`--array=..%N`). 0: no limit."""
    constraint: str = ""
    """Node features, e.g. "h100|a100"."""
    exclude: str = ""
    """Nodes that are not wanted."""
    srun: bool = True
    """Whether the batch script starts Python by `srun`. false where srun's binding fails."""
    srun_args: tuple[str, ...] = ()
    """Further arguments of `srun`, e.g. ["--cpu-bind=none"]."""
    setup: tuple[str, ...] = ()
    """Lines of the batch script before Python starts, e.g. ["module load cuda"]."""
    wckey: str = ""
    """Workload characterisation key. Empty: none is sent (some sites refuse any)."""
    signal_delay_s: int = 90
    """Seconds before the time limit at which the job is told to requeue itself; at least the time of one training step."""
    max_timeouts: int = 1000
    """How many time-outs a job may go on after. What limits it is the number of epochs: each time at least one must fit."""
    max_kills: int = 5
    """How many requeues a job may have had and still be started again when its process is killed by a signal (0: never)."""
    max_submit: int = 0
    """Most jobs of yours in the queue. 0: what the cluster says (MaxJobCount; with accounting, MaxSubmitJobs)."""
    max_pack: int = 0
    """Most runs behind one teacher pass. 0: 32 on a GPU, 16 on CPUs."""
    device: str = "auto"
    """`cuda` or `cpu`; auto: cuda if `gpus` is not 0 (a job that sees no GPU then fails instead of training on the CPU)."""
    precision: str = "auto"
    """fp32, tf32 or bf16; auto: bf16 on a GPU, fp32 on CPUs. Not by measurement, as `run` does on a CPU: nodes may differ, and one table would
    be trained in two precisions."""
    python: str = ""
    """Python of the jobs, a path that all nodes see. Empty: the one that submits."""
    extra: dict[str, str] = dataclasses.field(default_factory=dict)
    """Any other option of sbatch: `extra = { reservation = "kd", "mail-type" = "END" }`."""

    @property
    def torch_device(self) -> str:
        return self.device if self.device != "auto" else "cuda" if self.gpus else "cpu"

    @property
    def torch_precision(self) -> str:
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
        )
        return dataclasses.replace(settings, execution=execution)


_LEAST = {"cpus": 1, "student_threads": 1, "time_minutes": 1, "signal_delay_s": 1}
_OF_THE_FILE = {
    "time": "time_minutes", "signal": "signal_delay_s", "cpus_per_task": "cpus", "mem": "memory_gb", "gpus_per_node": "gpus",
    **{k: k for k in ("partition", "account", "qos", "constraint", "exclude", "wckey")},
}  # fmt: skip
_OWN = (
    "array",
    "dependency",
    "requeue",
    "kill_on_invalid_dep",
    "job_name",
    "output",
    "error",
    "open_mode",
    "ntasks_per_node",
    "ntasks",
    "wrap",
)
"""Options of sbatch that `extra` may not set: those of another field, and those by which jobs are followed."""
_CHOICES = {"device": ("auto", "cuda", "cpu"), "precision": ("auto", *PRECISIONS)}


def cluster_names(folder: Path = FOLDER) -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in folder.glob("*.toml")))


def load_cluster(name: str, folder: Path = FOLDER) -> Cluster:
    """Reads `slurm/clusters/NAME.toml` (or the file itself, if `name` ends in .toml). `InputError`: what is wrong with it, in one line."""
    path = Path(name).expanduser() if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        raise unknown("cluster", name, (*cluster_names(folder), "a path that ends in .toml"))
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path.name} is not valid TOML: {error}; allowed: the fields described in slurm/README.md"
        ) from error
    hints = {k: v for k, v in get_type_hints(Cluster).items() if k != "name"}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in hints:
            raise unknown(f"field in {path.name}:", key, hints)
        values[key] = _checked(path.name, key, value, hints[key])
    if not values.get("partition"):
        raise InputError(
            f"{path.name}: partition is not there; allowed: the name of a partition (`sinfo -o %R` lists them)"
        )
    cluster = Cluster(name=path.stem, **values)
    if cluster.student_threads > cluster.cpus:
        raise InputError(
            f"{path.name}: student_threads = {cluster.student_threads} is too large; allowed: 1 to {cluster.cpus}, the job's cpus"
        )
    if cluster.signal_delay_s >= 60 * cluster.time_minutes:
        raise InputError(
            f"{path.name}: signal_delay_s = {cluster.signal_delay_s} is too large; allowed: less than time_minutes, which are "
            f"{60 * cluster.time_minutes} seconds"
        )
    for key in cluster.extra:
        option = key.lstrip("-").replace("-", "_")
        if option in _OF_THE_FILE:
            raise InputError(
                f"{path.name}: extra has {key}; allowed: the field {_OF_THE_FILE[option]} for that"
            )
        if option in _OWN:
            raise InputError(
                f"{path.name}: extra has {key}, which is set for every job; allowed: other options of sbatch"
            )
    return cluster


def _checked(where: str, key: str, value: Any, hint: Any) -> Any:
    words = {str: "a text", int: "a whole number", bool: "true or false"}
    if hint in words:
        fits, kind = isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), words[hint]
    elif hint == tuple[str, ...]:
        fits, kind = isinstance(value, list) and all(isinstance(v, str) for v in value), "a list of texts"
    else:
        fits, kind = (
            isinstance(value, dict) and all(isinstance(v, str) for v in value.values()),
            "a table of texts",
        )
    if not fits:
        raise InputError(f"{where}: {key} = {value!r} is of the wrong type; allowed: {kind}")
    if hint is int and value < _LEAST.get(key, 0):
        raise InputError(f"{where}: {key} = {value} is too small; allowed: {_LEAST.get(key, 0)} and more")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise InputError(f"{where}: {key} = {value!r}; allowed: {', '.join(_CHOICES[key])}")
    if isinstance(value, str) and "\n" in value:
        raise InputError(f"{where}: {key} has a line break; allowed: one line")
    return tuple(value) if isinstance(value, list) else value
