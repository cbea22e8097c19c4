"""DIST against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, tiny_info

CONTEXT = make_context(tiny_info(), tiny_info())


def softmax(row, temperature):
    exps = [math.exp(z / temperature) for z in row]
    return [e / sum(exps) for e in exps]


def pearson(a, b):
    m, n = sum(a) / len(a), sum(b) / len(b)
    product = sum((x - m) * (y - n) for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum((x - m) ** 2 for x in a) * sum((y - n) ** 2 for y in b))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value(temperature):
    student, teacher = fake_features(CONTEXT.student), fake_features(CONTEXT.teacher, seed=1)
    p_s, p_t = ([softmax(row, temperature) for row in f.logits.tolist()] for f in (student, teacher))
    terms = build("dist", CONTEXT, temperature=temperature).loss(make_step(CONTEXT, student, teacher))
    for term, (a, b) in {
        "dist_inter": (p_s, p_t),
        "dist_intra": (list(zip(*p_s, strict=True)), list(zip(*p_t, strict=True))),
    }.items():
        distances = [1 - pearson(x, y) for x, y in zip(a, b, strict=True)]
        assert terms[term].item() == pytest.approx(temperature**2 * sum(distances) / len(distances), rel=1e-7)


def test_gradient_reaches_the_students_logits_alone():
    student = fake_features(CONTEXT.student, requires_grad=True)
    terms = build("dist", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))
    for term in terms.values():
        assert [k for k, reached in gradients(term, student).items() if reached] == ["logits"]


def test_a_positive_linear_map_of_a_class_costs_nothing():
    """Correlation is asked for, not equality: predictions moved towards the uniform ones cost nothing."""
    p = torch.softmax(fake_features(CONTEXT.student).logits, 1)
    student, teacher = (fake_features(CONTEXT.student).replace(logits=q.log()) for q in (p, 0.5 * p + 0.05))
    terms = build("dist", CONTEXT, temperature=1.0).loss(make_step(CONTEXT, student, teacher))
    assert all(abs(t.item()) < 1e-9 for t in terms.values())


def test_one_image_alone_is_finite():
    terms = build("dist", CONTEXT).loss(
        make_step(CONTEXT, fake_features(CONTEXT.student, 1), fake_features(CONTEXT.teacher, 1))
    )
    assert all(t.isfinite() for t in terms.values())
