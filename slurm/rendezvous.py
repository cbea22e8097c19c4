"""How the processes of a Slurm job meet: torchrun's variables, made of Slurm's.

`srun` starts the processes; each of them reads its number and the first node from Slurm's variables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from benchmark.errors import InputError

FIRST_PORT, PORTS = 15000, 15000
"""Process 0 listens on a port of this range, which the job's number chooses. Two jobs on one node have other
numbers, and so mostly other ports; above it are the ports that systems give to outgoing connections."""


def launch_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that torchrun would set for this process of a job step.

    A `MASTER_ADDR` that is set already stays, for clusters whose nodes do not know each other's names.
    Raises `InputError` if the process was not started by srun.
    """
    needed = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
    if missing := [name for name in needed if not environment.get(name, "").isdigit()]:
        raise InputError(
            f"the processes of this job cannot meet, because {', '.join(missing)} is not set; "
            "let srun start them (srun = true in the cluster file)"
        )
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_NTASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_node(nodes),
        "MASTER_PORT": str(FIRST_PORT + int(environment["SLURM_JOB_ID"]) % PORTS),
    }


def first_node(nodes: str) -> str:
    """Return the first name of a list of nodes as Slurm writes it.

    `gpu[03-05,9],login` -> `gpu03`; `rack[1-2]n[07-08]` -> `rack1n07`. Raises `InputError` for an empty list.
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes.strip())
    if first is None:
        raise InputError(f"Slurm's list of nodes is {nodes!r}; it names no node")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])
