"""Probes and neighbours on images that are read from their files: as those of the same images in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measure_kit import FP32, measuring_run, plain_run
from PIL import Image
from test_probe import context, network, small

from benchmark import data
from benchmark.data import Dataset, Split, crops
from benchmark.data.folders import registry
from benchmark.data.folders.streamed import FileSplit, HostSplit
from benchmark.measures import parse
from benchmark.measures._resizing import draw_crops, draw_crops_of_files, random_crops
from benchmark.measures._streamed import augmented
from benchmark.measures.knn import Knn
from benchmark.measures.probe import Probe, _Training
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from results.store import Store

SIZE = 160
NAME = f"folder:tiles@{SIZE}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of square images: seven for training and three for testing of each."""
    base, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for part, n in (("train", 7), ("val", 3)):
        for name in ("ant", "bee", "cat"):
            (base / "tiles" / part / name).mkdir(parents=True)
            for k in range(n):
                blocks = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
                image = blocks.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
                image.save(base / "tiles" / part / name / f"{k}.png")
    return base


@pytest.fixture(autouse=True)
def files(folder: Path) -> Iterator[Dataset]:
    data.use_folder(folder)
    registry._last.clear()
    loaded = data.load(NAME, folder)
    assert isinstance(loaded.train, FileSplit)
    yield loaded
    registry._data_folder = None
    registry._info_in.cache_clear()
    registry._last.clear()


def measuring(files: Dataset, **changes: Any) -> Any:
    return context(network(), target=NAME, load=lambda name: files, **changes)


def held(files: Dataset) -> Dataset:
    """Return the same images in memory, in their test form."""
    train = files.train
    images = torch.cat(list(train.batches(4)))
    return Dataset(files.name, Split(images, train.labels), files.test)


def settings(protocol: str, **changes: Any) -> Any:
    return small(protocol, **{"epochs": 2, "batch_size": 8, "train_images": 20, "test_images": 0, **changes})


@pytest.mark.parametrize(("protocol", "size"), [("cached", 0), ("rrd", 48)])
def test_a_probe_has_the_bits_of_one_in_memory(files: Dataset, protocol: str, size: int) -> None:
    config = settings(protocol, size=size, train_images=10 if size == 0 else 20, test_images=4)
    first, second = (_Training(config, measuring(source)) for source in (files, held(files)))
    assert isinstance(first.train, FileSplit) and not first.train.images.numel() and second.train.is_held
    assert first.numbers() == second.numbers()
    assert torch.equal(first.head.weight, second.head.weight)


def test_neighbours_are_those_of_images_in_memory(files: Dataset) -> None:
    config = parse("knn", {"k": 3, "train_images": 8, "test_images": 4}).config
    on_host = Dataset(files.name, files.train, HostSplit(files.test.images, files.test.labels))
    numbers = [Knn.run(config, measuring(source)) for source in (files, on_host, held(files))]
    assert numbers[0] == numbers[1] == numbers[2]


def test_a_crop_is_drawn_the_same_before_the_size_is_known() -> None:
    for side in (64, 160, 500):
        known = draw_crops(300, side, torch.Generator().manual_seed(3))
        unknown = draw_crops_of_files(300, torch.Generator().manual_seed(3))
        assert torch.equal(crops.boxes(unknown, side, side), known[:, :4])
        assert torch.equal(unknown[:, -1].long(), known[:, 4])


def test_random_crops_are_those_of_images_in_memory_to_the_rounding_of_pixels(files: Dataset) -> None:
    """The files are square and their test form is cut, so the held images are read here by themselves."""
    train = files.train
    assert isinstance(train, FileSplit)
    whole = torch.stack(
        [torch.from_numpy(np.array(Image.open(train.base / e.file.path))) for e in train.entries]
    )
    n = len(whole)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    batches = list(order.split(8))
    unknown = draw_crops_of_files(n, torch.Generator().manual_seed(2))
    known = draw_crops(n, SIZE, torch.Generator().manual_seed(2))
    read = list(augmented(train, batches, unknown, size=48, cropped=True))
    assert torch.equal(torch.cat([rows for rows, _, _ in read]), order)
    assert torch.equal(torch.cat([draws for _, draws, _ in read]), unknown)
    difference = (
        torch.cat([images for *_, images in read]).int() - random_crops(whole[order], known, 48).int()
    )
    assert difference.abs().max() <= 1, "PIL rounds the weights to 22 bits"
    assert (difference != 0).float().mean() < 0.01


@pytest.mark.parametrize("protocol", ["seed", "cached"])
def test_an_interrupted_probe_gets_the_same_bits(files: Dataset, protocol: str) -> None:
    states: list[Mapping[str, Any]] = []
    seen: list[tuple[int, int]] = []

    def save(state: Mapping[str, Any]) -> None:
        states.append(copy.deepcopy(dict(state)))

    config = settings(protocol, lr=0.1)
    whole = Probe.run(config, measuring(files, save=save, progress=lambda *done: seen.append(done)))
    assert [len(s["scores"]) for s in states] == [0, 1, 2], "the neighbours are stored by themselves"
    for saved in states[:2]:
        after: list[tuple[int, int]] = []
        resumed = measuring(files, saved=saved, progress=lambda *done, to=after: to.append(done))
        assert Probe.run(config, resumed) == whole
        assert after[-1] == seen[-1] and len(after) <= len(seen)
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] and seen[0][0] > 0
    assert Probe.run(config, measuring(files, seed=1)) != whole


def test_a_record_says_how_the_images_were_read(folder: Path, tmp_path: Path) -> None:
    store, run = Store(tmp_path), measuring_run("knn", target=NAME, train_images=8, test_images=4)
    for needed in (plain_run(), run):
        outcomes = train_pack([needed], store, TrainingOptions(FP32, data_folder=folder))
        assert [o.status for o in outcomes] == ["done"]
    record = store.record(run.key)
    assert record is not None and "decoded by Pillow" in record["images"]
