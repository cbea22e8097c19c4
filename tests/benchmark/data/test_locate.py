"""A data folder that was named too high or too deep is recognised, and nothing is downloaded."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from benchmark import data
from benchmark.data.clips import list_clips
from benchmark.data.locate import locate
from benchmark.errors import InputError
from models import import_torchvision

BASE = "cifar-100-python"


@pytest.fixture
def tiny_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a CIFAR-100 of five images in its layout, and forbid the network. Returns the folder to name."""
    import_torchvision()
    from torchvision import datasets

    def no_network(self: object) -> None:
        raise AssertionError("a download was tried")

    base = tmp_path / "sets" / "images" / BASE
    base.mkdir(parents=True)
    sums = {}
    for name in ("train", "test", "meta"):
        content = {
            "data": np.full((5, 3072), 7, np.uint8),
            "fine_labels": [0, 1, 2, 3, 4],
            "fine_label_names": list("abcde"),
        }
        (base / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((base / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": sums["meta"]})
    monkeypatch.setattr(datasets.CIFAR100, "download", no_network)
    return base.parent


@pytest.mark.parametrize("named", [".", "..", "../..", BASE, f"{BASE}/train"])
def test_a_folder_that_is_too_high_or_too_deep_is_used(tiny_cifar: Path, named: str) -> None:
    if named.startswith(".."):  # without dots, as a user writes it
        named_folder = tiny_cifar.parents[named.count("..") - 1]
    else:
        named_folder = tiny_cifar / named
    assert data.load("cifar100", named_folder).train.labels.tolist() == [0, 1, 2, 3, 4]


def test_the_working_folder_and_a_link_are_recognised(
    tiny_cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.symlink(tiny_cifar / BASE, tmp_path / "link")
    assert len(data.load("cifar100", tmp_path / "link").classes) == 5
    monkeypatch.chdir(tiny_cifar / BASE)
    assert len(data.load("cifar100", ".").classes) == 5


def test_two_data_sets_below_are_one_line(tiny_cifar: Path) -> None:
    (tiny_cifar.parent / "other").mkdir()
    os.symlink(tiny_cifar / BASE, tiny_cifar.parent / "other" / BASE)
    with pytest.raises(
        InputError, match=rf"{BASE}/ is not in .*sets but in 2 folders below it; .*sets/images$"
    ):
        data.load("cifar100", tiny_cifar.parent)


def test_a_renamed_folder_is_one_line(tiny_cifar: Path) -> None:
    renamed = (tiny_cifar / BASE).rename(tiny_cifar / "cifar")
    with pytest.raises(InputError, match=f"cifar has the files of cifar100 itself; rename it to {BASE}"):
        data.load("cifar100", renamed)


@pytest.mark.parametrize("named", ["", "a", "a/clips", "a/clips/train", "a/clips/train/dog"])
def test_clips_are_recognised_too(tmp_path: Path, named: str) -> None:
    for part in ("train", "test"):
        for kind in ("cat", "dog"):
            (tmp_path / "a" / "clips" / part / kind).mkdir(parents=True)
            (tmp_path / "a" / "clips" / part / kind / "1.wav").touch()
    assert list_clips(tmp_path / named) == list_clips(tmp_path / "a")


def test_a_large_tree_is_not_searched_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.data.locate.MOST_ENTRIES", 3)
    for i in range(9):
        (tmp_path / f"{i}" / "there").mkdir(parents=True)
    looked_at = []

    def has_data(path: Path) -> bool:
        looked_at.append(path)
        return False

    assert locate(tmp_path, "there", has_data) == tmp_path
    assert len(looked_at) <= 1 + 3
