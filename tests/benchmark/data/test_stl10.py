"""STL-10: its binary files, their md5 sums, and what is said when they are not there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import data
from benchmark.data import stl10
from benchmark.errors import InputError

FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")


class MadeUp:
    """Stands for torchvision's class; its md5 sums are those of the files of `write`."""

    base_folder = "stl10_binary"
    train_list: list[list[str]]
    test_list: list[list[str]]

    def __init__(self, *args: Any, **options: Any) -> None:
        raise OSError("no network")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = tmp_path / "stl10_binary"
    base.mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("train", 12), ("test", 7)):
        (base / f"{part}_X.bin").write_bytes(rng.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8).tobytes())
        (base / f"{part}_y.bin").write_bytes(rng.integers(1, 11, n, dtype=np.uint8).tobytes())
    md5 = [[name, hashlib.md5((base / name).read_bytes()).hexdigest()] for name in FILES]
    monkeypatch.setattr(MadeUp, "train_list", [*md5[:2], ["unlabeled_X.bin", "0"]], raising=False)
    monkeypatch.setattr(MadeUp, "test_list", md5[2:], raising=False)
    monkeypatch.setattr(stl10, "_torchvision", lambda: MadeUp)
    return tmp_path


def test_pixels_are_stored_column_by_column_and_labels_from_one(folder: Path) -> None:
    loaded = data.load("stl10", folder)
    raw = np.fromfile(folder / "stl10_binary" / "train_X.bin", dtype=np.uint8)
    channel, row, column, image = 2, 10, 50, 3
    position = ((image * 3 + channel) * 96 + column) * 96 + row
    assert loaded.train.images[image, row, column, channel] == raw[position]
    labels = np.fromfile(folder / "stl10_binary" / "test_y.bin", dtype=np.uint8)
    assert (loaded.test.labels.numpy() == labels.astype(int) - 1).all()
    assert loaded.train.images.shape == (12, 96, 96, 3) and loaded.test.images.shape == (7, 96, 96, 3)
    assert len(loaded.classes) == data.info("stl10").num_classes


def test_a_changed_file_and_missing_files_are_named(folder: Path) -> None:
    (folder / "stl10_binary" / "test_y.bin").write_bytes(b"\1" * 7)
    with pytest.raises(InputError, match=r"test_y\.bin: md5 is .*replace the file"):
        data.load("stl10", folder)
    (folder / "stl10_binary" / "train_X.bin").unlink()
    with pytest.raises(InputError, match=r"cannot be downloaded \(OSError: no network\); set DATA="):
        data.load("stl10", folder)


def test_the_md5_sums_are_those_of_torchvision() -> None:
    kind = stl10._torchvision()
    names = {name for name, _ in [*kind.train_list, *kind.test_list]}
    assert names == {*FILES, "unlabeled_X.bin"} and kind.base_folder == "stl10_binary"
