"""Checkpoints as trainers and authors wrap them, and which networks their weights fit."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import models
from models.weight_files import _ATTRIBUTES, _RENAMING, _SELECTING, STATE_KEYS
from models.weights import _blueprint, fitting

State = dict[str, Tensor]


def state_of(name: str = "resnet8", num_classes: int = 10, fill: float = 0.0) -> State:
    torch.manual_seed(0)
    state = models.build(name, num_classes).state_dict()
    return {k: t + fill if t.is_floating_point() else t for k, t in state.items()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def wrappings(state: State) -> dict[str, Any]:
    averaged = AveragedModel(models.build("resnet8", 10))
    averaged.module.load_state_dict(state)
    return {
        **{f"under {key}": {key: state, "epoch": 3} for key in STATE_KEYS},
        "under a name of its own": {"resnet": state, "epoch": 3},
        "compiled": {"model": prefixed("_orig_mod.", state)},
        "compiled, parallel": prefixed("module._orig_mod.", state),
        "parallel, compiled": prefixed("_orig_mod.module.", state),
        "a compiled part": {k.replace("layer1.", "layer1._orig_mod."): t for k, t in state.items()},
        "lightning": {"state_dict": {**prefixed("model.", state), "criterion.weight": torch.ones(3)}},
        "averaged by torch": averaged.state_dict(),
        "averaged by another": {"ema": {**prefixed("ema_model.", state), "step": torch.tensor(7)}},
        "student beside its teacher": {"student": state, "teacher": state_of("resnet14")},
        "plain beside its average": {"model": state, "ema": state_of(fill=1.0)},
        "another network beside it": {"model": state_of("resnet14"), "net": state},
        "without counters": {"net": {k: t for k, t in state.items() if "num_batches" not in k}},
    }


@pytest.mark.parametrize("kind", list(wrappings(state_of())))
def test_wrapped_weights_are_those_of_the_network(kind: str, tmp_path: Path) -> None:
    state = state_of()
    torch.save(wrappings(state)[kind], tmp_path / "x.pth")
    net = models.build("resnet8", 10)
    extra = models.load_weights(net, tmp_path / "x.pth")
    assert models.weights_hash(net) == models.weights_hash(state)
    assert "epoch" not in extra or extra["epoch"] == 3
    assert ("resnet8", 10) in fitting(models.read_weights(tmp_path / "x.pth"), ("resnet8", "vgg8"), (100, 10))


def test_no_network_has_a_module_that_is_taken_for_a_wrapper() -> None:
    for name in models.names():
        keys = _blueprint(name, 100).state_dict()
        assert not [key for key in keys if key.startswith((*_ATTRIBUTES, *_RENAMING, *_SELECTING))]


def test_weights_fit_their_network_only() -> None:
    """Networks with the same tensors differ in their initialisation or in a stride."""
    for name in ("resnet20", "wrn_16_2", "vgg8", "ShuffleV1", "ResNet18"):
        file = models.WeightFile(Path("x"), (("", state_of(name, 100)),), {})
        assert fitting(file, models.names(), (100, 10)) == [(name, 100)]
    file = models.WeightFile(Path("x"), (("", state_of("MobileNetV2", 100)),), {})
    same_tensors = [("MobileNetV2", 100), ("MobileNetV2_hsakd", 100)]  # strides are no weights
    assert fitting(file, models.names(), (100, 10)) == same_tensors
    same = _blueprint("ResNet50_default", 100).state_dict()
    file = models.WeightFile(
        Path("x"), (("", {k: torch.empty(t.shape, dtype=t.dtype) for k, t in same.items()}),), {}
    )
    assert fitting(file, models.names(), (100,)) == [("ResNet50", 100), ("ResNet50_default", 100)]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("fc.bias", float("nan"), "fc.bias has NaN or infinity in 1 of 10 values"),
        ("conv1.weight", float("inf"), "conv1.weight has NaN or infinity in 1 of 432 values"),
        ("bn1.running_mean", float("-inf"), "bn1.running_mean has NaN or infinity in 1 of 16 values"),
        ("fc.weight", 1e300, "fc.weight has NaN or infinity in 1 of 640 values"),
        ("bn1.running_var", -1.0, "bn1.running_var has negative variances"),
    ],
)
def test_weights_that_compute_nothing_are_refused(
    key: str, value: float, problem: str, tmp_path: Path
) -> None:
    state = state_of()
    state[key] = state[key].double()
    state[key].view(-1)[0] = value
    torch.save({"model": state}, tmp_path / "x.pth")
    net = models.build("resnet8", 10)
    before = models.weights_hash(net)
    with pytest.raises(models.WeightsError, match=problem):
        models.load_weights(net, tmp_path / "x.pth")
    assert models.weights_hash(net) == before


def write_safetensors(path: Path, state: State) -> None:
    """The format: the header's length, a JSON header with type, shape and place of each tensor, the bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for key, tensor in state.items():
        content = tensor.contiguous().numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        offsets = [len(data), len(data) + len(content)]
        header[key] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_safetensors(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    state = state_of()
    write_safetensors(tmp_path / "x.safetensors", prefixed("module.", state))
    net = models.build("resnet8", 10)
    models.load_weights(net, tmp_path / "x.safetensors")
    assert models.weights_hash(net) == models.weights_hash(state)
    (tmp_path / "x.safetensors").write_bytes(b"not one")
    with pytest.raises(models.WeightsError, match="damaged, or not a checkpoint"):
        models.load_weights(net, tmp_path / "x.safetensors")


def test_without_the_package_its_name_is_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    write_safetensors(tmp_path / "x.safetensors", state_of())
    with pytest.raises(models.WeightsError, match="pip install safetensors"):
        models.load_weights(models.build("resnet8", 10), tmp_path / "x.safetensors")


def test_a_whole_network_is_refused_in_one_line(tmp_path: Path) -> None:
    """It would have to be unpickled, which can run code."""
    torch.save({"net": nn.Linear(2, 2)}, tmp_path / "x.pth")
    with pytest.raises(models.WeightsError, match=r"refused because it contains torch\.nn\.modules\.linear"):
        models.read_weights(tmp_path / "x.pth")
