"""The lab cluster of the drills, and the table they are compared with. Without Slurm: skipped with the reason, failed under CI=true."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from slurm_kit import Drill, cluster_of_nodes, drill_runs, local_settings, outcome

from benchmark.spec.plan import make_plan
from benchmark.work.order import WorkSettings, work, work_order
from results.store import Store

NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")
PORT = 17000 + 2400 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) + 48 * (os.getpid() % 50)
"""Of a cluster of our own in each worker and each process."""


@pytest.fixture(scope="session")
def has_slurm() -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if missing := [c for c in NEEDED if shutil.which(c, path=path) is None]:
        reason = (
            f"no Slurm on this machine ({', '.join(missing)} not found); `slurm/lab.sh install` brings it"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster(has_slurm: None) -> Iterator[Path]:
    """2 nodes with 4 GPUs each, with accounting."""
    with cluster_of_nodes(PORT) as folder:
        yield folder


@pytest.fixture
def small_arrays(has_slurm: None) -> Iterator[Path]:
    """A cluster whose arrays hold 5 jobs at most."""
    with cluster_of_nodes(PORT + 15, LAB_DB="0", LAB_MAX_ARRAY="5", LAB_NODES="1") as folder:
        yield folder


@pytest.fixture
def unaccounted(has_slurm: None) -> Iterator[Path]:
    """A cluster without accounting: sacct fails there."""
    with cluster_of_nodes(PORT + 30, LAB_DB="0", LAB_NODES="1") as folder:
        yield folder


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The small table trained on this machine, in this process."""
    folder = tmp_path_factory.mktemp("local")
    store = Store(folder / "results")
    settings = local_settings(WorkSettings(results=store.folder, data=folder / "data"))
    for pack in make_plan(drill_runs(folder), store).packs:
        assert {o.status for o in work(work_order(pack.runs, settings))} == {"done"}
    return store


@pytest.fixture
def drill(has_slurm: None, reference: Store, tmp_path: Path) -> Drill:
    runs = drill_runs(tmp_path)
    return Drill(tmp_path, runs, {r.key: outcome(reference, r) for r in runs})
