"""`clean` finds what is left of teacher caches, and keeps those that a run reads or goes on with."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmark.__main__ import main
from benchmark.training.cache_blocks import BlockFile, Layout, index_path
from benchmark.training.teacher_cache import FOLDER
from benchmark.work import stale_caches
from results.claims import Claim
from results.store import Store

TEACHER = "cifar100/crd/quick/none-resnet14/plain/seed0-0123456789"


def cache(runs: Path, name: str, blocks: int, teacher: str = f"{TEACHER}@last") -> Path:
    """Write a cache of three blocks, of which the first `blocks` are done. Its teacher's folder exists."""
    (runs / TEACHER).mkdir(parents=True, exist_ok=True)
    (runs / FOLDER).mkdir(exist_ok=True)
    path = runs / FOLDER / f"{name}.logits.float16"
    layout = Layout(
        teacher=teacher,
        part="logits",
        precision="bf16",
        device="cpu",
        dtype="float16",
        rows=12,
        width=2,
        block_rows=4,
    )
    file = BlockFile(path, layout)
    file.begin_writing()
    for block in range(blocks):
        file.write(block, bytes(16))
    file.commit()
    file.end_writing()
    return path


def names(runs: Path) -> dict[str, str]:
    """Return the reason of each cache by the first part of its name."""
    return {c.name.strip(".").partition(".")[0]: c.why for c in stale_caches.find(Store(runs))}


def test_only_what_nobody_can_use_or_goes_on_with_is_listed(tmp_path: Path) -> None:
    cache(tmp_path, "complete", 3)
    cache(tmp_path, "imported", 3, teacher="weights:0123")
    cache(tmp_path, "half", 2)
    cache(tmp_path, "orphan", 3, teacher="cifar100/gone@last")
    index_path(cache(tmp_path, "old", 3)).unlink()
    cache(tmp_path, "no-data", 3).unlink()
    damaged = cache(tmp_path, "damaged", 3)
    index_path(damaged).write_text('{"rows": "x"}\n')
    assert names(tmp_path) == {
        "half": "unfinished: 2 of 3 blocks",
        "orphan": "its teacher cifar100/gone is not here any more",
        **dict.fromkeys(("old", "no-data", "damaged"), "without an index that is understood here"),
    }
    assert names(tmp_path / "missing") == {}


def test_a_temporary_file_is_stale_once_its_process_is_dead(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    old, new = folder / ".a.logits.float16.x1.tmp", folder / ".b.logits.float16.x2.tmp"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 1000,) * 2)
    assert list(names(tmp_path)) == ["a"]


def test_a_cache_that_is_being_built_is_kept(tmp_path: Path) -> None:
    path = cache(tmp_path, "half", 1)
    (stale,) = stale_caches.find(Store(tmp_path))
    claim = Claim.take(tmp_path / FOLDER / "half.claim")
    assert claim is not None
    assert stale_caches.find(Store(tmp_path)) == [] and not stale_caches.remove(stale) and path.exists()
    claim.release()
    assert stale_caches.remove(stale) and list((tmp_path / FOLDER).iterdir()) == []


def test_clean_removes_unfinished_caches_on_request_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = cache(tmp_path, "half", 2)
    index_path(old := cache(tmp_path, "old", 3)).unlink()
    assert main(["clean", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{FOLDER}/{old.name}: without an index") and "half" not in printed.out
    assert printed.err == "1 file of teacher caches would be removed; add --yes to remove them\n"
    assert old.exists()
    assert main(["clean", "--results", str(tmp_path), "--yes"]) == 0
    assert half.exists() and not old.exists()
    assert main(["clean", "--results", str(tmp_path), "--yes", "--unfinished"]) == 0
    assert not half.exists() and not index_path(half).exists()
    assert "1 file of teacher caches removed" in capsys.readouterr().err
