"""CS-KD against its formula in plain loops."""

import pytest
import torch.nn.functional as F
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import kl, softmax

from benchmark import methods

CONTEXT = make_context(tiny_info(), None)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value(temperature):
    student = fake_features(CONTEXT.student, 6)
    z = student.logits.tolist()
    expected = (
        sum(kl(softmax(z[i + 3], temperature), z[i], temperature) for i in range(3)) * temperature**2 / 3
    )
    loss = build("cskd", CONTEXT, temperature=temperature).loss(make_step(CONTEXT, student))["cskd"]
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_the_partners_get_no_gradient():
    student = fake_features(CONTEXT.student, 6, requires_grad=True)
    step = make_step(CONTEXT, student)
    method = build("cskd", CONTEXT)
    (method.loss(step)["cskd"] + method.task_loss(step)).backward()
    assert student.logits.grad[:3].any(1).all() and not student.logits.grad[3:].any()


def test_the_cross_entropy_is_that_of_the_first_half():
    step = make_step(CONTEXT, fake_features(CONTEXT.student, 6))
    loss = build("cskd", CONTEXT).task_loss(step)
    expected = F.cross_entropy(step.student.logits[:3], step.labels[:3])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_batches_are_pairs():
    assert methods.parse("cskd").sampler.name == "pairs" and methods.parse("cskd+dsr").sampler.name == "pairs"


def test_equal_outputs_have_no_loss_and_weight_zero_is_not_computed():
    student = fake_features(CONTEXT.student, 6)
    same = student.replace(logits=student.logits[:3].repeat(2, 1))
    assert build("cskd", CONTEXT).loss(make_step(CONTEXT, same))["cskd"].item() == pytest.approx(0, abs=1e-14)
    assert build("cskd", CONTEXT, weight=0.0).loss(make_step(CONTEXT, student)) == {}
