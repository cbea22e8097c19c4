"""Label smoothing against its formula in plain loops."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import entropy, onehot, reaches, softmax

from benchmark import methods
from benchmark.errors import InputError
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request

CONTEXT = make_context(tiny_info(), None)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.7])
def test_value(epsilon):
    student = fake_features(CONTEXT.student)
    step = make_step(CONTEXT, student)
    rows = zip(step.labels.tolist(), student.logits.tolist(), strict=True)
    expected = [entropy([(1 - epsilon) * t + epsilon / 10 for t in onehot(y)], z) for y, z in rows]
    loss = build("label_smoothing", CONTEXT, epsilon=epsilon).task_loss(step)
    assert loss.item() == pytest.approx(sum(expected) / 6, rel=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_spread_over_the_other_classes(epsilon):
    student = fake_features(CONTEXT.student, requires_grad=True)
    step = make_step(CONTEXT, student)
    loss = build("label_smoothing", CONTEXT, epsilon=epsilon, over="others").task_loss(step)
    loss.backward()
    expected = 0.0
    for y, z, grad in zip(
        step.labels.tolist(), student.logits.tolist(), student.logits.grad.tolist(), strict=True
    ):
        target = [1 - epsilon if c == y else epsilon / 9 for c in range(10)]
        expected += entropy(target, z) / 6
        rows = zip(softmax(z), target, strict=True)
        assert grad == pytest.approx([(p - t) / 6 for p, t in rows], rel=1e-9, abs=1e-15)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("protocol", "over"), [("selfkdlib", "others"), ("lightskd", "all"), ("crd", "all")])
def test_the_protocol_decides_which_classes_share(protocol, over):
    resolver = Resolver()
    request = Request("cifar100", protocol, "paper", "none", "ResNet18", "label_smoothing")
    assert resolver.run(request, 0).settings["method"]["components"]["label_smoothing"]["over"] == over
    asked = (("label_smoothing.over", "all"),)
    run = resolver.run(replace(request, overrides=asked), 0)
    assert run.settings["method"]["components"]["label_smoothing"]["over"] == "all"


def test_gradient_is_the_softmax_less_the_target():
    student = fake_features(CONTEXT.student, requires_grad=True)
    step = make_step(CONTEXT, student)
    loss = build("label_smoothing", CONTEXT).task_loss(step)
    assert reaches(loss, student, "logits")
    loss.backward()
    target = 0.9 * F.one_hot(step.labels, 10) + 0.01
    torch.testing.assert_close(student.logits.grad, (student.logits.detach().softmax(1) - target) / 6)


def test_it_replaces_the_cross_entropy_of_the_run():
    step = make_step(CONTEXT, fake_features(CONTEXT.student))
    total, terms = methods.Objective(methods.parse("label_smoothing"), CONTEXT, lambda name: 0)(
        {"label_smoothing": step}
    )
    assert (
        set(terms) == {"ce"}
        and total == terms["ce"] > F.cross_entropy(step.student.logits, step.labels) * 0.5
    )


def test_epsilon_out_of_range():
    with pytest.raises(InputError, match=r"epsilon=1.5 is out of range; allowed: 0.0 to 1.0"):
        build("label_smoothing", CONTEXT, epsilon=1.5)
