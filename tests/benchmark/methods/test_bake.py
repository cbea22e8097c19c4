"""BAKE against its formula in plain loops, with the matrix inverse as a power series."""

import math

import pytest
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import kl, reaches, softmax

from benchmark import methods

CONTEXT = make_context(tiny_info(), None)


def affinity(embedding):
    rows = [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in embedding]
    n = len(rows)
    weights = [
        [
            math.exp(sum(a * b for a, b in zip(rows[i], rows[j], strict=True))) if i != j else 0
            for j in range(n)
        ]
        for i in range(n)
    ]
    return [[w / sum(row) for w in row] for row in weights]


def propagate(a, p, omega, terms=400):
    """(1 - w) (I - w A)^-1 P as the power series (1 - w) sum_t (w A)^t P."""
    n, classes = len(p), len(p[0])
    power, total = p, [[(1 - omega) * v for v in row] for row in p]
    for _ in range(terms):
        power = [
            [omega * sum(a[i][k] * power[k][c] for k in range(n)) for c in range(classes)] for i in range(n)
        ]
        total = [
            [t + (1 - omega) * v for t, v in zip(x, y, strict=True)]
            for x, y in zip(total, power, strict=True)
        ]
    return total


@pytest.mark.parametrize(("omega", "temperature"), [(0.5, 4.0), (0.9, 1.0), (0.0, 2.0)])
def test_value(omega, temperature):
    student = fake_features(CONTEXT.student, 5)
    z = student.logits.tolist()
    targets = propagate(affinity(student.embedding.tolist()), [softmax(row, temperature) for row in z], omega)
    assert all(sum(row) == pytest.approx(1) for row in targets)
    expected = temperature**2 * sum(kl(q, row, temperature) for q, row in zip(targets, z, strict=True)) / 5
    method = build("bake", CONTEXT, omega=omega, temperature=temperature)
    loss = method.loss(make_step(CONTEXT, student))["bake"]
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_gradient_reaches_the_logits_alone():
    student = fake_features(CONTEXT.student, requires_grad=True)
    assert reaches(build("bake", CONTEXT).loss(make_step(CONTEXT, student))["bake"], student, "logits")


def test_batches_have_three_more_images_of_each_class():
    assert methods.parse("bake").sampler.name == "fours"


def test_weight_zero_is_not_computed():
    assert build("bake", CONTEXT, weight=0.0).loss(make_step(CONTEXT, fake_features(CONTEXT.student))) == {}
