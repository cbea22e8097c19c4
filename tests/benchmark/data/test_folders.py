"""Folders of images as data sets: their layouts, every kind of bad image, the index, and what enters keys."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import CLASSES, content, pixels, write_photos
from PIL import Image

from benchmark import data, longwork
from benchmark.data.folders import index as index_module
from benchmark.data.folders import registry, summary
from benchmark.data.folders.index import index_of
from benchmark.data.folders.layout import list_images
from benchmark.data.folders.reading import BadImage, centre, read_rgb, resized
from benchmark.errors import InputError
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request
from benchmark.work import stale


@pytest.fixture(autouse=True)
def no_data_folder() -> Iterator[None]:
    """Forget the folder of data sets before and after each test."""

    def forget() -> None:
        registry._data_folder = None
        registry._info_in.cache_clear()
        registry._last.clear()

    forget()
    yield
    forget()


# --- one image ----------------------------------------------------------------------------------------------

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
RGB = pixels(0, 0)


def cmyk() -> bytes:
    return content(Image.fromarray(RGB).convert("CMYK"), quality=95)


def sixteen() -> bytes:
    return content(Image.fromarray(GREY.astype(np.uint16) * 256 + 7), "PNG")


def palette() -> bytes:
    return content(Image.fromarray(RGB).quantize(8), "PNG")


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (lambda: content(RGB, "PNG"), ""),
        (lambda: content(GREY, "PNG"), "greyscale"),
        (lambda: content(GREY), "greyscale"),
        (cmyk, "CMYK"),
        (sixteen, "16-bit"),
        (palette, "palette"),
        (lambda: content(Image.fromarray(RGB).convert("RGBA"), "PNG"), "with transparency"),
    ],
)
def test_other_images_are_converted_to_rgb_and_named(raw: object, kind: str) -> None:
    image, actual = read_rgb(raw())  # type: ignore[operator]
    assert image.mode == "RGB" and actual == kind


def test_values_of_converted_images() -> None:
    grey = np.asarray(read_rgb(sixteen())[0])
    assert (grey == GREY[..., None]).all(), "16 bits keep the upper 8"
    assert (np.asarray(read_rgb(content(GREY, "PNG"))[0]) == GREY[..., None]).all()
    near = np.abs(np.asarray(read_rgb(cmyk())[0]).astype(int) - RGB)
    assert near.mean() < 4, "colours stay: CMYK is not read inverted"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "no image"),
        (content(RGB)[:-60], "broken"),
        (content(RGB, "PNG")[:200], "broken"),
        (content(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "of floating-point pixels"),
    ],
)
def test_bad_images(raw: bytes, why: str) -> None:
    with pytest.raises(BadImage, match=f"^{why}$"):
        read_rgb(raw)


def test_resized_and_centre_are_torchvisions() -> None:
    import models

    models.import_torchvision()
    from torchvision.transforms import functional

    for shape in ((50, 31), (31, 50), (40, 40), (33, 32)):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
        ours, theirs = resized(image, 24), functional.resize(image, [24])
        assert (np.asarray(ours) == np.asarray(theirs)).all()
        theirs = functional.center_crop(theirs, [19, 19])
        assert (np.asarray(centre(ours, 19)) == np.asarray(theirs)).all()


# --- layouts ------------------------------------------------------------------------------------------------


def test_classes_and_files_of_a_folder(tmp_path: Path) -> None:
    base = write_photos(tmp_path / "pets")
    (base / "train" / "ant" / "notes.txt").write_text("x")
    (base / "train" / ".hidden").mkdir()
    listing = list_images(base)
    assert listing.classes == CLASSES
    assert [f.path for f in listing.test[:3]] == ["val/ant/0.jpg", "val/ant/1.jpg", "val/ant/2.jpg"]
    assert [f.label for f in listing.train] == [0] * 6 + [1] * 6 + [2] * 6
    (base / "val").rename(base / "test")
    assert len(list_images(base).test) == 9


def tiny(base: Path) -> Path:
    """A copy of the form of TinyImageNet: three classes of four images, and six test images."""
    for label, wnid in enumerate(("n01", "n02", "n03")):
        (base / "train" / wnid / "images").mkdir(parents=True)
        for k in range(4):
            path = base / "train" / wnid / "images" / f"{wnid}_{k}.JPEG"
            path.write_bytes(content(pixels(label, k, 64)))
        (base / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes")
    (base / "val" / "images").mkdir(parents=True)
    lines = []
    for k in range(6):
        (base / "val" / "images" / f"val_{k}.JPEG").write_bytes(content(pixels(k % 3, 500 + k, 64)))
        lines.append(f"val_{k}.JPEG\tn0{k % 3 + 1}\t0\t32\t44\t62")
    (base / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return base


def test_tinyimagenets_layout(tmp_path: Path) -> None:
    base = tiny(tmp_path / "tiny-imagenet-200")
    data.use_folder(tmp_path)
    info, small = data.info("tinyimagenet"), data.info("tinyimagenet32")
    assert (info.num_classes, info.train_images, info.test_images) == (3, 12, 6)
    assert (info.size, small.size) == (64, 32)
    assert info.identity and info.identity == small.identity
    loaded = data.load("tinyimagenet32", tmp_path)
    assert loaded.train.images.shape == (12, 32, 32, 3) and loaded.classes == ("n01", "n02", "n03")
    assert loaded.test.labels.bincount().tolist() == [2, 2, 2]
    assert loaded.train.labels[:3].sort().values.tolist() == [0, 1, 2], "every beginning has all classes"

    (base / "val" / "images" / "val_9.JPEG").write_bytes(content(RGB))
    assert index_of(base).notes() == [f"{base}: 1 test image without a class: left out"]
    (base / "val" / "images" / "val_0.JPEG").unlink()
    with pytest.raises(InputError, match=r"lacks 1 image that the ground truth names, such as val_0.JPEG"):
        list_images(base)


def test_an_official_copy_has_no_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the published contents, keys are those of a plan made without the images. A line says so."""
    said: list[str] = []
    monkeypatch.setattr(longwork, "note", said.append)
    base = tiny(tmp_path / "tiny-imagenet-200")
    hashes = []
    for part in ("train", "val"):
        digest = hashlib.sha256()
        for path in sorted(base.rglob("*.JPEG"), key=str):
            if path.relative_to(base).parts[0] == part:
                digest.update(path.read_bytes())
        hashes.append(digest.hexdigest())
    source = dataclasses.replace(registry.TINY, sha256=tuple(hashes))
    monkeypatch.setitem(registry.SOURCES, "tinyimagenet", (source, 64))
    data.use_folder(tmp_path)
    assert data.info("tinyimagenet").identity == ""
    data.use_folder(tmp_path)  # as a second command would
    assert data.info("tinyimagenet").identity == ""
    (line,) = said  # said once, when the index is made
    assert line == f"{base}: the official images, by the sha256 of both splits"
    (base / "val" / "images" / "val_0.JPEG").write_bytes(content(pixels(1, 77)))
    data.use_folder(tmp_path)
    assert data.info("tinyimagenet").identity
    assert "the test images are not the official ones" in said[-1]


def imagenet(base: Path) -> Path:
    """A copy of the form of ImageNet: three classes of two images, and four test images in one folder."""
    for label, wnid in enumerate(("n01", "n02", "n03")):
        (base / "train" / wnid).mkdir(parents=True)
        for k in range(2):
            (base / "train" / wnid / f"{wnid}_{k}.JPEG").write_bytes(content(pixels(label, k)))
    (base / "val").mkdir()
    for k in range(1, 5):
        (base / "val" / f"ILSVRC2012_val_{k:08d}.JPEG").write_bytes(content(pixels(k % 3, 500 + k)))
    return base


TRUTH = [2, 0, 0, 1]
"""Labels of the test images."""


def test_imagenets_layout(tmp_path: Path) -> None:
    base = imagenet(tmp_path / "imagenet")
    with pytest.raises(InputError, match=r"no val.txt or LOC_val_solution.csv or ILSVRC2012_validation"):
        list_images(base)

    names = [f"ILSVRC2012_val_{k:08d}" for k in range(1, 5)]
    words = [f"n0{label + 1}" for label in TRUTH]
    devkit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    truth = devkit / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("".join(f"{3 - label}\n" for label in TRUTH))
    with pytest.raises(InputError, match=r"has no meta\.mat"):
        list_images(base)
    from scipy.io import savemat

    synsets = np.array(
        [(3 - label, f"n0{label + 1}", "words") for label in range(3)],
        dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object)],
    )
    savemat(devkit / "meta.mat", {"synsets": synsets})
    assert [f.label for f in list_images(base).test] == TRUTH, "the devkit's numbers are not alphabetical"

    rows = "".join(f"{n},{w} 1 2 3 4\n" for n, w in zip(names, words, strict=True))
    (base / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + rows)
    assert [f.label for f in list_images(base).test] == TRUTH
    (base / "val" / "val.txt").write_text(
        "".join(f"{n}.JPEG {label}\n" for n, label in zip(names, TRUTH, strict=True))
    )
    assert [f.label for f in list_images(base).test] == TRUTH
    (base / "val" / "val.txt").write_text(f"{names[0]}.JPEG 3\n")
    with pytest.raises(InputError, match="class 3, but there are 3 classes, numbered from 0"):
        list_images(base)


WRONG = {
    "no val": "needs the folders train/<class>/ and val/ with images",
    "one class": "has 1 class folder; it must have at least two",
    "case": "has the classes 'Ant' and 'ant'; rename or join them",
    "other class": "dog: train has no such class; both need the same class folders",
    "empty class": "bee has no image; every class needs at least one",
    "tab": "a file name may have no tab or line break",
}


@pytest.mark.parametrize("kind", WRONG)
def test_folders_in_another_form_are_refused(tmp_path: Path, kind: str) -> None:
    base = write_photos(tmp_path / "pets", 1, 1)
    match kind:
        case "no val":
            shutil.rmtree(base / "val")
        case "one class":
            shutil.rmtree(base / "train" / "ant")
            shutil.rmtree(base / "train" / "bee")
        case "case":
            shutil.copytree(base / "train" / "ant", base / "train" / "Ant")
        case "other class":
            (base / "val" / "ant").rename(base / "val" / "dog")
        case "empty class":
            (base / "train" / "bee" / "0.jpg").unlink()
        case "tab":
            (base / "train" / "bee" / "a\tb.jpg").touch()
    with pytest.raises(InputError, match=WRONG[kind]):
        list_images(base)


# --- the index ----------------------------------------------------------------------------------------------


def test_bad_images_are_left_out_and_named_with_their_count(tmp_path: Path) -> None:
    base = write_photos(tmp_path / "pets", 12, 3)
    ant = base / "train" / "ant"
    (ant / "0.jpg").write_bytes(b"")
    (ant / "1.jpg").write_bytes(content(RGB)[:-60])
    (ant / "2.jpg").write_bytes(b"nothing")
    for k, raw in enumerate((cmyk(), content(GREY), content(GREY), sixteen(), palette())):
        (ant / f"{k + 3}.jpg").write_bytes(raw)
    index = index_of(base)
    assert index.notes() == [
        f"{base}: 1 image broken: left out, the first is train/ant/1.jpg",
        f"{base}: 1 image empty: left out, the first is train/ant/0.jpg",
        f"{base}: 1 image no image: left out, the first is train/ant/2.jpg",
        f"{base}: 1 image 16-bit: converted to RGB",
        f"{base}: 1 image CMYK: converted to RGB",
        f"{base}: 2 images greyscale: converted to RGB",
        f"{base}: 1 image palette: converted to RGB",
    ]
    data.use_folder(tmp_path)
    assert data.info("folder:pets").train_images == 33
    assert data.load("folder:pets", tmp_path).train.images.shape == (33, 64, 64, 3)

    for path in (base / "val" / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"6 of 45 images cannot be read \(such as .*: empty\)"):
        index_of(base)


def test_a_class_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    base = write_photos(tmp_path / "pets", 20, 1)
    (base / "val" / "bee" / "0.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="no readable test image of class bee"):
        index_of(base)


def test_the_index_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_photos(tmp_path / "pets")
    made = []
    make = index_module._make
    monkeypatch.setattr(index_module, "_make", lambda *args: made.append(1) or make(*args))
    first = index_of(base)
    assert index_of(base) == first and len(made) == 1
    path = base / ".kd-tables" / "index.tsv"
    path.write_text(path.read_text()[:-30])
    assert index_of(base) == first and len(made) == 2, "a damaged index is made again"

    one = base / "train" / "ant" / "0.jpg"
    os.utime(one, ns=(1, 1))
    touched = index_of(base)
    assert len(made) == 3 and touched.identity == first.identity, "other times, the same contents"
    one.write_bytes(content(pixels(9, 9)))
    changed = index_of(base)
    assert changed.identity != first.identity
    one.rename(base / "train" / "bee" / "9.jpg")
    assert index_of(base).identity not in (first.identity, changed.identity)


def test_a_large_folder_is_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands do not look at each file of a large folder; training does."""
    base = write_photos(tmp_path / "pets")
    looked = []
    monkeypatch.setattr(summary, "index_of", lambda *args: looked.append(1) or index_of(*args))

    def info() -> tuple[str, int]:
        data.use_folder(tmp_path)
        known = data.info("folder:pets")
        return known.identity, known.test_images

    first = info()
    assert info() == first and len(looked) == 2, "a small folder has no summary"
    monkeypatch.setattr(summary, "LARGE", 10)
    assert info() == first and info() == first and len(looked) == 3

    (base / "val" / "cat" / "9.jpg").write_bytes(content(pixels(2, 509)))
    assert info()[1] == 10 and len(looked) == 4, "another file is noticed"
    before = info()
    (base / "train" / "ant" / "0.jpg").write_bytes(content(pixels(9, 9)))
    assert info() == before and len(looked) == 4, "other contents of a file are not,"
    with pytest.raises(InputError, match="the images have changed since this command began"):
        data.load("folder:pets", tmp_path)
    assert info() != before, "until something is trained"


def test_a_read_only_folder_is_indexed_in_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_photos(tmp_path / "pets", 2, 1)
    monkeypatch.setattr(index_module.os, "access", lambda *_: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index_of(base)
    assert not (base / ".kd-tables").exists()
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == ["index.tsv"]


def test_statistics_are_those_of_the_pixels(tmp_path: Path) -> None:
    index = index_of(write_photos(tmp_path / "pets"))
    files = sorted((tmp_path / "pets" / "train").rglob("*.jpg"))
    x = np.stack([np.asarray(Image.open(p)) for p in files]) / 255
    assert index.mean == pytest.approx(x.mean((0, 1, 2)), abs=1e-4)
    assert index.std == pytest.approx(x.std((0, 1, 2)), abs=1e-4)


# --- data sets ----------------------------------------------------------------------------------------------


def test_pixels_of_a_folder(tmp_path: Path) -> None:
    base = write_photos(tmp_path / "pets")
    data.use_folder(tmp_path)
    loaded = data.load("folder:pets@16", tmp_path)
    assert loaded.train.images.dtype == torch.uint8 and loaded.train.images.shape == (18, 16, 16, 3)
    wanted = {}
    for label, name in enumerate(CLASSES):
        for path in (base / "train" / name).iterdir():
            image = Image.open(path).resize((int(16 * 24 / 20), 16), Image.Resampling.BILINEAR)
            left = round((image.width - 16) / 2)
            wanted[np.asarray(image)[:, left : left + 16].tobytes()] = label
    assert {
        i.numpy().tobytes(): int(k) for i, k in zip(loaded.train.images, loaded.train.labels, strict=True)
    } == wanted


def test_decoded_pixels_are_stored_and_checked(tmp_path: Path) -> None:
    base = write_photos(tmp_path / "pets")
    data.use_folder(tmp_path)

    def load() -> torch.Tensor:
        registry._last.clear()
        return data.load("folder:pets@16", tmp_path).train.images.clone()

    first = load()
    file = base / ".kd-tables" / "train-16.npy"
    time = file.stat().st_mtime_ns
    assert torch.equal(load(), first) and file.stat().st_mtime_ns == time
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert torch.equal(load(), first), "a damaged file is made again"
    assert file.read_bytes() != bytes(raw)


def test_dataset_toml(tmp_path: Path) -> None:
    base = write_photos(tmp_path / "pets")
    (base / "dataset.toml").write_text(
        'size = 24\nmean = [0.5, 0.5, 0.5]\nstd = [0.2, 0.2, 0.25]\nclasses = ["cat", "ant"]\n'
    )
    data.use_folder(tmp_path)
    info = data.info("folder:pets")
    assert (info.size, info.num_classes, info.train_images) == (24, 2, 12)
    assert (info.mean, info.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.25))
    assert data.load("folder:pets", tmp_path).classes == ("cat", "ant")
    assert data.info("folder:pets@32").size == 32

    for text, problem in {
        "size = 2": "size = 2 is not allowed; allowed: 8 to 1024 pixels",
        "sise = 2": r"unknown setting in .* 'sise' \(did you mean size\?\)",
        "mean = [1, 2, 3]": "mean must be three numbers from 0 to 1",
        'classes = ["ant", "ant"]': "classes has ant twice",
        'classes = ["ant", "dog"]': "has no folder dog, which dataset.toml names as a class",
        "size = ": "dataset.toml: ",
    }.items():
        (base / "dataset.toml").write_text(text)
        data.use_folder(tmp_path)
        with pytest.raises(InputError, match=problem):
            data.info("folder:pets")


@pytest.mark.parametrize("name", ["folder:", "folder:a/b", "folder:..", "folder:a@", "folder:a@4"])
def test_wrong_names(tmp_path: Path, name: str) -> None:
    write_photos(tmp_path / "a", 1, 1)
    data.use_folder(tmp_path)
    with pytest.raises(InputError, match="data set"):
        data.info(name)


def test_images_that_are_not_there(tmp_path: Path) -> None:
    data.use_folder(tmp_path)
    assert data.info("tinyimagenet").train_images == 100_000, "a plan can be made without them"
    with pytest.raises(data.MissingData, match=r"no .*tiny-imagenet-200 with .*; put TinyImageNet-200 there"):
        data.load("tinyimagenet", tmp_path)
    with pytest.raises(data.MissingData, match=r"folder:pets is not there: no .*pets with train/<class>/"):
        data.info("folder:pets")
    assert data.has_user_files("folder:pets") and not data.has_user_files("cifar100")
    with pytest.raises(InputError, match=r"unknown data set 'tinyimagnet' \(did you mean tinyimagenet\?\)"):
        data.info("tinyimagnet")


def key(name: str) -> str:
    request = Request(name, "crd", "paper", "resnet56", "resnet20", "kd")
    return Resolver().run(request, 0).key


def test_other_images_are_other_runs(tmp_path: Path) -> None:
    base = write_photos(tmp_path / "pets")
    data.use_folder(tmp_path)
    first = key("folder:pets")
    assert first.startswith("folder:pets/crd/paper/")
    data.load("folder:pets", tmp_path)
    (base / "train" / "ant" / "0.jpg").write_bytes(content(pixels(9, 9)))
    with pytest.raises(InputError, match="the images have changed since this command began"):
        data.load("folder:pets", tmp_path)
    data.use_folder(tmp_path)
    assert key("folder:pets") != first
    (base / "train" / "ant" / "0.jpg").write_bytes(content(pixels(0, 0)))
    data.use_folder(tmp_path)
    assert key("folder:pets") == first
    assert key("folder:pets@32") != first


def test_records_of_a_folder_that_is_not_there_are_kept(tmp_path: Path) -> None:
    write_photos(tmp_path / "pets")
    data.use_folder(tmp_path)
    run = Resolver().run(Request("folder:pets", "crd", "paper", "none", "resnet20", "plain"), 0)
    data.use_folder(tmp_path / "elsewhere")
    assert stale.unknown_name(run.order()) == ""
    assert stale.judge_finished(run.key, {"order": run.order()}, Resolver()) is None
    other = {**run.order(), "dataset": "pets"}
    assert stale.unknown_name(other) == "data set 'pets'"


# --- pictures -----------------------------------------------------------------------------------------------


def test_pictures() -> None:
    info, loaded = data.info(data.PICTURES), data.load(data.PICTURES)
    assert loaded.train.images.shape == (1000, 64, 64, 3) and loaded.test.images.shape == (300, 64, 64, 3)
    assert loaded.train.labels.bincount().tolist() == [100] * 10
    x = loaded.train.images.double() / 255
    assert info.mean == pytest.approx(x.mean((0, 1, 2)).tolist(), abs=1e-4)
    assert info.std == pytest.approx(x.std((0, 1, 2)).tolist(), abs=1e-4)
    assert len({i.tobytes() for i in loaded.train.images.numpy()}) == 1000
