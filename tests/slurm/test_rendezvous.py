"""How the processes of a job meet, from Slurm's variables. Needs no Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import InputError
from benchmark.training import processes
from slurm.cluster import Cluster
from slurm.rendezvous import FIRST_PORT, PORTS, first_node, launch_variables
from slurm.script import ArraySpec, text

STEP = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "1234567",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
    "PATH": "/bin",
}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("login", "login"),
        ("a,b", "a"),
        ("gpu[03-05,9],login", "gpu03"),
        ("gpu[12,14-15]", "gpu12"),
        ("rack[1-2]n[07-08]", "rack1n07"),
        ("n1.example.org,n2.example.org", "n1.example.org"),
        ("gpu-a[001-128]-ib", "gpu-a001-ib"),
    ],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_a_process_gets_torchruns_variables() -> None:
    variables = launch_variables(STEP)
    port = int(variables.pop("MASTER_PORT"))
    assert FIRST_PORT <= port < FIRST_PORT + PORTS <= 32768
    assert variables == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu07"}
    assert processes.several_were_started({**variables, "MASTER_PORT": str(port)})
    assert launch_variables({**STEP, "SLURM_PROCID": "6"})["MASTER_PORT"] == str(port), "one port in a job"
    assert launch_variables({**STEP, "SLURM_JOB_ID": "1234568"})["MASTER_PORT"] != str(port)
    assert launch_variables({**STEP, "MASTER_ADDR": "10.0.0.7"})["MASTER_ADDR"] == "10.0.0.7"
    assert launch_variables({**STEP, "SLURM_STEP_NODELIST": "gpu08"})["MASTER_ADDR"] == "gpu08"


def test_a_process_that_srun_did_not_start_is_refused() -> None:
    with pytest.raises(InputError, match="SLURM_PROCID, SLURM_NTASKS is not set; let srun start them"):
        launch_variables({k: v for k, v in STEP.items() if k not in ("SLURM_PROCID", "SLURM_NTASKS")})
    with pytest.raises(InputError, match="names no node"):
        launch_variables({**STEP, "SLURM_JOB_NODELIST": ""})


def test_the_script_of_a_shared_pack_starts_its_processes(tmp_path: Path) -> None:

    folder = tmp_path

    def script(**fields: int) -> str:
        cluster = Cluster("mine", "gpu", gpus=4, **fields)  # type: ignore[arg-type]
        return text(ArraySpec(cluster=cluster, folder=folder, snapshot=folder, name="x"), 1)

    shared, alone = script(nodes=2, processes=4), script()
    for line in ("#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --gpus-per-node=4"):
        assert line in shared
    assert "--kill-on-bad-exit=1" in shared and "--kill-on-bad-exit" not in alone
    assert "#SBATCH --ntasks-per-node=1" in alone and "#SBATCH --nodes=1" in alone
