"""CAT-KD against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step

import models
from benchmark import methods
from benchmark.errors import InputError
from benchmark.methods.catkd import class_maps

CONTEXT = make_context("resnet8", "resnet8x4", num_classes=4, dtype=torch.float64)


def maps(features, head, size, normalise):
    """Return A, first of every position and then pooled: the other order than the method's."""
    out = []
    for image in features.preacts[-1].tolist():
        height, width = len(image[0]), len(image[0][0])
        per_class = []
        for row in head.weight.tolist():
            score = [
                [sum(w * max(c[y][x], 0.0) for w, c in zip(row, image, strict=True)) for x in range(width)]
                for y in range(height)
            ]
            h, w = height // size, width // size
            regions = [
                sum(score[i * h + a][j * w + b] for a in range(h) for b in range(w)) / (h * w)
                for i in range(size)
                for j in range(size)
            ]
            norm = math.sqrt(sum(x * x for x in regions)) if normalise else 1.0
            per_class.append([x / norm for x in regions])
        out.append(per_class)
    return out


@pytest.mark.parametrize(("size", "normalise"), [(2, False), (4, True)])
def test_value(size, normalise):
    student, teacher = fake_features(CONTEXT.student, 2), fake_features(CONTEXT.teacher, 2, seed=1)
    method = build("catkd", CONTEXT, size=size, normalise=normalise)
    a_s = maps(student, CONTEXT.student_net.linear_head(), size, normalise)
    a_t = maps(teacher, CONTEXT.teacher_net.linear_head(), size, normalise)
    squares = [
        (x - y) ** 2
        for image_s, image_t in zip(a_s, a_t, strict=True)
        for class_s, class_t in zip(image_s, image_t, strict=True)
        for x, y in zip(class_s, class_t, strict=True)
    ]
    loss = method.loss(make_step(CONTEXT, student, teacher))["catkd"]
    assert len(squares) == 2 * 4 * size * size
    assert loss.item() == pytest.approx(sum(squares) / len(squares), rel=1e-9)


def test_gradient_reaches_the_map_and_the_students_classifier_and_not_its_bias():
    head = CONTEXT.student_net.linear_head()
    student = fake_features(CONTEXT.student, requires_grad=True)
    method = build("catkd", CONTEXT)
    loss = method.loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))
    assert [k for k, reached in gradients(loss["catkd"], student).items() if reached] == ["preacts"]
    try:
        loss["catkd"].backward()
        assert head.weight.grad.any() and head.bias.grad is None
        assert not list(method.parameters())
    finally:
        head.weight.grad = None


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "ShuffleV1", "resnet18_imagenet"])
def test_the_classifier_reads_the_pooled_map_that_the_method_takes(name):
    """With one region and no bias, A is the logits: of networks whose pooling follows the last stage."""
    net = models.build(name, num_classes=4).eval()
    size = 64 if name.endswith("_imagenet") else 32
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    head = net.linear_head()
    with torch.no_grad():
        features = net.features(images)
        a = class_maps(features.preacts[-1].relu(), head.weight, 1, False)
    assert torch.allclose(a[:, :, 0] + head.bias, features.logits, atol=1e-5)


def test_a_network_with_a_layer_before_its_pooling_is_left_out():
    reason = methods.get("catkd").skip(
        methods.get("catkd").Config(),
        models.info("MobileNetV2", 100),
        models.info("vgg13", 100),
    )
    assert reason is not None and "MobileNetV2 has a layer in between" in reason


def test_constants_of_the_pairs():
    settings = {}
    for table in methods.get("catkd").pair_constants:
        settings.update(table.of("resnet32x4", "ShuffleV1"))
    assert settings == {"catkd.weight": 600.0, "catkd.size": 4, "catkd.normalise": True}
    with pytest.raises(InputError, match=r"catkd\.size=0"):
        methods.parse("catkd", {"catkd.size": 0})
