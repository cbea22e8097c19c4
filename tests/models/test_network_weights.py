"""Checkpoints: every published format loads, anything else is an error of one line, writing is atomic."""

from __future__ import annotations

import argparse
import os
import pathlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models

State = dict[str, Tensor]


def _state(name: str = "resnet8", num_classes: int = 10) -> State:
    net = models.build(name, num_classes)
    return {key: tensor + 1 for key, tensor in net.state_dict().items()}


def _prefixed(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def _formats(state: State) -> dict[str, Any]:
    student = _prefixed("module.student.", state)
    teacher = _prefixed("module.teacher.", _state("resnet14"))
    backbone = _prefixed("backbone.", state)
    head = {"proj_head.0.weight": torch.ones(64, 64), "proj_head.0.bias": torch.ones(64)}
    options = argparse.Namespace(lr=0.05, decay=[150, 180], path="x")
    return {
        "crd": {
            "epoch": 240,
            "model": state,
            "accuracy": torch.tensor(69.1),
            "opt": options,
            "optimizer": {"state": {}},
        },
        "sskd": {"state_dict": OrderedDict(state), "epoch": 186, "acc": 73.44},
        "bare": state,
        "parallel": {"model": _prefixed("module.", state)},
        "mdistiller": {
            "epoch": 1,
            "model": {**student, **teacher, "module.conv.weight": torch.ones(2)},
            "best_acc": 70.0,
        },
        "sskd student": {"state_dict": {**backbone, **head}},
        "sskd student, parallel": _prefixed("module.", {**backbone, **head}),
        "parameters": {
            "model": {key: nn.Parameter(t) if t.is_floating_point() else t for key, t in state.items()}
        },
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", list(_formats({})))
def test_formats(kind: str, zipped: bool, tmp_path: Path) -> None:
    state = _state()
    path = tmp_path / "net.pth"
    torch.save(_formats(state)[kind], path, _use_new_zipfile_serialization=zipped)
    net = models.build("resnet8", 10)
    models.load_weights(net, path)
    assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items())
    assert models.weights_hash(net) == models.weights_hash(state)


def test_what_rides_along_comes_back_plain(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    beside = {
        "epoch": 240,
        "accuracy": torch.tensor(69.5),
        "best": np.float64(70.25),
        "count": np.int32(3),
        "flag": np.bool_(True),
        "opt": argparse.Namespace(lr=0.05, decay=[150, 180], drop=np.float32(0.5)),
        "log": {"names": ("a", "b"), 3: None},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []},
    }
    torch.save({"model": _state(), **beside}, path)
    assert models.load_weights(models.build("resnet8", 10), str(path)) == {
        "epoch": 240,
        "accuracy": 69.5,
        "best": 70.25,
        "count": 3,
        "flag": True,
        "opt": {"lr": 0.05, "decay": [150, 180], "drop": 0.5},
        "log": {"names": ["a", "b"], 3: None},
    }


def test_numpy_scalars_of_an_older_numpy(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"model": _state(), "acc": np.float64(70.25)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b"numpy._core.multiarray") == 1
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert models.load_weights(models.build("resnet8", 10), path) == {"acc": 70.25}


def test_both_spellings_of_mobilenetv2s_classifier(tmp_path: Path) -> None:
    state = _state("MobileNetV2")
    sskd = {key.replace("classifier.0.", "classifier."): tensor for key, tensor in state.items()}
    assert "classifier.weight" in sskd
    hashes = {models.weights_hash(state), models.weights_hash(sskd)}
    for spelling in (state, sskd):
        torch.save({"state_dict": spelling}, tmp_path / "net.pth")
        net = models.build("MobileNetV2", 10)
        models.load_weights(net, tmp_path / "net.pth")
        assert torch.equal(net.linear_head().weight, state["classifier.0.weight"])
        hashes.add(models.weights_hash(net))
    assert len(hashes) == 1


def test_other_precisions_and_old_files(tmp_path: Path) -> None:
    state = {key: t.double() if t.is_floating_point() else t for key, t in _state().items()}
    state = {key: tensor for key, tensor in state.items() if "num_batches_tracked" not in key}
    torch.save(state, tmp_path / "net.pth")
    net = models.build("resnet8", 10)
    models.load_weights(net, tmp_path / "net.pth")
    assert net.linear_head().weight.dtype == torch.float32
    assert torch.equal(net.linear_head().weight, state["fc.weight"].float())


@pytest.mark.parametrize("name", ["vgg8", "wrn_16_2", "ShuffleV1", "ShuffleV2", "ResNet18"])
def test_round_trip(name: str, tmp_path: Path, images: Tensor) -> None:
    net = models.build(name, 10)
    net.features(images)
    net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    path = tmp_path / "deep" / "er" / "net.pth"
    models.save_weights(net, path, epoch=3, top1=np.float64(12.5), log={"losses": (1, 2)}, head=torch.ones(2))
    assert [p.name for p in path.parent.iterdir()] == ["net.pth"]
    content = torch.load(path, weights_only=True)
    assert list(content) == ["model", "epoch", "top1", "log", "head"]
    assert all(tensor.is_contiguous() for tensor in content["model"].values())
    other = models.build(name, 10).eval()
    assert models.load_weights(other, path) == {"epoch": 3, "top1": 12.5, "log": {"losses": [1, 2]}}
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    assert torch.equal(other(images), net(images))
    assert models.weights_hash(other) == models.weights_hash(net) == models.weights_hash(content["model"])


def test_saved_as_fp32(tmp_path: Path) -> None:
    net = models.build("resnet8", 10).bfloat16()
    models.save_weights(net, tmp_path / "net.pth")
    dtypes = {
        tensor.dtype for tensor in torch.load(tmp_path / "net.pth", weights_only=True)["model"].values()
    }
    assert dtypes == {torch.float32, torch.int64}


def test_extras_that_could_not_be_read_again(tmp_path: Path) -> None:
    net = models.build("resnet8", 10)
    for extra in (
        {"model": 1},
        {"where": pathlib.Path("x")},
        {"log": [{"f": print}]},
        {"array": np.zeros(3)},
    ):
        with pytest.raises(TypeError):
            models.save_weights(net, tmp_path / "net.pth", **extra)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = models.build("resnet8", 10)
    models.save_weights(net, tmp_path / "net.pth", epoch=1)

    def full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        models.save_weights(net, tmp_path / "net.pth", epoch=2)
    assert [p.name for p in tmp_path.iterdir()] == ["net.pth"]
    assert models.load_weights(net, tmp_path / "net.pth") == {"epoch": 1}


class Trap:
    """Unpickled, it would run a command."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.flag}",)


def _refused(content: Any, path: Path) -> str:
    """The one line that refuses a file; the network must not have changed."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    net = models.build("resnet8", 10)
    before = models.weights_hash(net)
    with pytest.raises(models.WeightsError) as caught:
        models.load_weights(net, path)
    assert models.weights_hash(net) == before
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "expected" in message and "\n" not in message and len(message) < len(str(path)) + 250
    return message.removeprefix(f"{path}: ")


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    assert _refused(None, path) == "no such file; expected a checkpoint"
    assert _refused(None, tmp_path) == "not a file; expected a checkpoint"
    assert "empty" in _refused(b"", path)
    assert "not a checkpoint" in _refused(b"<html>404 not found</html>", path)
    assert "contains a list" in _refused([1, 2], path)
    assert "empty" in _refused({"model": {}}, path)
    assert "'teacher': dict" in _refused({"teacher": _state()}, path)
    assert "'a': dict" in _refused({"a": _state(), "b": _state()}, path), "two unknown entries"
    assert "'fc.bias': float" in _refused({"model": _state() | {"fc.bias": 1.0}}, path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_truncated_files(zipped: bool, kept: float, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"model": _state()}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    assert "damaged" in _refused(content[: int(len(content) * kept)], path)


def test_code_is_refused(tmp_path: Path) -> None:
    path, flag = tmp_path / "net.pth", tmp_path / "flag"
    assert "system" in _refused({"model": _state(), "epoch": Trap(flag)}, path)
    assert "models.resnet.ResNet" in _refused(models.build("resnet8", 10), path)
    assert "pathlib" in _refused({"model": _state(), "opt": argparse.Namespace(out=pathlib.Path("x"))}, path)
    assert not flag.exists()


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    expected = "expected resnet8 with 10 classes"
    message = _refused(_state("resnet8", 100), path)
    assert message == f"weights of another network: fc.weight is (100, 64), not (10, 64); {expected}"
    assert "has layer1.1.conv1.weight (36 unknown)" in _refused(_state("resnet14"), path)
    assert expected in _refused(_state("ShuffleV2"), path)
    state = _state()
    bias = state.pop("fc.bias")
    assert "lacks fc.bias (1 missing)" in _refused(state, path)
    assert "fc.bias is of type torch.int64" in _refused(state | {"fc.bias": bias.long()}, path)
    assert "fc.bias is of type" in _refused(state | {"fc.bias": bias.to_sparse()}, path)


def test_hash_knows_names_shapes_and_values() -> None:
    state = _state()
    first = models.weights_hash(state)
    assert len(first) == 16 and int(first, 16) >= 0
    assert models.weights_hash(dict(reversed(state.items()))) == first
    assert models.weights_hash(_prefixed("module.", state)) == first
    assert (
        models.weights_hash(
            {key: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for key, t in state.items()}
        )
        == first
    )
    changed = state["fc.weight"].clone()
    changed[3, 5] = changed[3, 5].nextafter(torch.tensor(9.0))
    others = (
        state | {"fc.weight": changed},
        state | {"fc.weight": state["fc.weight"].view(64, 10)},
        {key.replace("fc.", "linear."): tensor for key, tensor in state.items()},
        state | {"more": torch.zeros(0)},
    )
    assert len({first, *(models.weights_hash(other) for other in others)}) == 5


def test_hash_is_the_same_on_every_machine() -> None:
    assert (
        models.weights_hash({"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(0.5)}) == "52e1c72e682322a3"
    )
