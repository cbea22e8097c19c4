"""SRRL against its formula in plain loops."""

import pytest
from kit import build, fake_features, gradients, make_context, make_step

CONTEXT = make_context("resnet8", "resnet8x4")


def test_value():
    student, teacher = fake_features(CONTEXT.student, 3), fake_features(CONTEXT.teacher, 3, seed=1)
    method = build("srrl", CONTEXT).eval()
    terms = method.loss(make_step(CONTEXT, student, teacher))
    linear, norm = method.connector[0].weight.tolist(), method.connector[1]
    head = CONTEXT.teacher_net.linear_head()
    w, b = head.weight.double().tolist(), head.bias.double().tolist()
    feature = regression = 0.0
    for f_s, f_t, z_t in zip(
        *(x.tolist() for x in (student.embedding, teacher.embedding, teacher.logits)), strict=True
    ):
        h = [sum(a * x for a, x in zip(row, f_s, strict=True)) / (1 + norm.eps) ** 0.5 for row in linear]
        h = [max(x, 0.0) for x in h]
        feature += sum((x - y) ** 2 for x, y in zip(h, f_t, strict=True)) / len(f_t)
        z = [sum(a * x for a, x in zip(row, h, strict=True)) + c for row, c in zip(w, b, strict=True)]
        regression += sum((x - y) ** 2 for x, y in zip(z, z_t, strict=True)) / len(z_t)
    assert terms["srrl_feature"].item() == pytest.approx(feature / 3, rel=1e-9)
    assert terms["srrl_regression"].item() == pytest.approx(regression / 3, rel=1e-6)


def test_gradient_reaches_the_embedding_and_the_connector_and_not_the_classifier():
    student = fake_features(CONTEXT.student, requires_grad=True)
    method = build("srrl", CONTEXT)
    terms = method.loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))
    for term in terms.values():
        assert [k for k, reached in gradients(term, student).items() if reached] == ["embedding"]
    sum(terms.values()).backward()
    assert all(p.grad.any() for p in method.connector.parameters())
    assert {k for k, _ in method.named_parameters()} == {
        f"connector.{k}" for k, _ in method.connector.named_parameters()
    }
    assert all(p.grad is None for p in CONTEXT.teacher_net.parameters())
