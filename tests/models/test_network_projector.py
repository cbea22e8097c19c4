"""Projectors of self-supervised networks: released files, our own, and the hash of their weights."""

import pytest
import torch

import models
from benchmark.spec.imported import load_teacher, read_folder, refs_of

WIDTH = 4  # of the made-up projectors; the released ones have 128


def tensors(net):
    """Return the tensors of a network, without its classifier, under torchvision's names."""
    return {
        key.replace("shortcut", "downsample"): torch.randn_like(value) * 0.01
        if value.is_floating_point() and "running_var" not in key
        else value
        for key, value in net.state_dict().items()
        if not key.startswith("linear.")
    }


def moco(net, d):
    """Return the content of a file as MoCo-v2's training writes it."""
    state = tensors(net)
    state |= {"fc.0.weight": torch.randn(d, d), "fc.0.bias": torch.randn(d)}
    state |= {"fc.2.weight": torch.randn(WIDTH, d), "fc.2.bias": torch.randn(WIDTH)}
    other = {f"module.encoder_k.{k}": torch.zeros_like(v) for k, v in state.items()}
    queue = {"module.queue": torch.randn(WIDTH, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    encoder = {f"module.encoder_q.{k}": v for k, v in state.items()}
    return {"epoch": 200, "arch": "resnet50", "state_dict": {**encoder, **other, **queue}}, state


def swav(net, d):
    """Return the content of a file as SwAV's authors released it."""
    state = tensors(net)
    state |= {"projection_head.0.weight": torch.randn(8, d), "projection_head.0.bias": torch.randn(8)}
    state |= {f"projection_head.1.{k}": torch.rand(8) for k in ("weight", "bias", "running_mean")}
    state |= {"projection_head.1.running_var": torch.rand(8) + 0.5}
    state |= {"projection_head.1.num_batches_tracked": torch.tensor(3)}
    state |= {"projection_head.3.weight": torch.randn(WIDTH, 8), "projection_head.3.bias": torch.randn(WIDTH)}
    prototypes = {"prototypes.weight": torch.randn(30, WIDTH)}
    return {f"module.{k}": v for k, v in {**state, **prototypes}.items()}, state


@pytest.fixture(scope="module")
def resnet50():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build("ResNet50", 10)


@pytest.mark.parametrize("release", [moco, swav])
def test_a_released_checkpoint_teaches_on_every_data_set(release, resnet50, tmp_path):
    torch.manual_seed(1)
    content, state = release(resnet50, 2048)
    torch.save(content, tmp_path / "ResNet50_pretrain.pth.tar")
    (teacher,) = read_folder(tmp_path, "ResNet50").teachers
    refs = refs_of([teacher])
    assert {("cifar100", "ResNet50"), ("digits", "ResNet50")} <= set(refs)
    ref = refs["digits", "ResNet50"]
    assert not ref.has_classifier
    net = load_teacher(ref, "digits", tmp_path / "ResNet50_pretrain.pth.tar")
    assert torch.equal(net.layer4[0].shortcut[0].weight, state["layer4.0.downsample.0.weight"])
    assert net.linear.out_features == 10 and not net.linear.weight.any() and not net.linear.bias.any()
    x = torch.randn(3, 2048)
    if release is moco:
        hidden = (x @ state["fc.0.weight"].T + state["fc.0.bias"]).relu()
        expected = hidden @ state["fc.2.weight"].T + state["fc.2.bias"]
    else:
        head = {k.removeprefix("projection_head."): v for k, v in state.items() if "projection_head" in k}
        hidden = x @ head["0.weight"].T + head["0.bias"]
        hidden = (hidden - head["1.running_mean"]) / (head["1.running_var"] + 1e-5).sqrt()
        hidden = (hidden * head["1.weight"] + head["1.bias"]).relu()
        expected = hidden @ head["3.weight"].T + head["3.bias"]
    torch.testing.assert_close(net.projector(x), expected, rtol=1e-4, atol=1e-3)


def test_a_file_of_the_imagenet_stem_is_of_the_imagenet_network(resnet50, tmp_path):
    content, _ = moco(resnet50, 2048)
    content["state_dict"]["module.encoder_q.conv1.weight"] = torch.randn(64, 3, 7, 7)
    torch.save(content, tmp_path / "ResNet50.pth")
    (teacher,) = read_folder(tmp_path).teachers
    assert {network for _, network in refs_of([teacher])} == {"resnet50_imagenet"}


def test_a_network_with_a_projector_is_saved_and_loaded(tmp_path):
    net = models.build("resnet8", 10)
    plain = models.weights_hash(net)
    net.projector = models.mlp(64, 64, WIDTH)
    models.save_weights(net, tmp_path / "net.pt")
    copy = models.build("resnet8", 10)
    models.load_weights(copy, tmp_path / "net.pt")
    assert copy.has_classifier
    assert models.weights_hash(copy) == models.weights_hash(net) != plain
    x = torch.randn(2, 64)
    assert torch.equal(copy.projector(x), net.projector(x))
    models.save_weights(models.build("resnet8", 10), tmp_path / "plain.pt")
    models.load_weights(copy, tmp_path / "plain.pt")
    assert copy.projector is None
