"""SimKD against its formula in plain loops; its predictions at test time."""

import math

import pytest
import torch
import torch.nn.functional as F
from kit import build, fake_features, gradients, make_context, make_step, pooled

import models
from benchmark import methods

CONTEXT = make_context("resnet8", "resnet14")


def layer(x, weight):
    """1x1, or 3x3 with padding 1; then a fresh batch norm in eval mode and ReLU. `[C][H][W]`."""
    height, width, k = len(x[0]), len(x[0][0]), len(weight[0][0])

    def at(c, r, q):
        return x[c][r][q] if 0 <= r < height and 0 <= q < width else 0.0

    def output(d, r, q):
        total = sum(
            weight[d][c][i][j] * at(c, r + i - k // 2, q + j - k // 2)
            for c in range(len(x))
            for i in range(k)
            for j in range(k)
        )
        return max(total / math.sqrt(1 + 1e-5), 0.0)

    return [[[output(d, r, q) for q in range(width)] for r in range(height)] for d in range(len(weight))]


def project(method, x):
    p = method.projector
    x = layer(x, p[0].weight.tolist())
    x = layer(x, p[3].weight.tolist())
    return layer(x, p[6].weight.tolist())


def test_the_projector_has_a_full_3x3_convolution():
    """From resnet20's 64 channels by way of 128 to the 256 of resnet32x4, and three batch norms."""
    context = make_context("resnet20", "resnet32x4", num_classes=100)
    projector = build("simkd", context).projector
    assert sum(p.numel() for p in projector.parameters()) == (
        64 * 128 + 128 * 128 * 9 + 128 * 256 + 2 * (128 + 128 + 256)
    )
    assert sum(p.numel() for p in projector.parameters()) == 189_440


def small(context, size, seed):
    """Features of one image with a small last map."""
    f = fake_features(context.student, 1, seed=seed)
    cut = f.preacts[-1][..., :size, :size]
    return f.replace(preacts=(*f.preacts[:-1], cut), stages=(*f.stages[:-1], cut.relu()))


def test_value_with_a_larger_student_map():
    student, teacher = small(CONTEXT, 4, 0), small(CONTEXT, 2, 1)
    method = build("simkd", CONTEXT).eval()
    x = [pooled(p, 2, 2) for p in student.stages[-1][0].tolist()]
    projected = torch.tensor(project(method, x), dtype=torch.float64)
    expected = (projected - teacher.preacts[-1][0].relu()).square().mean()
    torch.testing.assert_close(method.loss(make_step(CONTEXT, student, teacher))["simkd"], expected)


def test_value_and_gradient_in_train_mode():
    student = fake_features(CONTEXT.student, requires_grad=True)
    teacher = fake_features(CONTEXT.teacher, seed=1)
    method = build("simkd", CONTEXT)
    x, p = student.stages[-1], method.projector
    for conv, norm in ((p[0], p[1]), (p[3], p[4]), (p[6], p[7])):
        x = F.conv2d(x, conv.weight, padding=conv.weight.shape[-1] // 2)
        x = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True).relu()
    theirs = (x - teacher.preacts[-1].relu()).square().mean()
    ours = method.loss(make_step(CONTEXT, student, teacher))["simkd"]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0.0)
    read = [student.stages[-1], *p.parameters()]
    for a, b in zip(torch.autograd.grad(ours, read), torch.autograd.grad(theirs, read), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_prediction_is_the_teachers_classifier_on_the_projected_map():
    student = small(CONTEXT, 3, 0)
    method = build("simkd", CONTEXT).eval()
    x = project(method, student.stages[-1][0].tolist())
    means = [sum(map(sum, plane)) / 9 for plane in x]
    head = CONTEXT.teacher_net.linear_head()
    expected = [sum(a * m for a, m in zip(row, means, strict=True)) for row in head.weight.tolist()]
    product = (method.predict(student)[0] - head.bias.double()).tolist()
    assert product == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("teacher", ["resnet14", "wrn_16_2", "vgg8", "ResNet50"])
def test_a_perfect_projection_predicts_as_the_teacher(teacher):
    """The student imitates the map whose pooled value the teacher's classifier reads."""
    context = make_context("resnet8", teacher)
    method = build("simkd", context, dtype=torch.float32).eval()
    f = context.teacher_net.features(torch.randn(2, 3, 32, 32))
    method.projector = torch.nn.Identity()
    target = f.replace(stages=(f.preacts[-1].relu(),))
    torch.testing.assert_close(method.predict(target), f.logits)


def test_gradient_reaches_the_last_map_and_the_projector_and_not_the_classifier():
    student = fake_features(CONTEXT.student, requires_grad=True)
    method = build("simkd", CONTEXT)
    loss = method.loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))["simkd"]
    assert [k for k, reached in gradients(loss, student).items() if reached] == ["stages"]
    loss.backward()
    assert {k for k, p in method.named_parameters() if p.grad.any()} == {
        f"projector.{k}" for k, _ in method.projector.named_parameters()
    }
    assert all(p.grad is None for p in CONTEXT.teacher_net.parameters())


def test_no_cross_entropy_alone():
    assert methods.parse("simkd").ce == 0.0


def test_a_teacher_with_a_layer_between_map_and_classifier_is_skipped():
    method, config = methods.get("simkd"), methods.get("simkd").Config()
    assert "MobileNetV2" in method.skip(config, models.info("vgg8"), models.info("MobileNetV2"))
    assert method.skip(config, models.info("MobileNetV2"), models.info("vgg13")) is None
