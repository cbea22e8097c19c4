"""What belongs to one run ends this run alone: its network, its measure, a path in its folder.

A full disk ends the whole pack, because no run could go on.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plugins_kit import TINY, use
from training_kit import small_run, train

from benchmark import methods
from benchmark.spec.runs import Run
from benchmark.training import checkpoint, run_files
from results.store import Store


def tiny_run(student: str = "resnet8", lr: float = 0.05) -> Run:
    return small_run(
        "plain",
        student,
        recipe__epochs=1,
        recipe__train_images=16,
        recipe__test_images=10,
        recipe__lr=lr,
    )


RUN, OTHER = tiny_run(), tiny_run("resnet8x4")


def test_a_path_that_cannot_be_used_ends_its_run_alone(tmp_path: Path) -> None:
    """A folder that has the name of a file, or a file that has the name of the run's folder."""
    names = ["log.txt", "curve.csv", "progress.json", "failure.json", "best.pt", ""]
    runs = [tiny_run(lr=0.01 * (number + 1)) for number in range(len(names))]
    in_the_way = [tmp_path / run.key / name for run, name in zip(runs, names, strict=True)]
    for path in in_the_way[:-1]:
        path.mkdir(parents=True)
    in_the_way[-1].touch()
    *failed, done = train([*runs, OTHER], tmp_path)
    assert done.status == "done"
    for outcome, path in zip(failed, in_the_way, strict=True):
        assert outcome.status == "failed" and str(path) in outcome.reason
    stored = [Store(tmp_path).failure(run.key) for run in runs[:3]]
    assert [(failure or {})["reason"] for failure in stored] == [outcome.reason for outcome in failed[:3]]
    in_the_way[0].rmdir()
    assert [o.status for o in train(runs[:1], tmp_path)] == ["done"]


@pytest.mark.parametrize("function", ["append_line", "write_json"])
def test_a_full_disk_ends_the_pack(function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(run_files, function, full)
    with pytest.raises(OSError, match="No space left"):
        train([RUN, OTHER], tmp_path)
    assert Store(tmp_path).failure(RUN.key) is None, "its run can go on when there is space again"


@pytest.fixture
def tiny_that_misses_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A network that opens a file in its evaluation. The check of a network passes two images."""
    lost = 'if not self.training and len(x) > 2: open("/nowhere/table.bin")\n        return self.head('
    use(tmp_path / "plugins", monkeypatch, tiny=TINY.replace("return self.head(", lost))
    yield
    methods.clear_cache()


def test_a_network_that_misses_a_file_ends_its_run_alone(
    tmp_path: Path, tiny_that_misses_a_file: None
) -> None:
    """In the evaluation, which also reads files of ours."""
    failed, done = train([tiny_run("tiny"), OTHER], tmp_path)
    assert (failed.status, done.status) == ("failed", "done")
    assert failed.reason.startswith("network tiny: FileNotFoundError: ")
    assert "/nowhere/table.bin" in failed.reason


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_no_fault_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any, **__: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match=r"No space left.*checkpoint\.pt"):
        train([RUN, OTHER], tmp_path)
