"""SP against its formula in plain loops."""

import math

import pytest
import torch
from kit import build, fake_features, gradients, make_context, make_step, tiny_info

# the last maps differ in size and channels, and the networks in their number of stages
CONTEXT = make_context(tiny_info(((3, 4, 4), (4, 2, 2), (2, 3, 3))), tiny_info(((2, 4, 4), (5, 2, 2))))


def similarities(maps):
    rows = [[v for channel in image for line in channel for v in line] for image in maps]
    gram = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]
    return [[g / math.sqrt(sum(h * h for h in line)) for g in line] for line in gram]


@pytest.mark.parametrize("batch", [2, 6])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_value(batch, memory):
    student, teacher = fake_features(CONTEXT.student, batch), fake_features(CONTEXT.teacher, batch, seed=1)
    g_s, g_t = similarities(student.stages[-1].tolist()), similarities(teacher.stages[-1].tolist())
    expected = sum((g_t[i][j] - g_s[i][j]) ** 2 for i in range(batch) for j in range(batch)) / batch**2
    student = student.replace(stages=tuple(s.to(memory_format=memory) for s in student.stages))
    loss = build("sp", CONTEXT).loss(make_step(CONTEXT, student, teacher))["sp"]
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_reaches_the_last_stage_alone():
    student = fake_features(CONTEXT.student, requires_grad=True)
    loss = build("sp", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))[
        "sp"
    ]
    assert gradients(loss, student) == {
        "stem": False,
        "stages": True,
        "preacts": False,
        "embedding": False,
        "logits": False,
    }
    loss.backward()
    assert [s.grad is not None and bool(s.grad.any()) for s in student.stages] == [False, False, True]


def test_gradient_check():
    student, teacher = (
        fake_features(CONTEXT.student, 3, requires_grad=True),
        fake_features(CONTEXT.teacher, 3, seed=1),
    )
    method = build("sp", CONTEXT)

    def loss(last):
        return method.loss(make_step(CONTEXT, student.replace(stages=(*student.stages[:-1], last)), teacher))[
            "sp"
        ]

    assert torch.autograd.gradcheck(loss, (student.stages[-1],))


def test_a_dead_map_gives_finite_gradients():
    student = fake_features(CONTEXT.student).map(torch.zeros_like).map(lambda t: t.requires_grad_())
    loss = build("sp", CONTEXT).loss(make_step(CONTEXT, student, fake_features(CONTEXT.teacher, seed=1)))[
        "sp"
    ]
    assert loss.isfinite()
    gradients(loss, student)


def test_no_modules_and_weight_zero_is_not_computed():
    assert not build("sp", CONTEXT).state_dict()
    step = make_step(CONTEXT, fake_features(CONTEXT.student), fake_features(CONTEXT.teacher))
    assert build("sp", CONTEXT, weight=0.0).loss(step) == {}
