"""VID against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, stage_pairs, tiny_info

from benchmark import methods
from benchmark.errors import InputError

# equal sizes; teacher larger (3 -> 2); the student's third stage has no partner
CONTEXT = make_context(tiny_info(((3, 4, 4), (4, 2, 2), (2, 2, 2))), tiny_info(((2, 4, 4), (5, 3, 3))))
LARGER_STUDENT = make_context(tiny_info(((3, 4, 4), (4, 4, 4))), tiny_info(((2, 2, 2), (5, 3, 3), (6, 2, 2))))


def mean_of(gaussian, pixel):
    """Apply the three 1x1 convolutions to one pixel, with ReLU between them."""
    first, _, second, _, third = gaussian.mu
    for layer in (first, second, third):
        assert layer.bias is None
        pixel = [sum(w[0][0] * v for w, v in zip(row, pixel, strict=True)) for row in layer.weight.tolist()]
        if layer is not third:
            pixel = [max(0.0, v) for v in pixel]
    return pixel


@pytest.mark.parametrize("context", [CONTEXT, LARGER_STUDENT])
def test_value(context):
    batch = 3
    method = build("vid", context)
    with torch.no_grad():
        for gaussian in method.gaussians:
            gaussian.rho.add_(torch.linspace(-1, 1, len(gaussian.rho)))
    student, teacher = fake_features(context.student, batch), fake_features(context.teacher, batch, seed=1)
    expected = 0.0
    pairs = stage_pairs(student, teacher)
    assert len(pairs) == len(method.gaussians)
    for gaussian, (f_s, f_t) in zip(method.gaussians, pairs, strict=True):
        variance = [math.log(1 + math.exp(rho)) + 1e-5 for rho in gaussian.rho.tolist()]
        values = []
        for s, t in zip(f_s, f_t, strict=True):
            for y in range(len(t[0])):
                for x in range(len(t[0][0])):
                    mu = mean_of(gaussian, [channel[y][x] for channel in s])
                    for m, channel, v in zip(mu, t, variance, strict=True):
                        values.append(0.5 * ((m - channel[y][x]) ** 2 / v + math.log(v)))
        expected += sum(values) / len(values)
    loss = method.loss(make_step(context, student, teacher))["vid"]
    assert loss.item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("variance", [5.0, 0.5])
def test_initial_variance(variance):
    for gaussian in build("vid", CONTEXT, variance=variance).gaussians:
        for rho in gaussian.rho.tolist():
            assert math.log(1 + math.exp(rho)) + 1e-5 == pytest.approx(variance, rel=1e-6)


def test_channels():
    shapes = [
        [layer.weight.shape[:2] for layer in (g.mu[0], g.mu[2], g.mu[4])]
        for g in build("vid", CONTEXT).gaussians
    ]
    assert shapes == [[(2, 3), (2, 2), (2, 2)], [(5, 4), (5, 5), (5, 5)]]


def test_gradient_reaches_the_paired_stages_and_every_parameter():
    method = build("vid", CONTEXT)
    student = fake_features(CONTEXT.student, requires_grad=True)
    loss = method.loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))["vid"]
    assert gradients(loss, student) == {
        "stem": False,
        "stages": True,
        "preacts": False,
        "embedding": False,
        "logits": False,
    }
    loss.backward()
    assert [s.grad is not None and bool(s.grad.any()) for s in student.stages] == [True, True, False]
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())


def test_weight_zero_is_not_computed():
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    assert build("vid", CONTEXT, weight=0.0).loss(step) == {}


def test_variance_zero_is_an_input_error():
    with pytest.raises(InputError, match=r"vid.variance=0.0 .* allowed: above 1e-05"):
        methods.parse("vid", {"vid.variance": 0})
