"""Fixtures of the Slurm drills: test clusters, and the locally trained table that each drill must reproduce.

Without Slurm on this machine the drills are skipped with a reason; with CI=true they fail.
"""

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
"""First port of the clusters: different in each worker of pytest-xdist and in each process."""


@pytest.fixture(scope="session")
def has_slurm() -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if missing := [c for c in NEEDED if shutil.which(c, path=path) is None]:
        reason = f"no Slurm on this machine: no {', '.join(missing)}; `slurm/lab.sh install` installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster(has_slurm: None) -> Iterator[Path]:
    """A cluster of 2 nodes with 4 GPUs each, with accounting."""
    with cluster_of_nodes(PORT) as folder:
        yield folder


@pytest.fixture
def small_arrays(has_slurm: None) -> Iterator[Path]:
    """A cluster whose arrays have at most 5 jobs."""
    with cluster_of_nodes(PORT + 15, LAB_DB="0", LAB_MAX_ARRAY="5", LAB_NODES="1") as folder:
        yield folder


@pytest.fixture
def unaccounted(has_slurm: None) -> Iterator[Path]:
    """A cluster without accounting, where sacct fails."""
    with cluster_of_nodes(PORT + 30, LAB_DB="0", LAB_NODES="1") as folder:
        yield folder


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The small table, trained in this process."""
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
