"""TF-KD's virtual teacher against its formula in plain loops."""

import pytest
import torch
from kit import build, fake_features, make_context, make_step, tiny_info, weights
from selfkd_kit import entropy, kl, onehot, reaches, softmax

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


@pytest.mark.parametrize(("network", "temperature"), [("ResNet18", 20.0), ("DenseNet121", 40.0)])
def test_constants_of_the_networks(network, temperature):
    """As the released loss has them: a mean over all B x 100 elements times the multiplier, 100."""
    context = make_context(tiny_info(), None, num_classes=100, n=200)
    student = fake_features(context.student, num_classes=100)
    step = make_step(context, student)
    spec = methods.parse("tfkd", {}, "none", network)
    total, _ = methods.Objective(spec, context, lambda name: 0)({"tfkd": step})
    kls = ces = 0.0
    for label, z in zip(step.labels.tolist(), student.logits.tolist(), strict=True):
        virtual = [0.99 if c == label else 0.01 / 99 for c in range(100)]
        kls += kl(softmax(virtual, temperature), z)
        ces += entropy(onehot(label, 100), z)
    expected = 0.9 * ces / 6 + 0.1 * 100 * kls / (6 * 100)
    assert total.item() == pytest.approx(expected, rel=1e-12)


def test_weights():
    assert methods.parse("tfkd").ce == 0.9
    assert weights(build("tfkd", CONTEXT, multiplier=50.0)) == {"tfkd": pytest.approx(5.0)}
    assert build("tfkd", CONTEXT, weight=0.0).loss(make_step(CONTEXT, fake_features(CONTEXT.student))) == {}
    assert not methods.parse("tfkd").needs_teacher
    assert torch.is_tensor(
        build("tfkd", CONTEXT).loss(make_step(CONTEXT, fake_features(CONTEXT.student)))["tfkd"]
    )
