"""The real thing: a published teacher on the CIFAR-100 test set, where both are at hand.

KD_TEST_CIFAR100: a folder that contains `cifar-100-python`.
KD_TEST_RESNET56: the resnet56 checkpoint of the SSKD authors.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

import models

MEAN, STD = (0.5071, 0.4866, 0.4409), (0.2675, 0.2565, 0.2761)


def _given(variable: str, inner: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    path = Path(value) / inner
    if not path.exists():
        pytest.skip(f"{variable}: {path} does not exist")
    return path


@pytest.fixture
def cifar100_test() -> tuple[Tensor, Tensor]:
    """Normalised images `[10000, 3, 32, 32]` and their labels."""
    with _given("KD_TEST_CIFAR100", "cifar-100-python/test").open("rb") as file:
        content = pickle.load(file, encoding="latin1")
    pixels = torch.from_numpy(content["data"]).view(-1, 3, 32, 32).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std, torch.tensor(content["fine_labels"])


def test_resnet56_of_sskd_has_its_printed_accuracy(cifar100_test: tuple[Tensor, Tensor]) -> None:
    path = _given("KD_TEST_RESNET56", "")
    images, labels = cifar100_test
    net = models.build("resnet56").eval()
    beside = models.load_weights(net, path)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        hits = [
            int((net(x.to(memory_format=torch.channels_last)).argmax(1) == y).sum())
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        ]
    assert sum(hits) == 7344
    assert beside["acc"] == 73.44
    assert models.weights_hash(net) == "1897153734875314"
