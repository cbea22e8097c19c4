"""WSLD against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, tiny_info

from benchmark.methods.wsld import image_weights

CONTEXT = make_context(tiny_info(), tiny_info())


def softmax(row, temperature=1.0):
    exps = [math.exp(z / temperature) for z in row]
    return [e / sum(exps) for e in exps]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value(temperature):
    student, teacher = fake_features(CONTEXT.student), fake_features(CONTEXT.teacher, seed=1)
    step = make_step(CONTEXT, student, teacher)
    total = 0.0
    rows = zip(student.logits.tolist(), teacher.logits.tolist(), step.labels.tolist(), strict=True)
    for z_s, z_t, y in rows:
        w = 1 - math.exp(math.log(softmax(z_s)[y]) / (-math.log(softmax(z_t)[y]) + 1e-7))
        p, q = softmax(z_t, temperature), softmax(z_s, temperature)
        total -= w * sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    loss = build("wsld", CONTEXT, temperature=temperature).loss(step)["wsld"].item()
    assert loss == pytest.approx(temperature**2 * total / len(step.labels), rel=1e-12)


def test_gradient_is_that_of_the_weighted_soft_labels():
    """The weight has no gradient: d/dz_s is T w (softmax(z_s / T) - softmax(z_t / T)) / B."""
    student, teacher = (
        fake_features(CONTEXT.student, 3, requires_grad=True),
        fake_features(CONTEXT.teacher, 3, seed=1),
    )
    step = make_step(CONTEXT, student, teacher)
    loss = build("wsld", CONTEXT).loss(step)["wsld"]
    assert [k for k, reached in gradients(loss, student).items() if reached] == ["logits"]
    loss.backward()
    w = image_weights(student.logits, teacher.logits, step.labels)
    expected = (
        4 * w[:, None] * (torch.softmax(student.logits / 4, 1) - torch.softmax(teacher.logits / 4, 1)) / 3
    )
    torch.testing.assert_close(student.logits.grad, expected.detach())


def test_a_confident_teacher_has_full_weight_and_a_mistaken_one_little():
    labels = torch.tensor([0, 0])
    student = torch.zeros(2, 4)
    teacher = torch.tensor([[50.0, 0, 0, 0], [-50.0, 0, 0, 0]])
    confident, mistaken = image_weights(student, teacher, labels).tolist()
    assert confident == pytest.approx(1.0) and 0 <= mistaken < 0.03
