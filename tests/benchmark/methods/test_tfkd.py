"""TF-KD's virtual teacher against its formula in plain loops."""

import pytest
import torch
from kit import build, fake_features, make_context, make_step, tiny_info, weights
from selfkd_kit import kl, reaches, softmax

from benchmark import methods

CONTEXT = make_context(tiny_info(), None)


@pytest.mark.parametrize(("temperature", "correct"), [(20.0, 0.99), (1.0, 0.6)])
def test_value(temperature, correct):
    student = fake_features(CONTEXT.student)
    step = make_step(CONTEXT, student)
    total = 0.0
    for label, z in zip(step.labels.tolist(), student.logits.tolist(), strict=True):
        virtual = [correct if c == label else (1 - correct) / 9 for c in range(10)]
        total += kl(softmax(virtual, temperature), z)
    loss = build("tfkd", CONTEXT, temperature=temperature, correct=correct).loss(step)["tfkd"]
    assert loss.item() == pytest.approx(total / 6, rel=1e-12)


def test_gradient():
    student = fake_features(CONTEXT.student, requires_grad=True)
    step = make_step(CONTEXT, student)
    loss = build("tfkd", CONTEXT).loss(step)["tfkd"]
    assert reaches(loss, student, "logits")
    loss.backward()
    for grad, label, z in zip(
        student.logits.grad.tolist(), step.labels.tolist(), student.logits.tolist(), strict=True
    ):
        target = softmax([0.99 if c == label else 0.01 / 9 for c in range(10)], 20.0)
        assert grad == pytest.approx([(q - t) / 6 for q, t in zip(softmax(z), target, strict=True)], rel=1e-9)


def test_weights():
    assert methods.parse("tfkd").ce == 0.9
    assert weights(build("tfkd", CONTEXT, multiplier=50.0)) == {"tfkd": pytest.approx(5.0)}
    assert build("tfkd", CONTEXT, weight=0.0).loss(make_step(CONTEXT, fake_features(CONTEXT.student))) == {}
    assert not methods.parse("tfkd").needs_teacher
    assert torch.is_tensor(
        build("tfkd", CONTEXT).loss(make_step(CONTEXT, fake_features(CONTEXT.student)))["tfkd"]
    )
