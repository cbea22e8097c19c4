"""OFD against its formula in plain loops; the margin against the mean of a truncated Gaussian."""

import dataclasses
import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, pooled, tiny_info
from scipy import integrate, stats

import models
from benchmark.methods import IN_TRAIN, ofd
from benchmark.methods.ofd import margin, norms_before_relu

CONTEXT = make_context("resnet8", "resnet14")


def small(info, batch, seed, size=3, **kwargs):
    """Features whose maps are cut to a corner."""
    f = fake_features(info, batch, seed=seed)
    cut = tuple(p[..., :size, :size].detach().clone() for p in f.preacts)
    return f.replace(preacts=cut).map(lambda t: t.requires_grad_(kwargs.get("grad", False)))


def step_of(student, teacher, context=CONTEXT):
    """A step whose teacher has run in train mode only."""
    return make_step(context, student, {IN_TRAIN: teacher})


def test_value():
    student, teacher = small(CONTEXT.student, 2, 0), small(CONTEXT.teacher, 2, 1)
    method = build("ofd", CONTEXT).eval()
    total = 0.0
    for level, (p_s, p_t) in enumerate(zip(student.preacts, teacher.preacts, strict=True)):
        weight = method.connectors[level][0].weight[:, :, 0, 0].tolist()
        margins = method.get_buffer(f"margin_{level}").flatten().tolist()
        for s, t in zip(p_s.tolist(), p_t.tolist(), strict=True):
            for c, row in enumerate(weight):
                for y in range(3):
                    for x in range(3):
                        a = sum(w * s[k][y][x] for k, w in enumerate(row)) / math.sqrt(1 + 1e-5)
                        b = max(t[c][y][x], margins[c])
                        total += (a - b) ** 2 * (a > b or b > 0) / 2 ** (2 - level)
    assert method.loss(step_of(student, teacher))["ofd"].item() == pytest.approx(total / 2, rel=1e-6)


@pytest.mark.parametrize(("gamma", "beta"), [(1.0, 0.0), (0.5, -0.7), (-2.0, 1.0), (0.3, 0.5), (0.1, 1.0)])
def test_margin_is_the_mean_below_zero(gamma, beta):
    norm = torch.nn.BatchNorm2d(1)
    torch.nn.init.constant_(norm.weight, gamma)
    torch.nn.init.constant_(norm.bias, beta)
    law = stats.norm(norm.bias.item(), abs(norm.weight.item()))
    below = law.cdf(0)
    low = law.mean() - 12 * law.std()
    expected = (
        integrate.quad(lambda x: x * law.pdf(x), low, 0)[0] / below if below > 0.001 else -3 * law.std()
    )
    assert margin(norm).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet8", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]),
        ("wrn_16_2", ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]),
        ("ResNet50", ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"]),
    ],
)
def test_the_batch_norms_before_the_relus(name, expected):
    net = models.build(name, 10).eval()
    names = {id(m): k for k, m in net.named_modules()}
    assert [names[id(m)] for m in norms_before_relu(net)] == expected


@pytest.mark.parametrize("name", ["vgg13", "ShuffleV1", "MobileNetV2", "wrn_40_2"])
def test_the_batch_norms_have_the_channels_of_the_stages(name):
    net = models.build(name, 10).eval()
    assert [m.num_features for m in norms_before_relu(net)] == [
        s[0] for s in models.info(name, 10).stage_shapes
    ]


def test_a_student_below_a_negative_target_is_free():
    method = build("ofd", CONTEXT).eval()
    student, teacher = small(CONTEXT.student, 2, 0, grad=True), small(CONTEXT.teacher, 2, 1)
    for connector in method.connectors:
        torch.nn.init.constant_(connector[1].bias, -1e3)
    negative = teacher.replace(preacts=tuple(-p.abs() for p in teacher.preacts))
    assert method.loss(step_of(student, negative))["ofd"].item() == 0.0


def test_gradient_reaches_the_preactivations_and_connectors_and_not_the_teacher():
    student = fake_features(CONTEXT.student, requires_grad=True)
    method = build("ofd", CONTEXT)
    loss = method.loss(step_of(student, fake_features(CONTEXT.teacher, seed=1)))["ofd"]
    assert [k for k, reached in gradients(loss, student).items() if reached] == ["preacts"]
    loss.backward()
    assert all(p.grad.any() for p in (*student.preacts, *method.parameters()))
    assert all(p.grad is None for p in CONTEXT.teacher_net.parameters())


def test_stages_are_paired_from_the_end_and_the_teacher_is_pooled():
    """wrn_40_2 has maps of 32, 16 and 8, MobileNetV2 of 16, 8, 4 and 2."""
    teacher_info = tiny_info(stages=((2, 8, 8), (3, 4, 4), (4, 2, 2)))
    student_info = tiny_info(stages=((2, 4, 4), (3, 2, 2), (2, 2, 2), (5, 1, 1)))
    context = dataclasses.replace(CONTEXT, student=student_info, teacher=teacher_info)
    norms = [torch.nn.BatchNorm2d(shape[0]) for shape in teacher_info.stage_shapes]
    for number, norm in enumerate(norms):
        torch.nn.init.constant_(norm.bias, -0.1 * (number + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ofd, "norms_before_relu", lambda net: norms)
        method = build("ofd", context).eval()
    student = fake_features(student_info, 2, requires_grad=True)
    teacher = fake_features(teacher_info, 2, seed=1)
    value = method.loss(step_of(student, teacher, context))["ofd"]
    value.backward()
    total = 0.0
    gradients_s = [torch.zeros_like(p).tolist() for p in student.preacts]
    for level, (p_s, p_t) in enumerate(zip(student.preacts[1:], teacher.preacts, strict=True)):
        weight = method.connectors[level][0].weight[:, :, 0, 0].tolist()
        scale = 2.0 ** (level - 2) / 2
        for image, (s, t) in enumerate(zip(p_s.tolist(), p_t.tolist(), strict=True)):
            size = len(s[0])
            for c, row in enumerate(weight):
                target = pooled(t[c], size, size)
                low = margin(norms[level])[c].item()
                for y in range(size):
                    for x in range(size):
                        a = sum(w * s[k][y][x] for k, w in enumerate(row)) / math.sqrt(1 + 1e-5)
                        b = max(target[y][x], low)
                        if a > b or b > 0:
                            total += scale * (a - b) ** 2
                            for k, w in enumerate(row):
                                change = scale * 2 * (a - b) * w / math.sqrt(1 + 1e-5)
                                gradients_s[level + 1][image][k][y][x] += change
    assert value.item() == pytest.approx(total, rel=1e-6)
    assert student.preacts[0].grad is None, "the student's first stage has no partner"
    for preact, expected in zip(student.preacts[1:], gradients_s[1:], strict=True):
        right = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(preact.grad, right, rtol=1e-6, atol=1e-9)
