"""CCKD against its formula in plain loops, and how it differs from `cc`."""

import math

import pytest
import torch
from kit import build, fake_features, make_context, make_step, tiny_info
from selfkd_kit import kl, reaches, softmax

from benchmark import methods
from benchmark.errors import InputError

CONTEXT = make_context(tiny_info(embedding=5), tiny_info(embedding=7))


def unit(rows):
    return [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in rows]


def kernel(x, y, kind, gamma, order):
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    if kind == "bilinear":
        return dot
    return math.exp(-2 * gamma) * sum((2 * gamma) ** p / math.factorial(p) * dot**p for p in range(order + 1))


@pytest.mark.parametrize(
    ("kind", "gamma", "order"), [("gaussian", 0.4, 2), ("gaussian", 1.0, 3), ("bilinear", 0.4, 2)]
)
def test_value(kind, gamma, order):
    student, teacher = fake_features(CONTEXT.student), fake_features(CONTEXT.teacher, seed=1)
    terms = build("cckd", CONTEXT, kernel=kind, gamma=gamma, order=order).loss(
        make_step(CONTEXT, student, teacher)
    )
    s, t = unit(student.embedding.tolist()), unit(teacher.embedding.tolist())
    pairs = [(i, j) for i in range(6) for j in range(6)]
    expected = sum(
        (kernel(s[i], s[j], kind, gamma, order) - kernel(t[i], t[j], kind, gamma, order)) ** 2
        for i, j in pairs
    )
    assert terms["cckd"].item() == pytest.approx(expected / 36, rel=1e-12)
    rows = zip(teacher.logits.tolist(), student.logits.tolist(), strict=True)
    assert terms["cckd_kd"].item() == pytest.approx(
        16 * sum(kl(softmax(a, 4.0), b, 4.0) for a, b in rows) / 6, rel=1e-9
    )


def test_a_long_series_is_the_gaussian_kernel():
    embedding = fake_features(CONTEXT.student).embedding
    f = torch.nn.functional.normalize(embedding, dim=1)
    gaussian = torch.exp(-0.4 * torch.cdist(f, f) ** 2)
    torch.testing.assert_close(build("cckd", CONTEXT, order=20).matrix(embedding), gaussian)
    assert (build("cckd", CONTEXT).matrix(embedding) - gaussian).abs().max() < 0.09, "order 2 is near it"


def test_gradients():
    student = fake_features(CONTEXT.student, requires_grad=True)
    terms = build("cckd", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))
    assert reaches(terms["cckd"], student, "embedding") and reaches(terms["cckd_kd"], student, "logits")


def test_it_is_not_cc():
    """CCKD has no modules, draws batches of class groups, and adds KD."""
    assert not list(build("cckd", CONTEXT).parameters()) and list(build("cc", CONTEXT).parameters())
    assert methods.parse("cckd").sampler.name == "groups" and methods.parse("cc").sampler.name == "shuffle"
    assert methods.parse("cckd").ce == 0.1 and methods.parse("cckd+kd").components[0].config.kd == 0.0


def test_unknown_kernel():
    with pytest.raises(InputError, match="allowed: gaussian, bilinear"):
        methods.parse("cckd", {"cckd.kernel": "laplace"})
