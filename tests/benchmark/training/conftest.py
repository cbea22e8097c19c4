"""Put this folder on the path, so that its tests can import its helpers. A data set for fast learning."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from plugins_kit import use

from benchmark import methods

sys.path.insert(0, str(Path(__file__).parent))

DIGITS16 = """
from benchmark import data
from benchmark.data import UserDataset

def load(folder):
    digits = data.load("digits")
    train, test = ((s.images[:, ::2, ::2].numpy(), s.labels.numpy()) for s in (digits.train, digits.test))
    return {"train": train, "test": test, "classes": [str(k) for k in range(10)]}

dataset = UserDataset(name="digits16", load=load, title="digits of 16 pixels")
"""


@contextmanager
def digits_of_16_pixels(folder: Path) -> Iterator[None]:
    """A data set of images with half the side of those of `digits`: a quarter of the work."""
    with pytest.MonkeyPatch.context() as patch:
        use(folder, patch, digits16=DIGITS16)
        yield
    methods.clear_cache()


@pytest.fixture
def digits16(clean_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with digits_of_16_pixels(tmp_path_factory.mktemp("plugins")):
        yield


@pytest.fixture(scope="module")
def digits16_early(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same for fixtures of a module: tests do not see the variables that such a fixture sets."""
    with digits_of_16_pixels(tmp_path_factory.mktemp("plugins")):
        yield
