"""ND (KD++) against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, tiny_info

CONTEXT = make_context(tiny_info(embedding=5), tiny_info(embedding=5), num_classes=3)
WIDER = make_context(tiny_info(embedding=5), tiny_info(embedding=7), num_classes=3)


def length(v):
    return math.sqrt(sum(x * x for x in v))


def test_value_over_two_steps():
    """In the second step the class means run over both batches."""
    method = build("kdpp", CONTEXT)
    by_class = {}
    for k in range(2):
        student, teacher = (fake_features(CONTEXT.student, seed=2 * k + j) for j in (0, 1))
        step = make_step(CONTEXT, student, teacher)
        for f, y in zip(teacher.embedding.tolist(), step.labels.tolist(), strict=True):
            by_class.setdefault(y, []).append(f)
        total = 0.0
        rows = zip(student.embedding.tolist(), teacher.embedding.tolist(), step.labels.tolist(), strict=True)
        for f_s, f_t, y in rows:
            mean = [sum(column) / len(by_class[y]) for column in zip(*by_class[y], strict=True)]
            direction = [x / length(mean) for x in mean]
            dot = sum(a * b for a, b in zip(f_s, direction, strict=True))
            total += 1 - dot / max(length(f_s), length(f_t))
        assert method.loss(step)["kdpp"].item() == pytest.approx(total / len(step.labels), rel=1e-10)


@pytest.mark.parametrize("context", [CONTEXT, WIDER])
def test_gradient_reaches_the_embedding_and_what_connects_it(context):
    student = fake_features(context.student, requires_grad=True)
    method = build("kdpp", context)
    loss = method.loss(make_step(context, student, fake_features(context.teacher, seed=1)))["kdpp"]
    assert [k for k, reached in gradients(loss, student).items() if reached] == ["embedding"]
    loss.backward()
    assert all(p.grad is not None for p in method.parameters())
    assert bool(list(method.parameters())) == (context is WIDER)


def test_a_student_in_the_class_direction_with_the_teachers_norm_costs_nothing():
    teacher = fake_features(CONTEXT.teacher)
    labels = torch.zeros(6, dtype=torch.int64)
    direction = teacher.embedding.sum(0) / teacher.embedding.sum(0).norm()
    longer = teacher.embedding.norm(dim=1, keepdim=True) * 1.5
    step = make_step(CONTEXT, teacher.replace(embedding=direction * longer), teacher, labels=labels)
    assert build("kdpp", CONTEXT).loss(step)["kdpp"].item() == pytest.approx(0.0, abs=1e-12)
