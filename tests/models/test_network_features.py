"""Features of a pass: their values, batch norms that run once, nothing overwritten, nothing kept unasked."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import models
from models import kernels
from models.network import PostActivationNetwork, PreActivationNetwork
from models.shufflenet import shuffle

FAMILIES = (
    "resnet8",
    "wrn_16_1",
    "vgg8",
    "ResNet50",
    "MobileNetV2",
    "ShuffleV1",
    "ShuffleV2",
    "ResNet18",
    "DenseNet121",
    "crnn_16",
)
"""One network of each kind, small where there is a choice."""

RELU_ENDED = ("resnet8", "vgg8", "ResNet50", "ShuffleV1", "ResNet18")


def _norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", FAMILIES)
def test_batch_norms_run_once_and_forward_agrees(name: str, images: Tensor) -> None:
    net = models.build(name, 10).train()
    passes: Counter[nn.Module] = Counter()
    for norm in _norms(net):
        norm.register_forward_hook(lambda module, *_: passes.update([module]))
    features = net.features(images)
    assert passes == dict.fromkeys(_norms(net), 1)
    logits = net(images)
    assert passes == dict.fromkeys(_norms(net), 2)
    assert torch.equal(features.logits, logits)
    net.eval()
    with torch.no_grad():
        assert torch.equal(net.features(images).logits, net(images))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_without_preactivations_the_rest_is_the_same(name: str, bf16: bool, images: Tensor) -> None:
    """Bit for bit, gradients included, although norm and ReLU are one operation then.

    So what the other methods of a pack read does not change a run.
    """
    found = []
    images = images.contiguous(memory_format=torch.channels_last)
    for preacts in (True, False):
        torch.manual_seed(0)
        net = models.build(name, 10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False), kernels.using(bf16):
            features = net.features(images, preacts=preacts)
            (
                features.logits.float().square().mean()
                + sum(m.float().square().mean() for m in features.maps)
            ).backward()
            with torch.no_grad():
                later = net.eval().features(images, preacts=preacts)
        assert features.has("preacts") == preacts
        passed = [t for f in (features, later) for t in (f.stem, *f.stages, f.embedding, f.logits)]
        found.append([*passed, *(p.grad for p in net.parameters()), *net.buffers()])
    for kept, not_kept in zip(*found, strict=True):
        assert kept is not_kept is None or torch.equal(kept, not_kept)


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_handed_out_is_overwritten(name: str, images: Tensor) -> None:
    net = models.build(name, 10).train()
    features = net.features(images)
    # A ReLU done in place would leave no negative number in what came before it.
    assert all(bool((preact < 0).any()) for preact in features.preacts)
    net.eval()
    with torch.no_grad():
        features = net.features(images)
        assert isinstance(net, PostActivationNetwork | PreActivationNetwork)
        assert torch.equal(net.run_stem(images), features.stem)
        for index, (before, after) in enumerate(zip(features.maps, features.stages, strict=False)):
            if isinstance(net, PostActivationNetwork):
                again, preact = net.run_stage(index, before, keep_preact=True)
                assert preact is not None and torch.equal(preact, features.preacts[index])
            else:
                again = net.stages()[index](before)
            assert torch.equal(again, after)
        embedding, logits = net.head_from_last_stage(features.stages[-1])
    assert torch.equal(embedding, features.embedding)
    assert torch.equal(logits, features.logits)
    torch.testing.assert_close(net.linear_head()(embedding), logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_all_from_every_tensor(name: str, images: Tensor) -> None:
    net = models.build(name, 10).train()
    features = net.features(images)
    tensors = (*features.maps, *features.preacts, features.embedding, features.logits)
    torch.stack([tensor.square().mean() for tensor in tensors]).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("name", RELU_ENDED)
def test_stage_is_relu_of_preact(name: str, images: Tensor) -> None:
    features = models.build(name, 10).features(images)
    assert bool((features.stem >= 0).all())
    for stage, preact in zip(features.stages, features.preacts, strict=True):
        assert torch.equal(stage, F.relu(preact))


def test_shufflev2_preact_comes_before_relu_and_shuffle(images: Tensor) -> None:
    features = models.build("ShuffleV2", 10).features(images)
    for stage, preact in zip(features.stages, features.preacts, strict=True):
        assert torch.equal(stage, shuffle(F.relu(preact), 2))
        passing, made = preact.chunk(2, 1)
        assert bool((passing >= 0).all()) and bool((made < 0).any())


def test_mobilenetv2_stages_are_linear(images: Tensor) -> None:
    features = models.build("MobileNetV2", 10).features(images)
    assert bool((features.stem >= 0).all())
    for stage, preact in zip(features.stages, features.preacts, strict=True):
        assert torch.equal(stage, preact)
        assert bool((stage < 0).any())


def test_wrn_preact_is_the_next_batch_norm(images: Tensor) -> None:
    net = models.build("wrn_16_2", 10)
    net.features(images)  # gives the batch norms something to differ by
    net.eval()
    with torch.no_grad():
        features = net.features(images)
        state = dict(net.named_modules())
        assert torch.equal(features.stem, state["conv1"](images))
        names = ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")
        for name, stage, preact in zip(names, features.stages, features.preacts, strict=True):
            assert torch.equal(preact, state[name](stage))
            assert bool((stage < 0).any())
        assert torch.equal(
            features.embedding, F.adaptive_avg_pool2d(F.relu(features.preacts[-1]), 1).flatten(1)
        )


def test_densenet_stages_are_raw_concatenations(images: Tensor) -> None:
    features = models.build("DenseNet121", 10).features(images)
    for before, stage in zip((features.stem,), features.stages, strict=False):
        assert torch.equal(stage[:, : before.shape[1]], before)


# The modules that the initialisation stage of AB and FSP leaves alone.
LEFT_OUT = {
    "resnet8": {"fc"},
    "wrn_16_1": {"bn1", "fc"},
    "vgg8": {"classifier"},
    "ResNet50": {"linear"},
    "MobileNetV2": {"conv2", "classifier"},
    "ShuffleV1": {"linear"},
    "ShuffleV2": {"conv2", "bn2", "linear"},
    "DenseNet121": {"norm5", "classifier"},
    "crnn_16": {"fc"},
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_feature_modules(name: str) -> None:
    with torch.device("meta"):
        net = models.build(name, 10)
    chosen = {id(p) for module in net.feature_modules() for p in module.parameters()}
    left = {key.partition(".")[0] for key, p in net.named_parameters() if id(p) not in chosen}
    assert left == LEFT_OUT[name]


def test_positions_of_a_crnn_are_frames(images: Tensor) -> None:
    """The GRU passes information to all frames, convolutions pass it to neighbours."""
    net = models.build("crnn_16", 10).eval()
    longer = torch.cat([images, images], 2)
    with torch.no_grad():
        assert net.features(longer).stages[-1].shape == (4, 32, 64, 1)
        features = net.features(images)
        images[:, :, 0] += 1.0
        changed = net.features(images)
    moved = [(a - b).abs().amax((0, 1, 3)) > 0 for a, b in zip(features.stages, changed.stages, strict=True)]
    assert [int(m.sum()) for m in moved[:3]] == [3, 4, 5] and bool(moved[3].all())
    assert torch.equal(features.preacts[-1], features.stages[-1])
    torch.testing.assert_close(features.embedding, features.stages[-1].mean((2, 3)))


def test_a_gru_gives_the_same_bits_again(images: Tensor) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        net = models.build("crnn_16", 10).train()
        net(images).square().mean().backward()
        found.append([p.grad for p in net.parameters()])
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_changed_copies_of_features(images: Tensor) -> None:
    features = models.build("resnet8", 10).features(images)
    assert features.maps == (features.stem, *features.stages)
    some = features.rows(slice(1, 3))
    assert torch.equal(some.preacts[1], features.preacts[1][1:3])
    assert some.logits.data_ptr() == features.logits[1:].data_ptr()
    bare = features.detach()
    assert features.stem.requires_grad
    assert len(bare.tensors()) == 1 + 3 + 3 + 2 and not any(t.requires_grad for t in bare.tensors())
    half = features.map(lambda t: t.bfloat16())
    assert {t.dtype for t in half.tensors()} == {torch.bfloat16}
    assert {t.dtype for t in half.float32().tensors()} == {torch.float32}
    assert features.float32().stem is features.stem
    other = features.replace(logits=features.logits + 1)
    assert torch.equal(other.logits, features.logits + 1)
    assert other.maps == features.maps and other.embedding is features.embedding


@pytest.mark.parametrize("part", models.PARTS)
def test_a_part_that_was_not_selected_is_missing(part: str, images: Tensor) -> None:
    features = models.build("resnet8", 10).features(images)
    (alone, rest) = (features.select(frozenset(parts)) for parts in ({part}, {*models.PARTS} - {part}))
    assert alone.has(part) and getattr(alone, part) is getattr(features, part)
    for changed in (rest, rest.rows(slice(2)), rest.float32(), rest.detach()):
        assert not changed.has(part) and all(changed.has(p) for p in models.PARTS if p != part)
        with pytest.raises(models.MissingPart, match=f"but not '{part}'; a method must name each part"):
            getattr(changed, part)
    with pytest.raises(models.MissingPart):
        rest.select(frozenset({part}))


def test_features_cannot_be_changed(images: Tensor) -> None:
    features = models.Features(logits=images.flatten(1))
    with pytest.raises(AttributeError):
        features.logits = images  # type: ignore[misc]
    with pytest.raises(AttributeError):
        features.other = images  # type: ignore[attr-defined]
    assert repr(features) == "Features(logits)"


def test_forward_keeps_no_stage(images: Tensor) -> None:
    net = models.build("resnet8", 10).eval()
    seen: list[weakref.ref[Tensor]] = []
    for module in net.modules():
        module.register_forward_hook(lambda _module, _inputs, output: seen.append(weakref.ref(output)))
    with torch.no_grad():
        logits = net(images)
    gc.collect()
    assert len(seen) > 10
    assert [ref() for ref in seen if ref() is not None and ref() is not logits] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_and_bf16(name: str, images: Tensor) -> None:
    net = models.build(name, 10).train()
    plain = net.features(images).detach()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    last = images.to(memory_format=torch.channels_last)
    features = net.features(last).detach()
    torch.testing.assert_close(features.logits, plain.logits, rtol=1e-3, atol=1e-3)
    for tensor in (*features.maps, *features.preacts):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        low = net.features(last)
    assert low.logits.dtype == torch.bfloat16
    # Two roundings apart: what matters is that it is the same function.
    agreement = F.cosine_similarity(low.stages[0].float().flatten(), plain.stages[0].flatten(), dim=0)
    assert float(agreement.detach()) > 0.99
    low.float32().logits.sum().backward()


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "MobileNetV2", "ShuffleV2"])
def test_one_graph(name: str, images: Tensor) -> None:
    """Python that depends on the data, or waits for it, would break the graph."""
    net = models.build(name, 10).eval()
    features = torch.compile(net.features, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(features(images).logits, net(images))


def test_shuffle_in_both_memory_formats() -> None:
    x = torch.randn(2, 12, 5, 4)
    expected = x[:, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]]
    assert torch.equal(shuffle(x, 3), expected)
    last = shuffle(x.to(memory_format=torch.channels_last), 3)
    assert torch.equal(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "size"), [("vgg8", 64), ("resnet8", 64), ("ResNet18", 64)])
def test_larger_images(name: str, size: int) -> None:
    features = models.build(name, 10).features(torch.randn(2, 3, size, size))
    assert features.logits.shape == (2, 10)
    if name == "vgg8":
        assert [m.shape[-1] for m in features.maps] == [64, 32, 16, 8, 4]
