"""PKT against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, tiny_info

CONTEXT = make_context(tiny_info(embedding=5), tiny_info(embedding=7))
EPS = 1e-7


def probabilities(rows):
    units = [[v / (math.sqrt(sum(w * w for w in row)) + EPS) for v in row] for row in rows]
    similarity = [[(sum(x * y for x, y in zip(a, b, strict=True)) + 1) / 2 for b in units] for a in units]
    return [[v / sum(line) for v in line] for line in similarity]


@pytest.mark.parametrize("batch", [2, 6])
def test_value(batch):
    student, teacher = fake_features(CONTEXT.student, batch), fake_features(CONTEXT.teacher, batch, seed=1)
    p, q = probabilities(teacher.embedding.tolist()), probabilities(student.embedding.tolist())
    entries = [
        p[i][j] * math.log((p[i][j] + EPS) / (q[i][j] + EPS)) for i in range(batch) for j in range(batch)
    ]
    loss = build("pkt", CONTEXT).loss(make_step(CONTEXT, student, teacher))["pkt"]
    assert loss.item() == pytest.approx(sum(entries) / batch**2, rel=1e-11)


def test_value_where_probabilities_are_zero():
    """Opposite vectors: both sides of the logarithm are eps then."""
    student, teacher = fake_features(CONTEXT.student, 2), fake_features(CONTEXT.teacher, 2, seed=1)
    opposite = torch.stack([teacher.embedding[0], -teacher.embedding[0]])
    teacher = teacher.replace(embedding=opposite)
    p, q = probabilities(opposite.tolist()), probabilities(student.embedding.tolist())
    entries = [p[i][j] * math.log((p[i][j] + EPS) / (q[i][j] + EPS)) for i in range(2) for j in range(2)]
    loss = build("pkt", CONTEXT).loss(make_step(CONTEXT, student, teacher))["pkt"]
    assert loss.item() == pytest.approx(sum(entries) / 4, rel=1e-11)


def test_gradient_reaches_the_embedding_alone():
    student = fake_features(CONTEXT.student, requires_grad=True)
    loss = build("pkt", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))[
        "pkt"
    ]
    assert gradients(loss, student) == {
        "stem": False,
        "stages": False,
        "preacts": False,
        "embedding": True,
        "logits": False,
    }


def test_gradient_check():
    student, teacher = (
        fake_features(CONTEXT.student, 4, requires_grad=True),
        fake_features(CONTEXT.teacher, 4, seed=1),
    )
    method = build("pkt", CONTEXT)

    def loss(embedding):
        return method.loss(make_step(CONTEXT, student.replace(embedding=embedding), teacher))["pkt"]

    assert torch.autograd.gradcheck(loss, (student.embedding,))


def test_a_vector_of_zeros_gives_finite_gradients():
    features = fake_features(CONTEXT.student, 4)
    embedding = features.embedding.clone()
    embedding[0] = 0
    student = features.replace(embedding=embedding.requires_grad_())
    loss = build("pkt", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, 4, seed=1)))[
        "pkt"
    ]
    assert loss.isfinite()
    assert torch.autograd.grad(loss, student.embedding)[0].isfinite().all()


def test_no_modules_and_weight_zero_is_not_computed():
    assert not build("pkt", CONTEXT).state_dict()
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    assert build("pkt", CONTEXT, weight=0.0).loss(step) == {}
