"""CTKD against its formula in plain loops, and the sign of the temperature's gradient."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, tiny_info

CONTEXT = make_context(tiny_info(), tiny_info(), epochs=240)


def softmax(row, temperature):
    exps = [math.exp(z / temperature) for z in row]
    return [e / sum(exps) for e in exps]


def value(theta, student, teacher):
    t = 1 + 20 / (1 + math.exp(-theta))
    total = 0.0
    for z_s, z_t in zip(student.logits.tolist(), teacher.logits.tolist(), strict=True):
        total += sum(a * math.log(a / b) for a, b in zip(softmax(z_t, t), softmax(z_s, t), strict=True))
    return t**2 * total / len(student.logits)


@pytest.mark.parametrize("theta", [-3.0, 1.0])
def test_value_and_gradient_against_the_loss(theta):
    """The gradient of theta is d/dtheta (by central differences) with the opposite sign."""
    student, teacher = (
        fake_features(CONTEXT.student, requires_grad=True),
        fake_features(CONTEXT.teacher, seed=1),
    )
    method = build("ctkd", CONTEXT, start=theta)
    loss = method.loss(make_step(CONTEXT, student, teacher))["ctkd"]
    assert loss.item() == pytest.approx(value(theta, student, teacher), rel=1e-10)
    assert [k for k, reached in gradients(loss, student).items() if reached] == ["logits"]
    loss.backward()
    h = 1e-5
    slope = (value(theta + h, student, teacher) - value(theta - h, student, teacher)) / (2 * h)
    assert method.theta.grad.item() == pytest.approx(-slope, rel=1e-5)


def test_the_students_gradient_is_that_of_kd_at_this_temperature():
    student, teacher = (
        fake_features(CONTEXT.student, requires_grad=True),
        fake_features(CONTEXT.teacher, seed=1),
    )
    method = build("ctkd", CONTEXT)
    step = make_step(CONTEXT, student, teacher)
    kd = build("kd", CONTEXT, temperature=method.temperature().item()).loss(step)["kd"]
    actual, expected = (torch.autograd.grad(x, student.logits)[0] for x in (method.loss(step)["ctkd"], kd))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(("epochs", "rise"), [(240, 10), (120, 5), (15, 1)])
def test_curriculum_in_proportion(epochs, rise):
    method = build("ctkd", make_context(tiny_info(), tiny_info(), epochs=epochs))
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher, seed=1))
    full = None
    for epoch in (epochs, 1, max(1, rise // 2), rise):
        method.start_epoch(epoch)
        (grad,) = torch.autograd.grad(method.loss(step)["ctkd"], method.theta)
        full = grad if full is None else full
        factor = (1 - math.cos(math.pi * min(epoch / rise, 1))) / 2
        assert grad.item() == pytest.approx(factor * full.item())
