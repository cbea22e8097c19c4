"""Images that are streamed from their files: the same views whatever reads them, and runs that go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photos import content, pixels, write_photos
from PIL import Image
from training_kit import FP32, weights

import models
from benchmark import data
from benchmark.data import crops
from benchmark.data.folders import gpu_decoding, index, registry, streamed
from benchmark.data.folders.streamed import FileSplit, FileStream, HostSplit
from benchmark.data.portions import portion
from benchmark.data.randaugment import STRONG
from benchmark.data.samplers import FOURS, SHUFFLE
from benchmark.data.stream import Batch
from benchmark.data.views import MIXED, NORMAL, ROTATED, SECOND, mixing_shares
from benchmark.errors import InputError
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run
from benchmark.training import evaluate, processes
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from benchmark.training.processes import Team
from results.store import Store

SIZE = 160
VIEWS = (NORMAL, SECOND, ROTATED, MIXED)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten training images of three classes at different sizes, and three test images."""
    base = write_photos(tmp_path_factory.mktemp("data") / "pets", 3, 1)
    for k, shape in enumerate(((150, 210), (300, 120), (64, 64), (33, 300))):
        image = np.random.default_rng(k).integers(0, 256, (*shape, 3), dtype=np.uint8)
        (base / "train" / "bee" / f"{k}.jpg").write_bytes(content(image))
    return base.parent


@pytest.fixture(autouse=True)
def loaded(folder: Path) -> Iterator[data.Dataset]:
    data.use_folder(folder)
    registry._last.clear()
    yield data.load(f"folder:pets@{SIZE}", folder)
    registry._data_folder = None
    registry._info_in.cache_clear()
    registry._last.clear()


def stream(split: data.Split, augment: str = "imagenet", **options: Any) -> FileStream:
    options = {"sampler": SHUFFLE, "batch_size": 4, "drop_last": False, "seed": 3, **options}
    opened = data.open_stream(split, mean=MEAN, std=STD, augment=augment, **options)
    assert isinstance(opened, FileStream)
    return opened


def tensors(batches: list[Batch]) -> list[torch.Tensor]:
    return [t for b in batches for t in (b.indices, b.labels, *b.views.values())]


def equal(first: list[Batch], second: list[Batch]) -> bool:
    pairs = zip(tensors(first), tensors(second), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_large_images_are_streamed_and_small_ones_are_not(loaded: data.Dataset, folder: Path) -> None:
    info = data.info(f"folder:pets@{SIZE}")
    assert info.streamed and info.size == SIZE and isinstance(loaded.train, FileSplit)
    assert "decoded by Pillow" in loaded.train.source
    assert not data.info("folder:pets@64").streamed and not data.load("folder:pets@64", folder).train.source
    assert data.info("imagenet").streamed and data.info("imagenette").streamed
    assert not data.info("tinyimagenet").streamed and not data.info("imagenette64").streamed
    assert data.info("imagenet64").streamed and data.info("imagenet64").size == 64


def test_a_recipe_with_mixup_mixes_them(loaded: data.Dataset) -> None:
    plain, mixed = (list(stream(loaded.train, mixup=a).epoch("main", 1, [NORMAL])) for a in (0.0, 0.4))
    for a, b in zip(plain, mixed, strict=True):
        assert a.mix is None and b.mix is not None
        x = a.views["normal"]
        torch.testing.assert_close(b.views["normal"], b.mix * x + (1 - b.mix) * x.roll(-1, 0))


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_a_portion_has_its_rows_of_the_whole_batch(alpha: float, loaded: data.Dataset) -> None:
    opened, views = stream(loaded.train, mixup=alpha), [NORMAL, ROTATED, MIXED]
    draw = next(iter(opened.draws("main", 1, views)))
    whole = opened.batch(draw, views)
    for process in range(2):
        mine = portion(4, 0, process=process, processes=2)
        assert mine is not None
        part = opened.portion(draw, views, mine)
        assert (part.mix is None) == (alpha == 0) and part.mix == whole.mix
        for view in views:
            assert torch.equal(part.views[view.name], mine.of(whole.views[view.name], view.copies))


def test_views_are_those_of_pil_and_torchvision(loaded: data.Dataset) -> None:
    """Every view from its draws by another way: rotated by NumPy, cropped and resized by torchvision."""
    models.import_torchvision()
    from torchvision.transforms import functional

    split = loaded.train
    assert isinstance(split, FileSplit)
    opened = stream(split)

    def crop(image: np.ndarray[Any, Any], draws: torch.Tensor) -> np.ndarray[Any, Any]:
        box = crops.boxes(draws[None], *image.shape[:2])[0].tolist()
        out = np.asarray(functional.resized_crop(Image.fromarray(image), *box, [SIZE, SIZE]))
        return out[:, ::-1] if draws[-1] else out

    for batch in opened.epoch("main", 1, VIEWS):
        rows = len(batch.indices)
        for i, position in enumerate(batch.indices.tolist()):
            entry = split.entries[position]
            image = np.asarray(Image.open(split.base / entry.file.path))
            assert batch.labels[i] == entry.file.label
            wanted = {(v.name, i): crop(image, batch.draws[v.name][i]) for v in (NORMAL, SECOND)}
            draws = batch.draws[ROTATED.name][i : i + 1]
            mirrored = image[:, ::-1] if draws[0, 0] else image
            for k in range(3):
                turned = np.ascontiguousarray(np.rot90(mirrored, k + 1))
                wanted[ROTATED.name, k * rows + i] = crop(turned, crops.copy_draws(draws, k)[0])
            for (name, row), pixels_ in wanted.items():
                x = (torch.from_numpy(pixels_.copy()) / 255 - opened.mean) / opened.std
                assert torch.allclose(batch.views[name][row], x.permute(2, 0, 1), atol=1e-5), name
        share = mixing_shares(rows, torch.device("cpu")).view(-1, 1, 1, 1)
        normal = batch.views[NORMAL.name]
        assert torch.allclose(batch.views[MIXED.name], share * normal + (1 - share) * normal.roll(-1, 0))


def test_the_number_of_workers_changes_nothing(loaded: data.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(stream(loaded.train).epoch("main", 2, VIEWS))
    assert len(first) == 3 and first[0].views[ROTATED.name].shape == (12, 3, SIZE, SIZE)
    for workers, ahead in ((1, 1), (5, 0)):
        monkeypatch.setattr(streamed, "workers", lambda n=workers: n)
        monkeypatch.setattr(streamed, "AHEAD", ahead)
        assert equal(list(stream(loaded.train).epoch("main", 2, VIEWS)), first)


def test_views_do_not_depend_on_the_pack_nor_on_the_epochs_before(loaded: data.Dataset) -> None:
    """A run that is resumed at epoch 2, alone, has the batches of a pack that has done epoch 1."""
    opened = stream(loaded.train)
    next(opened.epoch("main", 1, VIEWS)).views.clear()
    alone = list(opened.epoch("main", 2, [NORMAL]))
    pack = list(stream(loaded.train).epoch("main", 2, VIEWS))
    for a, b in zip(alone, pack, strict=True):
        assert torch.equal(a.views[NORMAL.name], b.views[NORMAL.name])
    other = next(stream(loaded.train, seed=4).epoch("main", 2, [NORMAL]))
    assert not torch.equal(other.views[NORMAL.name], alone[0].views[NORMAL.name])


def test_decoding_on_the_device(loaded: data.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of images through a GPU, with Pillow in place of its decoder: the same to rounding.

    A file that the decoder refuses and one that is no JPEG are decoded by Pillow.
    """
    by_pillow = list(stream(loaded.train).epoch("main", 1, (*VIEWS, STRONG)))
    refused = []

    def decode_jpeg(contents: list[bytes], device: torch.device) -> list[torch.Tensor]:
        if any(len(c) % 3 == 0 for c in contents):
            refused.append(len(contents))
            raise RuntimeError("cannot decode")
        return [gpu_decoding._by_pillow(c, device) for c in contents]

    monkeypatch.setattr(gpu_decoding, "can_decode", lambda device: True)
    monkeypatch.setattr(gpu_decoding, "decode_jpeg", decode_jpeg)
    assert "on the GPU" in loaded.train.source
    on_device = list(stream(loaded.train).epoch("main", 1, (*VIEWS, STRONG)))
    assert 1 in refused and max(refused) > 1, "both ways of refusal are covered"
    for a, b in zip(by_pillow, on_device, strict=True):
        assert torch.equal(a.indices, b.indices)
        for view in VIEWS:
            off = (a.views[view.name] - b.views[view.name]).abs() * 255 * 0.2
            assert off.max() < 2.5, view.name  # each value is rounded once here, and after each axis by PIL


def test_repeated_images_of_a_batch(loaded: data.Dataset) -> None:
    batch = next(stream(loaded.train, sampler=FOURS, batch_size=2).epoch("main", 1, [NORMAL]))
    assert batch.views[NORMAL.name].shape[0] == len(batch.indices) == 8


def test_other_augmentations_start_from_the_test_form(loaded: data.Dataset) -> None:
    split = loaded.train
    opened = stream(split, "none")
    squares = torch.cat(list(split.batches(4)))
    for batch in opened.epoch("main", 1, [NORMAL]):
        wanted = data.normalise(squares[batch.indices], opened.mean, opened.std)
        assert torch.equal(batch.views[NORMAL.name], wanted)
    for augment in ("crop-flip", "imagenet"):
        batch = next(stream(split, augment).epoch("main", 1, [NORMAL, STRONG]))
        assert batch.views[STRONG.name].shape == (4, 3, SIZE, SIZE)


def test_test_form(loaded: data.Dataset, folder: Path) -> None:
    """224 of 256: the shorter side is resized by 256/224, then the middle is used."""
    models.import_torchvision()
    from torchvision.transforms import functional

    before = round(SIZE * 256 / 224)
    files = sorted((folder / "pets" / "val").rglob("*.jpg"))
    wanted = [
        np.asarray(functional.center_crop(functional.resize(Image.open(f), [before]), [SIZE, SIZE]))
        for f in files
    ]
    assert (loaded.test.images.numpy() == np.stack(wanted)).all()


def test_parts_of_a_split(loaded: data.Dataset) -> None:
    split = loaded.train
    squares = torch.cat(list(split.batches(3)))
    assert squares.shape == (len(split.labels), SIZE, SIZE, 3)
    rows = torch.tensor([5, 0, 9])
    picked = split.pick(rows)
    assert torch.equal(torch.cat(list(picked.batches(8))), squares[rows])
    assert torch.equal(picked.labels, split.labels[rows])
    assert torch.equal(torch.cat(list(split.take(2).batches(8))), squares[:2])
    assert torch.equal(torch.cat(list(split.between(3, 7).batches(8))), squares[3:7])
    assert torch.equal(split.between(3, 7).labels, split.labels[3:7])
    noisy = split.relabelled(torch.zeros_like(split.labels)).to(torch.device("cpu"))
    assert isinstance(noisy, FileSplit) and not noisy.labels.any()

    host = HostSplit(squares, split.labels)
    for same in (host, host.to(torch.device("cpu")), host.relabelled(split.labels)):
        assert isinstance(same, HostSplit)
        assert torch.equal(torch.cat(list(same.batches(3))), squares)
    assert torch.equal(torch.cat(list(host.pick(rows).batches(2))), squares[rows])
    assert len(host.take(2).labels) == 2
    assert isinstance(host.between(3, 7), HostSplit) and torch.equal(host.between(3, 7).images, squares[3:7])


def test_processes_share_the_images_of_an_evaluation(
    loaded: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums over the images of two processes are those over all images."""
    net = models.build("resnet8", 3)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    alone = evaluate.evaluate(net, loaded.train, mean, std, FP32)
    sums: list[torch.Tensor] = []
    team = Team()
    team.count, team.sum_ = 2, sums.append  # type: ignore[method-assign]
    monkeypatch.setattr(processes, "_team", team)
    for team.number in range(2):
        evaluate.evaluate(net, loaded.train, mean, std, dataclasses.replace(FP32, processes=2))
    together = evaluate._score(sums[0] + sums[1])
    assert (together.top1, together.top5) == (alone.top1, alone.top5)
    assert together.loss == pytest.approx(alone.loss, rel=1e-5)


def test_a_file_that_changes_meanwhile_is_named(tmp_path: Path, loaded: data.Dataset) -> None:
    base = write_photos(tmp_path / "pets", 3, 1)
    split = loaded.train
    assert isinstance(split, FileSplit)
    entries = index.index_of(base).train.usable
    moved = FileSplit(split.images, split.labels[: len(entries)], base, entries)
    (base / "train" / "ant" / "1.jpg").write_bytes(content(pixels(0, 1, 30)))
    with pytest.raises(InputError, match="has changed since its folder was indexed"):
        list(stream(moved).epoch("main", 1, [NORMAL]))
    (base / "train" / "ant" / "1.jpg").unlink()
    with pytest.raises(InputError, match=r"1\.jpg cannot be read any more"):
        list(stream(moved).epoch("main", 1, [NORMAL]))


def run_of(student: str) -> Run:
    settings = (("recipe.batch_size", 5), ("recipe.epochs", 2))
    request = Request("folder:pets@24", "imagenet", "paper", "none", student, "plain", settings)
    return Resolver().run(request, 0)


def test_runs_are_bit_equal_alone_and_in_an_interrupted_pack(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two students in one pack, stopped after an epoch and resumed, and one of them alone."""
    monkeypatch.setattr(registry, "HELD_SIZE", 16)
    runs = [run_of("resnet8"), run_of("resnet14")]
    options = TrainingOptions(FP32, data_folder=folder)
    pack, alone = Store(tmp_path / "pack"), Store(tmp_path / "alone")
    stopped = train_pack(runs, pack, dataclasses.replace(options, until=1))
    assert [o.status for o in stopped] == ["stopped"] * 2
    assert [o.status for o in train_pack(runs, pack, options)] == ["done"] * 2
    assert [o.status for o in train_pack(runs[:1], alone, options)] == ["done"]
    assert weights(runs[0], pack.folder) == weights(runs[0], alone.folder)
    record = pack.record(runs[0].key)
    assert record is not None and "decoded by Pillow" in record["images"]
