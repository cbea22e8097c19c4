"""Data sets of KD_PLUGINS: properties, identity, checks, training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from plugins_kit import use
from training_kit import train

from benchmark import data, methods
from benchmark.data import user_datasets
from benchmark.errors import InputError
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run
from benchmark.training import finished
from results.store import Store

BLOBS = """
import numpy as np
from benchmark.data import UserDataset

def load(folder):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 80, (60, 32, 32, 3)) + 80 * (labels[:, None, None, None] == np.arange(3))
    images = images.astype(np.uint8)
    train, test = (images[:40], labels[:40]), (images[40:], labels[40:])
    return {"train": train, "test": test, "classes": ["r", "g", "b"]}

dataset = UserDataset(name="blobs", load=load, title="three colours")
"""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    methods.clear_cache()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use(tmp_path / "p", monkeypatch, blobs=BLOBS) / "blobs.py"


def run_of(**overrides: object) -> Run:
    settings = tuple(sorted((k.replace("__", "."), v) for k, v in overrides.items()))
    return Resolver().run(Request("blobs", "crd", "short", "none", "resnet8", "plain", settings), 0)


def test_properties_are_those_of_the_images(file: Path) -> None:
    info, loaded = data.info("blobs"), data.load("blobs")
    assert (info.num_classes, info.train_images, info.test_images, info.size) == (3, 40, 20, 32)
    pixels = loaded.train.images.numpy() / 255
    np.testing.assert_allclose(info.mean, pixels.mean((0, 1, 2)), atol=6e-5)
    np.testing.assert_allclose(info.std, pixels.std((0, 1, 2), ddof=1), atol=6e-5)
    assert loaded.classes == ("r", "g", "b") and loaded.train.labels.dtype == torch.int64
    assert data.is_name("blobs") and not data.is_name("blob")


def test_the_key_follows_the_images_and_not_the_file(file: Path) -> None:
    key = run_of().key
    file.write_text(BLOBS + "# a comment\n")
    methods.clear_cache()
    assert run_of().key == key
    file.write_text(BLOBS.replace("default_rng(0)", "default_rng(1)"))
    methods.clear_cache()
    assert run_of().key != key


def test_it_trains(file: Path, tmp_path: Path) -> None:
    (outcome,) = train([run_of(recipe__epochs=1, recipe__batch_size=10)], tmp_path / "r")
    assert outcome.status == "done"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("labels = np", "1 / 0; labels = np"), "load raised ZeroDivisionError"),
        (('"classes"', '"names"'), "load must return a dictionary with train, test and classes"),
        (('["r", "g", "b"]', '["r", "g"]'), "labels are 0 to 2; with 2 classes, 0 to 1 are allowed"),
        (("astype(np.uint8)", "astype(float)"), "images are torch.float64 .*; they must be torch.uint8"),
        (("labels[40:])", "labels[41:])"), "test: labels are .* give one whole number for each image"),
        (("(60, 32, 32, 3)", "(60, 32, 30, 3)"), r"images are torch.uint8 \(40, 32, 30, 3\)"),
        (('"b"]}', '"b"], "mean": 1}'), "mean is 1; give three numbers"),
        (('name="blobs"', 'name="bl obs"'), "a data set is called 'bl obs'"),
        (('name="blobs"', 'name="digits"'), "the data set digits is built in"),
    ],
)
def test_a_wrong_data_set_is_one_line(change: tuple[str, str], problem: str, file: Path) -> None:
    text = BLOBS.replace(*change, 1)
    assert text != BLOBS
    file.write_text(text)
    methods.clear_cache()
    with pytest.raises(InputError, match=problem) as error:
        data.info("blobs")
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_simkd_is_built_again_for_the_size_of_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tmp_path / "p", monkeypatch, blobs=BLOBS.replace("32, 32", "48, 48"))
    few = (
        ("recipe.batch_size", 8),
        ("recipe.epochs", 1),
        ("recipe.test_images", 20),
        ("recipe.train_images", 16),
    )
    run = Resolver().run(Request("blobs", "crd", "quick", "resnet14", "resnet8", "simkd", few), 0)
    assert [o.status for o in train([run], tmp_path / "runs")] == ["done"]
    store = Store(tmp_path / "runs")
    net = finished.load(store, run.key, "last").net
    assert net.at_test["simkd"].size == 48 // 4, "the teacher's last stage"
    info, test = data.info("blobs"), data.load("blobs").test
    images = (test.images.float() / 255 - torch.tensor(info.mean)) / torch.tensor(info.std)
    right = net(images.permute(0, 3, 1, 2)).argmax(1) == test.labels
    record = store.record(run.key)
    assert record is not None and record["top1_last"] == pytest.approx(100 * float(right.double().mean()))


SEVERAL = """
import numpy as np
from pathlib import Path
from benchmark.data import UserDataset

def make(name, first):
    def load(folder):
        with open(Path(__file__).with_name("calls.txt"), "a") as calls:
            calls.write(name)
            calls_so_far = calls.tell()
        images = np.full((4, 8, 8, 3), first + CHANGES * calls_so_far, np.uint8)
        images[0] = 0
        labels = np.arange(4) % 2
        return {"train": (images, labels), "test": (images, labels), "classes": ["x", "y"]}
    return UserDataset(name=name, load=load)

a, b, c = make("a", 1), make("b", 2), make("c", 3)
"""


def test_a_table_with_three_data_sets_reads_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = use(tmp_path / "p", monkeypatch, several=SEVERAL.replace("CHANGES", "0"))
    for _ in range(3):
        for i, name in enumerate("abc", 1):
            assert data.info(name).train_images == 4
            assert int(data.load(name).train.images.max()) == i
    assert (folder / "calls.txt").read_text() == "abc"


def test_images_that_made_room_are_read_again_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = 2 * 4 * (8 * 8 * 3 + 8)  # training and test images, labels of 8 bytes
    monkeypatch.setattr(user_datasets, "HELD_BYTES", 2 * one)
    folder = use(tmp_path / "p", monkeypatch, several=SEVERAL.replace("CHANGES", "0"))
    for name in "abcba":  # b is held when it is asked for again, a has made room for c
        assert data.load(name).classes == ("x", "y")
    assert (folder / "calls.txt").read_text() == "abca"
    use(tmp_path / "q", monkeypatch, several=SEVERAL.replace("CHANGES", "1"))
    for name in "abc":
        data.load(name)
    with pytest.raises(InputError, match="data set a: load returns other images than the first time"):
        data.load("a")
